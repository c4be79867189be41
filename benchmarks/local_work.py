"""The local work of the throughput comparison: a torch model, users, and steps of SGD.

Everybody who takes part trains the very same module with the very same function on the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from client.data.dataset import PreferenceDataset

# E and B of McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
# Data" (2017), the setting with the most local work.
EPOCHS = 20
BATCH_SIZE = 10
LEARNING_RATE = 0.05

Arrays = Mapping[str, npt.NDArray[np.generic]]
FloatArray = npt.NDArray[np.float32]


class TiedAutoencoder(nn.Module):
    """A tied autoencoder over items, in torch as it comes.

    Args:
        arrays: Its parameters: ``hidden_bias``, ``item_bias``, ``item_factors``.
    """

    def __init__(self, arrays: Arrays) -> None:
        super().__init__()
        for name in sorted(arrays):
            parameter = torch.from_numpy(np.array(arrays[name], dtype=np.float32))
            self.register_parameter(name, nn.Parameter(parameter))

    def loss(self, rows: torch.Tensor) -> torch.Tensor:
        """The multinomial loss of customers' rows, float32[n, items]."""
        hidden = torch.tanh(rows @ self.item_factors + self.hidden_bias)
        logits = hidden @ self.item_factors.T + self.item_bias
        targets = rows / rows.sum(1, keepdim=True)
        return -(targets * torch.log_softmax(logits, 1)).sum(1).mean()

    def metrics(self, rows: torch.Tensor) -> dict[str, object]:
        """Nothing: pfl asks for it."""
        del rows
        return {}

    def arrays(self) -> dict[str, FloatArray]:
        """Its parameters."""
        return {name: each.detach().numpy().copy() for name, each in self.named_parameters()}


def train(module: TiedAutoencoder, rows: torch.Tensor) -> None:
    """A region's local work in one round."""
    optimizer = torch.optim.SGD(module.parameters(), lr=LEARNING_RATE)
    for _ in range(EPOCHS):
        for batch in rows.split(BATCH_SIZE):
            optimizer.zero_grad()
            module.loss(batch).backward()
            optimizer.step()


def rows_of(dataset: PreferenceDataset, vocabulary: npt.NDArray[np.generic]) -> FloatArray:
    """float32[n, m]: the rows of the customers who bought anything of a vocabulary, of norm 1."""
    counts = dataset.counts
    dense = np.zeros((len(dataset.sids), dataset.n_items), np.float32)
    owners = np.repeat(np.arange(len(dense)), np.diff(counts.indptr))
    dense[owners, counts.indices] = counts.values
    chosen = dense[:, vocabulary.astype(np.int64)]
    chosen = chosen[chosen.any(axis=1)]
    rows: FloatArray = chosen / np.linalg.norm(chosen, axis=1, keepdims=True)
    return rows


@dataclass(frozen=True)
class Work:
    """What every contender is given.

    Attributes:
        start: The model that the first round starts from.
        regions: Each region's rows.
    """

    start: dict[str, FloatArray]
    regions: list[FloatArray]

    def save(self, path: Path) -> None:
        """Writes it."""
        np.savez(
            path,
            **{f"start-{name}": array for name, array in self.start.items()},  # type: ignore[arg-type]
            **{f"region-{n:04d}": rows for n, rows in enumerate(self.regions)},  # type: ignore[arg-type]
        )

    @classmethod
    def load(cls, path: Path) -> Work:
        """Reads it back."""
        with np.load(path) as stored:
            names = sorted(stored.files)
            start = {n.removeprefix("start-"): stored[n] for n in names if n.startswith("start-")}
            return cls(start, [stored[n] for n in names if n.startswith("region-")])
