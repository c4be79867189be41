"""Answers as lines: what is shown of each kind, and that noise is never shown as a number."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from common.analytics.cuts import Cuts
from common.analytics.funnels import Funnel
from common.analytics.groups import Groups
from common.analytics.kano import Kano
from common.analytics.lines import TOO_SMALL, lines_of
from common.analytics.outlook import COARSE
from common.analytics.scores import Score
from common.analytics.shares import Shares
from common.analytics.trends import Trend
from common.analytics.uplift import Uplift
from common.canonical_json import encode
from common.errors import InputError
from tests.support.made_clusters import made_clusters

TREND = Trend("trend", tuple("abc"), most=1)
QUESTIONS: list[Any] = [
    Groups.counts("counts", tuple("abc"), most=2),
    Groups.counts("one", ("all",), most=1),
    Shares("scenes", (("am", "pm"), ("mon", "tue"))),
    Cuts("cuts", tuple(float(n) for n in range(9)), unit="days"),
    Funnel("funnel", ("seen", "bought", "again")),
    TREND,
    Score.nps(),
    Uplift("uplift"),
    made_clusters("clusters", np.array([[-0.5, 0.1], [0.5, -0.1]])),
    Kano("kano", ("delivery", "receipts"), most=2),
]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: str(question.name))
def test_every_kind_has_lines_whose_values_are_in_their_intervals(question: Any) -> None:
    lines = lines_of(question, np.full(question.size, 4000.0), 10.0)
    assert lines
    for line in lines:
        assert line.value is not None
        assert line.low is not None
        assert line.high is not None
        assert line.low <= line.value <= line.high
        assert line.unit
        encode(line.to_record())


@pytest.mark.parametrize("question", QUESTIONS[2:], ids=lambda question: str(question.name))
def test_of_noise_alone_no_ratio_is_shown(question: Any) -> None:
    lines = lines_of(question, np.full(question.size, -3.0), 10.0)
    said = [line for line in lines if line.unit != "customers"]
    assert said
    assert {(line.value, line.low, line.high, line.note) for line in said} == {
        (None, None, None, TOO_SMALL)
    }


def test_counts_of_noise_alone_are_said_not_to_be_told_from_none() -> None:
    lines = lines_of(QUESTIONS[0], np.array([3.0, -2.0, 5.0]), 10.0)
    assert {line.note for line in lines} == {"not told from none"}
    assert all(line.low == 0 for line in lines)


def test_the_largest_groups_come_first_and_those_that_are_sure_say_so() -> None:
    lines = lines_of(QUESTIONS[0], np.array([50.0, 4000.0, 900.0]), 1.0)
    assert [line.label for line in lines] == ["b", "c"]
    assert [line.note for line in lines] == ["sure to be among these"] * 2


def test_trends_say_which_threshold_was_crossed() -> None:
    released = np.array([1000.0, 3.0, 1000.0, 1000.0, 5.0, 4000.0]) / TREND.bound
    lines = lines_of(TREND, released, 10.0)
    assert [(line.label, line.note) for line in lines] == [
        ("c", "+200% crossed"),
        ("a", ""),
        ("b", TOO_SMALL),
    ]


@pytest.mark.parametrize(("deviations", "said"), [(5.2, False), (5.9, False), (6.2, True)])
def test_a_trend_that_is_mostly_noise_is_not_a_number(deviations: float, said: bool) -> None:
    """Of a group that did not change, and is so many deviations above 0, at the edge of use."""
    trend = replace(TREND, wanted=25.0)
    released = 10.0 * np.array([deviations, 1e3, 1e3, deviations, 1e3, 1e3])
    change = trend.read(released, 10.0)
    half_width = 100 * float(change.high[0] - change.low[0]) / 2
    assert (half_width <= COARSE * trend.wanted) == said
    (line,) = [each for each in lines_of(trend, released, 10.0) if each.label == "a"]
    if said:
        assert line.value == pytest.approx(0.0)
    else:
        assert (line.value, line.low, line.high, line.note) == (None, None, None, TOO_SMALL)


def test_what_crossed_by_nobody_can_say_how_much_is_said_to_have_crossed() -> None:
    released = np.array([60.0, 1e6, 1e6, 600.0, 1e6, 1e6])
    first, *_, last = lines_of(TREND, released, 10.0)
    assert (first.label, first.value) != ("a", None)
    assert (last.label, last.value) == ("a", None)
    assert last.note == f"+200% crossed; by how much is {TOO_SMALL}"
    # Before those of which nothing at all can be said.
    released[1] = released[4] = 0.0
    assert [each.label for each in lines_of(TREND, released, 10.0)] == ["c", "a", "b"]


def test_what_is_no_question_has_no_lines() -> None:
    with pytest.raises(InputError, match="no question"):
        lines_of("how many?", np.zeros(3), 1.0)
