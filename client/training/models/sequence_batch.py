"""A chunk of customers' sequences, aligned at their beginning and padded behind their end."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from client.data.dataset import CustomerItemMatrix
from common.errors import InputError


@dataclass(frozen=True, eq=False)
class SequenceBatch:
    """Customers' sequences.

    Attributes:
        items: int64[n, longest]; 0 behind a sequence's end.
        lengths: int64[n].
    """

    items: torch.Tensor
    lengths: torch.Tensor

    @classmethod
    def of(cls, rows: CustomerItemMatrix, n_items: int, max_length: int) -> SequenceBatch:
        """The last `max_length` items of each row.

        Raises:
            InputError: An item is not among the `n_items`.
        """
        items = torch.from_numpy(rows.indices).long()
        if len(items) and (int(items.min()) < 0 or int(items.max()) >= n_items):
            raise InputError(
                f"A customer's sequence has an item outside the {n_items} of the model.",
                remedy="Build the sequences with the vocabulary of the model.",
            )
        bounds = torch.from_numpy(rows.indptr)
        lengths = bounds.diff().clamp_max(max_length)
        longest = int(lengths.max()) if len(lengths) else 0
        places = torch.arange(longest)
        inside = places < lengths[:, None]
        taken = (bounds[1:] - lengths)[:, None] + places
        padded = torch.zeros(inside.shape, dtype=torch.int64)
        padded[inside] = items[taken[inside]]
        return cls(padded, lengths)

    @property
    def inside(self) -> torch.Tensor:
        """bool[n, longest]: which places hold an item."""
        return torch.arange(self.items.shape[1]) < self.lengths[:, None]

    def without_last(self) -> SequenceBatch:
        """What a next item is predicted from."""
        shorter = (self.lengths - 1).clamp_min(0)
        items = self.items[:, :-1].clone()
        batch = SequenceBatch(items, shorter)
        items[~batch.inside] = 0
        return batch

    def without_first(self) -> SequenceBatch:
        """The next items."""
        return SequenceBatch(self.items[:, 1:], (self.lengths - 1).clamp_min(0))
