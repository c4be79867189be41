"""Priorities: scores by hand, intervals and ranks that hold as often as they say."""

from __future__ import annotations

from functools import partial
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.analytics.estimates import Estimates, linear
from common.analytics.priority import (
    FULL_SCORE,
    Priorities,
    Weights,
    _ranks,
    on_scale,
    prioritised,
)
from common.errors import InputError

FloatArray = npt.NDArray[np.float64]

IMPORTANCE = np.array([0.9, 0.5, 0.5, 0.1])
URGENCY = np.array([0.4, 0.8, 0.3, 0.9])
FEASIBILITY = np.array([1.0, 0.5, 0.5, 0.2])
STDDEV = 0.02


def exact(values: FloatArray, reach: float = 0.0) -> Estimates:
    return Estimates(values, values - reach, values + reach, 0.95).within(0.0, 1.0)


def read_exact(level: float, reach: float = 0.0) -> tuple[Estimates, Estimates]:
    assert 0.95 <= level < 1
    return exact(IMPORTANCE, reach), exact(URGENCY, reach)


def noisy(seed: int) -> Priorities:
    generator = np.random.default_rng(seed)
    drawn = [each + generator.normal(0, STDDEV, 4) for each in (IMPORTANCE, URGENCY)]

    def read(level: float) -> tuple[Estimates, Estimates]:
        one, other = (
            linear(each, np.eye(4), STDDEV, level=level).within(0.0, 1.0) for each in drawn
        )
        return one, other

    return prioritised(read, FEASIBILITY, Weights())


def test_a_score_is_the_weighted_geometric_mean() -> None:
    found = prioritised(read_exact, FEASIBILITY, Weights(2.0, 1.0, 1.0))
    by_hand = FULL_SCORE * (IMPORTANCE**2 * URGENCY * FEASIBILITY) ** 0.25
    np.testing.assert_allclose(found.score.value, by_hand)
    assert found.order.tolist() == np.argsort(-by_hand).tolist()
    assert (found.first == found.last).all()
    assert found.first[found.order].tolist() == [1, 2, 3, 4]


def test_a_weight_of_nothing_leaves_a_factor_out_whatever_it_is() -> None:
    found = prioritised(read_exact, np.zeros(4), Weights(1.0, 0.0, 0.0))
    np.testing.assert_allclose(found.score.value, FULL_SCORE * IMPORTANCE)


def test_the_weights_decide_the_order() -> None:
    urgent = prioritised(read_exact, FEASIBILITY, Weights(0.0, 1.0, 0.0))
    assert urgent.order.tolist() == [3, 1, 0, 2]
    feasible = prioritised(read_exact, FEASIBILITY, Weights(0.0, 0.0, 1.0))
    assert feasible.order.tolist() == [0, 1, 2, 3]


def test_what_noise_leaves_nothing_to_say_of_has_no_score_and_no_rank() -> None:
    silent = Estimates(
        np.array([0.9, np.nan, 0.5, 0.1]),
        np.array([0.9, 0.0, 0.5, 0.1]),
        np.array([0.9, 1.0, 0.5, 0.1]),
        0.95,
    )
    found = prioritised(lambda _: (silent, exact(URGENCY)), np.ones(4), Weights())
    assert np.isnan(found.score.value[1])
    assert found.order.tolist()[-1] == 1
    assert (found.first[1], found.last[1]) == (1, 4)


def test_intervals_and_ranks_hold_as_often_as_they_say() -> None:
    truth = FULL_SCORE * (IMPORTANCE * URGENCY * FEASIBILITY) ** (1 / 3)
    ranks = 1 + (truth[None, :] > truth[:, None]).sum(axis=1)
    draws = [noisy(seed) for seed in range(1_000)]
    covered = np.array([each.score.covers(truth) for each in draws])
    # Of 1,000 draws a share of 0.95 is known to 0.7 points.
    assert covered.mean(axis=0).min() >= 0.935
    wrong = [((each.first > ranks) | (each.last < ranks)).any() for each in draws]
    assert np.mean(wrong) <= 0.05
    # They say something all the same.
    assert np.mean([each.last - each.first for each in draws]) < 1.5


def test_of_many_equal_items_hardly_any_page_ranks_one_above_another() -> None:
    items, draws, wrong = 20, 400, 0
    generator = np.random.default_rng(8)
    for _ in range(draws):
        drawn = 0.5 + generator.normal(0, STDDEV, items)

        def read(level: float, drawn: FloatArray = drawn) -> tuple[Estimates, Estimates]:
            one = linear(drawn, np.eye(items), STDDEV, level=level).within(0.0, 1.0)
            return one, exact(np.ones(items))

        found = prioritised(read, np.ones(items), Weights(1.0, 0.0, 0.0))
        wrong += int((found.first > 1).any())
    # With each interval at 95% by itself it is one page of seven.
    assert wrong / draws <= 0.05


def test_with_each_factor_at_the_level_itself_scores_would_be_too_sure() -> None:
    """Two intervals of 95% hold together less often: what Bonferroni is there for."""
    generator = np.random.default_rng(4)
    drawn = generator.normal(0, 1, (20_000, 2))
    both = (np.abs(drawn) <= 1.96).all(axis=1).mean()
    assert both < 0.91


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 20)), min_size=1, max_size=12),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60)
def test_whatever_values_are_in_the_intervals_have_ranks_within(
    ends: list[tuple[float, float]], random: Random
) -> None:
    low = np.array([each[0] for each in ends])
    high = low + np.array([each[1] for each in ends])
    inside = low + (high - low) * np.array([random.random() for _ in ends])
    first, last = _ranks(Estimates(inside, low, high, 0.95))
    ranks = 1 + (inside[None, :] > inside[:, None]).sum(axis=1)
    assert ((first <= ranks) & (ranks <= last)).all()


def test_a_scale_goes_either_way_and_is_limited() -> None:
    found = Estimates(np.array([-1.0, 1.0, 9.0]), np.zeros(3), np.full(3, 2.0), 0.95)
    rising = on_scale(found, 0.0, 4.0)
    assert rising.value.tolist() == [0.0, 0.25, 1.0]
    assert (rising.low.tolist(), rising.high.tolist()) == ([0.0] * 3, [0.5] * 3)
    falling = on_scale(found, 4.0, 0.0)
    assert falling.value.tolist() == [1.0, 0.75, 0.0]
    assert (falling.low.tolist(), falling.high.tolist()) == ([0.5] * 3, [1.0] * 3)
    silent = on_scale(
        Estimates(np.array([np.nan]), np.array([-np.inf]), np.array([np.inf]), 0.9), 4.0, 0.0
    )
    assert (silent.low.tolist(), silent.high.tolist()) == ([0.0], [1.0])


@pytest.mark.parametrize("weights", [(-1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (np.nan, 1.0, 1.0)])
def test_weights_that_rank_nothing_are_refused(weights: tuple[float, float, float]) -> None:
    with pytest.raises(InputError, match="rank nothing"):
        Weights(*weights)


def test_factors_that_are_none_are_refused() -> None:
    with pytest.raises(InputError, match="no scale"):
        on_scale(exact(IMPORTANCE), 1.0, 1.0)
    with pytest.raises(InputError, match="feasibility"):
        prioritised(read_exact, np.array([0.5, 0.5, 0.5, np.nan]), Weights())
    with pytest.raises(InputError, match="importance"):
        prioritised(read_exact, np.ones(3), Weights())
    beyond = Estimates(URGENCY, URGENCY, URGENCY + 0.5, 0.95)
    with pytest.raises(InputError, match="urgency"):
        prioritised(lambda _: (exact(IMPORTANCE), beyond), np.ones(4), Weights())


def test_ranges_of_ranks_widen_with_the_intervals() -> None:
    narrow, wide = (
        prioritised(partial(read_exact, reach=reach), FEASIBILITY, Weights())
        for reach in (0.01, 0.2)
    )
    assert (wide.first <= narrow.first).all()
    assert (wide.last >= narrow.last).all()
    assert (wide.last - wide.first).sum() > (narrow.last - narrow.first).sum()
