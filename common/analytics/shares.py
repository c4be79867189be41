"""Shares over the cells of a table: scenes by part of the day, weekday and store type."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

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


@dataclass(frozen=True)
class Shares:
    """How customers' facts are spread over the cells of a table.

    One customer's row is the share of her own facts in each cell: it adds up to 1, so its norm is
    at most 1, and whoever shops daily counts no more than others. What is read is the mean of the
    customers' shares.

    Attributes:
        name: What is asked.
        axes: The table's axes: the labels along each, public, in order.
        wanted: The furthest that an interval of one cell is of use, in points of a hundred.
    """

    name: str
    axes: tuple[tuple[str, ...], ...] = field(repr=False)
    wanted: float = 1.0

    def __post_init__(self) -> None:
        if not self.axes or any(len(set(each)) != len(each) or not each for each in self.axes):
            raise InputError(f"{self.name}: an axis has no labels, or two of one name.")

    @property
    def shape(self) -> tuple[int, ...]:
        """The table's shape."""
        return tuple(len(each) for each in self.axes)

    @property
    def size(self) -> int:
        """How many values the answer has."""
        return math.prod(self.shape)

    @property
    def parameters(self) -> dict[str, JsonValue]:
        """The public constants that a row depends on."""
        return {"axes": [list(each) for each in self.axes]}

    def outlook(self, customers: int, noise_stddev: float) -> Outlook:
        """What noise would do to one cell in a region of at least so many customers."""
        reach = 100 * deviations_of(LEVEL) * noise_stddev / max(1, customers)
        return Outlook(self.name, reach, self.wanted, "points", customers)

    def read(
        self, released: npt.ArrayLike, noise_stddev: float, *, level: float = LEVEL
    ) -> Estimates:
        """The share of each cell, [..., cells], the table flattened in C order.

        Args:
            released: [..., cells].
            noise_stddev: Standard deviation of the noise in each value.
            level: How often an interval shall cover the truth.

        Formal guarantees:
            As `common.analytics.estimates.fieller`.

        Raises:
            InputError: It is no answer to this.
        """
        return self._shares(released, np.eye(self.size), noise_stddev, level)

    def along(
        self, axis: int, released: npt.ArrayLike, noise_stddev: float, *, level: float = LEVEL
    ) -> Estimates:
        """The shares along one axis, whatever the others: [..., labels]. As `read`."""
        cells = np.arange(self.size).reshape(self.shape)
        place = np.moveaxis(cells, axis, 0).reshape(self.shape[axis], -1)
        weights = np.zeros((self.shape[axis], self.size))
        np.put_along_axis(weights, place, 1.0, axis=1)
        return self._shares(released, weights, noise_stddev, level)

    def customers(
        self, released: npt.ArrayLike, noise_stddev: float, *, level: float = LEVEL
    ) -> Estimates:
        """How many customers there are facts of, [..., 1]."""
        values = require_released(released, self.size, noise_stddev)
        found = linear(values, np.ones((1, self.size)), noise_stddev, level=level)
        return found.within(0.0, math.inf)

    def _shares(
        self, released: npt.ArrayLike, weights: FloatArray, noise_stddev: float, level: float
    ) -> Estimates:
        values = require_released(released, self.size, noise_stddev)
        found = ratio(values, weights, np.ones(self.size), noise_stddev, level=level)
        return found.within(0.0, 1.0)
