"""What every model of the family gives to DP-SGD: its parameters and its clipped gradient sums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from client.data.dataset import CustomerItemMatrix

#: The most customers that a model is given at once. One that makes something of customers × items
#: takes them in parts of its own, by what memory may be taken.
CHUNK_CUSTOMERS = 1024


class ClippedModel(Protocol):
    """A model that adds up its customers' gradients, each clipped exactly.

    Attributes:
        parameters: Float32, contiguous, by name; a local optimiser changes them in place.
    """

    parameters: dict[str, torch.Tensor]

    def prepare(self) -> None:
        """Computes what all chunks of a step share; after each change of the parameters."""
        ...

    def add_clipped_gradients(
        self,
        batch: CustomerItemMatrix,
        clipping_norm: float,
        into: Mapping[str, torch.Tensor],
    ) -> None:
        """Adds the batch's clipped gradients to `into`, which may hold noise already.

        Args:
            batch: At most `CHUNK_CUSTOMERS` customers, one row each.
            clipping_norm: C, above 0.
            into: Float32 tensors of the parameters' names and shapes.

        Formal guarantees:
            The contribution of each customer, over all parameters together, has an L2 norm of at
            most C, whatever the data and whatever the parameters. It depends on no other customer.

        Edge cases:
            A customer without entries contributes exactly nothing, and so does an empty batch.

        Raises:
            InputError: C is not positive, an item is not in the catalogue, or a gradient is not
                finite. What was added to `into` by then must be thrown away.
        """
        ...
