"""Regional variants of the shared model: mean-regularised multi-task training, and what it mixes.

Source: Liu, Hu, Wu and Smith, "On Privacy and Personalization in Cross-Silo Federated Learning"
(2022), MR-MTL: region k has a model of its own, w_k, trained on its own loss and pulled to the mean
of all, λ/2 ‖w_k − w̄‖². With λ = 0 each region is alone, with λ → ∞ they share one model.

For noisy sums the same has a closed form. With X_j what region j released and R regions, the
minimiser of ‖M − R X_k‖² + λ ‖M − Σ X_j‖² is

    M_k = (1 − a) Σ X_j + a R X_k,   a = 1 / (1 + λ)

Formal guarantees: with local noise every X_j is (ε, δ)-private by itself before it is mixed, so
that a region's own variant is post-processing: no region spends more ε than for the shared model.
With distributed noise there is no private X_k; a variant would be a release of its own, charged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from client.training.noise import NoiseSource, SeededNoise
from client.training.releases import Release, release
from common.errors import InputError
from common.model_state import ModelState
from common.plan import RunPlan
from common.strategies import SUMS, change_of
from server.aggregation import Model
from server.parameter_step import model_after
from server.robust import total_of
from server.round_total import RoundTotal
from simulations.quality_methods import Population

FloatArray = npt.NDArray[np.float64]
Models = dict[str, ModelState]


@dataclass(frozen=True)
class Variant:
    """How much of a region's model is its own: a above, from 0 (shared) to 1 (alone).

    Attributes:
        name: For people.
        popularity: The share of the served popularity.
        training: The share of what training makes; the vocabulary is always shared.
    """

    name: str
    popularity: float
    training: float

    def __post_init__(self) -> None:
        # Written so that NaN is refused too.
        if not (0.0 <= self.popularity <= 1.0 and 0.0 <= self.training <= 1.0):
            raise InputError(f"The shares of the variant {self.name} are not within 0 and 1.")


@dataclass(frozen=True, eq=False)
class MixedTotal:
    """What a round comes to for one region: a weighted sum of all regions' releases.

    Attributes:
        releases: What each region released.
        own: The place of the region.
        share: a, how much of its own there is.
    """

    releases: Sequence[Mapping[str, npt.NDArray[np.generic]]] = field(repr=False)
    own: int
    share: float

    @property
    def n_regions(self) -> int:
        """How many regions' releases are in it."""
        return len(self.releases)

    @property
    def noise_gain(self) -> float:
        """By how much its noise is larger than one region's: independent noises, weighted."""
        n, others = self.n_regions, 1.0 - self.share
        return math.sqrt((n - 1) * others**2 + (others + self.share * n) ** 2)

    def values(self, name: str) -> FloatArray:
        """An array's weighted sum, in its shape."""
        arrays = [each[name].astype(np.float64) for each in self.releases]
        total = np.zeros(arrays[0].shape)
        for array in arrays:
            total += array
        mixed: FloatArray = (1.0 - self.share) * total + self.share * len(arrays) * arrays[self.own]
        return mixed

    def chunks(self, name: str) -> Iterator[tuple[slice, FloatArray]]:
        """The same in one piece."""
        values = self.values(name).reshape(-1)
        yield slice(0, len(values)), values


def personal_models(
    population: Population, plan: RunPlan, noise_seed: str, variants: Sequence[Variant]
) -> dict[str, Models]:
    """Trains each variant: for each region the model that it would serve, by the variant's name.

    Args:
        population: Who is in training.
        plan: The run plan, of local noise and plain sums.
        noise_seed: Of the study's noise; all variants of noisy sums see the same.
        variants: What is wanted.

    Raises:
        InputError: The plan's noise or rule leaves no private release of one region.
    """
    if plan.mode != "local" or plan.aggregation.rule != "sum":
        raise InputError(
            "Regional variants are of updates that are private by themselves.",
            remedy="Use a plan with local noise and the rule sum.",
        )
    trainer = _Trainer(population, plan, noise_seed)
    if plan.strategy in SUMS:
        return trainer.of_sums(variants)
    return {variant.name: trainer.of_steps(variant, noise_seed) for variant in variants}


class _Trainer:
    """The rounds of one plan, over the regions of a population."""

    def __init__(self, population: Population, plan: RunPlan, noise_seed: str) -> None:
        self._population = population
        self._plan = plan
        self._regions = population.regions
        self._noise = self._sources(noise_seed)
        self._popularity = self._released(1, dict.fromkeys(self._regions, Model()))
        self._first, _ = self._after(1, {}, self._summed(self._popularity), {})

    def of_sums(self, variants: Sequence[Variant]) -> dict[str, Models]:
        """The shared rounds once, and what they released mixed into every variant.

        Each variant is asked in the directions of the shared model, which are all regions'.
        """
        rounds: list[tuple[int, Model, list[Release]]] = []
        model, state = self._first, Model()
        for server_round in range(2, self._plan.total_rounds + 1):
            released = self._released(server_round, dict.fromkeys(self._regions, model))
            rounds.append((server_round, model, released))
            model, state = self._after(server_round, model, self._summed(released), state)
        return {
            variant.name: {
                region: self._served(self._mixed(rounds, place, variant), place, variant)
                for place, region in enumerate(self._regions)
            }
            for variant in variants
        }

    def _mixed(
        self, rounds: Sequence[tuple[int, Model, list[Release]]], place: int, variant: Variant
    ) -> Model:
        """One region's model of the shared rounds; its own release has its share in each."""
        following, state = self._first, Model()
        for server_round, started_from, released in rounds:
            total = MixedTotal(released, place, variant.training)
            following, state = self._after(server_round, started_from, total, state)
        return following

    def of_steps(self, variant: Variant, noise_seed: str) -> Models:
        """Each region's parameters, pulled to the mean of all before every round.

        A variant's rounds start from its own parameters, so it has noise of its own.
        """
        self._noise = self._sources(f"{noise_seed}/{variant.name}")
        names = [spec.name for spec in self._plan.parameter_arrays()]
        own: dict[str, Model] = dict.fromkeys(self._regions, self._first)
        for server_round in range(2, self._plan.total_rounds + 1):
            mean = _mean([*own.values()], names)
            starts = {
                region: {**model, **_pulled(model, mean, names, 1.0 - variant.training)}
                for region, model in own.items()
            }
            changes = self._released(server_round, starts)
            own = {
                region: {
                    **starts[region],
                    **{
                        name: starts[region][name].astype(np.float32) + change[change_of(name)]
                        for name in names
                    },
                }
                for region, change in zip(self._regions, changes, strict=True)
            }
        mean = _mean([*own.values()], names)
        return {
            region: self._served(
                {**model, **_pulled(model, mean, names, 1.0 - variant.training)}, place, variant
            )
            for place, (region, model) in enumerate(own.items())
        }

    def _sources(self, noise_seed: str) -> dict[str, NoiseSource]:
        return {region: SeededNoise(f"{noise_seed}/{region}") for region in self._regions}

    def _released(self, server_round: int, models: Mapping[str, Model]) -> list[Release]:
        return [
            release(
                self._population.train[region][server_round],
                models[region],
                plan=self._plan,
                server_round=server_round,
                noise=self._noise[region],
            )
            for region in self._regions
        ]

    def _summed(self, released: Sequence[Release]) -> RoundTotal:
        return total_of(released, self._plan.aggregation)

    def _after(
        self, server_round: int, model: Model, total: RoundTotal, state: Model
    ) -> tuple[Model, Model]:
        return model_after(server_round, model, total, self._plan, state)

    def _served(self, model: Model, place: int, variant: Variant) -> ModelState:
        popularity = MixedTotal(self._popularity, place, variant.popularity).values("popularity")
        return ModelState.of_plan(
            {**model, "popularity": popularity.astype(np.float32)}, self._plan
        )


def _mean(models: Sequence[Model], names: Sequence[str]) -> dict[str, FloatArray]:
    return {
        name: np.mean([model[name].astype(np.float64) for model in models], axis=0)
        for name in names
    }


def _pulled(
    model: Model, mean: Mapping[str, FloatArray], names: Sequence[str], pull: float
) -> Model:
    return {
        name: ((1.0 - pull) * model[name].astype(np.float64) + pull * mean[name]).astype(np.float32)
        for name in names
    }
