"""The item table of a sequential model: its loss, and each customer's gradient by its rows.

A customer's gradient by the table is a sum of few rows: of the items she bought, as input and as
what came next, and of the step's negatives. Rows of one item must be added up before the norm is
taken, or the norm is another than that of what is added to the sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from client.training.models.sequence_batch import SequenceBatch
from client.training.models.sequence_kernel import OuterSums


@dataclass(frozen=True, eq=False)
class OutputGradients:
    """Customers' gradients by the rows of the next items and of the negatives.

    Attributes:
        next_rows: float32[n, length, d], of the next item at each place; zeros behind the end.
        negative_rows: (k, d) of each customer, of each negative.
        following: The next items.
        negatives: int64[k], distinct.
    """

    next_rows: torch.Tensor
    negative_rows: OuterSums
    following: SequenceBatch
    negatives: torch.Tensor

    def with_inputs(self, inputs: SequenceBatch, by_input: torch.Tensor) -> TableGradients:
        """All rows of each customer, those of one item added up.

        Args:
            inputs: The items that went in.
            by_input: float32[n, length, d], the gradient by their embeddings.
        """
        owners, places = inputs.inside.nonzero(as_tuple=True)
        vectors = torch.cat([by_input[owners, places], self.next_rows[owners, places]])
        items = torch.cat([inputs.items[owners, places], self.following.items[owners, places]])
        n_items = int(max(items.max(), self.negatives.max())) + 1 if len(items) else 1
        keys, which = _distinct(torch.cat([owners, owners]) * n_items + items)
        rows = vectors.new_zeros(len(keys), vectors.shape[1]).index_add_(0, which, vectors)
        return TableGradients(
            owners=keys // n_items,
            items=keys % n_items,
            rows=rows,
            negatives=self.negatives,
            negative_rows=self.negative_rows,
        )


@dataclass(frozen=True, eq=False)
class TableGradients:
    """Customers' gradients by the table: distinct items of each, and the negatives.

    Attributes:
        owners: int64[r], each row's customer.
        items: int64[r].
        rows: float32[r, d].
        negatives: int64[k], distinct.
        negative_rows: (k, d) of each customer.
    """

    owners: torch.Tensor
    items: torch.Tensor
    rows: torch.Tensor
    negatives: torch.Tensor
    negative_rows: OuterSums

    def squared_norms(self) -> tuple[torch.Tensor, torch.Tensor]:
        """float64[n] each: the squared norms, and their terms' magnitudes."""
        others = self.negative_rows.squared_norms
        own = torch.zeros_like(others)
        own.index_add_(0, self.owners, torch.linalg.vector_norm(self.rows, dim=1).double().square())
        crossed = torch.zeros_like(own)
        # Who bought a negative has one row of it from each part; they add up.
        places = torch.searchsorted(self.negatives, self.items).clamp_max(len(self.negatives) - 1)
        both = (self.negatives[places] == self.items).nonzero()[:, 0]
        products = self.rows[both] * self.negative_rows.sums[self.owners[both], places[both]]
        crossed.index_add_(0, self.owners[both], 2.0 * products.double().sum(1))
        return own + others + crossed, own + others + crossed.abs()

    def add(self, factor: torch.Tensor, into: torch.Tensor) -> None:
        """Adds the sum over customers, each times her factor float32[n], to float32[m, d]."""
        factor = factor.to(self.rows.dtype)
        scaled = self.rows * factor[self.owners, None]
        into.index_add_(0, self.items, scaled.to(into.dtype))
        into.index_add_(0, self.negatives, self.negative_rows.weighted(factor).to(into.dtype))


def _distinct(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The distinct ones of int64[k], ascending, and the place of each among them.

    As `torch.unique` has it; NumPy sorts numbers by vector instructions, many times faster.
    """
    values = keys.numpy()
    order = np.argsort(values)
    ascending = values[order]
    first = np.ones(len(values), dtype=np.bool_)
    first[1:] = ascending[1:] != ascending[:-1]
    which = np.empty(len(values), dtype=np.int64)
    which[order] = np.cumsum(first) - 1
    return torch.from_numpy(ascending[first]), torch.from_numpy(which)


def table_gradients(
    factors: torch.Tensor,
    states: torch.Tensor,
    following: SequenceBatch,
    negatives: torch.Tensor,
    log_share: torch.Tensor,
    kept: torch.Tensor | None = None,
) -> tuple[OutputGradients, torch.Tensor]:
    """The gradient of the sampled softmax loss (Jean et al., 2015) by table and states.

    Logits are corrected by how likely an item is a negative, so that the loss estimates that over
    all items. A customer's loss is the mean over her places.

    Args:
        factors: float32[m, d].
        states: float32[n, length, d].
        following: The next items.
        negatives: int64[k], distinct.
        log_share: float64[m], the log of each item's share of draws.
        kept: As of `OuterSums`, for the rows of the negatives.

    Returns:
        The gradients by the table's rows, and float32[n, length, d] by the states.
    """
    expected = (log_share + math.log(len(negatives))).to(factors.dtype)
    next_factors = torch.nn.functional.embedding(following.items, factors)
    other_factors = factors.index_select(0, negatives)
    own = (states * next_factors).sum(2) - expected[following.items]
    others = states @ other_factors.T - expected[negatives]
    by_logit = torch.softmax(torch.cat([own[:, :, None], others], dim=2), dim=2)
    by_logit[:, :, 0] -= 1.0
    by_logit *= (following.inside / following.lengths.clamp_min(1)[:, None])[:, :, None]
    by_own, by_others = by_logit[:, :, :1], by_logit[:, :, 1:]
    by_state = (by_own * next_factors).add_(by_others @ other_factors)
    rows = OutputGradients(
        next_rows=by_own * states,
        negative_rows=OuterSums(by_others, states, following.lengths, kept),
        following=following,
        negatives=negatives,
    )
    return rows, by_state
