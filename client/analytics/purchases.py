"""Statistics of purchases: what a region's store can answer as it is.

Each is a `client.training.bounded_sums.Statistic`: a question, and how purchases become its facts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from client.analytics.rows import (
    LongArray,
    count_rows,
    cut_rows,
    funnel_rows,
    share_rows,
    trend_rows,
)
from client.data.transactions import Purchases
from client.recommend.local_statistics import WEEKDAYS, Clock
from client.training.bounded_sums import Contributions
from common.analytics.answers import array_of
from common.analytics.purchase_questions import (
    CELLS,
    DAY_MS,
    MOST_CATEGORIES,
    MOST_DAYS,
    STAGES,
    category_question,
    category_trend_question,
    frequency_question,
    recency_question,
    repeat_question,
    scene_question,
)
from common.analytics.question_records import Question
from common.canonical_json import JsonValue
from common.catalogue import Catalogue
from common.errors import InputError
from common.parameters import ArraySpec


@dataclass(frozen=True, eq=False)
class PurchaseStatistic:
    """A question, asked of purchases or of what lies beside them.

    Attributes:
        question: What is asked.
        rows: Makes customers' rows of their purchases within the window.
        more: Public constants that the rows depend on besides the question's.
        tables: The further tables whose rows have to lie beside the purchases.
    """

    question: Question
    rows: Callable[[Purchases], Contributions] = field(repr=False)
    more: Mapping[str, JsonValue] = field(default_factory=dict)
    tables: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The query's name, which a region's policy allows or does not."""
        return self.question.name

    @property
    def spec(self) -> ArraySpec:
        """One vector."""
        return ArraySpec(array_of(self.name), "<f4", (self.question.size,))

    @property
    def parameters(self) -> dict[str, JsonValue]:
        """The question's, and those of how it is asked."""
        return {**self.question.parameters, **self.more}

    def contributions(self, purchases: Purchases) -> Contributions:
        """What customers add; see `client.training.bounded_sums.Statistic`.

        Raises:
            InputError: A table that it takes rows of was not given.
        """
        missing = [name for name in self.tables if name not in purchases.further]
        if missing:
            raise InputError(f"{self.name}: rows of the table {missing[0]} were not given.")
        return self.rows(purchases)


def category_customers(catalogue: Catalogue, *, most: int = MOST_CATEGORIES) -> PurchaseStatistic:
    """How many customers buy each category of the public catalogue."""
    question = category_question(catalogue.category_names, most=most)

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
    question = category_trend_question(catalogue.category_names, most=most, threshold=threshold)

    def rows(purchases: Purchases) -> Contributions:
        group = catalogue.category[purchases.item].astype(np.int64)
        later = purchases.time_ms >= later_from_ms
        return trend_rows(question, purchases.owner.astype(np.int64), group, later)

    return PurchaseStatistic(question, rows, {"later_from_ms": later_from_ms})


def purchase_scenes(clock: Clock) -> PurchaseStatistic:
    """When customers buy: parts of the day × weekdays."""
    question = scene_question(clock.dayparts)

    def rows(purchases: Purchases) -> Contributions:
        daypart, weekday = moments_of(purchases.time_ms, clock)
        cell = daypart * WEEKDAYS + weekday
        # Hours that belong to no part of the day are outside the table.
        known = daypart >= 0
        return share_rows(question, purchases.owner.astype(np.int64)[known], cell[known])

    return PurchaseStatistic(question, rows, {"clock": clock.to_record()})


def moments_of(time_ms: LongArray, clock: Clock) -> tuple[LongArray, LongArray]:
    """The part of the day, −1 where none has the hour, and the weekday, Monday first, of moments.

    Args:
        time_ms: int64[n], milliseconds since the epoch.
        clock: How they are told apart.
    """
    local = pd.DatetimeIndex(time_ms.astype("datetime64[ms]"), tz="UTC").tz_convert(clock.zone)
    hour = np.asarray(local.hour, dtype=np.int64)
    return clock.daypart(hour), np.asarray(local.day_of_week, dtype=np.int64)


def recency_cuts(*, window_days: int, end_ms: int, cells: int = CELLS) -> PurchaseStatistic:
    """Quantiles of the days from each customer's last purchase to the window's end.

    Args:
        window_days: How long the window is, in days: nobody's number is above it.
        end_ms: Where it ends, milliseconds since the epoch.
        cells: How many cells the days are told apart by.
    """
    question = recency_question(window_days=window_days, cells=cells)

    def rows(purchases: Purchases) -> Contributions:
        names, whose = np.unique(purchases.owner.astype(np.int64), return_inverse=True)
        last_ms = np.full(len(names), np.iinfo(np.int64).min)
        np.maximum.at(last_ms, whose, purchases.time_ms)
        return cut_rows(question, names, (end_ms - last_ms) / DAY_MS)

    return PurchaseStatistic(question, rows, {"end_ms": end_ms})


def frequency_cuts(*, most_days: int = MOST_DAYS, cells: int = CELLS) -> PurchaseStatistic:
    """Quantiles of the number of days (in UTC) on which each customer bought something."""
    question = frequency_question(most_days=most_days, cells=cells)

    def rows(purchases: Purchases) -> Contributions:
        owner, _ = purchase_days(purchases)
        names, days = np.unique(owner, return_counts=True)
        return cut_rows(question, names, days.astype(np.float64))

    return PurchaseStatistic(question, rows)


def repeat_purchases(*, stages: int = STAGES) -> PurchaseStatistic:
    """How many customers bought on one day, on a second one, and so on.

    Raises:
        InputError: There are no two stages.
    """
    question = repeat_question(stages=stages)

    def rows(purchases: Purchases) -> Contributions:
        owner, day = purchase_days(purchases)
        # The days are ascending for each owner: a day's number is its distance from the first.
        number = np.arange(len(owner)) - np.searchsorted(owner, owner, side="left")
        kept = number < stages
        return funnel_rows(question, owner[kept], number[kept], day[kept] * DAY_MS)

    return PurchaseStatistic(question, rows)


def purchase_days(purchases: Purchases) -> tuple[LongArray, LongArray]:
    """Distinct pairs of customer and day since the epoch, ascending."""
    day = purchases.time_ms // DAY_MS
    if len(day) == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    pairs = np.unique(np.column_stack([purchases.owner.astype(np.int64), day]), axis=0)
    return pairs[:, 0], pairs[:, 1]
