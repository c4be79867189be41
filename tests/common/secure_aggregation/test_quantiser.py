"""Values to the ring and back: exact, never wrapped, never rounded."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.parameters import ArraySpec
from common.secure_aggregation import (
    MAX_SUMMED,
    Quantiser,
    SecureSumRefusedError,
    from_ring,
    ring_values,
    to_ring,
)
from common.secure_aggregation.quantiser import finest_grid, ring_specs


@pytest.mark.parametrize("most", [1, 2, 3, 4, 5, 7, 8, 16, 17, 50, 64, 65, 127, 128])
def test_so_many_of_the_largest_values_stay_in_the_ring(most: int) -> None:
    quantiser = Quantiser(0, most)
    assert quantiser.value_bits == 32 - math.ceil(math.log2(most))
    assert most * quantiser.largest_steps < 2**31
    # One bit more, and they would not.
    assert most * (2 * quantiser.largest_steps + 1) >= 2**31 - 1 or most == 1


@pytest.mark.parametrize("most", [0, -1, MAX_SUMMED + 1])
def test_sums_of_nobody_or_of_too_many_are_refused(most: int) -> None:
    with pytest.raises(InputError, match="at most"):
        Quantiser(0, most)


@settings(max_examples=50, deadline=None)
@given(
    exponent=st.integers(-24, 16),
    most=st.integers(3, MAX_SUMMED),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_goes_in_comes_out(exponent: int, most: int, seed: int) -> None:
    quantiser = Quantiser(exponent, most)
    # What float32 has whole numbers for.
    top = min(quantiser.largest_steps, 2**24)
    steps = np.random.default_rng(seed).integers(-top, top, size=(3, 7), endpoint=True)
    arrays = {"b": np.ldexp(steps.astype(np.float32), exponent), "a": np.zeros(2, np.float32)}
    vector = to_ring(arrays, quantiser)
    (values,) = ring_values(vector, quantiser, n_summed=1)
    np.testing.assert_array_equal(values[2:].reshape(3, 7), arrays["b"].astype(np.float64))
    assert not values[:2].any()


def test_the_largest_value_is_the_last_that_is_let_in() -> None:
    quantiser = Quantiser(-12, 200 // 2)
    # The nearest float32 below and above.
    largest = np.float32(quantiser.largest_value)
    below = np.nextafter(largest, np.float32(0))
    to_ring({"a": np.array([below], np.float32)}, quantiser)
    above = np.ldexp(np.float32(quantiser.largest_steps + 1), -12)
    for value in (above, -above, np.float32(np.inf), np.float32(np.nan)):
        with pytest.raises(SecureSumRefusedError) as refused:
            to_ring({"a": np.array([0, value], np.float32)}, quantiser)
        assert refused.value.reason == "out-of-range"


def test_a_value_off_the_grid_is_refused() -> None:
    with pytest.raises(SecureSumRefusedError) as refused:
        to_ring({"a": np.array([0.5, 1 / 3], np.float32)}, Quantiser(-12, 3))
    assert refused.value.reason == "off-grid"


def test_a_sum_that_nobody_can_have_made_is_refused() -> None:
    quantiser = Quantiser(0, 5)
    most = 4 * quantiser.largest_steps
    (values,) = ring_values(np.array([most], np.uint32), quantiser, n_summed=4)
    assert values[0] == most
    for steps in (most + 1, -(most + 1)):
        vector = np.array([steps], np.int64).astype(np.uint32)
        with pytest.raises(SecureSumRefusedError) as refused:
            list(ring_values(vector, quantiser, n_summed=4))
        assert refused.value.reason == "masks-do-not-cancel"


def test_arrays_travel_under_their_names_and_shapes_as_views() -> None:
    specs = [ArraySpec("b", "<f4", (2, 3)), ArraySpec("a", "<f4", (4,))]
    vector = np.arange(10, dtype=np.uint32)
    arrays = from_ring(vector, specs)
    assert {name: array.shape for name, array in arrays.items()} == {"a": (4,), "b": (2, 3)}
    np.testing.assert_array_equal(arrays["b"].ravel(), np.arange(4, 10))
    assert all(np.shares_memory(array, vector) for array in arrays.values())
    assert {(each.name, each.dtype) for each in ring_specs(specs)} == {("a", "<i4"), ("b", "<i4")}


@settings(max_examples=200)
@given(
    largest=st.floats(1e-6, 1e12, allow_nan=False),
    most=st.integers(1, MAX_SUMMED),
)
def test_the_finest_grid_fits_and_a_finer_one_does_not(largest: float, most: int) -> None:
    exponent = finest_grid(largest, most)
    steps = Quantiser(0, most).largest_steps
    assert Fraction(largest) <= steps * Fraction(2) ** exponent
    assert Fraction(largest) > steps * Fraction(2) ** (exponent - 1)
