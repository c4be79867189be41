"""Solves each customer's small linear system (Σ cᵢ vᵢvᵢᵀ + A) u = Σ cᵢ vᵢ, in float64."""

from __future__ import annotations

import torch

from client.training.models.sparse_batch import SparseBatch
from common.errors import InputError

# So many entries × d are padded at a time: bounds memory for very long histories.
_PADDED_ENTRIES = 1 << 14
#: Steps of conjugate gradients. Preconditioned by A, the system is the identity and one term of the
#: rank of a customer's items, most of which a few steps resolve.
CG_STEPS = 8


def solve_cholesky(sparse: SparseBatch, taken: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
    """Exact up to rounding, by Cholesky factors of each customer's d × d matrix.

    Args:
        sparse: The customers' confidences.
        taken: float64[n_entries, d], the factors of their items.
        shared: float64[d, d], A, positive definite.

    Returns:
        float64[n, d]; zeros for a customer without entries.

    Raises:
        InputError: A system is not positive definite: a factor is not finite, or too large.
    """
    rank = taken.shape[1]
    right = _right_side(sparse, taken)
    sizes = torch.bincount(sparse.owners, minlength=sparse.n_rows)
    solved = torch.zeros_like(right)
    start = 0
    while start < sparse.n_rows:
        stop = _fitting(sizes, start)
        longest = int(sizes[start:stop].max())
        padded = _padded(sparse, taken, sizes, start, stop, longest)
        system = torch.baddbmm(
            shared.expand(stop - start, rank, rank), padded.transpose(1, 2), padded
        )
        factor, failed = torch.linalg.cholesky_ex(system)
        if bool(failed.any()):
            raise InputError("A customer's system cannot be solved; nothing is released.")
        part = right[start:stop, :, None]
        solved[start:stop] = torch.cholesky_solve(part, factor)[:, :, 0]
        start = stop
    return solved


def solve_conjugate_gradients(
    sparse: SparseBatch, taken: torch.Tensor, shared: torch.Tensor
) -> torch.Tensor:
    """`CG_STEPS` steps of conjugate gradients, preconditioned by A; see `solve_cholesky`.

    The result approximates the solution; whoever uses it bounds what the approximate vector gives.
    """
    values = sparse.values.double()
    right = _right_side(sparse, taken)
    factor, failed = torch.linalg.cholesky_ex(shared)
    if bool(failed):
        raise InputError("The shared part of the customers' systems cannot be solved.")
    solved = torch.zeros_like(right)
    residual = right.clone()
    direction = torch.cholesky_solve(residual.T, factor).T
    preconditioned, energy = direction, (residual * direction).sum(1)
    for _ in range(CG_STEPS):
        weights = values * (taken * direction[sparse.owners]).sum(1)
        image = direction @ shared
        image.index_add_(0, sparse.owners, taken * weights[:, None])
        curvature = (direction * image).sum(1)
        step = torch.where(curvature > 0, energy / curvature, 0.0)[:, None]
        solved += step * direction
        residual -= step * image
        preconditioned = torch.cholesky_solve(residual.T, factor).T
        following = (residual * preconditioned).sum(1)
        ratio = torch.where(energy > 0, following / energy, 0.0)[:, None]
        direction = preconditioned + ratio * direction
        energy = following
    return solved


def _right_side(sparse: SparseBatch, taken: torch.Tensor) -> torch.Tensor:
    right = torch.zeros(sparse.n_rows, taken.shape[1], dtype=torch.float64)
    return right.index_add_(0, sparse.owners, taken * sparse.values.double()[:, None])


def _fitting(sizes: torch.Tensor, start: int) -> int:
    """How far rows from `start` fit into the bound when padded to the longest of them."""
    longest = torch.cummax(sizes[start:].clamp_min(1), 0).values
    padded = longest * torch.arange(1, len(longest) + 1)
    return start + max(1, int((padded <= _PADDED_ENTRIES).sum()))


def _padded(
    sparse: SparseBatch,
    taken: torch.Tensor,
    sizes: torch.Tensor,
    start: int,
    stop: int,
    longest: int,
) -> torch.Tensor:
    """float64[rows, longest, d]: √cᵢ vᵢ of the rows' items, zeros behind the last."""
    first = int(sparse.offsets[start])
    last = first + int(sizes[start:stop].sum())
    owners = sparse.owners[first:last] - start
    places = torch.arange(last - first) - (sparse.offsets[start:stop] - first)[owners]
    padded = torch.zeros(stop - start, longest, taken.shape[1], dtype=torch.float64)
    padded[owners, places] = taken[first:last] * sparse.values[first:last].double().sqrt()[:, None]
    return padded
