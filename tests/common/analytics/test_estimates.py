"""Linear forms, ratios and differences: the closed forms, and what cannot be said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.analytics.estimates import (
    TOLD_DEVIATIONS,
    Estimates,
    deviations_of,
    difference,
    fieller,
    linear,
    ratio,
    require_released,
)
from common.errors import InputError


def test_a_levels_deviations_are_the_normals() -> None:
    assert deviations_of(0.95) == pytest.approx(1.959964, abs=1e-6)
    assert deviations_of(0.99) == pytest.approx(2.575829, abs=1e-6)


@pytest.mark.parametrize("level", [0.0, 1.0, -1.0, float("nan")])
def test_a_level_that_is_none_is_refused(level: float) -> None:
    with pytest.raises(InputError, match="probability"):
        deviations_of(level)


def test_a_sum_of_two_values_has_the_noise_of_both() -> None:
    found = linear(np.array([3.0, 4.0]), np.array([[1.0, 1.0], [1.0, -1.0]]), 2.0)
    reach = 1.959964 * 2.0 * 2**0.5
    np.testing.assert_allclose(found.value, [7.0, -1.0])
    np.testing.assert_allclose(found.high - found.value, reach, rtol=1e-6)
    np.testing.assert_allclose(found.value - found.low, reach, rtol=1e-6)


@given(
    st.floats(-50, 500),
    st.floats(-50, 500),
    st.floats(0.1, 20),
    st.floats(-0.9, 0.9),
)
def test_a_ratios_interval_is_exactly_what_is_not_refused(
    over: float, under: float, stddev: float, correlation: float
) -> None:
    covariance = correlation * stddev**2
    found = fieller(
        np.array(over),
        np.array(under),
        variance_over=stddev**2,
        variance_under=stddev**2,
        covariance=covariance,
    )
    if not found.known:
        assert under <= TOLD_DEVIATIONS * stddev
        assert (found.low, found.high) == (-np.inf, np.inf)
        return
    for end in (float(found.low), float(found.high)):
        # At both ends the ratio is just not refused.
        off = abs(over - end * under)
        variance = stddev**2 * (1 + end**2) - 2 * end * covariance
        assert off == pytest.approx(1.959964 * variance**0.5, rel=1e-3, abs=1e-3)
    assert found.low <= found.value <= found.high


def test_a_share_of_everything_is_one_without_doubt() -> None:
    found = ratio(np.array([30.0, 70.0]), np.ones((1, 2)), np.ones(2), 1.0)
    assert found.value == pytest.approx(1.0)
    assert found.high - found.low == pytest.approx(0.0, abs=1e-6)


def test_a_difference_takes_the_nearer_ends_of_lopsided_intervals() -> None:
    one = Estimates(np.array(0.5), np.array(0.4), np.array(0.8), 0.95)
    other = Estimates(np.array(0.3), np.array(0.25), np.array(0.32), 0.95)
    found = difference(one, other)
    assert found.value == pytest.approx(0.2)
    assert found.low == pytest.approx(0.2 - (0.1**2 + 0.02**2) ** 0.5)
    assert found.high == pytest.approx(0.2 + (0.3**2 + 0.05**2) ** 0.5)


def test_a_difference_with_something_unknown_is_unknown() -> None:
    known = Estimates(np.array(0.5), np.array(0.4), np.array(0.8), 0.95)
    unknown = Estimates(np.array(np.nan), np.array(-np.inf), np.array(np.inf), 0.95)
    found = difference(known, unknown)
    assert not found.known
    assert (found.low, found.high) == (-np.inf, np.inf)


def test_limits_keep_what_is_not_known_unknown() -> None:
    found = Estimates(
        np.array([np.nan, 2.0, -1.0]),
        np.array([-np.inf, 0.5, -3.0]),
        np.array([np.inf, 3.0, -0.5]),
        0.95,
    ).within(0.0, 1.0)
    np.testing.assert_array_equal(found.known, [False, True, True])
    np.testing.assert_array_equal(found.low, [0.0, 0.5, 0.0])
    np.testing.assert_array_equal(found.high, [1.0, 1.0, 0.0])


@pytest.mark.parametrize("released", [np.zeros(2), np.array([1.0, np.nan, 0.0]), np.array(1.0)])
def test_what_is_no_answer_to_a_question_is_refused(released: np.ndarray) -> None:
    with pytest.raises(InputError, match="none to a question"):
        require_released(released, 3, 1.0)


@pytest.mark.parametrize("stddev", [0.0, -1.0, np.nan, np.inf])
def test_noise_that_is_not_known_is_refused(stddev: float) -> None:
    with pytest.raises(InputError, match="Noise"):
        require_released(np.zeros(3), 3, stddev)
