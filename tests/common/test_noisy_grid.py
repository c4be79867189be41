"""How many zeros chance makes: held to scipy's distributions, and to draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from common.noisy_grid import NoisyGrid

exponents = st.integers(-24, 4)
deviations = st.floats(1e-3, 1e3)


@given(exponents, deviations)
def test_a_value_is_zero_as_often_as_noise_falls_into_its_cell(
    exponent: int, stddev: float
) -> None:
    half = 2.0**exponent / 2
    expected = norm.cdf(half / stddev) - norm.cdf(-half / stddev)
    found = NoisyGrid(exponent, stddev).zero_probability
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-12)
    # Somebody's contribution in it makes it rarer.
    moved = norm.cdf((stddev + half) / stddev) - norm.cdf((stddev - half) / stddev)
    assert moved <= found + 1e-12


@given(exponents, deviations, st.integers(0, 10**6), st.integers(1, 16))
def test_one_row_more_than_chance_makes_is_one_in_a_billion(
    exponent: int, stddev: float, n_rows: int, n_columns: int
) -> None:
    grid = NoisyGrid(exponent, stddev)
    most, probability = grid.most_zero_rows(n_rows, n_columns), grid.zero_probability**n_columns
    assert 0 <= most <= n_rows
    assert binom.sf(most, n_rows, probability) <= 1.001e-9
    # And not far beyond what is needed: a little over the exact quantile.
    exact = binom.isf(1e-9, n_rows, probability)
    assert most <= exact + 3 + 0.15 * (exact - n_rows * probability)


def test_edges() -> None:
    assert NoisyGrid(-2, 1.0).most_zero_rows(0, 1) == 0
    # Without noise nothing is expected to differ from zero; with a vast one nothing is zero.
    for nothing in (0.0, -1.0, math.nan):
        assert NoisyGrid(-2, nothing).most_zero_rows(10, 3) == 10
    assert NoisyGrid(-24, 1e6).most_zero_rows(10**6, 8) == 0


@pytest.mark.parametrize("exponent", [-12, -4, -2])
def test_draws_of_noise_stay_within(exponent: int) -> None:
    grid = NoisyGrid(exponent, 1.0)
    steps = np.rint(np.random.default_rng(1).normal(size=(500, 2000)) * 2.0**-exponent)
    zeros = (steps == 0).sum(axis=1)
    assert zeros.max() <= grid.most_zero_rows(2000, 1)
    assert zeros.mean() == pytest.approx(2000 * grid.zero_probability, rel=0.1, abs=0.05)
