"""DP-SGD inside a region: noisy steps on Poisson samples of customers, on any model of the family.

The release is the change of the parameters; it is a function of noisy sums and public numbers only,
so that each step is one Gaussian mechanism on a Poisson sample and all else is post-processing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from client.data.dataset import CustomerItemMatrix
from client.training.local_optimizer import LocalOptimizer, OptimizerName
from client.training.models.protocol import ClippedModel
from client.training.noise import NoiseSource
from client.training.sampling import chunks, draw_customers
from client.training.schedules import Schedule
from common.errors import InputError
from common.privacy import GaussianEvent

Sums = dict[str, torch.Tensor]


@dataclass(frozen=True)
class LocalSettings:
    """How a region trains in one round: public constants, none of which comes from data.

    Attributes:
        noise_multiplier: σ / C of a step.
        clipping_norm: C, the most one customer contributes to a step's sum (L2, all parameters
            together).
        sampling_probability: q, with which a customer takes part in a step.
        steps: How many steps the round has.
        expected_batch_size: What a noisy sum is divided by, in customers. Never the number of
            anybody's customers: dividing by that would show who joins.
        learning_rate: Of a step, before its schedule.
        optimizer: ``sgd``, ``momentum`` or ``adam``.
        weight_decay: Share of the parameters that a step takes off, times the learning rate.
        schedule: Factors of the learning rate.
        clipping_schedule: Factors of C, and with it of the noise: σ / C stays.
    """

    noise_multiplier: float
    clipping_norm: float
    sampling_probability: float
    steps: int
    expected_batch_size: float
    learning_rate: float
    optimizer: OptimizerName = "sgd"
    weight_decay: float = 0.0
    schedule: Schedule = field(default_factory=Schedule)
    clipping_schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        _require_within("steps", self.steps, 1, 10**7)
        # The event refuses what no accountant could charge.
        _ = self.event
        _require_within("clipping_norm", self.clipping_norm, 1e-9, 1e9)
        _require_within("expected_batch_size", self.expected_batch_size, 1e-3, 1e12)
        _require_within("learning_rate", self.learning_rate, 1e-12, 1e9)
        _require_within("weight_decay", self.weight_decay, 0.0, 1.0 / self.learning_rate)
        _require_within("clipping_norm at the last step", self._clipping(self.steps - 1), 1e-9, 1e9)

    @property
    def event(self) -> GaussianEvent:
        """The privacy event of a round with these settings."""
        return GaussianEvent(self.noise_multiplier, self.sampling_probability, self.steps)

    def _clipping(self, step: int) -> float:
        return self.clipping_norm * self.clipping_schedule.factor(step, self.steps)

    def at(self, step: int) -> tuple[float, float]:
        """The clipping norm and the learning rate of a step, from 0."""
        return self._clipping(step), self.learning_rate * self.schedule.factor(step, self.steps)


def train_locally(
    model: ClippedModel,
    examples: CustomerItemMatrix,
    settings: LocalSettings,
    noise: NoiseSource,
) -> None:
    """Takes a round's steps, changing `model.parameters` in place.

    Args:
        model: The model; its parameters are what the coordinator sent.
        examples: The region's customers, one row each.
        settings: The round's public constants.
        noise: Where noise and samples are drawn from.

    Formal guarantees:
        The change of the parameters is a post-processing of `settings.steps` releases, each of them
        the sum of the contributions of a Poisson sample of customers, of norm at most C each, plus
        independent N(0, (σ·C)²) on every coordinate: `settings.event` bounds it under add or remove
        of one customer, whatever the data and whatever the parameters. The number of customers
        enters nowhere.

    Edge cases:
        An empty sample, or no customers at all: the step is noise, and is taken. With equal seeds
        of a `SeededNoise`, equal data and equal settings the change is equal in every bit.

    Raises:
        InputError: The model has no parameters or they are not finite, something of the data is not
            finite or not in the catalogue, or training diverged. The parameters are then worth
            nothing and must be thrown away; the charge is spent.
    """
    _require_trainable(model)
    optimizer = LocalOptimizer(
        model.parameters,
        settings.optimizer,
        normaliser=settings.expected_batch_size,
        weight_decay=settings.weight_decay,
    )
    # NumPy asks for huge pages: made page by page, a large array takes longer than to be filled.
    sums: Sums = {
        name: torch.from_numpy(np.empty(each.shape, dtype=np.float32))
        for name, each in model.parameters.items()
    }
    for step in range(settings.steps):
        clipping_norm, learning_rate = settings.at(step)
        noisy_sums(model, examples, settings, noise, clipping_norm=clipping_norm, into=sums)
        optimizer.step(sums, learning_rate)
        _require_finite(model, f"after step {step + 1}")


def noisy_sums(
    model: ClippedModel,
    examples: CustomerItemMatrix,
    settings: LocalSettings,
    noise: NoiseSource,
    *,
    clipping_norm: float,
    into: Sums,
) -> None:
    """One step's release: a Poisson sample's clipped gradients, summed, and noise.

    Args:
        model: The model.
        examples: All customers.
        settings: σ / C and q.
        noise: Where noise and the sample are drawn from.
        clipping_norm: C of this step.
        into: Float32 tensors of the parameters' names and shapes; overwritten.

    Formal guarantees:
        As of one step of `train_locally`.

    Raises:
        InputError: As the model does; `into` is then worth nothing.
    """
    rows = draw_customers(examples.n_rows, settings.sampling_probability, noise)
    # Noise first, in place of zeros: everywhere and always, so that no coordinate tells who was
    # drawn, and no pass over the parameters is spent on it.
    for _, total in sorted(into.items()):
        noise.fill(total.numpy(), settings.noise_multiplier * clipping_norm)
    model.prepare()
    for chunk in chunks(examples, rows):
        model.add_clipped_gradients(chunk, clipping_norm, into)
    # What a model keeps back to add for all chunks at once.
    finish = getattr(model, "finish", None)
    if finish is not None:
        finish(into)


def _require_trainable(model: ClippedModel) -> None:
    if not model.parameters:
        raise InputError("A model without parameters cannot be trained.")
    for name, parameter in model.parameters.items():
        if parameter.dtype != torch.float32 or not parameter.is_contiguous():
            raise InputError(f"The parameter {name} is not a contiguous array of float32.")
    places = {each.untyped_storage().data_ptr() for each in model.parameters.values()}
    if len(places) < len(model.parameters):
        # A gradient by each of two names of one array counts a customer twice.
        raise InputError("Two of the model's parameters are the same array under two names.")
    _require_finite(model, "before training")


def _require_finite(model: ClippedModel, when: str) -> None:
    for name, parameter in model.parameters.items():
        # A sum is not finite if a summand is not, and needs no mask of the parameters' size.
        if not bool(torch.isfinite(parameter.sum())):
            raise InputError(
                f"The parameter {name} is not finite {when}; nothing is released.",
                remedy="Lower the learning rate or the clipping norm of the run plan.",
            )


def _require_within(name: str, value: float, least: float, most: float) -> None:
    # Written so that a NaN is refused too.
    if not least <= value <= most:
        raise InputError(
            f"The local setting {name} is {value}; it must be within {least:g} and {most:g}.",
            remedy="Correct the run plan that states it.",
        )
