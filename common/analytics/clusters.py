"""k-means by noisy sums: one step moves each centre to the noisy mean of those nearest to it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from common.analytics.coordinates import Coordinate
from common.analytics.estimates import (
    LEVEL,
    Estimates,
    FloatArray,
    deviations_of,
    linear,
    ratio,
    require_released,
)
from common.analytics.outlook import Outlook
from common.canonical_json import JsonValue
from common.errors import InputError

LongArray = npt.NDArray[np.int64]
#: Which part of a row's squared norm is a cluster's count; the point has the others.
_COUNT_PART = 0.25
#: The most clusters, coordinates and steps of a question: far more than noise leaves of use.
MOST_CLUSTERS, MOST_COORDINATES, MOST_STEPS = 32, 8, 20


@dataclass(frozen=True, eq=False)
class Clusters:
    """k-means (Lloyd, 1982; with noise: Blum and others, "SuLQ", 2005) in a few steps.

    A customer is a point whose coordinates are within −1 and 1. Her row is, for the centre nearest
    to her, ½ for the count, and the point times √(¾ / dimensions): its norm is at most 1. Each step
    is a release of its own, which is charged; all of them together are one question.

    Attributes:
        name: What is asked.
        coordinates: What a point is made of.
        centres: float64[clusters, dimensions], public: where the first step begins, or what the
            steps before came to (`moved`).
        steps: How many steps the question has.
        wanted: The furthest that an interval of a centre's coordinate is of use.
    """

    name: str
    coordinates: tuple[Coordinate, ...]
    centres: FloatArray = field(repr=False)
    steps: int = 1
    wanted: float = 0.1

    def __post_init__(self) -> None:
        inside = np.isfinite(self.centres).all() and (np.abs(self.centres) <= 1).all()
        if self.centres.ndim != 2 or 0 in self.centres.shape or not inside:
            raise InputError(f"{self.name}: its centres are not points within −1 and 1.")
        clusters, dimensions = self.centres.shape
        labels = {each.label for each in self.coordinates}
        if not len(labels) == len(self.coordinates) == dimensions:
            raise InputError(f"{self.name}: its coordinates are not those of its centres, once.")
        if clusters > MOST_CLUSTERS or dimensions > MOST_COORDINATES:
            raise InputError(
                f"{self.name}: it has more than {MOST_CLUSTERS} clusters or {MOST_COORDINATES} "
                "coordinates."
            )
        if not 1 <= self.steps <= MOST_STEPS:
            raise InputError(f"{self.name}: it has not 1 to {MOST_STEPS} steps.")

    @property
    def size(self) -> int:
        """How many values a step has: for each centre the count, then the coordinates' sums."""
        return len(self.centres) * self._block

    @property
    def parameters(self) -> dict[str, JsonValue]:
        """The public constants that a row depends on."""
        return {
            "centres": self.centres_record,
            "coordinates": [each.to_record() for each in self.coordinates],
        }

    @property
    def centres_record(self) -> list[JsonValue]:
        """The centres as canonical JSON values."""
        return [[repr(each) for each in row] for row in self.centres.tolist()]

    @property
    def scales(self) -> tuple[float, float]:
        """What a count and a coordinate are multiplied by in a row."""
        return math.sqrt(_COUNT_PART), math.sqrt((1 - _COUNT_PART) / self.centres.shape[1])

    def nearest(self, points: FloatArray) -> LongArray:
        """int64[n]: the centre nearest to each point; of equally near ones the first."""
        squares = (self.centres**2).sum(axis=1)[None, :] - 2 * points @ self.centres.T
        found: LongArray = squares.argmin(axis=1).astype(np.int64)
        return found

    def outlook(self, customers: int, noise_stddev: float) -> Outlook:
        """What noise would do to a coordinate of a cluster of ordinary size."""
        usual = max(1, customers) / len(self.centres)
        reach = deviations_of(LEVEL) * noise_stddev / (self.scales[1] * usual)
        return Outlook(self.name, reach, self.wanted, "of a coordinate's range of 2", customers)

    def counts(
        self, released: npt.ArrayLike, noise_stddev: float, *, level: float = LEVEL
    ) -> Estimates:
        """How many customers are nearest to each centre, [..., clusters].

        Raises:
            InputError: It is no answer to this.
        """
        values = require_released(released, self.size, noise_stddev)
        weights = np.eye(self.size)[:: self._block] / self.scales[0]
        return linear(values, weights, noise_stddev, level=level).within(0.0, math.inf)

    def shares(
        self, released: npt.ArrayLike, noise_stddev: float, *, level: float = LEVEL
    ) -> Estimates:
        """Which share of the customers that is, [..., clusters].

        Raises:
            InputError: It is no answer to this.
        """
        values = require_released(released, self.size, noise_stddev)
        each = np.eye(self.size)[:: self._block]
        found = ratio(values, each, each.sum(axis=0), noise_stddev, level=level)
        return found.within(0.0, 1.0)

    def read(
        self, released: npt.ArrayLike, noise_stddev: float, *, level: float = LEVEL
    ) -> Estimates:
        """Their means, [..., clusters · dimensions], in C order.

        Args:
            released: [..., size].
            noise_stddev: Standard deviation of the noise in each value.
            level: How often an interval shall cover the truth.

        Formal guarantees:
            As `common.analytics.estimates.fieller`. Nothing is said of a cluster that is not told
            from an empty one.

        Raises:
            InputError: It is no answer to this.
        """
        values = require_released(released, self.size, noise_stddev)
        each, (count, coordinate) = np.eye(self.size), self.scales
        is_count = np.arange(self.size) % self._block == 0
        under = np.repeat(each[is_count] / count, self._block - 1, axis=0)
        found = ratio(values, each[~is_count] / coordinate, under, noise_stddev, level=level)
        return found.within(-1.0, 1.0)

    def numbers(
        self, released: npt.ArrayLike, noise_stddev: float, *, level: float = LEVEL
    ) -> tuple[Estimates, ...]:
        """The means in the numbers of each coordinate, of each [..., clusters].

        Of a coordinate that is spaced by logarithms this is what is usual, the geometric mean of
        one more than the numbers, less one: few large ones do not move it.

        Raises:
            InputError: It is no answer to this.
        """
        means = self.read(released, noise_stddev, level=level)
        dimensions, found = len(self.coordinates), []
        for n, coordinate in enumerate(self.coordinates):
            value, low, high = (
                coordinate.number(ends[..., n::dimensions])
                for ends in (means.value, means.low, means.high)
            )
            found.append(Estimates(value, low, high, level))
        return tuple(found)

    def overall(
        self, released: npt.ArrayLike, noise_stddev: float, *, level: float = LEVEL
    ) -> Estimates:
        """The means of all customers, [..., dimensions]: what clusters are compared with.

        Raises:
            InputError: It is no answer to this.
        """
        values = require_released(released, self.size, noise_stddev)
        count, coordinate = self.scales
        place = np.arange(self.size) % self._block
        over = np.stack([(place == n) / coordinate for n in range(1, self._block)])
        found = ratio(values, over, (place == 0) / count, noise_stddev, level=level)
        return found.within(-1.0, 1.0)

    def traits(
        self, released: npt.ArrayLike, noise_stddev: float, *, level: float = LEVEL
    ) -> LongArray:
        """int64[clusters, dimensions]: 1 where a cluster is told to be above all customers' mean.

        −1 where it is told to be below, 0 where neither is told. All statements together hold at
        the level that is asked for (Bonferroni: no interval of any of the means is missed).

        Args:
            released: float64[size].
            noise_stddev: Standard deviation of the noise in each value.
            level: How often all of it shall be true.

        Raises:
            InputError: It is no answer to this.
        """
        clusters, dimensions = self.centres.shape
        each = 1 - (1 - level) / ((clusters + 1) * dimensions)
        means = self.read(released, noise_stddev, level=each)
        overall = self.overall(released, noise_stddev, level=each)
        low, high = (ends.reshape(clusters, dimensions) for ends in (means.low, means.high))
        above, below = low > overall.high, high < overall.low
        found: LongArray = above.astype(np.int64) - below.astype(np.int64)
        return found

    def moved(self, released: npt.ArrayLike, least_count: float) -> Clusters:
        """The next step: centres where the means are.

        A centre that too few customers are at is of no use where it is. It goes half of the way to
        where the largest cluster's goes, to part that one; if that one is too small, too, all stay.

        Whoever has plan and sums computes the same, to the last bit: a mean is two quotients and a
        limit, a way's half a sum and a quotient, each rounded once as IEEE 754 has it.

        Args:
            released: float64[size], the sums of a step.
            least_count: What the sum of a cluster's counts must be above, not negative: a public
                constant of the plan (`common.cluster_steps`).

        Raises:
            InputError: It is no answer to this.
        """
        values = require_released(released, self.size, 1.0).reshape(-1, self._block)
        count, coordinate = self.scales
        told = values[:, 0] > max(least_count, 0.0)
        largest = int(values[:, 0].argmax())
        if not told[largest]:
            return self
        customers = np.where(told, values[:, 0] / count, 1.0)
        means = np.clip(values[:, 1:] / coordinate / customers[:, None], -1.0, 1.0)
        halfway = (self.centres + means[largest]) / 2
        return replace(self, centres=np.where(told[:, None], means, halfway))

    @property
    def _block(self) -> int:
        return 1 + int(self.centres.shape[1])
