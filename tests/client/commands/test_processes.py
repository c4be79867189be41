"""`fedpref-region start`, `status`, `stop`, `logs` and `units`, with programs that only pretend."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from client import cli
from client.commands import processes
from client.inspection import inspect_region as inspection
from client.installation import commissioning
from client.node import programs
from client.recommend import release
from client.settings import RegionSettings
from common.errors import EXIT_OK, InputError
from common.supervision import Program
from common.system_users import SystemUser
from tests.support.command_line import Command, command_line
from tests.support.least_settings import settings_of

ENGINE = "import socket,time; s=socket.socket(socket.AF_UNIX); s.bind({path!r}); time.sleep(60)"


@dataclass
class Problem:
    place: str
    message: str


@dataclass
class Found:
    problems: tuple[Problem, ...] = ()


@pytest.fixture
def folder() -> Iterator[Path]:
    # A Unix socket's path has at most 107 bytes, and pytest's folders are long.
    with tempfile.TemporaryDirectory() as short:
        region = Path(short) / "eu"
        (region / "run").mkdir(parents=True)
        settings = settings_of(region)
        yield region
        processes.supervision_of(settings).stop()


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What a start does besides, noted down in the place of being done."""
    done: list[tuple[str, Any]] = []

    @dataclass
    class Commissioned:
        permits: tuple[str, ...] = ("first",)

    def commission(folder: Path, *, registry: Path | None, plans: list[Path]) -> Commissioned:
        done.append(("commissioned", (folder.name, registry, tuple(plans))))
        return Commissioned()

    def inspect(folder: Path, *, offline: bool) -> Found:
        done.append(("checked", offline))
        return Found()

    monkeypatch.setattr(commissioning, "commission_as_engine_user", commission)
    monkeypatch.setattr(inspection, "inspect_region", inspect)
    monkeypatch.setattr(
        programs, "prepare_folders", lambda _, new_secret: done.append(("prepared", new_secret))
    )
    monkeypatch.setattr(programs, "region_programs", pretended)
    return done


def pretended(settings: RegionSettings) -> list[Program]:
    return [
        pretend(settings, "engine", ENGINE.format(path=str(settings.engine.socket))),
        pretend(settings, "node", "import time; time.sleep(60)"),
        pretend(settings, "relay", "import time; time.sleep(60)"),
    ]


def pretend(settings: RegionSettings, name: str, code: str) -> Program:
    return Program(
        name=name,
        command=(sys.executable, "-I", "-S", "-c", code),
        environment={"PATH": "/usr/bin:/bin"},
        user=None,
        directory=settings.folder,
        restart="always",
        start_seconds=1.0,
        stop_seconds=2,
    )


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return command_line(cli.main, "fedpref-region", patch=monkeypatch, capture=capsys)


def test_a_region_is_commissioned_checked_started_watched_and_stopped(
    folder: Path, prepared: list[tuple[str, Any]], command: Command
) -> None:
    assert command("status", folder)[0] == processes.EXIT_NOT_RUNNING
    code, out, err = command("start", folder, "--registry", "reg", "--permit", "plan.json")
    assert code == EXIT_OK, err
    assert "engine, node and relay run" in out
    assert "permits first" in out
    assert prepared == [
        ("commissioned", ("eu", Path("reg"), (Path("plan.json"),))),
        ("prepared", True),
        ("checked", True),
    ]
    code, out, _ = command("status", folder, "--json")
    assert code == EXIT_OK
    states = json.loads(out)
    assert [(each["process"], each["running"]) for each in states] == [
        ("engine", True),
        ("node", True),
        ("relay", True),
    ]
    code, out, _ = command("status", folder)
    assert code == EXIT_OK
    assert "eu-west" in out
    # What runs is left alone: the same processes, the same secret, no second check.
    prepared.clear()
    assert command("start", folder)[0] == EXIT_OK
    assert prepared == [("prepared", False)]
    assert json.loads(command("status", folder, "--json")[1])[0]["pid"] == states[0]["pid"]
    code, out, _ = command("stop", folder)
    assert (code, "stopped" in out) == (EXIT_OK, True)
    assert "did not run" in command("stop", folder)[1]


def test_a_recommender_is_started_once_there_is_a_model(
    folder: Path,
    prepared: list[tuple[str, Any]],
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings_of(folder, recommender={})
    monkeypatch.setattr(
        programs,
        "region_programs",
        lambda settings: [
            *pretended(settings),
            pretend(settings, "recommender", "import time; time.sleep(60)"),
        ],
    )
    code, out, err = command("start", folder)
    assert code == EXIT_OK, err
    assert "no model is installed, so the recommender is not started" in out
    assert "engine, node and relay run" in out
    states = json.loads(command("status", folder, "--json")[1])
    assert [each["process"] for each in states] == ["engine", "node", "relay"]
    monkeypatch.setattr(release, "installed", lambda _: ("a" * 64, 7))
    code, out, err = command("start", folder)
    assert code == EXIT_OK, err
    assert "engine, node, relay and recommender run" in out
    after = json.loads(command("status", folder, "--json")[1])
    assert [each["running"] for each in after] == [True] * 4
    # What ran is left alone.
    pids = {each["process"]: each["pid"] for each in after}
    assert {each["process"]: each["pid"] for each in states}.items() <= pids.items()


def test_a_running_region_is_stopped_to_be_commissioned(
    folder: Path, prepared: list[tuple[str, Any]], command: Command
) -> None:
    assert command("start", folder)[0] == EXIT_OK
    before = json.loads(command("status", folder, "--json")[1])[0]["pid"]
    (folder / "run" / "engine.sock").unlink()
    code, out, _ = command("start", folder, "--permit", "second.json")
    assert code == EXIT_OK
    assert "stopped, to be commissioned" in out
    assert json.loads(command("status", folder, "--json")[1])[0]["pid"] != before


def test_a_region_with_a_problem_is_not_started(
    folder: Path,
    prepared: list[tuple[str, Any]],
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problems = (Problem("region.toml", "the clock is wrong"), Problem("home", "the disk is full"))
    monkeypatch.setattr(inspection, "inspect_region", lambda *_, **__: Found(problems))
    code, _, err = command("start", folder)
    assert code == InputError.exit_code
    assert "the clock is wrong" in err
    assert "the disk is full" in err
    assert command("status", folder)[0] == processes.EXIT_NOT_RUNNING
    assert command("start", folder, "--unchecked")[0] == EXIT_OK


def test_a_process_that_does_not_stay_up_is_told_of_with_its_last_words(
    folder: Path,
    prepared: list[tuple[str, Any]],
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(settings: RegionSettings) -> list[Program]:
        code = "import sys; print('no lease', file=sys.stderr); sys.exit(49)"
        return [*pretended(settings)[:1], pretend(settings, "node", code)]

    monkeypatch.setattr(programs, "region_programs", failing)
    code, _, err = command("start", folder)
    assert code == InputError.exit_code
    assert "the node does not stay up" in err
    assert "no lease" in err
    assert command("status", folder)[0] == processes.EXIT_NOT_RUNNING
    code, out, _ = command("logs", folder, "node", "--lines", "1")
    assert (code, out) == (EXIT_OK, "no lease\n")


def test_an_engine_that_never_listens_is_told_of(
    folder: Path,
    prepared: list[tuple[str, Any]],
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "_ENGINE_READY_S", 0.0)
    monkeypatch.setattr(
        programs, "region_programs", lambda settings: [pretended(settings)[1], *deaf(settings)]
    )
    code, _, err = command("start", folder)
    assert code == InputError.exit_code
    assert "the engine does not stay up" in err


def deaf(settings: RegionSettings) -> list[Program]:
    return [pretend(settings, "engine", "import time; time.sleep(60)")]


def test_units_are_written_for_a_region_that_does_not_run(
    folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[bool] = []
    monkeypatch.setattr(programs, "prepare_folders", lambda _, new_secret: done.append(new_secret))
    monkeypatch.setattr(
        programs, "process_user", lambda _, usual: SystemUser(usual, hash(usual), 1)
    )
    into = folder / "units"
    into.mkdir()
    code, out, err = command("units", folder, "--into", into)
    assert code == EXIT_OK, err
    assert done == [True]
    assert sorted(path.name for path in into.iterdir()) == [
        f"fedpref-eu-west-{name}.service" for name in ("engine", "node", "relay")
    ]
    assert "daemon-reload" in out


def test_units_of_a_running_region_are_not_written(
    folder: Path, prepared: list[tuple[str, Any]], command: Command
) -> None:
    assert command("start", folder)[0] == EXIT_OK
    code, _, err = command("units", folder, "--into", folder)
    assert code == InputError.exit_code
    assert "fedpref-region stop" in err
