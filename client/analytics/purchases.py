"""Statistics of purchases: what a region's store can answer as it is.

Each is a `client.training.bounded_sums.Statistic`: a question, and how purchases become its facts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from client.analytics.rows import (
    LongArray,
    cluster_rows,
    count_rows,
    cut_rows,
    funnel_rows,
    share_rows,
    trend_rows,
)
from client.data.transactions import Purchases
from client.recommend.local_statistics import WEEKDAYS, Clock
from client.training.bounded_sums import Contributions
from common.analytics.clusters import Clusters
from common.analytics.cuts import Cuts
from common.analytics.funnels import Funnel
from common.analytics.groups import Groups
from common.analytics.outlook import Outlook
from common.analytics.shares import Shares
from common.analytics.trends import Trend
from common.canonical_json import JsonValue
from common.catalogue import Catalogue
from common.errors import InputError
from common.parameters import ArraySpec

CATEGORIES, CATEGORY_TREND = "category-customers", "category-trend"
SCENES, REPEATS = "purchase-scenes", "repeat-purchases"
RECENCY, FREQUENCY, CLUSTERS = "recency-cuts", "frequency-cuts", "purchase-clusters"

_DAY_MS = 86_400_000
_WEEKDAY_NAMES = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
#: In how many categories one customer counts: what most of her purchases are of.
MOST_CATEGORIES = 16
#: Purchase days beyond this many count as so many: the last cell of frequencies.
MOST_DAYS = 400


class Question(Protocol):
    """What every question of `common.analytics` has."""

    @property
    def name(self) -> str:
        """What is asked."""
        ...

    @property
    def size(self) -> int:
        """How many values the answer has."""
        ...

    @property
    def parameters(self) -> dict[str, JsonValue]:
        """The public constants that a row depends on."""
        ...

    def outlook(self, customers: int, noise_stddev: float) -> Outlook:
        """What noise would do to it with at least so many customers."""
        ...


@dataclass(frozen=True, eq=False)
class PurchaseStatistic:
    """A question, asked of purchases.

    Attributes:
        question: What is asked.
        rows: Makes customers' rows of their purchases within the window.
        more: Public constants that the rows depend on besides the question's.
    """

    question: Question
    rows: Callable[[Purchases], Contributions] = field(repr=False)
    more: Mapping[str, JsonValue] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The query's name, which a region's policy allows or does not."""
        return self.question.name

    @property
    def spec(self) -> ArraySpec:
        """One vector."""
        return ArraySpec(self.name.replace("-", "_"), "<f4", (self.question.size,))

    @property
    def parameters(self) -> dict[str, JsonValue]:
        """The question's, and those of how it is asked."""
        return {**self.question.parameters, **self.more}

    def contributions(self, purchases: Purchases) -> Contributions:
        """What customers add; see `client.training.bounded_sums.Statistic`."""
        return self.rows(purchases)


def category_customers(catalogue: Catalogue, *, most: int = MOST_CATEGORIES) -> PurchaseStatistic:
    """How many customers buy each category of the public catalogue."""
    question = Groups.counts(CATEGORIES, tuple(catalogue.category_names), most=most)

    def rows(purchases: Purchases) -> Contributions:
        group = catalogue.category[purchases.item].astype(np.int64)
        return count_rows(question, purchases.owner.astype(np.int64), group)

    return PurchaseStatistic(question, rows)


def category_trend(
    catalogue: Catalogue,
    *,
    later_from_ms: int,
    most: int = MOST_CATEGORIES,
    threshold: float = 2.0,
) -> PurchaseStatistic:
    """How the customers of each category change from one period of the window to the next.

    Args:
        catalogue: The public catalogue.
        later_from_ms: Where the later period begins, milliseconds since the epoch.
        most: In how many categories one customer counts at most, in each period.
        threshold: The change that alerts.
    """
    question = Trend(CATEGORY_TREND, tuple(catalogue.category_names), most, threshold)

    def rows(purchases: Purchases) -> Contributions:
        group = catalogue.category[purchases.item].astype(np.int64)
        later = purchases.time_ms >= later_from_ms
        return trend_rows(question, purchases.owner.astype(np.int64), group, later)

    return PurchaseStatistic(question, rows, {"later_from_ms": later_from_ms})


def purchase_scenes(clock: Clock) -> PurchaseStatistic:
    """When customers buy: parts of the day × weekdays."""
    question = Shares(SCENES, (tuple(clock.dayparts), _WEEKDAY_NAMES))

    def rows(purchases: Purchases) -> Contributions:
        moments = pd.DatetimeIndex(purchases.time_ms.astype("datetime64[ms]"), tz="UTC")
        local = moments.tz_convert(clock.zone)
        daypart = clock.daypart(np.asarray(local.hour, dtype=np.int64))
        cell = daypart * WEEKDAYS + np.asarray(local.day_of_week, dtype=np.int64)
        # Hours that belong to no part of the day are outside the table.
        known = daypart >= 0
        return share_rows(question, purchases.owner.astype(np.int64)[known], cell[known])

    return PurchaseStatistic(question, rows, {"clock": clock.to_record()})


def recency_cuts(*, window_days: int, end_ms: int, cells: int = 64) -> PurchaseStatistic:
    """Quantiles of the days from each customer's last purchase to the window's end.

    Args:
        window_days: How long the window is, in days: nobody's number is above it.
        end_ms: Where it ends, milliseconds since the epoch.
        cells: How many cells the days are told apart by.
    """
    question = Cuts(RECENCY, growing_edges(window_days, cells), unit="days")

    def rows(purchases: Purchases) -> Contributions:
        names, whose = np.unique(purchases.owner.astype(np.int64), return_inverse=True)
        last_ms = np.full(len(names), np.iinfo(np.int64).min)
        np.maximum.at(last_ms, whose, purchases.time_ms)
        return cut_rows(question, names, (end_ms - last_ms) / _DAY_MS)

    return PurchaseStatistic(question, rows, {"end_ms": end_ms})


def frequency_cuts(*, most_days: int = MOST_DAYS, cells: int = 64) -> PurchaseStatistic:
    """Quantiles of the number of days (in UTC) on which each customer bought something."""
    # Numbers of days are whole: a border between each two of the small ones.
    growing = growing_edges(most_days, cells)
    edges = tuple(sorted({math.floor(each) + 0.5 for each in growing}))
    question = Cuts(FREQUENCY, edges, unit="days with purchases")

    def rows(purchases: Purchases) -> Contributions:
        owner, _ = _purchase_days(purchases)
        names, days = np.unique(owner, return_counts=True)
        return cut_rows(question, names, days.astype(np.float64))

    return PurchaseStatistic(question, rows)


def repeat_purchases(*, stages: int = 4) -> PurchaseStatistic:
    """How many customers bought on one day, on a second one, and so on.

    Raises:
        InputError: There are no two stages.
    """
    question = Funnel(REPEATS, tuple(f"purchase-{n}" for n in range(1, stages + 1)))

    def rows(purchases: Purchases) -> Contributions:
        owner, day = _purchase_days(purchases)
        # The days are ascending for each owner: a day's number is its distance from the first.
        number = np.arange(len(owner)) - np.searchsorted(owner, owner, side="left")
        kept = number < stages
        return funnel_rows(question, owner[kept], number[kept], day[kept] * _DAY_MS)

    return PurchaseStatistic(question, rows)


def purchase_clusters(question: Clusters, *, window_days: int, end_ms: int) -> PurchaseStatistic:
    """One step of k-means over customers' recency and frequency, both as logarithms.

    Args:
        question: The step: centres of two coordinates, named `CLUSTERS`.
        window_days: How long the window is, in days.
        end_ms: Where it ends, milliseconds since the epoch.

    Raises:
        InputError: The question is another one.
    """
    if question.name != CLUSTERS or question.centres.shape[1] != 2:
        raise InputError(f"Customers' clusters are asked as {CLUSTERS}, over two coordinates.")

    def rows(purchases: Purchases) -> Contributions:
        owner, day = _purchase_days(purchases)
        names, first, days = np.unique(owner, return_index=True, return_counts=True)
        newest = day[first + days - 1]
        since = np.maximum(end_ms // _DAY_MS - newest, 0)
        points = np.column_stack([_unit(since, window_days), _unit(days, window_days)])
        return cluster_rows(question, names, points)

    return PurchaseStatistic(question, rows, {"end_ms": end_ms, "window_days": window_days})


def growing_edges(most: float, cells: int) -> tuple[float, ...]:
    """Borders of cells that widen steadily in their logarithm: fine where customers are many.

    Args:
        most: The largest number of use, above 0, where the first cell begins.
        cells: How many cells.

    Raises:
        InputError: The numbers do not ascend.
    """
    if not (most > 0 and cells >= 2):
        raise InputError(f"There are no {cells} cells from 0 to {most:g}.")
    steps = np.expm1(np.linspace(0.0, np.log1p(most), cells + 1))
    return tuple(round(step, 6) for step in steps.tolist())


def _purchase_days(purchases: Purchases) -> tuple[LongArray, LongArray]:
    """Distinct pairs of customer and day since the epoch, ascending."""
    day = purchases.time_ms // _DAY_MS
    if len(day) == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    pairs = np.unique(np.column_stack([purchases.owner.astype(np.int64), day]), axis=0)
    return pairs[:, 0], pairs[:, 1]


def _unit(days: LongArray, most: int) -> npt.NDArray[np.float64]:
    """Days as a coordinate within −1 and 1: the logarithm, between none and the most."""
    unit: npt.NDArray[np.float64] = np.clip(2 * np.log1p(days) / np.log1p(most) - 1, -1.0, 1.0)
    return unit
