"""SASRec's steps without privacy: with one backward pass to the weights, and by stock PyTorch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from benchmarks.steps.plain import AutogradStep, PlainStep, Tensors
from client.data.dataset import CustomerItemMatrix
from client.training.models.sasrec_network import forward
from client.training.models.sequence_batch import SequenceBatch


@dataclass(frozen=True)
class SasRecSizes:
    """What a network's parameters do not tell.

    Attributes:
        blocks: How many blocks it has.
        heads: How many heads of attention.
        negatives: How many negatives a step has; all items if there are fewer.
    """

    blocks: int
    heads: int
    negatives: int


class _Negatives:
    """Negatives by Zipf's law for each step, drawn as cheaply as may be."""

    def __init__(self, n_items: int, n_negatives: int) -> None:
        places = torch.arange(1, n_items + 1, dtype=torch.float64)
        share = torch.log1p(1.0 / places) / math.log(n_items + 1.0)
        self._odds = share.cumsum(0)
        self._n = min(n_negatives, n_items)
        self.expected = (share.log() + math.log(self._n)).float()

    def drawn(self) -> torch.Tensor:
        """int64[k]; all items if there are no more."""
        if self._n == len(self._odds):
            return torch.arange(self._n)
        uniform = torch.rand(self._n, dtype=torch.float64) * self._odds[-1]
        return torch.searchsorted(self._odds, uniform).clamp_max(len(self._odds) - 1)


class HandSasRec(PlainStep):
    """The steps of `client.training.models.sasrec` with one backward pass to the weights.

    Args:
        arrays: As of `PlainStep`.
        sizes: The network's.
        chunk: As of `PlainStep`.
    """

    def __init__(
        self,
        arrays: Mapping[str, npt.NDArray[np.float32]],
        sizes: SasRecSizes,
        *,
        chunk: int,
    ) -> None:
        super().__init__(arrays, chunk=chunk)
        self._sizes = sizes
        self._negatives = _Negatives(len(arrays["item_factors"]), sizes.negatives)
        self._found = {name: torch.zeros_like(each) for name, each in self.parameters.items()}
        self._weights = {
            name: each.requires_grad_()
            for name, each in self.parameters.items()
            if name != "item_factors"
        }

    def gradients(self, rows: CustomerItemMatrix) -> Tensors:
        """See `PlainStep`."""
        for each in self._found.values():
            each.zero_()
        negatives = self._negatives.drawn()
        for chunk in self._chunks(rows):
            self._add(sequences_of(chunk, self.parameters), negatives)
        return self._found

    def _add(self, pair: tuple[SequenceBatch, SequenceBatch], negatives: torch.Tensor) -> None:
        inputs, following = pair
        factors = self.parameters["item_factors"]
        embedded = functional.embedding(inputs.items, factors).requires_grad_()
        states, _ = forward(
            self.parameters,
            embedded,
            inputs.lengths,
            blocks=self._sizes.blocks,
            heads=self._sizes.heads,
        )
        by_state = self._table(states.detach(), following, negatives)
        by_input, *by_weight = torch.autograd.grad(
            states, [embedded, *self._weights.values()], grad_outputs=by_state
        )
        for name, each in zip(self._weights, by_weight, strict=True):
            self._found[name].add_(each)
        inside = inputs.inside
        self._found["item_factors"].index_add_(0, inputs.items[inside], by_input[inside])

    def _table(
        self, states: torch.Tensor, following: SequenceBatch, negatives: torch.Tensor
    ) -> torch.Tensor:
        """Adds the table's gradients as an output; gives those by the states."""
        factors, expected = self.parameters["item_factors"], self._negatives.expected
        next_factors = functional.embedding(following.items, factors)
        other_factors = factors.index_select(0, negatives)
        own = (states * next_factors).sum(2) - expected[following.items]
        others = states @ other_factors.T - expected[negatives]
        softmax = torch.softmax(torch.cat([own[:, :, None], others], dim=2), dim=2)
        inside = following.inside
        softmax[:, :, 0] -= 1.0
        softmax *= (inside / following.lengths.clamp_min(1)[:, None])[:, :, None]
        by_own, by_others = softmax[:, :, :1], softmax[:, :, 1:]
        found = self._found["item_factors"]
        found.index_add_(0, following.items[inside], (by_own * states)[inside])
        found.index_add_(0, negatives, by_others.flatten(0, 1).T @ states.flatten(0, 1))
        return by_own * next_factors + by_others @ other_factors


class AutogradSasRec(AutogradStep):
    """The same loss by PyTorch's layers and autograd.

    Args:
        arrays: As of `PlainStep`.
        sizes: The network's.
        chunk: As of `PlainStep`.
    """

    def __init__(
        self,
        arrays: Mapping[str, npt.NDArray[np.float32]],
        sizes: SasRecSizes,
        *,
        chunk: int,
    ) -> None:
        super().__init__(arrays, chunk=chunk)
        self._sizes = sizes
        self._negatives = _Negatives(len(arrays["item_factors"]), sizes.negatives)
        self._drawn = self._negatives.drawn()

    def gradients(self, rows: CustomerItemMatrix) -> Tensors:
        """See `PlainStep`."""
        self._drawn = self._negatives.drawn()
        return super().gradients(rows)

    def loss(self, rows: CustomerItemMatrix) -> torch.Tensor:
        """See `AutogradStep`."""
        inputs, following = sequences_of(rows, self.parameters)
        factors, expected = self.parameters["item_factors"], self._negatives.expected
        embedded = functional.embedding(inputs.items, factors)
        states = _attended(
            self.parameters, embedded, blocks=self._sizes.blocks, heads=self._sizes.heads
        )
        inside = following.inside
        states, items = states[inside], following.items[inside]
        own = (states * functional.embedding(items, factors)).sum(1) - expected[items]
        others = states @ functional.embedding(self._drawn, factors).T - expected[self._drawn]
        logits = torch.cat([own[:, None], others], dim=1)
        first = torch.zeros(len(items), dtype=torch.int64)
        losses = functional.cross_entropy(logits, first, reduction="none")
        shares = (1.0 / following.lengths.clamp_min(1))[:, None].expand(inside.shape)[inside]
        return (losses * shares).sum()


def sequences_of(
    rows: CustomerItemMatrix, parameters: Mapping[str, torch.Tensor]
) -> tuple[SequenceBatch, SequenceBatch]:
    """What goes in and what comes next."""
    longest = len(parameters["position_factors"]) + 1
    batch = SequenceBatch.of(rows, len(parameters["item_factors"]), longest)
    return batch.without_last(), batch.without_first()


def _attended(
    parameters: Mapping[str, torch.Tensor], embedded: torch.Tensor, *, blocks: int, heads: int
) -> torch.Tensor:
    """The network of `sasrec_network` with PyTorch's fused layers."""
    n, length, rank = embedded.shape
    state = embedded + parameters["position_factors"][:length]

    def norm(rows: torch.Tensor, name: str) -> torch.Tensor:
        scale, shift = parameters[f"{name}_scale"], parameters[f"{name}_shift"]
        return functional.layer_norm(rows, (rank,), scale, shift)

    def split(rows: torch.Tensor) -> torch.Tensor:
        return rows.view(n, length, heads, rank // heads).transpose(1, 2)

    for number in range(blocks):
        name = f"block_{number}"
        seen = norm(state, f"{name}_attention_norm")
        query, key, value = (
            split(seen @ parameters[f"{name}_{part}"]) for part in ("query", "key", "value")
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        mixed = mixed.transpose(1, 2).reshape(n, length, rank)
        state = state + mixed @ parameters[f"{name}_output"]
        seen = norm(state, f"{name}_forward_norm")
        inner = functional.linear(
            seen, parameters[f"{name}_inner"].T, parameters[f"{name}_inner_bias"]
        )
        outer = functional.linear(
            functional.gelu(inner), parameters[f"{name}_outer"].T, parameters[f"{name}_outer_bias"]
        )
        state = state + outer
    return norm(state, "final_norm")
