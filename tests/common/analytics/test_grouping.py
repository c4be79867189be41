"""What is said of clusters, as one question."""

from __future__ import annotations

import math

import numpy as np
import pytest

from common.analytics.coordinates import CATEGORY, spread_points
from common.analytics.grouping import Axis, Grouping
from common.errors import InputError


def test_without_a_word_customers_are_grouped_by_recency_frequency_and_variety() -> None:
    question = Grouping().question(days=365, categories=300)
    assert [each.label for each in question.coordinates] == ["recency", "frequency", "variety"]
    assert (len(question.centres), question.steps) == (5, 4)
    np.testing.assert_array_equal(question.centres, spread_points(5, 3))
    assert question.coordinates[1].most == 92


def test_bounds_and_a_start_are_in_the_coordinates_own_numbers() -> None:
    axes = (Axis("frequency", most=40), Axis(CATEGORY, category="milk"))
    question = Grouping(axes, steps=2, start=((1, 0), (40, 100))).question(days=90, categories=4)
    np.testing.assert_allclose(question.centres, [[-1, -1], [1, 1]])
    assert [each.label for each in question.coordinates] == ["frequency", "category: milk"]
    assert question.coordinates[0].most == 40


@pytest.mark.parametrize(
    ("grouping", "words"),
    [
        (Grouping(start=((1, 2), (3, 4))), "has not 3 numbers"),
        (Grouping(start=((1, 2, math.nan), (3, 4, 5))), "has not 3 numbers"),
        (Grouping((Axis("recency"), Axis("recency"))), "its coordinates are not"),
        (Grouping((Axis("income"),)), "no measure"),
        (Grouping((Axis("recency", least=9, most=3),)), "do not ascend"),
        (Grouping((Axis("recency", category="milk"),)), "goes with the measure"),
        (Grouping(steps=21), "1 to 20 steps"),
        (Grouping(steps=0), "1 to 20 steps"),
        (Grouping(clusters=33), "more than 32 clusters"),
        (Grouping(()), "its centres are not points"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_named(grouping: Grouping, words: str) -> None:
    with pytest.raises(InputError, match=words):
        grouping.question(days=365, categories=300)
