"""The tied autoencoder's steps without privacy: in closed form, and by stock PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from benchmarks.steps.plain import AutogradStep, Entries, PlainStep, Tensors
from client.data.dataset import CustomerItemMatrix
from client.training.models.softmax_kernel import softmax_passes
from client.training.models.softmax_passes import Decoder

Likelihood = Literal["log-softmax", "cross-entropy"]


class HandAutoencoder(PlainStep):
    """The closed form of `client.training.models.tied_autoencoder` without norms, factors, noise.

    Args:
        arrays: As of `PlainStep`.
        chunk: As of `PlainStep`.
    """

    def __init__(self, arrays: Mapping[str, npt.NDArray[np.float32]], *, chunk: int) -> None:
        super().__init__(arrays, chunk=chunk)
        self._passes = softmax_passes()
        self._found = {name: torch.zeros_like(each) for name, each in self.parameters.items()}

    def gradients(self, rows: CustomerItemMatrix) -> Tensors:
        """See `PlainStep`."""
        for each in self._found.values():
            each.zero_()
        for chunk in self._chunks(rows):
            self._add(Entries(chunk))
        return self._found

    def _add(self, entries: Entries) -> None:
        factors, found, sparse = self.parameters["item_factors"], self._found, entries.sparse()
        hidden = sparse.product(sparse.values, factors)
        hidden.add_(self.parameters["hidden_bias"]).tanh_()
        decoder = Decoder(factors, self.parameters["item_bias"])
        sums = self._passes.exponentials(sparse, hidden, decoder, squares=False)
        scale = sums.totals.reciprocal().float()
        residuals = (sums.taken * scale[sparse.owners]).sub_(entries.targets())
        slope = sparse.product(residuals, factors).addcmul_(sums.slopes, scale[:, None])
        slope.mul_(1.0 - hidden.square())
        added, ones = Decoder(found["item_factors"], found["item_bias"]), torch.ones_like(scale)
        self._passes.add_gradients(hidden * scale[:, None], scale, added)
        self._passes.add_entries(sparse, residuals, (slope, hidden), ones, added)
        found["hidden_bias"] += slope.sum(0)


class AutogradAutoencoder(AutogradStep):
    """The same loss by PyTorch's layers and autograd; the encoder's input stays sparse.

    Args:
        arrays: As of `PlainStep`.
        chunk: As of `PlainStep`.
        likelihood: How the loss is written: log-softmax, of which the entries are taken, or
            PyTorch's fused cross-entropy with dense targets.
    """

    def __init__(
        self,
        arrays: Mapping[str, npt.NDArray[np.float32]],
        *,
        chunk: int,
        likelihood: Likelihood,
    ) -> None:
        super().__init__(arrays, chunk=chunk)
        self._likelihood = likelihood

    def loss(self, rows: CustomerItemMatrix) -> torch.Tensor:
        """See `AutogradStep`."""
        entries = Entries(rows)
        factors, bias = self.parameters["item_factors"], self.parameters["item_bias"]
        encoded = functional.embedding_bag(
            entries.items, factors, entries.offsets, mode="sum", per_sample_weights=entries.values
        )
        hidden = torch.tanh(encoded + self.parameters["hidden_bias"])
        logits = functional.linear(hidden, factors, bias)
        if self._likelihood == "log-softmax":
            taken = torch.log_softmax(logits, 1)[entries.owners, entries.items]
            return -(taken * entries.targets()).sum()
        targets = torch.zeros_like(logits)
        targets[entries.owners, entries.items] = entries.targets()
        return functional.cross_entropy(logits, targets, reduction="sum")
