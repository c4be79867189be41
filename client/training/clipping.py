"""Bounds what one customer contributes, strictly: also after the rounding of float arithmetic."""

from __future__ import annotations

import torch

from common.errors import InputError

# A row scaled to just below C cannot round up to more than C: in float32 the factor and the product
# are each off by at most 2**-24 of their value, and norms are taken in float64.
_MARGIN = 2.0**-20


def clip_factors(per_sample: torch.Tensor, clipping_norm: float) -> torch.Tensor:
    """The factor for each sample that brings its L2 norm to at most `clipping_norm`.

    Args:
        per_sample: Float tensor (n_samples, …) of two or more axes: a gradient of each sample.
        clipping_norm: C, above 0.

    Returns:
        Float64 tensor (n_samples,) within (0, 1].

    Formal guarantees:
        For every sample, ‖factor · gradient‖₂ ≤ C, the product being rounded to the gradient's own
        precision (float32 or float64) and the norm being exact.

    Edge cases:
        A zero gradient stays zero (factor 1). No samples: no factors.

    Raises:
        InputError: C is not positive, or a gradient is not finite; such a sample must not be
            clipped to something harmless-looking.
    """
    flat = per_sample.detach().flatten(start_dim=1).to(torch.float64)
    return factors_of(torch.linalg.vector_norm(flat, dim=1), clipping_norm)


def factors_of(norms: torch.Tensor, clipping_norm: float) -> torch.Tensor:
    """The clip factors of samples whose norms are known.

    Args:
        norms: Float64 tensor (n_samples,).
        clipping_norm: C, above 0.

    Returns:
        Float64 tensor (n_samples,) within (0, 1]: factor · norm is at most C, by a margin that
        rounding the product to float32 does not use up.

    Raises:
        InputError: As in `clip_factors`.
    """
    if not 0 < clipping_norm < float("inf"):
        raise InputError(f"A clipping norm of {clipping_norm} is not a positive number.")
    if not bool(torch.isfinite(norms).all()):
        raise InputError("A customer's gradient is not finite; nothing is released.")
    bound = clipping_norm * (1.0 - _MARGIN)
    return torch.where(norms > bound, bound / norms, torch.ones_like(norms))


def clip_rows(per_sample: torch.Tensor, clipping_norm: float) -> torch.Tensor:
    """Each sample's gradient, scaled to an L2 norm of at most `clipping_norm`.

    Args:
        per_sample: Float tensor (n_samples, …).
        clipping_norm: C, above 0.

    Raises:
        InputError: As in `clip_factors`.
    """
    factors = clip_factors(per_sample, clipping_norm).to(per_sample.dtype)
    return per_sample * factors.reshape(-1, *[1] * (per_sample.dim() - 1))


def clip_to(norms: torch.Tensor, clipping_norm: float, *, present: torch.Tensor) -> torch.Tensor:
    """The clip factors of samples whose norms are known, or bounded from above.

    Args:
        norms: Float64 tensor (n_samples,), each at least the L2 norm of a sample's gradient.
        clipping_norm: C, above 0.
        present: Bool tensor (n_samples,); the others contribute nothing whatever their norm.

    Returns:
        Float32 tensor (n_samples,) within [0, 1]: factor · norm is at most C, also when the product
        is rounded to float32.

    Raises:
        InputError: C is not positive, or a norm is not finite.
    """
    factors = factors_of(norms, clipping_norm)
    return torch.where(present, factors, torch.zeros_like(factors)).float()
