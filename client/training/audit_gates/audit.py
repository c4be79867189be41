"""What a gate sees: a trainer as a black box, and what it releases step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from client.data.dataset import CustomerItemMatrix
from client.training.local_steps import LocalSettings
from client.training.models.protocol import ClippedModel
from client.training.noise import NoiseSource

FloatArray = npt.NDArray[np.float64]

#: How often a gate may fail a faultless trainer, at most.
FALSE_ALARM = 1e-6

# So small a norm clips every customer of every subject: contributions are as large as they can be.
CLIPPING_NORM = 2.0**-10
# The plan's, which the data sets of the gates do not fit: a trainer has to use it all the same.
EXPECTED_BATCH_SIZE = 64.0


class Trainer(Protocol):
    """The step under audit: `train_locally`, or something that claims to be as good."""

    def __call__(
        self,
        model: ClippedModel,
        examples: CustomerItemMatrix,
        settings: LocalSettings,
        noise: NoiseSource,
    ) -> None:
        """Takes the settings' steps on the model; see `client.training.local_steps`."""
        ...


@dataclass(frozen=True)
class Subject:
    """A small model of the family, and customers to audit it with.

    Attributes:
        name: Its strategy.
        make_model: Makes the model anew, always with the same parameters.
        customers: Customers of all kinds, at least one entry each.
        canaries: Customers whose presence an auditor guesses.
    """

    name: str
    make_model: Callable[[], ClippedModel]
    customers: CustomerItemMatrix = field(repr=False)
    canaries: CustomerItemMatrix = field(repr=False)


@dataclass(frozen=True)
class GateResult:
    """What a gate found.

    Attributes:
        gate: The gate's name.
        statistic: What it computed.
        threshold: The largest value of it that passes.
        false_alarm: How often a faultless trainer exceeds the threshold, at most.
        detail: The same in the words of the fault.
    """

    gate: str
    statistic: float
    threshold: float
    false_alarm: float
    detail: str

    @property
    def passed(self) -> bool:
        """Whether the trainer passes; not if the statistic is not a number."""
        return self.statistic <= self.threshold


class Muted:
    """Another source's samples, and no noise: what is left of a release is what customers add.

    Args:
        source: Where samples are drawn from.
    """

    def __init__(self, source: NoiseSource) -> None:
        self._source = source

    def gaussian(self, shape: tuple[int, ...], stddev: float) -> FloatArray:
        """Zeros."""
        del stddev
        return np.zeros(shape)

    def fill(self, out: npt.NDArray[np.float32], stddev: float) -> None:
        """Sets zeros."""
        del stddev
        out[...] = 0

    def mask(self, n: int, probability: float) -> npt.NDArray[np.bool_]:
        """The source's."""
        return self._source.mask(n, probability)


class _Watched:
    """A model whose parameters are noted down at the beginning of each step."""

    def __init__(self, model: ClippedModel) -> None:
        self._model = model
        self.parameters = model.parameters
        self.seen: list[FloatArray] = []

    def look(self) -> None:
        self.seen.append(flat(self.parameters))

    def prepare(self) -> None:
        self.look()
        self._model.prepare()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def claim(
    *, noise_multiplier: float = 1.0, sampling_probability: float = 1.0, steps: int = 1
) -> LocalSettings:
    """Settings in which a step's change of the parameters is minus its noisy sum, undivided."""
    return LocalSettings(
        noise_multiplier=noise_multiplier,
        clipping_norm=CLIPPING_NORM,
        sampling_probability=sampling_probability,
        steps=steps,
        expected_batch_size=EXPECTED_BATCH_SIZE,
        learning_rate=EXPECTED_BATCH_SIZE,
    )


def releases(
    trainer: Trainer,
    model: ClippedModel,
    examples: CustomerItemMatrix,
    settings: LocalSettings,
    noise: NoiseSource,
) -> FloatArray:
    """What each step released, told from how it changed the parameters.

    Returns:
        float64[steps, coordinates]: the noisy sums, if training is plain SGD of such settings.
    """
    watched = _Watched(model)
    trainer(watched, examples, settings, noise)
    watched.look()
    scale = settings.expected_batch_size / settings.learning_rate
    return -np.diff(np.array(watched.seen), axis=0) * scale


def flat(tensors: Mapping[str, torch.Tensor]) -> FloatArray:
    """float64[coordinates]: all tensors, by name, one behind the other."""
    parts = [tensors[name].detach().numpy().ravel() for name in sorted(tensors)]
    return np.concatenate(parts).astype(np.float64)


def without_entries(n_customers: int, n_items: int) -> CustomerItemMatrix:
    """Customers who bought nothing, so that they contribute nothing."""
    return CustomerItemMatrix(
        np.zeros(n_customers + 1, dtype=np.int64),
        np.zeros(0, dtype=np.int32),
        np.zeros(0, dtype=np.float32),
        n_items,
    )
