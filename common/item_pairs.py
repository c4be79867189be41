"""Pairs of distinct items in one order: a symmetric matrix without its diagonal, as a vector.

The order is that of the strict upper triangle, row by row: (0, 1), (0, 2) … (0, m − 1), (1, 2) …
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def n_pairs(n_items: int) -> int:
    """How many pairs of distinct items there are among so many."""
    return n_items * (n_items - 1) // 2


def pair_places(
    first: npt.NDArray[np.integer], second: npt.NDArray[np.integer], n_items: int
) -> IntArray:
    """int64[n]: where pairs stand in the order.

    Args:
        first: Item numbers, each below that of `second`.
        second: Item numbers, below m.
        n_items: m.
    """
    row = first.astype(np.int64)
    places: IntArray = row * (2 * n_items - row - 3) // 2 + second.astype(np.int64) - 1
    return places


def upper_triangle(square: FloatArray) -> FloatArray:
    """float64[m(m − 1)/2]: the values above the diagonal of float64[m, m], in the order."""
    size = len(square)
    pairs = np.empty(n_pairs(size))
    start = 0
    for row in range(size - 1):
        pairs[start : start + size - 1 - row] = square[row, row + 1 :]
        start += size - 1 - row
    return pairs


def symmetric(pairs: FloatArray, n_items: int) -> FloatArray:
    """float64[m, m]: the matrix of which `pairs` are the values above the diagonal; 0 on it.

    Args:
        pairs: float64[m(m − 1)/2].
        n_items: m.
    """
    square = np.zeros((n_items, n_items))
    start = 0
    for row in range(n_items - 1):
        values = pairs[start : start + n_items - 1 - row]
        square[row, row + 1 :] = values
        square[row + 1 :, row] = values
        start += n_items - 1 - row
    return square
