"""The factors' gradient by Opacus's hooks: the reference that the closed form is held against.

A linear layer, per-sample gradients of shape customers × factors × items by Opacus, and our strict
clipping: Opacus's own lets float32 rounding exceed C. It is slower by an order of magnitude or two
and computes the same.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from opacus import GradSampleModule

from client.training.clipping import clip_rows
from common.errors import InputError
from common.model import PreferenceModel

FloatArray = npt.NDArray[np.float64]


def clipped_gradient(
    chunks: Iterable[FloatArray], directions: FloatArray, *, clipping_norm: float
) -> FloatArray:
    """The customers' gradients, each clipped, summed; without noise, so it must not leave.

    Args:
        chunks: float64[n, m] each: the customers' rows; memory is bounded by a chunk's size.
        directions: float64[m, d], the model's factors.
        clipping_norm: C, above 0.

    Returns:
        float64[m, d].

    Raises:
        InputError: A row or a gradient is not finite.
    """
    module = GradSampleModule(
        PreferenceModel(torch.from_numpy(np.ascontiguousarray(directions))), loss_reduction="sum"
    )
    (weight,) = module.parameters()
    total = torch.zeros_like(weight)
    for rows in chunks:
        if not np.isfinite(rows).all():
            raise InputError("A customer's row is not finite; nothing is released.")
        # Opacus hooks into the backward pass at the module's input: it must be part of the graph.
        used = torch.from_numpy(rows).requires_grad_()
        # torch declares no types for backward.
        PreferenceModel.loss(module(used)).backward()  # type: ignore[no-untyped-call]
        total += clip_rows(weight.grad_sample, clipping_norm).sum(dim=0)
        weight.grad_sample = None
    gradient: FloatArray = total.detach().T.numpy()
    return gradient
