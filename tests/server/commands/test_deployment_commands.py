"""A deployment's commands as an operator gives them, and how each says what is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from server import cli
from server.commands import operation
from server.deployment import Deployment
from server.queue import read_queue, update
from tests.support.command_line import Command, command_line
from tests.support.small_deployment import (
    REGIONS,
    installed,
    one_user,  # noqa: F401 - used by itself
    provisioned,
    write_shops,
)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return command_line(cli.main, "fedpref-server", patch=monkeypatch, capture=capsys)


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("founded")
    provisioned(folder)
    installed(folder)
    return folder


@pytest.fixture
def folder(founded: Path, tmp_path: Path) -> Path:
    shutil.copytree(founded, tmp_path / "f")
    return tmp_path / "f"


def enrolments(folder: Path) -> list[Path]:
    return [folder / "regions" / region / "enrolment.json" for region in REGIONS]


def test_provisioning_tells_the_root_keys(command: Command, tmp_path: Path) -> None:
    config = write_shops(tmp_path / "shops")
    (tmp_path / "app").write_bytes(b"bundle")
    code, output, _ = command(
        "provision", config, tmp_path / "deployment", "--app", tmp_path / "app"
    )
    assert code == 0
    assert "regions connect to 127.0.0.1:9443" in output
    assert output.count("\n    ") == 3
    code, _, errors = command("provision", config, tmp_path / "deployment")
    assert (code, "is not empty" in errors) == (3, True)


def test_enrolling_plans_once_all_who_are_invited_are_there(command: Command, folder: Path) -> None:
    deployment = folder / "deployment"
    code, output, _ = command("enrol", deployment, *enrolments(folder))
    assert code == 0
    assert output.count("enrols with fingerprint") == 3
    assert "Planned first" in output
    code, output, _ = command("status", deployment)
    assert code == 0
    for word in ("region-1", "small.example", "planned", "current model"):
        assert (word in output) == (word != "current model")
    code, output, _ = command("plan", deployment, "--run", "first")
    assert (code, "secure-sum" in output) == (0, True)
    code, output, _ = command("status", deployment / "server" / "runs" / "first")
    assert (code, "not started" in output) == (0, True)


def test_what_is_missing_is_asked_for(command: Command, folder: Path, tmp_path: Path) -> None:
    deployment = folder / "deployment"
    assert command("status", tmp_path)[0] == 3
    code, _, errors = command("plan", deployment)
    assert (code, "several runs" in errors) == (2, True)
    code, _, errors = command("submit", deployment, "first")
    assert (code, "has no plan" in errors) == (3, True)
    code, _, errors = command("start", deployment, enrolments(folder)[0])
    assert (code, "goes with --enrol" in errors) == (2, True)
    code, _, errors = command("submit", deployment, "../first")
    assert (code, "no name of a run" in errors) == (2, True)
    code, _, errors = command("logs", deployment, "superlink")
    assert (code, "superlink.log cannot be read" in errors) == (3, True)
    code, output, _ = command("stop", deployment)
    assert (code, "Nothing was running" in output) == (0, True)


def test_members_come_and_go(command: Command, folder: Path) -> None:
    deployment = folder / "deployment"
    command("enrol", deployment, *enrolments(folder))
    code, output, _ = command("join", deployment, "region-4", "--jurisdiction", "FR")
    assert (code, "region-4.kit" in output) == (0, True)
    code, output, _ = command("enrol", deployment)
    assert (code, "Not enrolled yet: region-4" in output) == (0, True)
    code, output, _ = command("remove", deployment, "region-4")
    assert (code, "may not connect" in output) == (0, True)
    code, output, _ = command("remove", deployment, "region-3")
    assert (code, "Its keys are revoked" in output) == (0, True)
    code, _, errors = command("remove", deployment, "region-9")
    assert (code, "no region 'region-9'" in errors) == (3, True)
    for what in ("certificate", "secrets"):
        code, output, _ = command("rotate", deployment, what)
        assert (code, "Made anew" in output) == (0, True)


def test_a_schedule_is_made_shown_and_cancelled(command: Command, folder: Path) -> None:
    deployment = folder / "deployment"
    command("enrol", deployment, *enrolments(folder))
    first = "2030-01-01T00:00:00.000Z"
    code, output, _ = command(
        "schedule", deployment, "first", "--every", "7d", "--times", 2, "--first", first
    )
    assert (code, "first-20300108" in output) == (0, True)
    code, output, _ = command("schedule", deployment)
    assert output.split().count("first-20300101") == 1
    code, _, errors = command("schedule", deployment, "first", "--times", 60)
    assert (code, "pays for" in errors) == (6, True)
    code, output, _ = command("schedule", deployment, "--cancel")
    assert "2 scheduled runs are cancelled" in output
    assert "Nothing is scheduled" in command("schedule", deployment)[1]


def test_submit_waits_for_the_end_and_says_how_it_was(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = Deployment(folder / "deployment")
    command("enrol", deployment.root, *enrolments(folder))
    monkeypatch.setattr(operation, "_WAIT_POLL_S", 0.01)
    plain = operation._progress
    ends = iter([("finished", None), ("failed", "A region is missing.")])

    def dispatch(opened: Deployment, run: str) -> str:
        for entry in read_queue(opened):
            if entry.active:
                state, reason = next(ends)
                update(opened, entry, state=state, reason=reason)
        return plain(opened, run)

    monkeypatch.setattr(operation, "_progress", dispatch)
    code, output, _ = command("submit", deployment.root, "first", "--wait")
    assert (code, "Finished" in output) == (0, True)
    code, _, errors = command("submit", deployment.root, "first", "--wait")
    assert (code, "A region is missing." in errors) == (9, True)
    code, output, _ = command("submit", deployment.root, "first")
    assert (code, "number 3 in the queue" in output) == (0, True)
    code, output, _ = command("stop", deployment.root, "first")
    assert (code, "being stopped" in output) == (0, True)
    code, _, errors = command("rollback", deployment.root, "first")
    assert (code, "has published no model" in errors) == (3, True)
