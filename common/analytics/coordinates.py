"""Numbers about a customer as coordinates of a point: within −1 and 1, by public bounds alone.

k-means compares customers by points (`common.analytics.clusters`). A point is made of a few
measures of her purchases. What is its least and its most is public, part of the question, and holds
whatever anybody bought: numbers beyond are limited to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from common.canonical_json import JsonValue
from common.errors import InputError

FloatArray = npt.NDArray[np.float64]
#: How numbers lie between the two bounds: evenly, or by the logarithm of one more than each, so
#: that 1 and 3 are as far apart as 9 and 19.
Spacing = Literal["log", "linear"]

RECENCY, TENURE, FREQUENCY = "recency", "tenure", "frequency"
BASKET, VARIETY, WEEKEND, CATEGORY = "basket", "variety", "weekend", "category"
#: What can be measured of a customer's purchases in a window, and in which unit.
MEASURES: Mapping[str, str] = {
    RECENCY: "days since the last purchase",
    TENURE: "days since the first purchase",
    FREQUENCY: "days with purchases",
    BASKET: "purchases on such a day",
    VARIETY: "categories",
    WEEKEND: "% of purchases at weekends",
    CATEGORY: "% of purchases",
}
# Beyond that no bound is of use.
_MOST = 1e9


@dataclass(frozen=True)
class Coordinate:
    """One coordinate.

    Attributes:
        measure: What is measured, one of `MEASURES`.
        least: The number that is −1; what is below counts as this.
        most: The number that is 1; what is above counts as this.
        spacing: How numbers lie in between.
        category: Of which category of the public catalogue purchases are a share; for the measure
            ``category`` only.
    """

    measure: str
    least: float
    most: float
    spacing: Spacing = "log"
    category: str = ""

    def __post_init__(self) -> None:
        if self.measure not in MEASURES or self.spacing not in get_args(Spacing):
            raise InputError(
                f"{self.measure[:64]!r} is no measure of customers, or its spacing is none.",
                remedy=f"Use {', '.join(MEASURES)}; log or linear.",
            )
        if not 0 <= self.least < self.most <= _MOST:
            raise InputError(f"The bounds of {self.measure} do not ascend from 0 or more.")
        if self.spacing == "log" and not math.log1p(self.least) < math.log1p(self.most):
            # Between them nothing could be told apart: every coordinate would be 0/0.
            raise InputError(f"The bounds of {self.measure} are one by their logarithms.")
        if bool(self.category) != (self.measure == CATEGORY):
            raise InputError(f"A category goes with the measure {CATEGORY}, and only with it.")

    @property
    def label(self) -> str:
        """What it is called, once in a question."""
        return f"{self.measure}: {self.category}" if self.category else self.measure

    @property
    def unit(self) -> str:
        """What its numbers are in."""
        return MEASURES[self.measure]

    def to_record(self) -> dict[str, JsonValue]:
        """As canonical JSON values."""
        return {
            "measure": self.measure,
            "least": repr(float(self.least)),
            "most": repr(float(self.most)),
            "spacing": self.spacing,
            "category": self.category,
        }

    @classmethod
    def of_record(cls, record: JsonValue) -> Coordinate:
        """Reads what `to_record` gives.

        Raises:
            TypeError: It is no such record.
            ValueError: A bound is no number.
            InputError: It does not hold.
        """
        if not isinstance(record, dict) or set(record) != _FIELDS:
            raise TypeError("a coordinate was expected")
        texts = {name: value for name, value in record.items() if isinstance(value, str)}
        if len(texts) != len(_FIELDS):
            raise TypeError("the fields of a coordinate are texts")
        spacing: Spacing = "log" if texts["spacing"] == "log" else "linear"
        return cls(
            texts["measure"],
            float(texts["least"]),
            float(texts["most"]),
            spacing,
            texts["category"],
        )

    def place(self, numbers: FloatArray) -> FloatArray:
        """float64[n]: numbers as coordinates, within −1 and 1."""
        least, most = self._spaced(np.array([self.least, self.most])).tolist()
        spaced = self._spaced(np.clip(numbers, self.least, self.most))
        placed: FloatArray = np.clip(2 * (spaced - least) / (most - least) - 1, -1.0, 1.0)
        return placed

    def number(self, places: FloatArray) -> FloatArray:
        """float64[n]: the numbers at coordinates; ascending, so that intervals stay intervals."""
        least, most = self._spaced(np.array([self.least, self.most])).tolist()
        spaced = least + (np.asarray(places, dtype=np.float64) + 1) / 2 * (most - least)
        numbers = np.expm1(spaced) if self.spacing == "log" else spaced
        found: FloatArray = np.clip(numbers, self.least, self.most)
        return found

    def _spaced(self, numbers: FloatArray) -> FloatArray:
        spaced: FloatArray = np.log1p(numbers) if self.spacing == "log" else numbers
        return spaced


_FIELDS = frozenset({"measure", "least", "most", "spacing", "category"})


def spread_points(clusters: int, dimensions: int) -> FloatArray:
    """float64[clusters, dimensions]: public points to begin with, spread over the middle.

    They are Halton's (1960), which fill a cube evenly from the first point on, for any number of
    dimensions, and are nobody's data: within half of the way to each side, as hardly anybody is in
    the corners.

    Args:
        clusters: How many.
        dimensions: Of how many coordinates.

    Raises:
        InputError: There are more dimensions than are known how to fill.
    """
    if dimensions > len(_PRIMES):
        raise InputError(f"Points have at most {len(_PRIMES)} coordinates.")
    rows = [
        [_radical_inverse(number, base) - 0.5 for base in _PRIMES[:dimensions]]
        for number in range(1, clusters + 1)
    ]
    return np.array(rows, dtype=np.float64).reshape(clusters, dimensions)


_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19)


def _radical_inverse(number: int, base: int) -> float:
    """The digits of a number in a base, mirrored at the point."""
    found, unit = 0.0, 1.0 / base
    while number:
        number, digit = divmod(number, base)
        found += digit * unit
        unit /= base
    return found


def default_bounds(measure: str, *, days: int, categories: int) -> tuple[float, float, Spacing]:
    """A measure's usual bounds and spacing, by public numbers.

    Args:
        measure: One of `MEASURES`.
        days: How long the window is.
        categories: How many categories the public catalogue has.

    Raises:
        InputError: There is no such measure.
    """
    usual: Mapping[str, tuple[float, float, Spacing]] = {
        RECENCY: (0.0, float(max(1, days)), "log"),
        TENURE: (0.0, float(max(1, days)), "log"),
        # Who buys on more than every fourth day is not told apart.
        FREQUENCY: (1.0, float(max(2, math.ceil(days / 4))), "log"),
        BASKET: (1.0, 50.0, "log"),
        VARIETY: (1.0, float(min(64, max(2, categories))), "log"),
        WEEKEND: (0.0, 100.0, "linear"),
        CATEGORY: (0.0, 100.0, "linear"),
    }
    if measure not in usual:
        raise InputError(
            f"{measure[:64]!r} is no measure of customers.", remedy=f"Use {', '.join(MEASURES)}."
        )
    return usual[measure]
