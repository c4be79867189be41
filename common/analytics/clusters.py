"""k-means by noisy sums: one step moves each centre to the noisy mean of those nearest to it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

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


@dataclass(frozen=True, eq=False)
class Clusters:
    """One step of k-means (Lloyd, 1982; with noise: Blum and others, "SuLQ", 2005).

    A customer is a point whose coordinates are within −1 and 1. Her row is, for the centre nearest
    to her, ½ for the count, and the point times √(¾ / dimensions): its norm is at most 1. Steps are
    parts of one query, each of which is charged.

    Attributes:
        name: What is asked.
        centres: float64[clusters, dimensions], public: the last step's answer, or a public start.
        wanted: The furthest that an interval of a centre's coordinate is of use.
    """

    name: str
    centres: FloatArray = field(repr=False)
    wanted: float = 0.1

    def __post_init__(self) -> None:
        inside = np.isfinite(self.centres).all() and (np.abs(self.centres) <= 1).all()
        if self.centres.ndim != 2 or 0 in self.centres.shape or not inside:
            raise InputError(f"{self.name}: its centres are not points within −1 and 1.")

    @property
    def size(self) -> int:
        """How many values the answer has: for each centre the count, then the coordinates' sums."""
        clusters, dimensions = self.centres.shape
        return int(clusters) * (1 + int(dimensions))

    @property
    def parameters(self) -> dict[str, JsonValue]:
        """The public constants that a row depends on."""
        rows: list[JsonValue] = [[repr(each) for each in row] for row in self.centres.tolist()]
        return {"centres": rows}

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

    def moved(self, released: npt.ArrayLike, noise_stddev: float) -> Clusters:
        """The next step: centres where the means are; those that nothing is said of stay.

        Raises:
            InputError: It is no answer to this.
        """
        found = self.read(released, noise_stddev)
        means = found.value.reshape(self.centres.shape)
        return replace(self, centres=np.where(np.isnan(means), self.centres, means))

    @property
    def _block(self) -> int:
        return 1 + int(self.centres.shape[1])
