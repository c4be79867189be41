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

Likelihood = Literal["log-softmax", "cross-entropy"]


class HandAutoencoder(PlainStep):
    """The closed form of `client.training.models.tied_autoencoder` without norms, factors, noise.

    Args:
        arrays: As of `PlainStep`.
        chunk: As of `PlainStep`.
    """

    def __init__(self, arrays: Mapping[str, npt.NDArray[np.float32]], *, chunk: int) -> None:
        super().__init__(arrays, chunk=chunk)
        self._logits = torch.empty(0)
        self._found = {name: torch.zeros_like(each) for name, each in self.parameters.items()}

    def gradients(self, rows: CustomerItemMatrix) -> Tensors:
        """See `PlainStep`."""
        if not rows.n_rows:
            for each in self._found.values():
                each.zero_()
        for number, chunk in enumerate(self._chunks(rows)):
            self._add(Entries(chunk), first=number == 0)
        return self._found

    def _add(self, entries: Entries, *, first: bool) -> None:
        factors, found = self.parameters["item_factors"], self._found
        hidden = self._product(entries).add_(self.parameters["hidden_bias"]).tanh_()
        residual = self._residual(entries, hidden)
        slope = (residual @ factors).mul_(1.0 - hidden.square())
        ones, kept = torch.ones(entries.n_rows), 0.0 if first else 1.0
        # With a factor of 0 what was there before is not even read: no pass for zeros.
        found["item_factors"].addmm_(residual.T, hidden, beta=kept)
        found["item_bias"].addmv_(residual.T, ones, beta=kept)
        found["hidden_bias"].addmv_(slope.T, ones, beta=kept)
        outer = slope.index_select(0, entries.owners).mul_(entries.values[:, None])
        found["item_factors"].index_add_(0, entries.items, outer)

    def _product(self, entries: Entries) -> torch.Tensor:
        return functional.embedding_bag(
            entries.items,
            self.parameters["item_factors"],
            entries.offsets,
            mode="sum",
            per_sample_weights=entries.values,
        )

    def _residual(self, entries: Entries, hidden: torch.Tensor) -> torch.Tensor:
        factors, bias = self.parameters["item_factors"], self.parameters["item_bias"]
        if len(self._logits) < entries.n_rows:
            self._logits = torch.empty(entries.n_rows, len(bias))
        logits = self._logits[: entries.n_rows]
        torch.addmm(bias, hidden, factors.T, out=logits)
        torch.softmax(logits, 1, out=logits)
        places = entries.owners * len(bias) + entries.items
        logits.view(-1).index_add_(0, places, -entries.targets())
        return logits


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
