"""``fedpref-server answers``: what a run of questions published, for people and programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from common.errors import InputError
from server.cli import app
from tests.common.analytics.test_answers import write


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["answers", *arguments])


def test_every_answer_is_shown_with_interval_epsilon_and_customers(tmp_path: Path) -> None:
    shown = run(str(write(tmp_path)))
    assert shown.exit_code == 0, shown.output
    assert "ε = 8 at δ = 0.000001 in all" in shown.output
    assert "repeat-purchases, 2 regions: at least 24 customers, ε = 7.99" in shown.output
    assert "repeat-purchases, region-1: at least 16 customers" in shown.output
    assert "95% interval" in shown.output


def test_one_scope_is_shown_alone_and_for_programs(tmp_path: Path) -> None:
    shown = run(str(write(tmp_path)), "--scope", "region-3", "--json")
    record = json.loads(shown.output)
    (answer,) = record["answers"]
    assert (answer["scope"], answer["regions"]) == ("region-3", ["region-3"])
    assert answer["customers_at_least"] == 8
    assert len(answer["lines"]) == 7
    assert set(answer["lines"][0]) == {"label", "value", "low", "high", "unit", "note"}


def test_a_scope_that_nobody_answered_for_is_named(tmp_path: Path) -> None:
    failed = run(str(write(tmp_path)), "--scope", "region-2")
    assert isinstance(failed.exception, InputError)
    assert "region-1" in str(failed.exception.remedy)


@pytest.mark.parametrize("arguments", [(), ("--run", "first")])
def test_a_folder_without_answers_is_told(arguments: tuple[str, ...], tmp_path: Path) -> None:
    failed = run(str(tmp_path), *arguments)
    assert isinstance(failed.exception, InputError)
    assert "no answers" in failed.exception.message
