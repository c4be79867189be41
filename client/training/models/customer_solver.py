"""Solves for each customer's vector: (Σ cᵢ vᵢvᵢᵀ + A) u = Σ cᵢ vᵢ, with A shared by all customers.

For a customer with fewer items than factors the smaller system of her items is solved instead. With
V her items' factors, C the diagonal matrix of her confidences and A = L Lᵀ,

    u = (VᵀCV + A)⁻¹ VᵀC1 = A⁻¹Vᵀ (C⁻¹ + V A⁻¹Vᵀ)⁻¹ 1 = L⁻ᵀ Wᵀ z,  (C⁻¹ + W Wᵀ) z = 1,  W = V L⁻ᵀ,

and z = C (1 − V u) is what her vector misses of each item, which the gradient needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from client.training.models.sparse_batch import SparseBatch
from common.errors import InputError

# So many entries are padded at a time: their factors stay in the cache.
_PADDED_ENTRIES = 1 << 11


@dataclass(frozen=True, eq=False)
class Solved:
    """Customers' vectors.

    Attributes:
        vectors: Float tensor (n, d), u; zeros for a customer without entries.
        missing: Float tensor (n_entries,): cᵢ (1 − u·vᵢ).
    """

    vectors: torch.Tensor
    missing: torch.Tensor


@dataclass(frozen=True, eq=False)
class _Padded:
    """Some rows of a batch, padded to the longest of them.

    Attributes:
        rows: Which rows.
        entries: Which entries.
        owners: int64[entries], the row of each, from 0.
        places: int64[entries], its place in its row.
        longest: The longest row's entries.
    """

    rows: slice
    entries: slice
    owners: torch.Tensor
    places: torch.Tensor
    longest: int

    def spread(self, values: torch.Tensor, fill: float = 0.0) -> torch.Tensor:
        """The values of its entries as a tensor (rows, longest, …)."""
        shape = (self.rows.stop - self.rows.start, self.longest, *values.shape[1:])
        if len(self.owners) == shape[0] * shape[1]:
            return values.view(shape)
        padded = torch.full(shape, fill, dtype=values.dtype)
        padded[self.owners, self.places] = values
        return padded


def solve_customers(
    sparse: SparseBatch, factors: torch.Tensor, shared: torch.Tensor, *, dtype: torch.dtype
) -> Solved:
    """Each customer's vector, by Cholesky factors.

    Args:
        sparse: The customers' confidences, above 0.
        factors: float32[m, d], the items'.
        shared: float64[d, d], A, positive definite.
        dtype: float64, or float32 for twice the speed and vectors that are off by some 1e-6 times
            the systems' condition; whoever uses them bounds what the vector that it got gives.

    Raises:
        InputError: A system is not positive definite: a factor is not finite, or too large.
    """
    identity = torch.eye(len(shared), dtype=torch.float64)
    # L⁻¹ once, for products with it are faster than solving, and as exact while A is sound.
    inverse = torch.linalg.solve_triangular(_cholesky(shared), identity, upper=False).to(dtype)
    confidences = sparse.values.to(dtype)
    vectors = torch.zeros(sparse.n_rows, len(shared), dtype=dtype)
    missing = torch.zeros_like(confidences)
    for part in _parts(sparse):
        whitened = factors.index_select(0, sparse.items[part.entries]).to(dtype) @ inverse.T
        if part.longest <= len(shared):
            _solve_by_items(part, whitened, confidences[part.entries], vectors, missing)
        else:
            _solve_by_factors(part, whitened, confidences[part.entries], vectors, missing)
    return Solved(vectors @ inverse, missing)


def _solve_by_items(
    part: _Padded,
    whitened: torch.Tensor,
    confidences: torch.Tensor,
    vectors: torch.Tensor,
    missing: torch.Tensor,
) -> None:
    """A system of the size of a row, for rows with fewer items than factors."""
    own = part.spread(whitened)
    system = torch.bmm(own, own.transpose(1, 2))
    # Padded places are the identity, and their right side is 0.
    inverse = part.spread(confidences.reciprocal(), fill=1.0)
    system.diagonal(dim1=1, dim2=2).add_(inverse)
    right = part.spread(torch.ones_like(confidences))
    solved = torch.cholesky_solve(right[:, :, None], _cholesky(system))[:, :, 0]
    vectors[part.rows] = torch.bmm(solved[:, None, :], own)[:, 0, :]
    missing[part.entries] = solved[part.owners, part.places]


def _solve_by_factors(
    part: _Padded,
    whitened: torch.Tensor,
    confidences: torch.Tensor,
    vectors: torch.Tensor,
    missing: torch.Tensor,
) -> None:
    """A system of d × d, for longer rows."""
    own = part.spread(whitened)
    weighted = own * part.spread(confidences)[:, :, None]
    system = torch.bmm(weighted.transpose(1, 2), own)
    system.diagonal(dim1=1, dim2=2).add_(1.0)
    solved = torch.cholesky_solve(weighted.sum(1)[:, :, None], _cholesky(system))[:, :, 0]
    vectors[part.rows] = solved
    scores = (whitened * solved[part.owners]).sum(1)
    missing[part.entries] = confidences * (1.0 - scores)


def _cholesky(matrix: torch.Tensor) -> torch.Tensor:
    factor: torch.Tensor
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if bool(failed.any()):
        raise InputError(
            "A customer's system cannot be solved; nothing is released.",
            remedy="Raise the regularisation of the run plan, or lower its learning rate.",
        )
    return factor


def _parts(sparse: SparseBatch) -> Iterator[_Padded]:
    """The rows in runs that take at most `_PADDED_ENTRIES` padded entries, or one row each."""
    sizes = sparse.sizes
    start = 0
    while start < sparse.n_rows:
        longest = torch.cummax(sizes[start:].clamp_min(1), 0).values
        padded = longest * torch.arange(1, len(longest) + 1)
        stop = start + max(1, int((padded <= _PADDED_ENTRIES).sum()))
        first = int(sparse.offsets[start])
        last = first + int(sizes[start:stop].sum())
        owners = sparse.owners[first:last] - start
        places = torch.arange(last - first) - (sparse.offsets[start:stop] - first)[owners]
        yield _Padded(
            slice(start, stop), slice(first, last), owners, places, int(longest[stop - start - 1])
        )
        start = stop
