"""Planted faults: mistakes that DP trainers were found with, each wrapped around the real one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from client.data.dataset import CustomerItemMatrix
from client.training.audit_gates.audit import Trainer
from client.training.local_steps import LocalSettings
from client.training.models.protocol import ClippedModel
from client.training.noise import NoiseSource

FloatArray = npt.NDArray[np.float64]
Wrapper = Callable[[Trainer], Trainer]


@dataclass(frozen=True)
class Fault:
    """A planted fault.

    Attributes:
        name: What is wrong.
        plant: Makes a trainer with the fault of one without.
        gates: The names of the gates that are meant to catch it.
    """

    name: str
    plant: Wrapper
    gates: tuple[str, ...]


class _Altered:
    """Another source's noise and samples, as they are; faults change one of them."""

    def __init__(self, source: NoiseSource) -> None:
        self._source = source

    def gaussian(self, shape: tuple[int, ...], stddev: float) -> FloatArray:
        return self._source.gaussian(shape, stddev)

    def fill(self, out: npt.NDArray[np.float32], stddev: float) -> None:
        self._source.fill(out, stddev)

    def mask(self, n: int, probability: float) -> npt.NDArray[np.bool_]:
        return self._source.mask(n, probability)


class _Scaled(_Altered):
    def __init__(self, source: NoiseSource, factor: float) -> None:
        super().__init__(source)
        self._factor = factor

    def fill(self, out: npt.NDArray[np.float32], stddev: float) -> None:
        super().fill(out, stddev)
        out *= self._factor


class _Repeated(_Altered):
    def __init__(self, source: NoiseSource) -> None:
        super().__init__(source)
        self._drawn: dict[int, npt.NDArray[np.float32]] = {}

    def fill(self, out: npt.NDArray[np.float32], stddev: float) -> None:
        if out.size not in self._drawn:
            super().fill(out, stddev)
            self._drawn[out.size] = out.copy()
        out[...] = self._drawn[out.size].reshape(out.shape)


class _Shuffled(_Altered):
    """Batches of a fixed size from a shuffled list, dealt out anew when it is used up."""

    def __init__(self, source: NoiseSource) -> None:
        super().__init__(source)
        self._generator = np.random.default_rng()
        self._left = np.zeros(0, dtype=np.int64)

    def mask(self, n: int, probability: float) -> npt.NDArray[np.bool_]:
        size = min(n, round(n * probability))
        if len(self._left) < size:
            self._left = self._generator.permutation(n)
        mask = np.zeros(n, dtype=bool)
        mask[self._left[:size]] = True
        self._left = self._left[size:]
        return mask


class _Unclipped:
    """A model that is told of a clipping norm so large that nothing reaches it."""

    def __init__(self, model: ClippedModel) -> None:
        self._model = model
        self.parameters = model.parameters

    def prepare(self) -> None:
        self._model.prepare()

    def add_clipped_gradients(
        self,
        batch: CustomerItemMatrix,
        clipping_norm: float,
        into: Mapping[str, torch.Tensor],
    ) -> None:
        del clipping_norm
        self._model.add_clipped_gradients(batch, 1e9, into)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class _Sparse(_Unclipped):
    """A model whose noise stays only where customers contribute."""

    def prepare(self) -> None:
        super().prepare()
        self._touched = {name: torch.zeros_like(each) for name, each in self.parameters.items()}

    def add_clipped_gradients(
        self,
        batch: CustomerItemMatrix,
        clipping_norm: float,
        into: Mapping[str, torch.Tensor],
    ) -> None:
        del into
        self._model.add_clipped_gradients(batch, clipping_norm, self._touched)

    def finish(self, into: Mapping[str, torch.Tensor]) -> None:
        late = getattr(self._model, "finish", None)
        if late is not None:
            late(self._touched)
        for name, touched in self._touched.items():
            into[name].mul_(touched != 0).add_(touched)


def _with_noise(alter: Callable[[NoiseSource], NoiseSource]) -> Wrapper:
    def plant(trainer: Trainer) -> Trainer:
        def faulty(
            model: ClippedModel,
            examples: CustomerItemMatrix,
            settings: LocalSettings,
            noise: NoiseSource,
        ) -> None:
            trainer(model, examples, settings, alter(noise))

        return faulty

    return plant


def _with_model(alter: Callable[[ClippedModel], ClippedModel]) -> Wrapper:
    def plant(trainer: Trainer) -> Trainer:
        def faulty(
            model: ClippedModel,
            examples: CustomerItemMatrix,
            settings: LocalSettings,
            noise: NoiseSource,
        ) -> None:
            trainer(alter(model), examples, settings, noise)

        return faulty

    return plant


def _five_rows(trainer: Trainer) -> Trainer:
    """Each of a customer's five receipts is taken for an example, and clipped, by itself."""

    def faulty(
        model: ClippedModel,
        examples: CustomerItemMatrix,
        settings: LocalSettings,
        noise: NoiseSource,
    ) -> None:
        receipts = examples.gather(np.repeat(np.arange(examples.n_rows), 5))
        trainer(model, receipts, settings, noise)

    return faulty


def _counting_normaliser(trainer: Trainer) -> Trainer:
    """The expected batch size is computed from the data set's, as Opacus 1.6.0 does (issue 819)."""

    def faulty(
        model: ClippedModel,
        examples: CustomerItemMatrix,
        settings: LocalSettings,
        noise: NoiseSource,
    ) -> None:
        counted = max(1.0, settings.sampling_probability * examples.n_rows)
        trainer(model, examples, replace(settings, expected_batch_size=counted), noise)

    return faulty


FAULTS = (
    Fault("no noise", _with_noise(lambda noise: _Scaled(noise, 0.0)), ("noise size", "canaries")),
    Fault("σ × 0.5", _with_noise(lambda noise: _Scaled(noise, 0.5)), ("noise size",)),
    Fault("σ × 0.9", _with_noise(lambda noise: _Scaled(noise, 0.9)), ("noise size",)),
    Fault("noise on touched rows only", _with_model(_Sparse), ("noise size",)),
    Fault("same noise each step", _with_noise(_Repeated), ("noise reuse",)),
    Fault("no clipping", _with_model(_Unclipped), ("contribution", "canaries")),
    Fault("five rows per customer", _five_rows, ("contribution", "canaries")),
    Fault("shuffling, not Poisson", _with_noise(_Shuffled), ("sampling",)),
    Fault("normaliser counts customers", _counting_normaliser, ("noise size", "contribution")),
)
