"""The bars of a page of insights at ε = 1 in total, by the plans of questions that are shipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import InputError
from common.privacy import GaussianEvent, epsilon
from common.questions_plan import QuestionsFile
from simulations.insights_study import (
    BY_REGION,
    TOGETHER,
    coverage,
    noise_of,
    one_region,
    retail,
)


@pytest.mark.parametrize("plan", [TOGETHER, BY_REGION])
def test_a_shipped_plan_costs_one_in_all(plan: Path) -> None:
    stddev_of = noise_of(plan)
    names = [each.name for each in QuestionsFile.read(plan).question]
    assert 0.99 <= epsilon([GaussianEvent(stddev_of(name)) for name in names], 1e-6) <= 1.0
    with pytest.raises(InputError, match="does not ask"):
        stddev_of("anything else")


def test_whose_answers_they_are() -> None:
    together, by_region = (QuestionsFile.read(plan) for plan in (TOGETHER, BY_REGION))
    assert together.aggregation == "secure-sum"
    assert {each.scope for each in together.question} == {"global"}
    assert {each.scope for each in by_region.question} == {"regions"}


def test_a_region_of_five_thousand_keeps_to_the_bars() -> None:
    found = one_region(draws=60)
    assert found.top_precision >= 0.9
    assert found.share_points <= 1.0
    assert found.cut_percentiles <= 2.0


def test_intervals_of_every_question_cover_the_truth_as_often_as_they_say() -> None:
    found = coverage(draws=5_000)
    assert [*found] == [each.name for each in QuestionsFile.read(BY_REGION).question]
    for name, share in found.items():
        assert 0.94 <= share <= 0.96, name


@pytest.mark.slow
def test_the_largest_categories_of_real_customers_are_named() -> None:
    assert retail(draws=200).top_precision >= 0.9
