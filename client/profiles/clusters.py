"""Customers in groups that nobody named: k-means over recency, frequency and monetary value.

Coordinates are logarithms, in deviations from the mean. The start is not drawn: the first centre is
the mean, each further one the customer who is furthest from all before. So the same customers give
the same groups. Groups are numbered by what their customers pay, the most first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.cluster.vq import kmeans2, vq

from common.canonical_json import JsonValue
from common.errors import FormatError

FloatArray = npt.NDArray[np.float64]
#: So many customers at most decide where the centres are; by pseudonym, which is at random.
SAMPLE = 50_000
_STEPS = 25


@dataclass(frozen=True, eq=False)
class Groups:
    """The centres of groups.

    Attributes:
        centres: float64[k, 3], in deviations from the mean.
        mean: float64[3], of the coordinates.
        deviation: float64[3], likewise.
    """

    centres: FloatArray = field(repr=False)
    mean: FloatArray = field(repr=False)
    deviation: FloatArray = field(repr=False)

    @classmethod
    def of_customers(cls, points: FloatArray, number: int) -> Groups | None:
        """Finds the groups; None if there are not enough different customers.

        Args:
            points: [n, 3], recency in days, frequency, monetary value; rows that are not all known
                are left out.
            number: How many groups.
        """
        known = points[np.isfinite(points).all(axis=1)][:SAMPLE]
        if len(np.unique(known, axis=0)) < 2 * number:
            return None
        coordinates = np.log1p(np.maximum(known, 0))
        mean, deviation = coordinates.mean(axis=0), coordinates.std(axis=0)
        deviation = np.where(deviation > 0, deviation, 1.0)
        standard = (coordinates - mean) / deviation
        centres, which = kmeans2(standard, _apart(standard, number), iter=_STEPS, minit="matrix")
        paid = [
            known[which == group, 2].mean() if (which == group).any() else -1.0
            for group in range(number)
        ]
        return cls(centres[np.argsort(-np.array(paid), kind="stable")], mean, deviation)

    def of(self, points: FloatArray) -> FloatArray:
        """float64[n]: each customer's group, from 1; NaN where her numbers are not all known."""
        known = np.isfinite(points).all(axis=1)
        coordinates = (np.log1p(np.maximum(points[known], 0)) - self.mean) / self.deviation
        found = np.full(len(points), np.nan)
        if known.any():
            found[known] = vq(coordinates, self.centres)[0] + 1
        return found

    def to_record(self) -> dict[str, JsonValue]:
        """As JSON values; `of_record` reads it."""
        rows: list[JsonValue] = [
            [repr(float(value)) for value in row]
            for row in (*self.centres, self.mean, self.deviation)
        ]
        return {"rows": rows}

    @classmethod
    def of_record(cls, record: Mapping[str, JsonValue]) -> Groups:
        """Reads what `to_record` gave.

        Raises:
            FormatError: It is nothing like it.
        """
        rows = record.get("rows")
        try:
            numbers = np.array([[float(str(value)) for value in row] for row in rows])  # type: ignore[union-attr] # a list, or it is refused
        except (TypeError, ValueError) as error:
            raise FormatError(f"Groups of profiles are malformed: {error!r}.") from error
        return cls(numbers[:-2], numbers[-2], numbers[-1])


def _apart(points: FloatArray, number: int) -> FloatArray:
    """[number, 3]: the mean, then each time the point that is furthest from all before."""
    centres = [points.mean(axis=0)]
    nearest = ((points - centres[0]) ** 2).sum(axis=1)
    while len(centres) < number:
        centres.append(points[int(nearest.argmax())])
        nearest = np.minimum(nearest, ((points - centres[-1]) ** 2).sum(axis=1))
    return np.array(centres)
