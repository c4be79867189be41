"""Whatever a command starts, it is gone when the supervised block ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from simulations.supervisor import supervised

DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        if {deaf}:
            import signal
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open({path!r}, "w").write(str(os.getpid()))
        time.sleep(600)
    os._exit(0)
time.sleep({linger})
sys.exit({code})
"""


def run(
    folder: Path, *, deaf: bool = False, linger: float = 600, code: int = 0
) -> tuple[list[str], Path]:
    """A command that leaves a daemon in a session of its own, and where its id is."""
    path = folder / "daemon"
    script = DAEMON.format(path=str(path), deaf=deaf, linger=linger, code=code)
    return [sys.executable, "-c", script], path


def process_id(path: Path) -> int:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if path.exists() and (text := path.read_text()):
            return int(text)
        time.sleep(0.02)
    raise AssertionError("the daemon did not start")


def alive(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until_gone(number: int, *, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while alive(number):
        assert time.monotonic() < deadline, "it outlived its supervisor"
        time.sleep(0.05)


def test_a_daemon_is_ended_with_the_block(tmp_path: Path) -> None:
    command, path = run(tmp_path)
    log = tmp_path / "log"
    with supervised(command, environment=os.environ, folder=tmp_path, log=log) as process:
        daemon = process_id(path)
        assert alive(daemon)
        assert process.poll() is None
    assert not alive(daemon)
    assert process.poll() is not None


def test_a_daemon_that_ignores_the_request_is_ended_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, path = run(tmp_path, deaf=True)
    with supervised(command, environment=os.environ, folder=tmp_path, log=tmp_path / "log"):
        daemon = process_id(path)
    assert not alive(daemon)


def test_a_daemon_does_not_outlive_its_command_and_the_exit_code_comes_through(
    tmp_path: Path,
) -> None:
    command, path = run(tmp_path, linger=0.5, code=9)
    log = tmp_path / "log"
    with supervised(command, environment=os.environ, folder=tmp_path, log=log) as process:
        daemon = process_id(path)
        assert process.wait(timeout=120) == 9
        assert not alive(daemon)


def test_an_error_in_the_block_ends_the_command_too(tmp_path: Path) -> None:
    command, path = run(tmp_path)

    def interrupted() -> None:
        log = tmp_path / "log"
        with supervised(command, environment=os.environ, folder=tmp_path, log=log):
            process_id(path)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not alive(process_id(path))


def test_a_kill_of_ours_ends_the_command_too(tmp_path: Path) -> None:
    command, path = run(tmp_path)
    script = (
        "import os, time\nfrom pathlib import Path\n"
        "from simulations.supervisor import supervised\n"
        f"folder = Path({str(tmp_path)!r})\n"
        f"with supervised({command!r}, environment=os.environ, folder=folder,"
        " log=folder / 'log'):\n    time.sleep(600)\n"
    )
    root = Path(__file__).resolve().parents[2]
    ours = subprocess.Popen([sys.executable, "-c", script], cwd=root)
    daemon = process_id(path)
    ours.send_signal(signal.SIGKILL)
    ours.wait()
    wait_until_gone(daemon)


def test_output_goes_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", "import os; print(os.environ['WORD'], os.getcwd())"]
    environment = {**os.environ, "WORD": "hello"}
    with supervised(command, environment=environment, folder=tmp_path, log=log) as process:
        assert process.wait(timeout=120) == 0
    assert log.read_text().split() == ["hello", str(tmp_path.resolve())]
