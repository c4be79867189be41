"""Steps without privacy: what every baseline gives, and how its parameters move."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.steps.ours import RATE
from client.data.dataset import CustomerItemMatrix
from client.training.models.sparse_batch import SparseBatch

Tensors = dict[str, torch.Tensor]


class PlainStep(ABC):
    """A step of SGD on the sum of the customers' losses, neither clipped nor noised.

    Args:
        arrays: The parameters; they are copied.
        chunk: How many customers go through the model at a time.

    Attributes:
        parameters: The same, as tensors.
    """

    def __init__(self, arrays: Mapping[str, npt.NDArray[np.float32]], *, chunk: int) -> None:
        self.parameters = {name: torch.from_numpy(each.copy()) for name, each in arrays.items()}
        self._chunk = chunk

    @abstractmethod
    def gradients(self, rows: CustomerItemMatrix) -> Tensors:
        """The sum of the customers' gradients, by parameter; overwritten by the next call."""

    def step(self, rows: CustomerItemMatrix) -> None:
        """One step."""
        found = self.gradients(rows)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.add_(found[name], alpha=-RATE / max(rows.n_rows, 1))

    def steps(self, rows: CustomerItemMatrix, n_steps: int = 1) -> Callable[[], None]:
        """What takes this many steps on these customers."""

        def take() -> None:
            for _ in range(n_steps):
                self.step(rows)

        return take

    def _chunks(self, rows: CustomerItemMatrix) -> Iterator[CustomerItemMatrix]:
        for start in range(0, rows.n_rows, self._chunk):
            yield rows.rows(start, min(start + self._chunk, rows.n_rows))


class AutogradStep(PlainStep):
    """A step whose gradients are found by autograd; a chunk adds to those before it.

    Args:
        arrays: As of `PlainStep`.
        chunk: As of `PlainStep`.
    """

    def __init__(self, arrays: Mapping[str, npt.NDArray[np.float32]], *, chunk: int) -> None:
        super().__init__(arrays, chunk=chunk)
        for parameter in self.parameters.values():
            parameter.requires_grad_()

    @abstractmethod
    def loss(self, rows: CustomerItemMatrix) -> torch.Tensor:
        """The sum of a chunk's losses."""

    def gradients(self, rows: CustomerItemMatrix) -> Tensors:
        """See `PlainStep`."""
        for parameter in self.parameters.values():
            parameter.grad = None
        for chunk in self._chunks(rows):
            self.loss(chunk).backward()  # type: ignore[no-untyped-call] # torch declares no types
        return {
            name: torch.zeros_like(each) if each.grad is None else each.grad
            for name, each in self.parameters.items()
        }


class Entries:
    """A chunk's entries as tensors, unchecked.

    Args:
        rows: The chunk.

    Attributes:
        offsets: int64[n], where each row begins.
        owners: int64[n_entries], each entry's row.
        items: int64[n_entries].
        values: float32[n_entries].
        n_rows: n.
    """

    def __init__(self, rows: CustomerItemMatrix) -> None:
        bounds = torch.from_numpy(rows.indptr)
        self.n_rows = rows.n_rows
        self.offsets = bounds[:-1]
        self.owners = torch.repeat_interleave(torch.arange(self.n_rows), bounds.diff())
        self.items = torch.from_numpy(rows.indices).long()
        self.values = torch.from_numpy(rows.values)

    def sparse(self) -> SparseBatch:
        """The same as our models take it."""
        return SparseBatch(self.offsets, self.owners, self.items, self.values, self.n_rows)

    def targets(self) -> torch.Tensor:
        """float32[n_entries]: the rows scaled to the sum 1."""
        totals = torch.zeros(self.n_rows).index_add_(0, self.owners, self.values)
        return self.values / totals[self.owners]
