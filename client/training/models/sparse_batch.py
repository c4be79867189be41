"""A chunk of customers' rows as tensors: what models multiply with factors, never densified."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from client.data.dataset import CustomerItemMatrix
from common.errors import InputError


@dataclass(frozen=True, eq=False)
class SparseBatch:
    """Customers' rows, checked.

    Attributes:
        offsets: int64[n], where each row's entries begin.
        owners: int64[n_entries], each entry's row.
        items: int64[n_entries].
        values: float32[n_entries], finite.
        n_rows: n.
    """

    offsets: torch.Tensor
    owners: torch.Tensor
    items: torch.Tensor
    values: torch.Tensor
    n_rows: int

    @classmethod
    def of(cls, rows: CustomerItemMatrix, n_items: int) -> SparseBatch:
        """Checks a chunk.

        Raises:
            InputError: An item is not among the `n_items` or is not above the one before it in its
                row, or a value is not finite.
        """
        items = torch.from_numpy(rows.indices).long()
        values = torch.from_numpy(rows.values)
        if len(items) and (int(items.min()) < 0 or int(items.max()) >= n_items):
            raise InputError(
                f"A customer's row has an item outside the {n_items} that the model is over.",
                remedy="Build the rows with the vocabulary of the model.",
            )
        # A sum is not finite if a summand is not, and costs a tenth of a mask; values that only add
        # up to infinity would make gradients that are no better.
        if not bool(torch.isfinite(values.sum())):
            raise InputError("A customer's row is not finite; nothing is released.")
        bounds = torch.from_numpy(rows.indptr)
        owners = torch.repeat_interleave(torch.arange(rows.n_rows), bounds.diff())
        within = owners.diff() == 0
        if bool((within & (items.diff() <= 0)).any()):
            # An item that is there twice would count once in a norm, and twice in a sum.
            raise InputError(
                "A customer's row has an item twice, or its items are not in order.",
                remedy="Build the rows with one entry for each item, ascending.",
            )
        return cls(bounds[:-1], owners, items, values, rows.n_rows)

    @property
    def sizes(self) -> torch.Tensor:
        """int64[n]: how many entries each row has."""
        end = self.offsets.new_tensor([len(self.items)])
        return torch.diff(self.offsets, append=end)

    def product(self, values: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        """float32[n, d]: the rows with these values, times a matrix float32[n_items, d]."""
        return torch.nn.functional.embedding_bag(
            self.items, matrix, self.offsets, mode="sum", per_sample_weights=values
        )

    def add_outer(self, values: torch.Tensor, rows: torch.Tensor, into: torch.Tensor) -> None:
        """Adds Σ_u (her row with these values) ⊗ rows[u] to float32[n_items, d]."""
        into.index_add_(0, self.items, rows.index_select(0, self.owners).mul_(values[:, None]))

    def sums(self, values: torch.Tensor) -> torch.Tensor:
        """float64[n]: the sum of float64 values by row."""
        end = self.offsets.new_tensor([len(values)])
        bounds = torch.cat([self.offsets, end])
        # Row after row, without an owner looked up for each entry: half the time.
        return torch.segment_reduce(values, "sum", offsets=bounds, unsafe=True)

    def targets(self) -> torch.Tensor:
        """float32[n_entries]: the rows scaled to the sum 1; a row of zeros stays.

        Raises:
            InputError: A value is negative.
        """
        if len(self.values) and float(self.values.min()) < 0:
            raise InputError("A customer's row has a negative value; nothing is released.")
        totals = self.sums(self.values.double())
        shares = self.values.double() / torch.where(totals > 0, totals, 1.0)[self.owners]
        return shares.float()
