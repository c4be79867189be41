"""A real supervisord: programs are started, watched, started again, changed and stopped."""

from __future__ import annotations

import os
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from common import supervision
from common.errors import InputError, StorageError
from common.supervision import Program, Supervised


@pytest.fixture
def folder() -> Iterator[Path]:
    # A Unix socket's path has at most 107 bytes, and pytest's folders are long.
    with tempfile.TemporaryDirectory() as short:
        yield Path(short)


@pytest.fixture
def supervised(folder: Path) -> Iterator[Supervised]:
    supervised = Supervised(folder / "s", logs=folder / "logs")
    yield supervised
    supervised.stop()


def shell(name: str, script: str, **fields: object) -> Program:
    return replace(
        Program(
            name=name,
            command=("/bin/sh", "-c", script),
            environment={"PATH": "/usr/bin:/bin", "WORD": "a b%c"},
            user=None,
            directory=Path("/"),
            restart="always",
            start_seconds=1.0,
            stop_seconds=2,
        ),
        **fields,
    )


def until(holds: Callable[[], bool]) -> None:
    for _ in range(300):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come to hold")


def test_programs_run_until_they_are_stopped(supervised: Supervised, folder: Path) -> None:
    assert not supervised.running()
    assert supervised.status() == []
    first, second = supervised.start(
        [shell("first", "echo $WORD $HOME; exec sleep 60"), shell("second", "exec sleep 60")]
    )
    assert (first.name, first.running, second.running) == ("first", True, True)
    assert first.pid is not None
    assert supervised.logs("first", 10) == ["a b%c"]
    assert supervised.log_path("first") == folder / "logs" / "first.log"
    # Nobody else may ask it, or read what its programs were given.
    assert stat.S_IMODE(supervised.socket.stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE((folder / "s" / "supervisord.conf").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "s").stat().st_mode) == 0o700
    # Starting what runs changes nothing.
    again, _ = supervised.start(
        [shell("first", "echo $WORD $HOME; exec sleep 60"), shell("second", "exec sleep 60")]
    )
    assert again.pid == first.pid
    assert supervised.stop()
    assert not supervised.running()
    with pytest.raises(ProcessLookupError):
        os.kill(first.pid, 0)
    assert not supervised.stop()


def test_a_killed_program_is_started_again(supervised: Supervised) -> None:
    (before,) = supervised.start([shell("one", "exec sleep 60")])
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    until(lambda: any(s.running and s.pid != before.pid for s in supervised.status()))


def test_a_program_that_does_not_stay_up_is_tried_again_and_said_to_be_so(
    supervised: Supervised, folder: Path
) -> None:
    script = f"echo try >> {folder}/tries; echo no lease yet; exit 49"
    (state,) = supervised.start([shell("node", script)])
    assert not state.running
    assert state.state == "BACKOFF"
    until(lambda: len((folder / "tries").read_text().split()) >= 3)
    assert "no lease yet" in supervised.logs("node", 5)


def test_changed_programs_are_changed_and_others_left(supervised: Supervised) -> None:
    same = shell("same", "exec sleep 60")
    before, _, _ = supervised.start([same, shell("old", "sleep 60"), shell("other", "sleep 60")])
    states = supervised.start([same, shell("other", "exec sleep 61"), shell("new", "sleep 60")])
    assert [state.name for state in states] == ["same", "other", "new"]
    assert states[0].pid == before.pid
    assert {state.name for state in supervised.status()} == {"same", "other", "new"}


def test_a_program_that_ignores_the_word_is_killed_with_its_children(
    supervised: Supervised, folder: Path
) -> None:
    script = f"trap '' TERM; sleep 61 & echo $! > {folder}/child; while true; do sleep 1; done"
    (state,) = supervised.start([shell("deaf", script, stop_seconds=1)])
    assert state.running
    child = int((folder / "child").read_text())
    supervised.stop()
    until(lambda: not Path(f"/proc/{child}").exists())


def test_processes_of_a_killed_supervisor_end_with_it(supervised: Supervised, folder: Path) -> None:
    code = (
        "from common.process_control import end_with_supervisor; end_with_supervisor();"
        "import time; time.sleep(60)"
    )
    program = shell("ours", "", command=(sys.executable, "-c", code), start_seconds=2.0)
    program = replace(program, directory=Path(__file__).parents[2])
    (state,) = supervised.start([program])
    assert state.running
    os.kill(int((folder / "s" / "run" / "supervisord.pid").read_text()), signal.SIGKILL)
    until(lambda: not Path(f"/proc/{state.pid}").exists())
    # And another supervisor takes over, where the first left its socket.
    (again,) = supervised.start([program])
    assert again.running


def test_a_log_is_read_from_its_end(supervised: Supervised, folder: Path) -> None:
    (folder / "logs").mkdir()
    (folder / "logs" / "engine.log").write_bytes(
        b"".join(b"%d\n" % n for n in range(9)) + b"\xff\ta \x1b[2Jb\x9b"
    )
    # Nothing in it steers the terminal that it is printed on.
    assert supervised.logs("engine", 3) == ["7", "8", "\ufffd\ta \ufffd[2Jb\ufffd"]
    with pytest.raises(InputError, match="cannot be read"):
        supervised.logs("node", 3)
    with pytest.raises(InputError, match="no name"):
        supervised.logs("../engine", 3)


def test_a_folder_with_too_long_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="longer than"):
        Supervised(tmp_path / ("n" * 100)).start([])


def test_a_folder_that_cannot_be_made_is_told_of(folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        Supervised(folder / "file" / "s").start([])


def test_what_supervisord_itself_refuses_is_told(supervised: Supervised, folder: Path) -> None:
    (folder / "s" / "supervisord.log").mkdir(parents=True)
    with pytest.raises(InputError, match="supervisord refuses"):
        supervised.start([shell("one", "exec sleep 60")])


def test_a_supervisord_that_does_not_come_up_is_told_of(
    supervised: Supervised, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "_SPAWN_TIMEOUT_S", 1.0)
    # It tries for ever to take a folder for a socket that another one left.
    (folder / "s" / "run" / "supervisor.sock").mkdir(parents=True)
    with pytest.raises(StorageError, match="does not answer"):
        supervised.start([shell("one", "exec sleep 60")])
