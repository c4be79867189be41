"""``fedpref-sim ask``, and what it refuses before anything is made."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.errors import BudgetError, InputError, UsageError
from server.cli import app as server_app
from simulations import scenarios
from simulations.cli import app
from tests.support.small_federation import small_scenario

QUESTIONS = """
aggregation = "sum"

[[question]]
name = "repeat-purchases"
scope = "regions"
"""


@pytest.fixture
def questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(scenarios.SCENARIOS, "small", small_scenario(3, customers=60))
    path = tmp_path / "questions.toml"
    path.write_text(QUESTIONS)
    return path


def test_a_federation_is_asked_and_its_answers_are_shown(questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    asked = CliRunner().invoke(
        app, ["ask", str(questions), "--scenario", "small", "--epsilon", "8", "--out", str(out)]
    )
    assert asked.exit_code == 0, asked.output
    assert "Verified: 4 answers" in asked.output
    shown = CliRunner().invoke(server_app, ["answers", str(out)])
    assert "repeat-purchases, region-1" in shown.output
    # The plan says what will leave, and what noise would do to it.
    plan = CliRunner().invoke(server_app, ["plan", str(out / "server")])
    assert "What noise would do to the answers" in plan.output
    assert "by region, too: repeat-purchases" in plan.output
    status = CliRunner().invoke(server_app, ["status", str(out / "server")])
    assert "finished" in status.output
    assert "answers" in status.output


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--epsilon", "0.01"), BudgetError),
        (("--noise", "none"), UsageError),
        (("--noise", "distributed"), InputError),
        (("--scenario", "nowhere"), UsageError),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_makes_no_sense_is_refused(
    arguments: tuple[str, ...], error: type[Exception], questions: Path, tmp_path: Path
) -> None:
    given = ["ask", str(questions), "--scenario", "small", "--out", str(tmp_path / "run")]
    failed = CliRunner().invoke(app, [*given, *arguments])
    assert isinstance(failed.exception, error), failed.output
    assert not (tmp_path / "run" / "regions").exists()
