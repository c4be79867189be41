"""Customers as points: measures of their purchases, by the public bounds of a question.

A point is made of one customer's own purchases within the window, and of public constants. It is
never kept: each step of k-means makes it anew, of those who consent by then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from client.analytics.purchases import PurchaseStatistic, moments_of, purchase_days
from client.analytics.rows import BoolArray, FloatArray, LongArray, cluster_rows
from client.data.transactions import Purchases
from client.recommend.local_statistics import WEEKDAYS, Clock
from client.training.bounded_sums import Contributions
from common.analytics.clusters import Clusters
from common.analytics.coordinates import (
    BASKET,
    CATEGORY,
    FREQUENCY,
    RECENCY,
    TENURE,
    VARIETY,
    WEEKEND,
    Coordinate,
)
from common.analytics.purchase_questions import CLUSTERS, DAY_MS, cluster_constants
from common.catalogue import Catalogue
from common.errors import InputError

# Saturday and Sunday.
_WEEKEND_FROM = WEEKDAYS - 2
_BEFORE_ALL, _AFTER_ALL = np.iinfo(np.int64).min, np.iinfo(np.int64).max


def purchase_clusters(
    question: Clusters, catalogue: Catalogue, clock: Clock, *, end_ms: int
) -> PurchaseStatistic:
    """One step of k-means over customers' purchases.

    Args:
        question: The step, named `CLUSTERS`.
        catalogue: The region's public catalogue.
        clock: How moments are told apart.
        end_ms: Where the window ends, milliseconds since the epoch.

    Raises:
        InputError: The question is another one, or it is about a category that there is not.
    """
    if question.name != CLUSTERS:
        raise InputError(f"Customers' clusters are asked as {CLUSTERS}, not {question.name[:64]}.")
    for each in question.coordinates:
        if each.measure == CATEGORY and each.category not in catalogue.category_names:
            raise InputError(
                f"{question.name}: the catalogue has no category {each.category[:64]!r}.",
                remedy="Ask about categories of the public catalogue.",
            )

    def rows(purchases: Purchases) -> Contributions:
        names, points = points_of(purchases, question.coordinates, catalogue, clock, end_ms=end_ms)
        return cluster_rows(question, names, points)

    more = cluster_constants(question, end_ms=end_ms, clock=clock.to_record())
    return PurchaseStatistic(question, rows, more)


def points_of(
    purchases: Purchases,
    coordinates: Sequence[Coordinate],
    catalogue: Catalogue,
    clock: Clock,
    *,
    end_ms: int,
) -> tuple[LongArray, FloatArray]:
    """Who bought something, int64[n], and their points, float64[n, coordinates].

    Args:
        purchases: Customers' purchases within the window.
        coordinates: What a point is made of.
        catalogue: The region's public catalogue, which has the categories that are named.
        clock: How moments are told apart.
        end_ms: Where the window ends, milliseconds since the epoch.
    """
    measured = _Measured(purchases, catalogue, clock, end_ms)
    columns = [each.place(measured.numbers(each)) for each in coordinates]
    return measured.names, np.column_stack(columns)


@dataclass(frozen=True, eq=False)
class _Measured:
    """What can be measured of each customer who bought something.

    Attributes:
        purchases: The purchases.
        catalogue: The public catalogue.
        clock: How moments are told apart.
        end_ms: Where the window ends, milliseconds since the epoch.
    """

    purchases: Purchases = field(repr=False)
    catalogue: Catalogue = field(repr=False)
    clock: Clock
    end_ms: int

    def numbers(self, coordinate: Coordinate) -> FloatArray:
        """float64[n]: each customer's number, in the order of `names`."""
        measures: Mapping[str, Callable[[], FloatArray]] = {
            RECENCY: lambda: (self.end_ms - self._extreme_ms(np.maximum, _BEFORE_ALL)) / DAY_MS,
            TENURE: lambda: (self.end_ms - self._extreme_ms(np.minimum, _AFTER_ALL)) / DAY_MS,
            FREQUENCY: lambda: self._days,
            BASKET: lambda: self._count / self._days,
            VARIETY: lambda: self._distinct(self._category),
            WEEKEND: lambda: self._percent(self._weekday >= _WEEKEND_FROM),
            CATEGORY: lambda: self._percent(self._category == self._number_of(coordinate)),
        }
        return measures[coordinate.measure]()

    @cached_property
    def names(self) -> LongArray:
        """int64[n]: the customers, ascending."""
        return self._grouped[0]

    @cached_property
    def _grouped(self) -> tuple[LongArray, LongArray]:
        names, whose = np.unique(self.purchases.owner.astype(np.int64), return_inverse=True)
        return names, whose.astype(np.int64)

    @property
    def _whose(self) -> LongArray:
        return self._grouped[1]

    @cached_property
    def _count(self) -> FloatArray:
        return np.bincount(self._whose, minlength=len(self.names)).astype(np.float64)

    @cached_property
    def _days(self) -> FloatArray:
        owner, _ = purchase_days(self.purchases)
        return np.unique(owner, return_counts=True)[1].astype(np.float64)

    @property
    def _category(self) -> LongArray:
        return self.catalogue.category[self.purchases.item].astype(np.int64)

    @property
    def _weekday(self) -> LongArray:
        return moments_of(self.purchases.time_ms, self.clock)[1]

    def _number_of(self, coordinate: Coordinate) -> int:
        return tuple(self.catalogue.category_names).index(coordinate.category)

    def _extreme_ms(self, which: np.ufunc, start: int) -> LongArray:
        found = np.full(len(self.names), start, dtype=np.int64)
        which.at(found, self._whose, self.purchases.time_ms)
        return found

    def _distinct(self, what: LongArray) -> FloatArray:
        most = int(what.max(initial=0)) + 1
        pairs = np.unique(self._whose * most + what)
        return np.bincount(pairs // most, minlength=len(self.names)).astype(np.float64)

    def _percent(self, chosen: BoolArray) -> FloatArray:
        held = np.bincount(self._whose, weights=chosen, minlength=len(self.names))
        percent: FloatArray = 100 * held / self._count
        return percent
