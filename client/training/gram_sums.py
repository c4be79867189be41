"""How often pairs of items are bought together, clipped customer by customer: the sums of ``gram``.

A customer's contribution is y yᵀ without its diagonal, each pair once. For a row of norm 1 its norm
is √((1 − Σ yᵢ⁴) / 2), below 1/√2. It is known in closed form, so nothing of shape customers × pairs
is made for clipping; rows are sparse, so the cost grows with pairs that somebody bought.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_matrix, diags

from client.training.clipping import factors_of
from common.errors import InputError
from common.item_pairs import n_pairs, pair_places, upper_triangle

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# The closed form is a difference; this much of what it is taken from outweighs its rounding, also
# for rows of ten thousand entries.
_ROUNDING = 2.0**-36


def clipped_gram(chunks: Iterable[csr_matrix], n_items: int, *, clipping_norm: float) -> FloatArray:
    """The customers' contributions, each clipped, summed; without noise, so it must not leave.

    Args:
        chunks: Sparse float64[n, m] each: the customers' rows.
        n_items: m.
        clipping_norm: C, above 0.

    Formal guarantees:
        Adding or removing one customer changes the sum by at most C in the L2 norm, whatever the
        rows.

    Returns:
        float64[m(m − 1)/2], in the order of `common.item_pairs`.

    Raises:
        InputError: C is not positive, or a row is not finite.
    """
    total = np.zeros((n_items, n_items))
    for rows in chunks:
        factors = clip_factors(rows, clipping_norm)
        total += ((diags(factors) @ rows).T @ rows).toarray()
    return upper_triangle(total)


def clipped_pairs(
    chunks: Iterable[csr_matrix], n_items: int, *, clipping_norm: float
) -> Iterator[tuple[IntArray, FloatArray]]:
    """The same contributions one by one, not summed: for sums of whole grid units.

    Args:
        chunks: Sparse float64[n, m] each: the customers' rows.
        n_items: m.
        clipping_norm: C, above 0.

    Yields:
        For each chunk int64[n] places and float64[n] values, one for each customer and pair of
        items that she bought both of.

    Raises:
        InputError: As in `clipped_gram`.
    """
    for rows in chunks:
        rows.sort_indices()
        factors = clip_factors(rows, clipping_norm)
        sizes = np.diff(rows.indptr).astype(np.int64)
        within = np.arange(rows.nnz) - np.repeat(rows.indptr[:-1].astype(np.int64), sizes)
        # With how many later entries of its row an entry makes a pair.
        later = np.repeat(sizes, sizes) - 1 - within
        first = np.repeat(np.arange(rows.nnz), later)
        step = np.arange(int(later.sum())) - np.repeat(np.cumsum(later) - later, later)
        second = first + 1 + step
        scaled = rows.data * np.repeat(factors, sizes)
        places = pair_places(rows.indices[first], rows.indices[second], n_items)
        yield places, scaled[first] * rows.data[second]


def most_customers(n_items: int, products: int) -> int:
    """Of how many customers the pairs are at most so many, but at least of one."""
    return max(1, products // max(1, n_pairs(n_items)))


def clip_factors(rows: csr_matrix, clipping_norm: float) -> FloatArray:
    """float64[n]: the factors that bring customers' contributions to at most C.

    Raises:
        InputError: C is not positive, or a row is not finite.
    """
    squared = rows.multiply(rows)
    squares = np.asarray(squared.sum(axis=1)).ravel()
    fourths = np.asarray(squared.multiply(squared).sum(axis=1)).ravel()
    if not np.isfinite(squares).all():
        raise InputError("A customer's row is not finite; nothing is released.")
    norms = np.sqrt(np.maximum(squares**2 - fourths, 0.0) / 2 + _ROUNDING * squares**2)
    factors: FloatArray = factors_of(torch.from_numpy(norms), clipping_norm).numpy()
    return factors
