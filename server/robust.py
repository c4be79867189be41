"""Rules that a few hostile regions cannot move far: median, trimmed mean, Krum.

They are applied to updates that each passed validation (`server.validation`) and are each
differentially private by themselves, so what they make of them costs no ε. They compare updates,
so the coordinator must see them: nothing here goes with secure aggregation.

A rule gives a *location* of the regions' updates. Where the plan's mechanism wants their sum
(``popularity``, ``factors``) it is the location times the number of regions. Updates are not
normalised first: see `docs/decisions/0026-robust-rules.md`.

Touches Flower's internals: `trim_mean` is not in flwr's documented interface. Its selection by Krum
is not used: it computes distances as ‖x‖² + ‖y‖² − 2xy in 32 bits, which cancels, and goes on with
fewer updates than Krum's theorem asks for. Tests compare both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from flwr.serverapp.strategy.fedtrimmedavg import trim_mean

from common.aggregation_rules import Aggregation
from common.errors import FormatError, InputError
from common.parameters import ArraySpec, float_chunks
from server.robust_noise import noise_gain
from server.round_total import RoundTotal, WholeTotal

Arrays = Mapping[str, npt.NDArray[np.generic]]
FloatArray = npt.NDArray[np.float64]


class RobustAggregator:
    """Keeps the round's updates, because a rule compares them; see `server.round_total.Aggregator`.

    Formal guarantees:
        With at most f = ``tolerated`` hostile updates among n ≥ 2f + 1, each coordinate of a median
        or of an f-trimmed mean lies between the least and the greatest honest value of that
        coordinate, whatever the hostile ones are. Krum gives one of the updates, for n ≥ 2f + 3 one
        whose n − f − 2 nearest neighbours are nearest: a majority of these is honest.

    Args:
        specs: What an update is.
        aggregation: The rule, and how many hostile regions it withstands.

    Raises:
        InputError: The rule is none of a robust mode.
    """

    def __init__(self, specs: Sequence[ArraySpec], aggregation: Aggregation) -> None:
        if aggregation.name != "robust":
            raise InputError(f"The rule {aggregation.rule} is not a robust one.")
        self._shapes = {spec.name: spec.shape for spec in specs}
        self._aggregation = aggregation
        self._updates: dict[str, Arrays] = {}

    def add(self, region: str, arrays: Arrays) -> None:
        """Keeps a validated update; see `server.round_total.Aggregator`."""
        if region in self._updates:
            raise InputError(f"The update of {region} is among the round's already.")
        if {name: array.shape for name, array in arrays.items()} != self._shapes:
            raise FormatError(f"The update of {region} has other arrays than the round's.")
        self._updates[region] = dict(arrays)

    def total(self) -> RobustTotal:
        """What the rule makes of the updates, the same in whatever order they came.

        Raises:
            InputError: They are fewer than the rule needs, because regions were refused.
        """
        needed = self._aggregation.least_regions
        if len(self._updates) < needed:
            raise InputError(
                f"The rule {self._aggregation.rule} needs {needed} updates to withstand "
                f"{self._aggregation.tolerated} hostile ones; there are {len(self._updates)}."
            )
        updates = tuple(arrays for _, arrays in sorted(self._updates.items()))
        return RobustTotal(self._aggregation, updates)


@dataclass(frozen=True, eq=False)
class RobustTotal:
    """The number of regions times the location of their updates, made when it is asked for.

    Attributes:
        aggregation: The rule.
        updates: The updates, by region in order.
    """

    aggregation: Aggregation
    updates: tuple[Arrays, ...]

    @property
    def n_regions(self) -> int:
        """How many regions' updates there are."""
        return len(self.updates)

    @property
    def noise_gain(self) -> float:
        """By how much the total's noise is larger than one region's; see `RoundTotal`.

        Of what is common to the regions: where their own values differ by more than the noise, less
        of it averages out. Krum gives one update with its noise.
        """
        return noise_gain(self.aggregation, self.n_regions)

    def values(self, name: str) -> FloatArray:
        """An array's total; see `RoundTotal`."""
        flat = np.empty(math.prod(self._example(name).shape))
        for place, chunk in self.chunks(name):
            flat[place] = chunk
        return flat.reshape(self._example(name).shape)

    def chunks(self, name: str) -> Iterator[tuple[slice, FloatArray]]:
        """An array's total in pieces; see `RoundTotal`."""
        self._example(name)
        start = 0
        for values in _stacked([update[name] for update in self.updates]):
            yield slice(start, start + values.shape[1]), self.n_regions * self._location(values)
            start += values.shape[1]

    def _location(self, values: FloatArray) -> FloatArray:
        """float64[n_values] of float64[n_regions, n_values]."""
        if self.aggregation.rule == "krum":
            chosen: FloatArray = values[self._chosen]
            return chosen
        if self.aggregation.rule == "median":
            median: FloatArray = np.median(values, axis=0)
            return median
        # A quarter more than f of n, because Flower cuts off n times the share, rounded down, and
        # f/n·n is below f for some n: 1/49 of 49 would be none. All is finite and of one shape.
        mean: FloatArray = trim_mean(values, (self.aggregation.tolerated + 0.25) / self.n_regions)
        return mean

    @cached_property
    def _chosen(self) -> int:
        """Which update Krum gives; of equal ones the first by region."""
        distances = squared_distances(self.updates)
        return krum_choice(distances, self.aggregation.tolerated)

    def _example(self, name: str) -> npt.NDArray[np.generic]:
        if name not in self.updates[0]:
            raise FormatError(f"The regions released no {name[:64]}.")
        return self.updates[0][name]


def total_of(releases: Sequence[Arrays], aggregation: Aggregation) -> RoundTotal:
    """What a plan's rule makes of releases that are all at hand; a single one stays as it is."""
    if len(releases) > 1 and aggregation.name == "robust":
        return RobustTotal(aggregation, tuple(releases))
    return WholeTotal.of(releases)


def squared_distances(updates: Sequence[Arrays]) -> FloatArray:
    """float64[n, n]: the squared L2 distance of each update, all its arrays, from each other.

    Args:
        updates: Updates of the same arrays.
    """
    distances = np.zeros((len(updates), len(updates)))
    for name in sorted(updates[0]):
        for values in _stacked([update[name] for update in updates]):
            for number, value in enumerate(values):
                difference = values - value
                distances[number] += np.einsum("ij,ij->i", difference, difference)
    return distances


def krum_choice(distances: FloatArray, tolerated: int) -> int:
    """The update whose n − f − 2 nearest others are together nearest to it.

    Source: Blanchard et al., "Machine Learning with Adversaries" (2017), section 3.

    Args:
        distances: float64[n, n], squared distances.
        tolerated: f.
    """
    n = len(distances)
    others = np.sort(distances[~np.eye(n, dtype=bool)].reshape(n, n - 1), axis=1)
    return int(np.argmin(others[:, : n - tolerated - 2].sum(axis=1)))


def _stacked(arrays: Sequence[npt.NDArray[np.generic]]) -> Iterator[FloatArray]:
    """float64[n_regions, n_values] pieces of the regions' arrays."""
    for chunks in zip(*map(float_chunks, arrays), strict=True):
        yield np.stack(chunks)
