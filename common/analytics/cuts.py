"""Quantiles of one number per customer, such as the cuts of recency and frequency."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from common.analytics.estimates import (
    LEVEL,
    TOLD_DEVIATIONS,
    Estimates,
    FloatArray,
    deviations_of,
    linear,
    require_released,
)
from common.analytics.outlook import Outlook
from common.analytics.tree_sums import MAX_CELLS, TreeSums
from common.canonical_json import JsonValue
from common.errors import InputError

# Where between two edges an interval may end: it is interpolated between so many points.
_POINTS_PER_CELL = 4


@dataclass(frozen=True)
class Cuts:
    """The values below which given shares of the customers are.

    One customer's row is 1 in the cell that her number is in, and in the sums that this cell is in
    (`TreeSums`). Within a cell customers are taken for evenly spread.

    Attributes:
        name: What is asked.
        edges: The cells' borders, public, ascending: a cell has its lower edge and not its upper.
            Numbers below the first count in the first cell, others beyond in the last.
        probabilities: The shares, ascending, each above 0 and below 1.
        wanted: The furthest that an interval is of use, in percentiles.
        unit: What the numbers are in.
    """

    name: str
    edges: tuple[float, ...] = field(repr=False)
    probabilities: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    wanted: float = 4.0
    unit: str = ""

    def __post_init__(self) -> None:
        ascending = all(one < other for one, other in pairwise(self.edges))
        if not (ascending and all(map(math.isfinite, self.edges))):
            raise InputError(f"{self.name}: the edges of its cells do not ascend.")
        if not 3 <= len(self.edges) <= MAX_CELLS + 1:
            raise InputError(f"{self.name}: it needs 2 to {MAX_CELLS} cells.")
        if not self.probabilities or not all(0 < each < 1 for each in self.probabilities):
            raise InputError(f"{self.name}: the shares are not above 0 and below 1.")

    @property
    def tree(self) -> TreeSums:
        """Which sums of cells are released."""
        return TreeSums.for_ranges(len(self.edges) - 1)

    @property
    def size(self) -> int:
        """How many values the answer has."""
        return self.tree.size

    @property
    def parameters(self) -> dict[str, JsonValue]:
        """The public constants that a row depends on."""
        edges: list[JsonValue] = [repr(float(each)) for each in self.edges]
        return {"edges": edges, "branching": self.tree.branching}

    def cell(self, numbers: FloatArray) -> npt.NDArray[np.int64]:
        """int64[n]: the cell that each number is in."""
        cells = np.searchsorted(np.array(self.edges), numbers, side="right") - 1
        return np.clip(cells, 0, len(self.edges) - 2).astype(np.int64)

    def outlook(self, customers: int, noise_stddev: float) -> Outlook:
        """What noise would do to the least certain cut, with at least so many customers."""
        reach = 100 * deviations_of(LEVEL) * noise_stddev * self.tree.worst_range()
        return Outlook(self.name, reach / max(1, customers), self.wanted, "percentiles", customers)

    def histogram(
        self, released: npt.ArrayLike, noise_stddev: float, *, level: float = LEVEL
    ) -> Estimates:
        """How many customers are in each cell, [..., cells].

        Raises:
            InputError: It is no answer to this.
        """
        values = require_released(released, self.size, noise_stddev)
        found = linear(values, self.tree.solution(), noise_stddev, level=level)
        return found.within(0.0, math.inf)

    def read(
        self, released: npt.ArrayLike, noise_stddev: float, *, level: float = LEVEL
    ) -> Estimates:
        """The cuts, [..., probabilities], in the unit of the edges.

        Args:
            released: [..., size].
            noise_stddev: Standard deviation of the noise in each value.
            level: How often an interval shall cover the truth.

        Formal guarantees:
            A number is in the interval if what is seen below it is no further from the share asked
            for than noise explains, or if it is between two such. That covers the true cut with at
            least the probability `level`, and with exactly that where cells are large beside noise.

        Edge cases:
            A total that is not well above 0 (`TOLD_DEVIATIONS`): nothing is said.

        Raises:
            InputError: It is no answer to this.
        """
        values = require_released(released, self.size, noise_stddev)
        solution = self.tree.solution()
        weights = solution.sum(axis=0)
        told = values @ weights > TOLD_DEVIATIONS * noise_stddev * np.linalg.norm(weights)
        found = [
            self._cut(values, share, solution, noise_stddev, level) for share in self.probabilities
        ]
        value, low, high = (np.stack(each, axis=-1) for each in zip(*found, strict=True))
        ends = self.edges[0], self.edges[-1]
        return Estimates(
            np.where(told[..., None], value, np.nan),
            np.where(told[..., None], low, ends[0]),
            np.where(told[..., None], high, ends[1]),
            level,
        )

    def true_cuts(self, cells: npt.ArrayLike) -> FloatArray:
        """float64[probabilities]: the cuts of a histogram without noise, for studies and tests."""
        below = np.concatenate([[0.0], np.cumsum(np.asarray(cells, dtype=np.float64))])
        wanted = np.array(self.probabilities) * below[-1]
        cuts: FloatArray = np.interp(wanted, below, np.array(self.edges))
        return cuts

    def _cut(
        self,
        values: FloatArray,
        share: float,
        solution: FloatArray,
        noise_stddev: float,
        level: float,
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        points, below = self._points()
        weights = (below - share) @ solution
        excess = values @ weights.T
        reach = deviations_of(level) * noise_stddev * np.linalg.norm(weights, axis=1)
        low, high = _first(excess + reach, points), _last(excess - reach, points)
        middle = (_first(excess, points) + _last(excess, points)) / 2
        return middle, low, high

    def _points(self) -> tuple[FloatArray, FloatArray]:
        """Numbers from the first edge to the last, and float64[n, cells]: what is below each."""
        cells = len(self.edges) - 1
        place = np.arange(cells * _POINTS_PER_CELL + 1) / _POINTS_PER_CELL
        points = np.interp(place, np.arange(cells + 1), np.array(self.edges))
        return points, np.clip(place[:, None] - np.arange(cells)[None, :], 0.0, 1.0)


def _first(rising: FloatArray, points: FloatArray) -> FloatArray:
    """float64[...]: where each row is 0 or more for the first time; the last point if never."""
    reached = rising >= 0
    index = np.where(reached.any(axis=-1), reached.argmax(axis=-1), len(points) - 1)
    return _crossing(rising, points, np.maximum(index, 1))


def _last(rising: FloatArray, points: FloatArray) -> FloatArray:
    """float64[...]: where each row is 0 or less for the last time; the first point if never."""
    not_above = (rising <= 0)[..., ::-1]
    from_end = np.where(not_above.any(axis=-1), not_above.argmax(axis=-1), len(points) - 1)
    index = len(points) - 1 - from_end
    return _crossing(rising, points, np.minimum(index + 1, len(points) - 1))


def _crossing(rising: FloatArray, points: FloatArray, index: npt.NDArray[np.int64]) -> FloatArray:
    """Where a row passes 0 between the point before an index and that at it."""
    before, after = (
        np.take_along_axis(rising, each[..., None], axis=-1)[..., 0] for each in (index - 1, index)
    )
    step = after - before
    part = np.clip(np.where(step != 0, -before / np.where(step != 0, step, 1.0), 0.0), 0.0, 1.0)
    found: FloatArray = points[index - 1] + part * (points[index] - points[index - 1])
    return found
