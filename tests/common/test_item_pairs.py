from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from common.item_pairs import n_pairs, pair_places, symmetric, upper_triangle


@given(st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_pairs_are_the_strict_upper_triangle_row_by_row(size: int, seed: int) -> None:
    square = np.random.default_rng(seed).standard_normal((size, size))
    pairs = upper_triangle(square)
    first, second = np.triu_indices(size, 1)
    assert np.array_equal(pairs, square[first, second])
    assert len(pairs) == n_pairs(size)
    assert np.array_equal(pair_places(first, second, size), np.arange(n_pairs(size)))


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_a_matrix_of_pairs_is_symmetric_without_diagonal(size: int, seed: int) -> None:
    pairs = np.random.default_rng(seed).standard_normal(n_pairs(size))
    square = symmetric(pairs, size)
    assert np.array_equal(square, square.T)
    assert not np.diag(square).any()
    assert np.array_equal(upper_triangle(square), pairs)


def test_the_order_is_pinned_because_it_is_exchanged() -> None:
    places = pair_places(np.array([0, 0, 1, 2]), np.array([1, 3, 2, 3]), 4)
    assert places.tolist() == [0, 2, 3, 5]


def test_places_of_narrow_integers_do_not_overflow() -> None:
    first = np.array([4094], dtype=np.int16)
    second = np.array([4095], dtype=np.int16)
    assert pair_places(first, second, 4096).tolist() == [n_pairs(4096) - 1]
