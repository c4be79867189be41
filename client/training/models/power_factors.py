"""One step of block power iteration with exact per-customer clipping, in closed form.

A customer's gradient is −y(Vᵀy)ᵀ, of rank one: its norm is ‖y‖·‖Vᵀy‖, and the clipped sum is
−Yᵀ(c ⊙ (YV)) with the clip factors c folded into the small customers × d operand. Nothing of shape
customers × items × d is made, and nothing of customers × items: Y is sparse, so the cost grows with
purchases.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_matrix

from client.training.clipping import factors_of
from common.errors import InputError

FloatArray = npt.NDArray[np.float64]


def clipped_sum(
    chunks: Iterable[csr_matrix], directions: FloatArray, *, clipping_norm: float
) -> FloatArray:
    """The customers' gradients, each clipped, summed; without noise, so it must not leave.

    Args:
        chunks: Sparse float64[n, m] each: the customers' rows.
        directions: float64[m, d], the model's factors V.
        clipping_norm: C, above 0.

    Formal guarantees:
        Adding or removing one customer changes the sum by at most C in the L2 norm, whatever the
        rows and whatever the directions.

    Returns:
        float64[m, d].

    Raises:
        InputError: C is not positive, or a row or a gradient is not finite.
    """
    total = np.zeros(directions.shape)
    for rows in chunks:
        projected = rows @ directions
        squares = np.asarray(rows.multiply(rows).sum(axis=1)).ravel()
        # In this order a huge row and a tiny projection do not overflow.
        norms = np.sqrt(squares) * np.linalg.norm(projected, axis=1)
        if not np.isfinite(squares).all():
            raise InputError("A customer's row is not finite; nothing is released.")
        factors = factors_of(torch.from_numpy(norms), clipping_norm).numpy()
        total -= rows.T @ (projected * factors[:, None])
    return total
