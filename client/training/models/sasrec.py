"""SASRec with exact per-customer clipping: one backward pass, no per-customer copy of the table.

A customer's loss is the mean over her purchases but the first of the sampled softmax loss of the
next item among itself and a set of negatives that all customers of a step share. The negatives come
from a public seed and the step's number: drawn from the batch, as is common, they would let one
customer move another's gradient, and no clipping bounds that.

The backward pass goes to the outputs of the layers, not to the weights ("book-keeping": Bu et al.,
"Differentially Private Optimization on Large Model at Small Cost", 2023). From them come each
customer's gradient by every weight of the network, d × d at most; of the item table only the rows
of her items, those that she has several times added up, and of the negatives (items × d never).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from client.data.dataset import CustomerItemMatrix
from client.training.clipping import clip_to
from client.training.models.sasrec_gradients import CustomerGradients, Kept, network_gradients
from client.training.models.sasrec_network import Tape, forward
from client.training.models.sasrec_table import TableGradients, table_gradients
from client.training.models.sequence_batch import SequenceBatch
from common.errors import InputError

FloatArray = npt.NDArray[np.float32]
Precision = Literal["double", "single"]

# What float32 arithmetic may get wrong of a squared norm, relative to its terms' magnitudes.
_ROUNDING = 4e-6
# Under this name the rows of the negatives are kept beside the gradients by weights.
_NEGATIVES = ("negatives",)
# So many customers go through the network at a time: one layer's gradients, d × d of each customer,
# then stay in a core's cache until their norms are taken.
_PART = 128


class SasRec:
    """A sequential model whose clipped gradient sums need one backward pass.

    Args:
        arrays: The parameters that `common.strategies` names for ``sasrec``; they are copied.
        blocks: How many blocks the network has.
        heads: How many heads of attention.
        negatives: How many negatives a step has; all items if there are fewer.
        seed: Public seed of the negatives.
        first_step: How many steps were taken before: the negatives go on from there.
        precision: What gradients are computed in. Single is what a normalised network is trained
            in; double takes twice the time and is for references.

    Attributes:
        parameters: The same, as tensors.
    """

    def __init__(
        self,
        arrays: Mapping[str, npt.NDArray[np.generic]],
        *,
        blocks: int,
        heads: int,
        negatives: int,
        seed: int,
        first_step: int = 0,
        precision: Precision = "single",
    ) -> None:
        self._dtype = torch.float64 if precision == "double" else torch.float32
        self.parameters = {
            name: torch.from_numpy(np.array(each, dtype=np.float32, order="C"))
            for name, each in sorted(arrays.items())
        }
        self._blocks, self._heads, self._seed = blocks, heads, seed
        self._step = first_step
        self._n_negatives = min(negatives, self.n_items)
        # Items stand in the order of released popularity: Zipf's law, roughly, and public.
        places = np.arange(1, self.n_items + 1, dtype=np.float64)
        self._log_share = np.log(np.log1p(1.0 / places) / np.log(self.n_items + 1.0))
        self._negatives = torch.zeros(0, dtype=torch.int64)
        self._kept: Kept = {}

    @property
    def n_items(self) -> int:
        """m, the number of items of the vocabulary."""
        return len(self.parameters["item_factors"])

    @property
    def max_length(self) -> int:
        """How many purchases of a customer count: the latest."""
        return len(self.parameters["position_factors"])

    def arrays(self) -> dict[str, FloatArray]:
        """The parameters as they are now, copied."""
        return {name: each.numpy().copy() for name, each in self.parameters.items()}

    def prepare(self) -> None:
        """Draws the step's negatives, distinct, from the public seed and the step's number."""
        # Philox is specified: every region and every auditor draws the same.
        generator = np.random.Generator(np.random.Philox(key=self._seed, counter=self._step << 64))
        uniform = np.maximum(generator.random(self.n_items), 2.0**-60)
        keys = self._log_share - np.log(-np.log(uniform))
        chosen = np.sort(np.argsort(-keys, kind="stable")[: self._n_negatives])
        self._negatives = torch.from_numpy(chosen.astype(np.int64))
        self._step += 1

    def scores(self, rows: CustomerItemMatrix) -> FloatArray:
        """float32[n, m]: of each item as the next purchase; zeros without a purchase."""
        batch = SequenceBatch.of(rows, self.n_items, self.max_length)
        parameters = self._widened()
        factors = parameters["item_factors"]
        with torch.no_grad():
            states, _ = self._states(parameters, factors[batch.items], batch.lengths)
        last = (batch.lengths - 1).clamp_min(0)
        found = states[torch.arange(len(last)), last] @ factors.T
        result: FloatArray = (found * (batch.lengths > 0)[:, None]).float().numpy()
        return result

    def add_clipped_gradients(
        self,
        batch: CustomerItemMatrix,
        clipping_norm: float,
        into: Mapping[str, torch.Tensor],
    ) -> None:
        """Adds the batch's clipped gradients; see `ClippedModel`.

        Args:
            batch: Customers' items in the order of their purchases; values do not count.
            clipping_norm: C, above 0.
            into: What is added to.

        Raises:
            InputError: As in `ClippedModel`.
        """
        if not len(self._negatives):
            raise InputError("A step was not prepared: it has no negatives.")
        parameters = self._widened()
        for start in range(0, batch.n_rows, _PART):
            part = batch.rows(start, min(start + _PART, batch.n_rows))
            sequences = SequenceBatch.of(part, self.n_items, self.max_length + 1)
            if sequences.items.shape[1] > 1:
                self._add_part(parameters, sequences, clipping_norm, into)

    def _add_part(
        self,
        parameters: Mapping[str, torch.Tensor],
        sequences: SequenceBatch,
        clipping_norm: float,
        into: Mapping[str, torch.Tensor],
    ) -> None:
        inputs, following = sequences.without_last(), sequences.without_first()
        embedded = torch.nn.functional.embedding(inputs.items, parameters["item_factors"])
        embedded.requires_grad_()
        states, tape = self._states(parameters, embedded, inputs.lengths)
        table, by_state = table_gradients(
            parameters["item_factors"],
            states.detach(),
            following,
            self._negatives,
            torch.from_numpy(self._log_share),
            self._kept.get(_NEGATIVES),
        )
        self._kept[_NEGATIVES] = table.negative_rows.sums.flatten()
        outputs = [embedded, *(layer.output for layer in tape.layers)]
        by_input, *by_output = torch.autograd.grad(states, outputs, grad_outputs=by_state)
        network = network_gradients(tape, by_output, inputs.lengths, self._kept)
        rows = table.with_inputs(inputs, by_input)
        self._add(network, rows, inputs.lengths > 0, clipping_norm, into)

    def _widened(self) -> dict[str, torch.Tensor]:
        return {name: each.to(self._dtype) for name, each in self.parameters.items()}

    def _states(
        self,
        parameters: Mapping[str, torch.Tensor],
        embedded: torch.Tensor,
        lengths: torch.Tensor,
    ) -> tuple[torch.Tensor, Tape]:
        return forward(parameters, embedded, lengths, blocks=self._blocks, heads=self._heads)

    def _add(
        self,
        network: CustomerGradients,
        rows: TableGradients,
        present: torch.Tensor,
        clipping_norm: float,
        into: Mapping[str, torch.Tensor],
    ) -> None:
        squared, magnitude = rows.squared_norms()
        total = (network.squared_norms + squared).clamp_min(0.0)
        norms = (total + _ROUNDING * (network.squared_norms + magnitude)).sqrt()
        factor = clip_to(norms, clipping_norm, present=present)
        network.add(factor, into)
        rows.add(factor, into["item_factors"])
