"""The bars of analytics at ε = 1 in total: real customers in one sum, made-up ones in a region."""

from __future__ import annotations

import pytest

from common.privacy import GaussianEvent, epsilon
from simulations.analytics_study import (
    ASKED,
    CUSTOMERS,
    coverage,
    noise_of_a_plan,
    one_region,
    retail,
)


def test_all_questions_together_cost_no_more_than_one() -> None:
    assert epsilon([GaussianEvent(noise_of_a_plan())] * len(ASKED), 1e-6) <= 1.0


# Of every day: the same of the shipped plans, in test_insights_study.py.
@pytest.mark.slow
def test_a_region_of_five_thousand_keeps_to_the_bars() -> None:
    found = one_region(CUSTOMERS, 1, draws=100)
    assert found.top_precision >= 0.9
    assert found.top_stated == pytest.approx(found.top_precision, abs=0.05)
    assert found.share_points <= 1.0
    assert found.cut_percentiles <= 2.0


@pytest.mark.slow
def test_stated_intervals_cover_the_truth_as_often_as_they_say() -> None:
    found = coverage(CUSTOMERS, 1, draws=5_000)
    assert list(found) == [*ASKED]
    for name, share in found.items():
        assert 0.94 <= share <= 0.96, name


@pytest.mark.slow
def test_the_largest_categories_of_real_customers_are_named() -> None:
    found = retail(draws=200)
    assert found.top_precision >= 0.9
    assert found.top_stated == pytest.approx(found.top_precision, abs=0.05)
