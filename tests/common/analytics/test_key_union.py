"""Keys nobody can list: the threshold, and ε with the δ that it costs, by other means."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent
from dp_accounting.pld import PLDAccountant
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from common.analytics.key_union import KeyUnion
from common.errors import InputError


@given(st.integers(1, 64), st.floats(1e-10, 0.05), st.floats(0.5, 50))
def test_one_customers_own_keys_pass_the_threshold_as_rarely_as_is_said(
    most: int, key_delta: float, stddev: float
) -> None:
    threshold = KeyUnion("k", most, key_delta).threshold(stddev)
    each = norm.sf((threshold - 1 / math.sqrt(most)) / stddev)
    any_of_them = -math.expm1(most * math.log1p(-each))
    assert any_of_them == pytest.approx(key_delta, rel=1e-4)


@pytest.mark.parametrize("stddev", [1.0, 4.3])
def test_epsilon_is_another_accountants_at_what_is_left_of_delta(stddev: float) -> None:
    question = KeyUnion("k", 8, 5e-7)
    accountant = PLDAccountant()
    accountant.compose(GaussianDpEvent(stddev))
    other = accountant.get_epsilon(1e-6 - 5e-7)
    assert question.epsilon(stddev, 1e-6) == pytest.approx(other, rel=1e-3)
    # The whole of δ would promise more than holds.
    assert question.epsilon(stddev, 1e-6) > accountant.get_epsilon(1e-6)


def test_a_delta_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="leaves nothing"):
        KeyUnion("k", 8, 1e-6).epsilon(4.0, 1e-6)


@pytest.mark.parametrize(("most", "key_delta"), [(0, 1e-6), (1, 0.0), (1, 0.5), (1, math.nan)])
def test_what_bounds_nothing_is_refused(most: int, key_delta: float) -> None:
    with pytest.raises(InputError, match="out of range"):
        KeyUnion("k", most, key_delta)


def test_the_outlook_is_the_share_a_key_needs() -> None:
    question = KeyUnion("k", 4, 5e-7)
    outlook = question.outlook(10_000, 4.3)
    assert outlook.half_width == pytest.approx(2 * question.threshold(4.3) / 10_000)
    assert not outlook.swamped
    assert question.outlook(500, 4.3).swamped


def test_intervals_cover_the_counts_of_keys_that_are_always_released() -> None:
    question, stddev = KeyUnion("k", 4, 5e-7), 4.3
    counts = np.array([120.0, 300.0, 4000.0])
    noise = np.random.default_rng(3).normal(0, stddev, (6000, 3))
    found = question.read(counts / 2 + noise, stddev)
    covered = found.covers(counts).mean(axis=0)
    assert covered.min() >= 0.94
    assert covered.max() <= 0.96


@given(st.integers(1, 64), st.floats(1e-10, 0.05), st.floats(0.5, 50), st.integers(-12, 2))
def test_what_is_rounded_to_the_least_value_was_at_the_threshold(
    most: int, key_delta: float, stddev: float, exponent: int
) -> None:
    question = KeyUnion("k", most, key_delta)
    least, step = question.least_released(stddev, exponent), math.ldexp(1.0, exponent)
    assert least % step == 0
    assert least - step / 2 >= question.threshold(stddev)
    # No coarser than it must be, by one step.
    assert least - 1.5 * step < question.threshold(stddev)


def test_a_threshold_that_the_grid_has_no_step_for_is_refused() -> None:
    with pytest.raises(InputError, match="out of range"):
        KeyUnion("k", 4, 1e-8).least_released(1e5, -10)


@pytest.mark.parametrize(
    "sizes", [{"keys": 0}, {"keys": 5000}, {"key_bytes": 0}, {"key_bytes": 6}, {"key_bytes": 260}]
)
def test_sizes_that_are_none_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(InputError, match="out of range"):
        KeyUnion("k", 4, 1e-8, **sizes)


def test_intervals_cover_the_counts_of_keys_that_are_seldom_released() -> None:
    """Of those answers in which they are: noise had to lift them, and the interval knows it."""
    question, stddev = KeyUnion("k", 4, 1e-6), 4.0
    threshold = question.threshold(stddev)
    generator, naive = np.random.default_rng(7), []
    for count in (threshold - 4.0, threshold, threshold + 4.0):
        values = count + generator.normal(0, stddev, 40_000)
        seen = values[values >= threshold][:2000]
        found = question.read(seen, stddev)
        covered = found.covers(2 * count).mean()
        assert 0.945 <= covered <= 0.985
        naive.append(float((np.abs(seen - count) <= 1.96 * stddev).mean()))
    # An interval that takes no account of it would not.
    assert min(naive) < 0.9


def test_a_key_that_is_there_is_somebodys() -> None:
    question = KeyUnion("k", 4, 1e-6)
    found = question.read([question.threshold(4.0)], 4.0)
    assert found.low[0] == 1.0
