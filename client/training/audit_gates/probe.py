"""The simplest model of the family: what a customer contributes can be read off her items."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from client.data.dataset import CustomerItemMatrix
from client.training.clipping import clip_rows


class ProbeModel:
    """One weight for each item; a customer's loss is −⟨weights, row⟩, so her gradient is −row.

    Args:
        n_items: The number of items.

    Attributes:
        parameters: ``weights`` float32[n_items], at first 0.
    """

    def __init__(self, n_items: int) -> None:
        self.parameters = {"weights": torch.zeros(n_items)}

    def prepare(self) -> None:
        """Nothing is shared by the chunks of a step."""

    def add_clipped_gradients(
        self,
        batch: CustomerItemMatrix,
        clipping_norm: float,
        into: Mapping[str, torch.Tensor],
    ) -> None:
        """Adds the batch's clipped gradients; see `ClippedModel`."""
        rows = torch.zeros(batch.n_rows, batch.n_items)
        owners = np.repeat(np.arange(batch.n_rows), np.diff(batch.indptr))
        rows[torch.from_numpy(owners), torch.from_numpy(batch.indices).long()] = torch.from_numpy(
            batch.values
        )
        into["weights"].sub_(clip_rows(rows, clipping_norm).sum(0))
