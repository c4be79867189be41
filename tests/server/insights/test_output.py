"""Where the page may be written, what programs get, and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from common.analytics.answers import ReleasedAnswers
from common.canonical_json import JsonValue, encode
from common.errors import InputError, StorageError, UsageError
from common.page_file import check_page_file, write_page_file
from server import cli, queue
from server.commands import membership, operation
from server.deployment import Deployment
from server.insights.findings import gather
from server.insights.output import KIND, answers_json
from server.insights.page import GENERATOR
from tests.support.asked_federation import asked_plan
from tests.support.command_line import Command, command_line
from tests.support.fake_federation import fake_plan


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return command_line(cli.main, "fedpref-server", patch=monkeypatch, capture=capsys)


def test_a_page_replaces_a_page_and_nothing_else(
    tmp_path: Path, insight_pages: dict[str, str]
) -> None:
    out = tmp_path / "page.html"
    check_page_file(out, GENERATOR, KIND)
    write_page_file(out, insight_pages["en"], KIND)
    check_page_file(out, GENERATOR, KIND)
    write_page_file(out, insight_pages["zh"], KIND)
    assert out.read_text(encoding="utf-8") == insight_pages["zh"]
    for other in (tmp_path / "notes.html", tmp_path / "link.html"):
        other.write_text("mine", encoding="utf-8")
        with pytest.raises(UsageError, match="no page of insights"):
            check_page_file(other, GENERATOR, KIND)
    with pytest.raises(InputError, match="no folder"):
        check_page_file(tmp_path / "none" / "page.html", GENERATOR, KIND)


def test_a_full_disk_is_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("common.page_file.write_durably", full)
    with pytest.raises(StorageError, match="No space left"):
        write_page_file(tmp_path / "page.html", "page", KIND)


def test_programs_get_every_answer_and_no_lines_of_noise(made_run: ReleasedAnswers) -> None:
    record: dict[str, JsonValue] = json.loads(answers_json(gather([made_run])))
    answers = record["answers"]
    assert isinstance(answers, list)
    assert len(answers) == len(made_run.answers)
    assert record["epsilon"] == "1"
    by_key = {(each["question"], each["scope"]): each for each in answers}  # type: ignore[index, call-overload]
    small, large = by_key["purchase-scenes", "islands"], by_key["purchase-scenes", "east"]
    assert (small["shown"], small["lines"]) == (False, [])
    assert large["shown"] is True
    assert len(large["lines"]) == 28
    assert set(large["lines"][0]) == {"label", "value", "low", "high", "unit", "note"}


def test_a_folder_without_answers_is_refused_before_anything_is_written(
    tmp_path: Path, command: Command
) -> None:
    page = tmp_path / "page.html"
    code, _, errors = command("insights", str(tmp_path), "--html", str(page))
    assert code == 3
    assert "There are no answers" in errors
    assert not page.exists()


def test_a_run_is_of_a_deployment(tmp_path: Path, command: Command) -> None:
    page = str(tmp_path / "page.html")
    code, _, errors = command("insights", str(tmp_path), "--html", page, "--run", "first")
    assert code == 2
    assert "--run goes with a deployment" in errors
    code, _, errors = command("insights", str(tmp_path), "--html", page, "--made-at", "yesterday")
    assert code == 3


def test_answers_of_a_run_become_its_page(
    tmp_path: Path, command: Command, made_run: ReleasedAnswers, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def load(folder: Path) -> ReleasedAnswers:
        asked.append(folder)
        return replace(made_run, run="r-asked")

    monkeypatch.setattr(ReleasedAnswers, "load", load)
    page = tmp_path / "page.html"
    code, written, _ = command("insights", str(tmp_path), "--html", str(page), "--lang", "zh")
    assert (code, asked) == (0, [tmp_path])
    assert "ε = 1 for all on it" in written
    assert 'lang="zh-Hans"' in page.read_text(encoding="utf-8")
    code, written, _ = command("insights", str(tmp_path), "--html", str(page), "--json")
    assert code == 0
    assert json.loads(written)["runs"] == ["r-asked"]


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """A deployment's folder with two runs of questions and one that trains; nothing runs there."""
    opened = Deployment(tmp_path / "deployment")
    opened.root.mkdir()
    opened.config.write_text("", encoding="utf-8")
    plans = {"asked": asked_plan(), "regional": asked_plan(), "trained": fake_plan()}
    for name, plan in plans.items():
        home = opened.home(name)
        home.folder.mkdir(parents=True)
        home.plan.write_bytes(encode(plan.to_record(), max_bytes=1 << 20))
    monkeypatch.setattr(membership, "open_deployment", lambda _: (opened, None))
    return opened


def test_a_deployments_runs_that_are_not_finished_are_run_first(
    deployment: Deployment,
    command: Command,
    made_run: ReleasedAnswers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queued: list[str] = []
    deployment.home("regional").answers.write_bytes(b"")

    def submit(_: Deployment, name: str) -> SimpleNamespace:
        queued.append(name)
        return SimpleNamespace(number=7)

    def wait_for(root: Path, number: int, timeout_s: float, console: Console) -> int:
        assert (root, number, timeout_s) == (deployment.root, 7, 120.0)
        console.print("waiting")
        return 0

    monkeypatch.setattr(queue, "submit", submit)
    monkeypatch.setattr(operation, "wait_for", wait_for)
    monkeypatch.setattr(
        ReleasedAnswers, "load", lambda folder: replace(made_run, run=f"r-{folder.name}")
    )
    page = deployment.root / "page.html"
    options = ["--html", str(page), "--run", "asked", "--run", "regional"]
    code, written, errors = command(
        "insights", str(deployment.root), *options, "--json", "--timeout-minutes", "2"
    )
    assert (code, queued) == (0, ["asked"])
    # What is shown while waiting is no part of the JSON.
    assert "waiting" in errors
    assert json.loads(written)["runs"] == ["r-asked", "r-regional"]


def test_which_run_has_to_be_said_and_one_that_trains_is_none(
    deployment: Deployment, command: Command
) -> None:
    page = str(deployment.root / "page.html")
    code, _, errors = command("insights", str(deployment.root), "--html", page)
    assert code == 2
    assert "Name one or more: --run" in errors
    code, _, errors = command("insights", str(deployment.root), "--html", page, "--run", "trained")
    assert code == 3
    assert "trains a model; it asks nothing" in errors
