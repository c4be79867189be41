from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from client.training.exact_bernoulli import (
    EXPONENT_BITS,
    LARGEST_EXPONENT,
    LazyUniform,
    _exp_units,
    exp_bounds,
    flip_exp,
)
from client.training.noise import SystemNoise
from tests.support.privacy_gates import FALSE_ALARM
from tests.support.word_lists import Words


def _digits(numerator: int, denominator: int, bits: int) -> int:
    """The first binary digits of e^-x, from a library of its own."""
    with mpmath.workdps(200):
        return int(
            mpmath.floor(mpmath.ldexp(mpmath.exp(-mpmath.mpf(numerator) / denominator), bits))
        )


@given(st.integers(0, 10**9), st.integers(1, 10**7), st.integers(8, 200))
def test_the_bounds_hold_e_to_the_minus_x_and_are_close(n: int, d: int, bits: int) -> None:
    low, high = exp_bounds(n, d, bits)
    with mpmath.workdps(200):
        exact = mpmath.ldexp(mpmath.exp(-mpmath.mpf(n) / d), bits)
    assert low <= exact <= high
    assert high - low <= 1


def test_fixed_point_is_within_the_error_that_the_margin_is_for() -> None:
    drawn = np.random.default_rng(0).integers(0, LARGEST_EXPONENT, 20_000, dtype=np.uint64)
    drawn[:10_000] >>= np.uint64(6)
    drawn[-3:] = [0, 1, LARGEST_EXPONENT]
    units = _exp_units(drawn).astype(np.float64)
    exact = np.exp(-np.ldexp(drawn.astype(np.float64), -EXPONENT_BITS)) * 2.0**31
    # A float is right to 2^-22 of a unit here.
    assert (units - exact).max() <= 1e-6
    assert (units - exact).min() >= -9


@pytest.mark.parametrize(("numerator", "denominator"), [(1, 3), (7, 2), (10, 1), (3, 10**6)])
def test_words_next_to_the_probability_fall_on_the_right_side(
    numerator: int, denominator: int
) -> None:
    # 64 digits at the border: fixed point cannot tell, 40 further digits of it can.
    border = _digits(numerator, denominator, 64)
    exponents = np.array([(numerator << EXPONENT_BITS) // denominator], dtype=np.uint64)
    further = _digits(numerator, denominator, 128) & (2**64 - 1)

    def flip(*words: int) -> bool:
        coins = flip_exp(exponents, lambda _: (numerator, denominator), Words(*words))
        return bool(coins[0])

    assert flip(border - 1)
    assert not flip(border + 1)
    # The same digits decide nothing; the next word does.
    assert flip(border, further - 1)
    assert not flip(border, further + 1)


def test_fixed_point_alone_would_err_at_the_border() -> None:
    # What the margin is for: without long integers such words would fall on the wrong side.
    wrong = 0
    for numerator in range(1, 200):
        border = _digits(numerator, 100, 64)
        units = int(_exp_units(np.array([(numerator << 32) // 100], dtype=np.uint64))[0])
        wrong += (border - 1) >> 33 >= units
    assert wrong > 100


def test_e_to_the_zero_always_falls_and_e_to_the_minus_much_never() -> None:
    zero, much = np.array([0], dtype=np.uint64), np.array([LARGEST_EXPONENT], dtype=np.uint64)
    assert flip_exp(zero, lambda _: (0, 1), Words(2**64 - 1))[0]
    assert flip_exp(much, lambda _: (4000, 1), Words(0, 1))[0] == np.False_


def test_a_uniform_number_keeps_its_digits_from_question_to_question() -> None:
    uniform = LazyUniform(_digits(1, 1, 64), Words(_digits(1, 1, 128) & (2**64 - 1), 0))
    # The third word is zero: the number is a hair below e^-1.
    assert uniform.is_below_exp(1, 1)
    assert not uniform.is_below_exp(2, 1)


@pytest.mark.parametrize("exponent", [0.01, 0.5, 1.0, 3.0])
def test_coins_have_their_probability(exponent: float) -> None:
    numerator, n = round(exponent * 100), 400_000
    exponents = np.full(n, (numerator << EXPONENT_BITS) // 100, dtype=np.uint64)
    heads = int(flip_exp(exponents, lambda _: (numerator, 100), SystemNoise()).sum())
    low, high = stats.binom.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], n, math.exp(-exponent))
    assert low <= heads <= high
