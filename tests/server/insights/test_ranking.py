"""Ranked lists: what they read off answers, whose names must agree, and what noise leaves open."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from common.analytics.answers import GLOBAL, ReleasedAnswers
from common.analytics.kano import Kano
from common.errors import InputError
from server.insights.findings import Findings, gather
from server.insights.ranking import ranked_lists
from server.insights.settings import FactorTable, InsightsSettings, ListTable, read_settings
from tests.support.made_answers import FEATURES, made_answers


@pytest.fixture(scope="module")
def findings() -> Findings:
    return gather([made_answers()])


def listed(items: str, importance: tuple[str, Any], urgency: tuple[str, Any]) -> InsightsSettings:
    tables = [
        FactorTable(question=question, reading=reading)
        for question, reading in (importance, urgency)
    ]
    table = ListTable(items=items, importance=tables[0], urgency=tables[1])
    return InsightsSettings(priority=(table,))


def test_features_are_ranked_by_how_much_they_matter_and_are_missed(findings: Findings) -> None:
    features, categories = ranked_lists(findings, read_settings())
    assert features.labels == FEATURES
    answer = findings.of("kano", GLOBAL)
    assert answer is not None
    question = answer.question
    assert isinstance(question, Kano)
    matters = question.matters(answer.released, answer.noise_stddev).value
    worse = question.worse(answer.released, answer.noise_stddev).value
    by_hand = 100 * (matters * worse * 0.5) ** (1 / 3)
    np.testing.assert_allclose(features.found.score.value, by_hand)
    assert features.labels[features.found.order[0]] in ("free parking", "shelf labels")
    assert len(categories.labels) == 12
    assert categories.items == "category-customers"


def test_what_planners_state_moves_the_ranks(findings: Findings) -> None:
    (table, _) = read_settings().priority
    hard = table.model_copy(update={"feasibility": {"default": 1.0, "free parking": 0.01}})
    (found,) = ranked_lists(findings, InsightsSettings(priority=(hard,)))
    assert found.labels[found.found.order[-1]] == "free parking"


def test_items_that_the_answer_chose_have_wider_intervals(findings: Findings) -> None:
    settings = read_settings()
    chosen = settings.priority[1]
    everything = chosen.model_copy(update={"most": 60})
    few, all_of_them = ranked_lists(findings, InsightsSettings(priority=(chosen, everything)))
    assert set(few.labels) < set(all_of_them.labels)
    place = all_of_them.labels.index(few.labels[0])
    wide = (few.found.importance.high - few.found.importance.low)[0]
    narrow = (all_of_them.found.importance.high - all_of_them.found.importance.low)[place]
    assert wide > 1.3 * narrow


def test_a_list_whose_answers_are_not_there_is_left_out(findings: Findings) -> None:
    assert ranked_lists(findings, listed("nothing", ("kano", "worse"), ("kano", "worse"))) == []
    run: ReleasedAnswers = findings.runs[0]
    without = replace(run, answers=(run.of("category-customers"), run.of("category-trend")))
    # Shares want the number of customers, which those two do not tell.
    assert ranked_lists(gather([without]), read_settings()) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (listed("nps", ("nps", "share"), ("nps", "share")), "no items"),
        (listed("kano", ("kano", "share"), ("kano", "worse")), "cannot be read off"),
        (listed("kano", ("category-trend", "change"), ("kano", "worse")), "do not all have"),
        (
            listed("category-customers", ("category-customers", "worse"), ("kano", "worse")),
            "cannot be read off",
        ),
    ],
)
def test_what_cannot_be_ranked_is_refused_in_words(
    findings: Findings, settings: InsightsSettings, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        ranked_lists(findings, settings)
