"""What the autoencoder does with customers × items, and how PyTorch does it.

With z a customer's logits, E = exp(z − shift) and s their sum, the softmax is E / s: E is never
divided. What is needed of it are s, Σ E², E F and, once clip factors are known, Eᵀ W: three
products and a few sums. The items that a customer bought have gradients of their own, of few
numbers: they are kept apart, so that nothing is a difference of large sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from client.training.models.sparse_batch import SparseBatch

# So many logits are made at a time, which takes 104 MB, though of so many customers at least: a
# pass over the gradient is then spent on many of them.
_MOST_LOGITS = 26_000_000
_LEAST_PART = 128
# So many logits at a time go through the passes over them: they then stay in the cache.
_CACHED_LOGITS = 1 << 19


@dataclass(frozen=True, eq=False)
class Decoder:
    """What logits are made of: hidden · factorsᵀ + bias.

    Attributes:
        factors: float32[m, d], contiguous.
        bias: float32[m], contiguous.
    """

    factors: torch.Tensor
    bias: torch.Tensor


@dataclass(frozen=True, eq=False)
class SoftmaxSums:
    """What is known of some customers' exponentials E.

    Attributes:
        totals: float64[n], of all of a customer's; not finite where a logit is not.
        squares: float64[n], Σ E² without those of her entries; zeros if not asked for.
        slopes: float32[n, d], Σ E F, likewise without.
        taken: float32[n_entries], the E of the entries.
    """

    totals: torch.Tensor
    squares: torch.Tensor
    slopes: torch.Tensor
    taken: torch.Tensor


class SoftmaxPasses(Protocol):
    """Passes over customers × items; what is kept is of the latest customers."""

    def part_size(self, n_items: int) -> int:
        """How many customers should go through the passes at a time, at most."""
        ...

    def exponentials(
        self, sparse: SparseBatch, hidden: torch.Tensor, decoder: Decoder, *, squares: bool = True
    ) -> SoftmaxSums:
        """Makes and keeps E = exp(logits − shift), with zeros for the customers' own entries.

        Args:
            sparse: The customers, and their entries.
            hidden: float32[n, d].
            decoder: What the logits are made of.
            squares: Whether Σ E² is needed.
        """
        ...

    def add_gradients(self, weights: torch.Tensor, shares: torch.Tensor, into: Decoder) -> None:
        """Adds Eᵀ · weights to the factors and Eᵀ · shares to the bias, E as it was kept last.

        Args:
            weights: float32[n, d].
            shares: float32[n].
            into: What is added to.
        """
        ...

    def add_entries(
        self,
        sparse: SparseBatch,
        residuals: torch.Tensor,
        weights: tuple[torch.Tensor, torch.Tensor],
        shares: torch.Tensor,
        into: Decoder,
    ) -> None:
        """Adds value ⊗ first[u] + residual ⊗ second[u] for the entries of all customers u.

        Args:
            sparse: The customers, and their entries.
            residuals: float32[n_entries].
            weights: First and second, float32[n, d] each.
            shares: float32[n]: the bias gets residual · shares[u].
            into: What is added to.
        """
        ...


class TorchPasses:
    """The passes in PyTorch: for processors that the kernel is not for, and what it is held to."""

    def __init__(self) -> None:
        self._kept = torch.empty(0)

    def part_size(self, n_items: int) -> int:
        """See `SoftmaxPasses`."""
        return max(_MOST_LOGITS // max(n_items, 1), _LEAST_PART)

    def exponentials(
        self, sparse: SparseBatch, hidden: torch.Tensor, decoder: Decoder, *, squares: bool = True
    ) -> SoftmaxSums:
        """See `SoftmaxPasses`."""
        n, n_items = len(hidden), len(decoder.bias)
        if self._kept.numel() < n * n_items:
            self._kept = torch.empty(n * n_items)
        kept = self._kept[: n * n_items].view(n, n_items)
        torch.addmm(decoder.bias, hidden, decoder.factors.T, out=kept)
        totals, norms = torch.empty(n, dtype=torch.float64), torch.zeros(n)
        places, taken = sparse.owners * n_items + sparse.items, torch.empty(len(sparse.items))
        ends = [*sparse.offsets.tolist(), len(places)]
        step = max(_CACHED_LOGITS // max(n_items, 1), 1)
        for start in range(0, n, step):
            stop = min(start + step, n)
            rows, entries = kept[start:stop], slice(ends[start], ends[stop])
            rows.sub_(rows.amax(1, keepdim=True)).exp_()
            torch.sum(rows, 1, dtype=torch.float64, out=totals[start:stop])
            torch.take(kept, places[entries], out=taken[entries])
            kept.view(-1).index_fill_(0, places[entries], 0.0)
            if squares:
                torch.linalg.vector_norm(rows, dim=1, out=norms[start:stop])
        return SoftmaxSums(totals, norms.double().square(), kept @ decoder.factors, taken)

    def add_gradients(self, weights: torch.Tensor, shares: torch.Tensor, into: Decoder) -> None:
        """See `SoftmaxPasses`."""
        n, n_items = len(weights), len(into.bias)
        kept = self._kept[: n * n_items].view(n, n_items)
        into.factors.addmm_(kept.T, weights)
        into.bias.addmv_(kept.T, shares)

    def add_entries(
        self,
        sparse: SparseBatch,
        residuals: torch.Tensor,
        weights: tuple[torch.Tensor, torch.Tensor],
        shares: torch.Tensor,
        into: Decoder,
    ) -> None:
        """See `SoftmaxPasses`."""
        for values, rows in zip((sparse.values, residuals), weights, strict=True):
            sparse.add_outer(values, rows, into.factors)
        into.bias.index_add_(0, sparse.items, residuals * shares.index_select(0, sparse.owners))
