"""A tied autoencoder over the vocabulary, with its customers' gradients clipped in closed form.

A customer's row x (norm 1) is encoded as h = tanh(Wᵀx + b) and decoded by the same factors as
logits W h + β. Her loss is −Σ tᵢ log softmax(logits)ᵢ, where t is her row scaled to the sum 1
(the multinomial likelihood of Liang et al., "Variational Autoencoders for Collaborative Filtering",
2018, without sampling).

With p the softmax, g = p − t and a = (1 − h²) ⊙ Wᵀg, her gradient is x aᵀ + g hᵀ by W, a by b and g
by β: its squared norm is

    ‖x‖²‖a‖² + ‖g‖²‖h‖² + 2 (x·g)(a·h) + ‖a‖² + ‖g‖²,

which needs a few sums over her row and one over g, and no product of items and factors. The sum
over customers is Xᵀ(c ⊙ A) + Gᵀ(c ⊙ H): the clip factors c are folded into the operands of
customers × factors, and X stays sparse. The softmax is not divided out: with E the exponentials and
s their sum, G is E / s where nothing was bought, and 1 / s goes into the small operands, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from client.data.dataset import CustomerItemMatrix
from client.training.clipping import clip_to
from client.training.models.softmax_kernel import softmax_passes
from client.training.models.softmax_passes import Decoder
from client.training.models.sparse_batch import SparseBatch
from common.errors import InputError

FloatArray = npt.NDArray[np.float32]

# What float32 arithmetic may get wrong of a sum of squares, relative to the sum of its terms'
# magnitudes. The norm is taken that much larger, so that a contribution is below C after rounding.
_ROUNDING = 3e-6


class TiedAutoencoder:
    """A tied autoencoder whose clipped gradient sums need one pass over the logits.

    Args:
        arrays: ``item_factors`` float32[m, d], ``hidden_bias`` float32[d], ``item_bias``
            float32[m]; they are copied.

    Attributes:
        parameters: The same, as tensors; a local optimiser changes them in place.
    """

    def __init__(self, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
        self.parameters = {
            name: torch.from_numpy(np.array(arrays[name], dtype=np.float32, order="C"))
            for name in ("hidden_bias", "item_bias", "item_factors")
        }
        items, rank = self.parameters["item_factors"].shape
        if self.parameters["hidden_bias"].shape != (rank,) or (
            self.parameters["item_bias"].shape != (items,)
        ):
            raise InputError("The biases of a tied autoencoder do not fit its item factors.")
        self._passes = softmax_passes()

    @property
    def n_items(self) -> int:
        """m, the number of items of the vocabulary."""
        return len(self.parameters["item_bias"])

    def arrays(self) -> dict[str, FloatArray]:
        """The parameters as they are now, copied."""
        return {name: each.numpy().copy() for name, each in self.parameters.items()}

    def prepare(self) -> None:
        """Nothing is shared by the chunks of a step."""

    def scores(self, rows: CustomerItemMatrix) -> FloatArray:
        """float32[n, m]: the logits of each customer's row; higher is better."""
        batch = SparseBatch.of(rows, self.n_items)
        hidden = self._hidden(batch)
        factors, bias = self.parameters["item_factors"], self.parameters["item_bias"]
        result: FloatArray = torch.addmm(bias, hidden, factors.T).numpy()
        return result

    def add_clipped_gradients(
        self,
        batch: CustomerItemMatrix,
        clipping_norm: float,
        into: Mapping[str, torch.Tensor],
    ) -> None:
        """Adds the batch's clipped gradients; see `ClippedModel`.

        Args:
            batch: Customers' rows of norm 1 over the vocabulary, values at least 0.
            clipping_norm: C, above 0.
            into: What is added to.

        Raises:
            InputError: As in `ClippedModel`.
        """
        most = self._passes.part_size(self.n_items)
        # Parts of one size, as few as may be.
        n_parts = math.ceil(batch.n_rows / most)
        for number in range(n_parts):
            start, stop = (batch.n_rows * each // n_parts for each in (number, number + 1))
            rows = batch.rows(start, stop)
            self._add(SparseBatch.of(rows, self.n_items), clipping_norm, into)

    def _add(
        self, sparse: SparseBatch, clipping_norm: float, into: Mapping[str, torch.Tensor]
    ) -> None:
        factors = self.parameters["item_factors"]
        hidden = self._hidden(sparse)
        sums = self._passes.exponentials(
            sparse, hidden, Decoder(factors, self.parameters["item_bias"])
        )
        scale = sums.totals.reciprocal()
        # g where she bought; elsewhere it is E · scale.
        residuals = (sums.taken * scale[sparse.owners] - sparse.targets()).float()
        slope = sparse.product(residuals, factors).addcmul_(sums.slopes, scale.float()[:, None])
        slope.mul_(1.0 - hidden.square())
        squares = sums.squares * scale.square()
        factor = _clip_factors(sparse, hidden, residuals, squares, slope, clipping_norm)
        scaled = (factor * scale).float()
        added = Decoder(into["item_factors"], into["item_bias"])
        self._passes.add_gradients(hidden * scaled[:, None], scaled, added)
        weights = slope.mul_(factor[:, None]), hidden.mul_(factor[:, None])
        self._passes.add_entries(sparse, residuals, weights, factor, added)
        into["hidden_bias"] += slope.sum(0)

    def _hidden(self, sparse: SparseBatch) -> torch.Tensor:
        projected = sparse.product(sparse.values, self.parameters["item_factors"])
        return projected.add_(self.parameters["hidden_bias"]).tanh_()


def _clip_factors(
    sparse: SparseBatch,
    hidden: torch.Tensor,
    residuals: torch.Tensor,
    others: torch.Tensor,
    slope: torch.Tensor,
    clipping_norm: float,
) -> torch.Tensor:
    """float32[n]: what each customer's gradient is multiplied by; 0 for an empty row.

    Args:
        sparse: The customers' rows.
        hidden: float32[n, d], h.
        residuals: float32[n_entries], g at the entries.
        others: float64[n], Σ g² over all items without an entry.
        slope: float32[n, d], a.
        clipping_norm: C.
    """
    row, of_row = sparse.values.double(), residuals.double()
    x_x, x_g = sparse.sums(row.square()), sparse.sums(row * of_row)
    g_g = others + sparse.sums(of_row.square())
    wide_slope, wide_hidden = slope.double(), hidden.double()
    a_a, h_h = wide_slope.square().sum(1), wide_hidden.square().sum(1)
    a_h = (wide_slope * wide_hidden).sum(1)
    apart, crossed = (x_x + 1.0) * a_a + g_g * (h_h + 1.0), 2.0 * x_g * a_h
    squared = (apart + crossed).clamp_min(0.0) + _ROUNDING * (apart + crossed.abs())
    return clip_to(squared.sqrt(), clipping_norm, present=x_x > 0)
