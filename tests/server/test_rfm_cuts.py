"""Released quantiles as a file of cuts: what profiles read of it, and when there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import server.commands.answers
from client.profiles.rfm import read_cuts
from common.analytics.answers import GLOBAL, ReleasedAnswer, ReleasedAnswers
from common.analytics.cuts import Cuts
from common.analytics.purchase_questions import frequency_question, recency_question
from common.errors import InputError
from server.cli import app

YEAR = ("2024-01-01T00:00:00.000Z", "2025-01-01T00:00:00.000Z")
DAYS, OFTEN = np.arange(1000) % 300, 1 + np.arange(1000) % 40


def answer(question: Cuts, numbers: np.ndarray, scope: str, scale: float = 1.0) -> ReleasedAnswer:
    """What customers with some numbers say, as if there were hardly any noise."""
    released = np.zeros(question.size)
    for places in question.tree.places():
        np.add.at(released, places[question.cell(numbers)], question.tree.scale)
    return ReleasedAnswer(question, scope, ("r",), 1e-3, released * scale, "1", 1000)


def released(window: tuple[str, str] = YEAR, scale: float = 1.0) -> ReleasedAnswers:
    asked = recency_question(window_days=366), frequency_question()
    answers = [
        answer(question, numbers + more, scope, scale)
        for scope, more in ((GLOBAL, 0), ("region-1", 60))
        for question, numbers in zip(asked, (DAYS, OFTEN), strict=True)
    ]
    return ReleasedAnswers(
        "plan", "run-1", "0" * 64, "f", window, "local", ("r",), "1", "1e-6", "u", tuple(answers)
    )


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setattr(server.commands.answers, "load_answers", lambda *_: released())
    return CliRunner()


def ask(run: CliRunner, *arguments: object) -> Result:
    return run.invoke(app, ["answers", "home", *map(str, arguments)])


def test_cuts_are_what_profiles_take(run: CliRunner, tmp_path: Path) -> None:
    path = tmp_path / "cuts.toml"
    told = ask(run, "--cuts", path)
    assert told.exit_code == 0, told.output
    cuts = read_cuts(path)
    # Cells of months are wide: a fifth of the customers is found to within a tenth of its place.
    np.testing.assert_allclose(cuts.recency, np.quantile(DAYS, (0.2, 0.4, 0.6, 0.8)), rtol=0.1)
    np.testing.assert_allclose(cuts.frequency, np.quantile(OFTEN, (0.2, 0.4, 0.6, 0.8)), rtol=0.1)
    assert cuts.monetary == ()
    assert cuts.released
    assert cuts.source == "run run-1, global, 2024-01-01 to 2025-01-01"
    again = ask(run, "--cuts", path)
    assert isinstance(again.exception, InputError)
    assert "there already" in again.exception.message


def test_a_regions_own_answers_make_its_own_cuts(run: CliRunner, tmp_path: Path) -> None:
    ask(run, "--cuts", tmp_path / "all.toml")
    ask(run, "--cuts", tmp_path / "own.toml", "--scope", "region-1")
    whole, own = read_cuts(tmp_path / "all.toml"), read_cuts(tmp_path / "own.toml")
    assert own.recency[0] > whole.recency[0] + 30
    assert "region-1" in own.source


@pytest.mark.parametrize(
    ("window", "scale", "said"),
    [
        (("2024-01-01T00:00:00.000Z", "2024-07-01T00:00:00.000Z"), 1.0, "in a year"),
        (YEAR, 1e-9, "Noise leaves no four cuts of recency-cuts for global"),
    ],
)
def test_where_there_are_no_such_cuts_nothing_is_written(
    window: tuple[str, str],
    scale: float,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    found = released(window, scale)
    monkeypatch.setattr(server.commands.answers, "load_answers", lambda *_: found)
    failed = ask(CliRunner(), "--cuts", tmp_path / "cuts.toml")
    assert isinstance(failed.exception, InputError)
    assert said in failed.exception.message
    assert not list(tmp_path.iterdir())
