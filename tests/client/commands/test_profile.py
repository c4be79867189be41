"""`fedpref-region profile`, as an operator gives it, on a finished run's region."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from client import cli
from client.engine.home import RegionHome
from common import process_control
from common.errors import EXIT_OK, ConsentError, InputError, StorageError, UsageError
from tests.support.command_line import Command, command_line


@pytest.fixture(scope="module")
def built(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> RegionHome:
    root = tmp_path_factory.mktemp("profiles") / "run"
    shutil.copytree(finished_run, root, symlinks=True)
    return RegionHome.read(root / "regions" / "region-1")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return command_line(cli.main, "fedpref-region", "profile", patch=monkeypatch, capture=capsys)


def test_profiles_are_built_shown_explained_and_refreshed(
    built: RegionHome, command: Command
) -> None:
    assert command("segments", built)[0] == StorageError.exit_code
    code, out, _ = command("build", built, "--as-of", "2024-04-01", "--json")
    assert code == EXIT_OK
    outcome = json.loads(out)
    assert outcome["built"]
    assert outcome["customers"] > 10

    code, out, _ = command("segments", built, "--json")
    overview = json.loads(out)
    assert code == EXIT_OK
    assert sum(each["customers"] for each in overview["segments"]) == outcome["customers"]
    assert command("segments", built)[0] == EXIT_OK

    code, out, _ = command("show", built, "customer-0001", "--json")
    shown = json.loads(out)
    assert code == EXIT_OK
    assert shown["as_of"].startswith("2024-04-01")
    code, out, _ = command("explain", built, "customer-0001", "--language", "zh")
    assert code == EXIT_OK
    assert "距上次购买的天数" in out
    code, out, _ = command("explain", built, "customer-0001", "--json")
    # The customer reads her own numbers, and none that rest on others.
    told = {each["fact"] for each in json.loads(out)["facts"]}
    assert told < {each["fact"] for each in shown["facts"]}

    code, out, _ = command("refresh", built, "--json")
    assert (code, json.loads(out)["built"]) == (EXIT_OK, False)
    assert json.loads(out)["judged"] == 0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def when_current(port: int) -> dict[str, Any]:
    """What /readyz says once profiles are current, or at last after a long time."""
    said: dict[str, Any] = {"ready": False}
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not said["ready"]:
        # A poll of another process: there is nothing to wait on.
        time.sleep(0.05)
        with suppress(OSError, urllib.error.URLError):
            said = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5))
    return said


def test_followed_it_goes_on_until_it_is_told_to_end(
    built: RegionHome, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    # Of the process that the tests run in nothing is hidden.
    monkeypatch.setattr(process_control, "hide_memory", lambda: None)
    answers: list[dict[str, Any]] = []

    def watch() -> None:
        """Ends it once profiles are current, or after a long time."""
        answers.append(when_current(port))
        os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code, out, err = command(
        "refresh", built, "--follow", "0.1", "--metrics", f"127.0.0.1:{port}", "--json"
    )
    watcher.join()
    assert code == EXIT_OK
    assert answers[-1] == {"checks": {"profiles": "ok"}, "ready": True}
    assert all("customers" in json.loads(line) for line in out.splitlines())
    assert "no longer kept current" in err
    for option in (("--quiet",), ("--metrics", "127.0.0.1:1")):
        assert command("refresh", built, *option)[0] == UsageError.exit_code


@pytest.mark.slow
def test_unattended_it_writes_nothing_of_customers(built: RegionHome) -> None:
    """As `start` runs it: the log may be read by others than the profiles."""
    door = Path(sys.executable).parent / "fedpref-region"
    port = free_port()
    words = (str(door), "profile", "refresh", str(built.root), "--follow", "0.1", "--quiet")
    words = (*words, "--metrics", f"127.0.0.1:{port}")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        ready = run.stdout.readline()
        assert when_current(port)["ready"]
        run.send_signal(signal.SIGTERM)
        out, err = run.communicate(timeout=60)
    assert (run.returncode, err) == (EXIT_OK, "")
    assert "every 0.1 s" in ready
    assert out == "region-1: profiles are no longer kept current.\n"


def test_cuts_from_outside_are_used(built: RegionHome, command: Command, tmp_path: Path) -> None:
    cuts = tmp_path / "cuts.toml"
    cuts.write_text(
        'recency = [1, 2, 3, 4]\nfrequency = [1, 2, 3, 4]\nsource = "all"\nreleased = true\n'
    )
    assert command("build", built, "--as-of", "2024-04-01", "--cuts", str(cuts))[0] == EXIT_OK
    code, out, _ = command("segments", built, "--json")
    assert (code, json.loads(out)["cuts"]["source"]) == (EXIT_OK, "all")
    cuts.write_text("recency = [1]")
    assert command("build", built, "--cuts", str(cuts))[0] == InputError.exit_code


def test_nobody_without_consent_is_shown(built: RegionHome, command: Command) -> None:
    for what in ("show", "explain"):
        code, _, err = command(what, built, "nobody-we-know")
        assert code == ConsentError.exit_code
        assert "knows no customer" in err
