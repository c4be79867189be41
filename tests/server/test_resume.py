"""`fedpref-server resume`: the checkpoint is held to the log; then the same round goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common import canonical_json
from common.audit.log import AuditLog
from common.durable_file import write_durably
from common.errors import FederationError, InputError
from server import cli, resume
from server.config import ServerHome
from tests.support.command_line import Command, command_line
from tests.support.fake_federation import FakeFederation, fake_plan, open_federation

BIN = Path(sys.executable).parent


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return command_line(cli.main, "fedpref-server", "resume", patch=monkeypatch, capture=capsys)


@pytest.fixture
def paused(tmp_path: Path) -> Iterator[FakeFederation]:
    """A federation whose coordinator has ended after round 2 of 3."""
    with open_federation(tmp_path, fake_plan()) as federation:
        federation.run_config["last-round"] = 2
        federation.run()
        del federation.run_config["last-round"]
        yield federation


def log_of(home: ServerHome) -> tuple[int, str]:
    with AuditLog.open_read_only(home.log) as log:
        return log.size, log.root.hex()


def test_it_says_where_the_run_goes_on_and_how_and_changes_nothing(
    paused: FakeFederation, command: Command
) -> None:
    before = log_of(paused.home)
    code, shown, errors = command(paused.home.root)
    assert (code, errors) == (0, "")
    assert "goes on with round 3 of 3" in shown
    assert "region-1, region-2, region-3" in shown
    assert "--superlink NAME" in shown
    assert log_of(paused.home) == before
    paused.run()
    code, shown, _ = command(paused.home.root)
    assert (code, "its model is published" in shown) == (0, True)


def torn(index: Path) -> None:
    index.write_bytes(index.read_bytes()[:-9])


def of_another_round(index: Path) -> None:
    record = canonical_json.decode(index.read_bytes())
    assert isinstance(record, dict)
    write_durably(index, canonical_json.encode({**record, "aggregate": "0" * 64}))


def of_another_model(index: Path) -> None:
    for path in index.parent.glob("model-*.safetensors"):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "expected", "words"),
    [
        (torn, 10, "is damaged"),
        (of_another_model, 10, "is not what checkpoint.json states"),
        (of_another_round, 8, "the aggregate entry differ"),
    ],
)
def test_a_checkpoint_that_does_not_match_starts_nothing(
    paused: FakeFederation,
    command: Command,
    damage: Callable[[Path], None],
    expected: int,
    words: str,
) -> None:
    damage(paused.home.checkpoint / "checkpoint.json")
    before = log_of(paused.home)
    code, shown, errors = command(paused.home.root, "--superlink", "x", "--app", paused.home.root)
    assert (code, shown) == (expected, "")
    assert words in errors
    assert "Restore" in errors
    assert log_of(paused.home) == before


def test_a_run_that_another_coordinator_carries_on_is_left_alone(
    paused: FakeFederation, command: Command
) -> None:
    with paused.trail():
        code, _, errors = command(paused.home.root)
    assert (code, f"pid {os.getpid()}" in errors) == (10, True)


@pytest.mark.parametrize(
    ("arguments", "expected", "words"),
    [
        (["{home}/nowhere"], 3, "neither a coordinator's home nor a run's folder"),
        (["{home}", "--superlink", "x"], 2, "go together"),
        (["{home}", "--superlink", "x", "--app", "{home}/nowhere"], 2, "no app bundle"),
    ],
)
def test_what_cannot_be_gets_one_message(
    paused: FakeFederation, command: Command, arguments: list[str], expected: int, words: str
) -> None:
    home = str(paused.home.root)
    code, _, errors = command(*(each.replace("{home}", home) for each in arguments))
    assert (code, words in errors) == (expected, True), errors


def test_a_run_that_never_began_has_nothing_to_go_on_from(tmp_path: Path, command: Command) -> None:
    with open_federation(tmp_path, fake_plan()) as federation:
        code, _, errors = command(federation.home.root)
        assert (code, "has not begun" in errors) == (3, True)
        assert not federation.home.log.exists()


def flower(folder: Path, answer: str) -> Path:
    """A program in Flower's place that keeps its arguments and answers."""
    program = folder / "flwr"
    program.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        f"open({str(folder / 'asked')!r}, 'w').write(json.dumps(sys.argv[1:]))\n"
        f"print({answer!r})\n"
    )
    program.chmod(0o700)
    return program


def test_over_a_superlink_flower_is_told_where_the_home_is(
    paused: FakeFederation, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = flower(tmp_path, 'note {"success": true, "run-id": "42"}')
    monkeypatch.setattr(resume, "_program", lambda name, extra: str(program))
    code, shown, _ = command(paused.home.root, "--superlink", "prod", "--app", tmp_path)
    assert (code, "Flower's run 42" in shown) == (0, True)
    asked = json.loads((tmp_path / "asked").read_text())
    home = f'server-home="{paused.home.root.resolve()}"'
    assert asked == ["run", str(tmp_path), "prod", "--run-config", home, "--format", "json"]


@pytest.mark.parametrize("answer", ['{"success": false}', "no json", '{"success": true}'])
def test_a_superlink_that_starts_nothing_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    program = flower(tmp_path, answer)
    monkeypatch.setattr(resume, "_program", lambda name, extra: str(program))
    with pytest.raises(FederationError, match="did not start"):
        resume.carry_on_over("prod", tmp_path, ServerHome(tmp_path))


def test_a_superlink_that_hangs_is_waited_for_till_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "flwr"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o700)
    monkeypatch.setattr(resume, "_program", lambda name, extra: str(program))
    monkeypatch.setattr(resume, "_START_TIMEOUT_S", 0.2)
    with pytest.raises(FederationError, match=r"within 0\.2 s"):
        resume.carry_on_over("prod", tmp_path, ServerHome(tmp_path))


def test_a_program_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(InputError, match="/nowhere/flwr"):
        resume._program("flwr", extra="server")


def test_a_simulated_run_goes_on_with_its_regions(tmp_path: Path) -> None:
    run, environment = tmp_path / "run", {**os.environ, "COLUMNS": "200"}
    options = ("--scenario", "synthetic-3", "--seed", "1", "--quality-seeds", "1")
    first = subprocess.run(
        [BIN / "fedpref-sim", "run", *options, "--out", run, "--pause-after-round", "2"],
        capture_output=True,
        text=True,
        timeout=280,
        env=environment,
    )
    assert first.returncode == 0, first.stdout + first.stderr
    done = subprocess.run(
        [BIN / "fedpref-server", "resume", run],
        capture_output=True,
        text=True,
        timeout=280,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "goes on with round 3 of 5" in done.stdout
    assert "Verified" in done.stdout
