"""Where the page may be written, what programs get, and the command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from common.analytics.answers import ReleasedAnswers
from common.canonical_json import JsonValue
from common.errors import InputError, StorageError, UsageError
from server import cli
from server.insights import output
from server.insights.findings import gather
from server.insights.output import answers_json, check_output, write_page

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedpref-server", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        written, errors = capsys.readouterr()
        return int(str(stop.value.code)), written, errors

    return run


def test_a_page_replaces_a_page_and_nothing_else(
    tmp_path: Path, insight_pages: dict[str, str]
) -> None:
    out = tmp_path / "page.html"
    check_output(out)
    write_page(out, insight_pages["en"])
    check_output(out)
    write_page(out, insight_pages["zh"])
    assert out.read_text(encoding="utf-8") == insight_pages["zh"]
    for other in (tmp_path / "notes.html", tmp_path / "link.html"):
        other.write_text("mine", encoding="utf-8")
        with pytest.raises(UsageError, match="no page of insights"):
            check_output(other)
    with pytest.raises(InputError, match="no folder"):
        check_output(tmp_path / "none" / "page.html")


def test_a_full_disk_is_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output, "write_durably", full)
    with pytest.raises(StorageError, match="No space left"):
        write_page(tmp_path / "page.html", "page")


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
