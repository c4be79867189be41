"""An independent way to clipped sums: autograd in float64, one customer after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from client.data.dataset import CustomerItemMatrix
from client.training.models.protocol import ClippedModel

Arrays = Mapping[str, np.ndarray]
#: One customer's loss, of float64 parameters, her items and their values.
Loss = Callable[[dict[str, torch.Tensor], Sequence[int], Sequence[float]], torch.Tensor]


class Oracle:
    """Clipped sums of a loss.

    Args:
        loss: One customer's loss.
    """

    def __init__(self, loss: Loss) -> None:
        self._loss = loss

    def gradients(self, arrays: Arrays, rows: CustomerItemMatrix) -> list[dict[str, np.ndarray]]:
        """Each customer's gradient; zeros for one without entries."""
        found = []
        for row in range(rows.n_rows):
            entries = slice(int(rows.indptr[row]), int(rows.indptr[row + 1]))
            parameters = {
                name: torch.tensor(each, dtype=torch.float64, requires_grad=True)
                for name, each in arrays.items()
            }
            if entries.start == entries.stop:
                found.append({name: np.zeros(each.shape) for name, each in arrays.items()})
                continue
            items = rows.indices[entries].tolist()
            loss = self._loss(parameters, items, rows.values[entries].tolist())
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            found.append(
                {
                    name: np.zeros(each.shape) if gradient is None else gradient.numpy()
                    for (name, each), gradient in zip(arrays.items(), gradients, strict=True)
                }
            )
        return found

    def clipped_sum(
        self, arrays: Arrays, rows: CustomerItemMatrix, clipping_norm: float
    ) -> dict[str, np.ndarray]:
        """The sum of all customers' gradients, each scaled to a norm of at most C."""
        total = {name: np.zeros(each.shape) for name, each in arrays.items()}
        for gradient in self.gradients(arrays, rows):
            norm = norm_of(gradient)
            factor = min(1.0, clipping_norm / norm) if norm > 0 else 0.0
            for name, each in gradient.items():
                total[name] += factor * each
        return total


def norm_of(arrays: Arrays) -> float:
    """The L2 norm over all arrays together."""
    return float(np.sqrt(sum((each.astype(np.float64) ** 2).sum() for each in arrays.values())))


def relative_error(found: Arrays, expected: Arrays) -> float:
    """The norm of the difference, relative to that of what is expected."""
    difference = {name: found[name].astype(np.float64) - each for name, each in expected.items()}
    return norm_of(difference) / max(norm_of(expected), 1e-12)


def released(
    model: ClippedModel, rows: CustomerItemMatrix, clipping_norm: float
) -> dict[str, np.ndarray]:
    """A model's clipped sum of these customers, without noise."""
    into = {name: torch.zeros_like(each) for name, each in model.parameters.items()}
    model.prepare()
    model.add_clipped_gradients(rows, clipping_norm, into)
    finish = getattr(model, "finish", None)
    if finish is not None:
        finish(into)
    return {name: each.numpy() for name, each in into.items()}


def random_rows(n_customers: int, size: int, seed: int, *, least: int = 0) -> CustomerItemMatrix:
    """Rows of norm 1 with random items; some without any unless `least` is above 0."""
    generator = np.random.default_rng(seed)
    chosen = [
        np.sort(generator.choice(size, int(generator.integers(least, size)), replace=False))
        for _ in range(n_customers)
    ]
    values = [generator.uniform(0.1, 1.0, len(items)) for items in chosen]
    unit = [each / max(float(np.linalg.norm(each)), 1e-9) for each in values]
    return CustomerItemMatrix(
        np.concatenate([[0], np.cumsum([len(items) for items in chosen])]).astype(np.int64),
        np.concatenate([np.zeros(0), *chosen]).astype(np.int32),
        np.concatenate([np.zeros(0), *unit]).astype(np.float32),
        size,
    )
