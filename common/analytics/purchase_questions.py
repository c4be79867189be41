"""The questions that purchases answer, as public constants: what both sides understand by a name.

The region makes customers' rows for them (`client.analytics.purchases`); whoever makes a plan needs
no more than this to ask.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from common.analytics.clusters import Clusters
from common.analytics.coordinates import WEEKEND, Coordinate
from common.analytics.cuts import Cuts
from common.analytics.estimates import FloatArray
from common.analytics.funnels import Funnel
from common.analytics.groups import Groups
from common.analytics.shares import Shares
from common.analytics.trends import Trend
from common.canonical_json import JsonValue
from common.errors import InputError

CATEGORIES, CATEGORY_TREND = "category-customers", "category-trend"
SCENES, REPEATS = "purchase-scenes", "repeat-purchases"
RECENCY, FREQUENCY, CLUSTERS = "recency-cuts", "frequency-cuts", "purchase-clusters"

DAY_MS = 86_400_000
WEEKDAY_NAMES = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
#: In how many categories one customer counts: what most of her purchases are of.
MOST_CATEGORIES = 16
#: Purchase days beyond this many count as so many: the last cell of frequencies.
MOST_DAYS = 400
#: Into how many cells the days are parted that recency and frequency are told by.
CELLS = 64
STAGES = 4


def category_question(categories: Iterable[str], *, most: int = MOST_CATEGORIES) -> Groups:
    """How many customers buy each category.

    Args:
        categories: The public catalogue's categories, in order.
        most: In how many of them one customer counts at most.
    """
    return Groups.counts(CATEGORIES, tuple(categories), most=most)


def category_trend_question(
    categories: Iterable[str], *, most: int = MOST_CATEGORIES, threshold: float = 2.0
) -> Trend:
    """How the customers of each category change from one period to the next.

    Args:
        categories: The public catalogue's categories, in order.
        most: In how many of them one customer counts at most, in each period.
        threshold: The change that alerts.
    """
    return Trend(CATEGORY_TREND, tuple(categories), most, threshold)


def scene_question(dayparts: Iterable[str]) -> Shares:
    """When customers buy: parts of the day × weekdays."""
    return Shares(SCENES, (tuple(dayparts), WEEKDAY_NAMES))


def recency_question(*, window_days: int, cells: int = CELLS) -> Cuts:
    """Quantiles of the days since each customer's last purchase.

    Args:
        window_days: How long the window is, in days: nobody's number is above it.
        cells: How many cells the days are told apart by.
    """
    return Cuts(RECENCY, growing_edges(window_days, cells), unit="days")


def frequency_question(*, most_days: int = MOST_DAYS, cells: int = CELLS) -> Cuts:
    """Quantiles of the number of days (in UTC) on which each customer bought something."""
    # Numbers of days are whole: a border between each two of the small ones.
    growing = growing_edges(most_days, cells)
    edges = tuple(sorted({math.floor(each) + 0.5 for each in growing}))
    return Cuts(FREQUENCY, edges, unit="days with purchases")


def repeat_question(*, stages: int = STAGES) -> Funnel:
    """How many customers bought on one day, on a second one, and so on.

    Raises:
        InputError: There are no two stages.
    """
    return Funnel(REPEATS, tuple(f"purchase-{n}" for n in range(1, stages + 1)))


def cluster_question(
    coordinates: tuple[Coordinate, ...], centres: FloatArray, *, steps: int
) -> Clusters:
    """Into which clusters customers fall by their purchases.

    Args:
        coordinates: What points are made of.
        centres: float64[clusters, coordinates], where the first step begins.
        steps: How many steps.

    Raises:
        InputError: They do not go together.
    """
    return Clusters(CLUSTERS, coordinates, centres, steps)


def cluster_constants(
    question: Clusters, *, end_ms: int, clock: Mapping[str, JsonValue]
) -> dict[str, JsonValue]:
    """The public constants that points depend on besides the question's.

    Args:
        question: What is asked.
        end_ms: End of the window, milliseconds since the epoch.
        clock: How moments are told apart, as JSON values.
    """
    told_apart = any(each.measure == WEEKEND for each in question.coordinates)
    return {"end_ms": end_ms, **({"clock": dict(clock)} if told_apart else {})}


def window_days(start_ms: int, end_ms: int) -> int:
    """How many days a window has, those begun included; 1 at least.

    Args:
        start_ms: Its begin, milliseconds since the epoch, inclusive.
        end_ms: Its end, exclusive.
    """
    return max(1, -(-(end_ms - start_ms) // DAY_MS))


def most_purchase_days(days: int) -> int:
    """Beyond how many days with purchases nobody is told apart, in a window of so many days."""
    return min(MOST_DAYS, max(2, days))


def later_from(start_ms: int, end_ms: int) -> int:
    """Where a trend's later period begins: in the middle of the window, in milliseconds."""
    return start_ms + (end_ms - start_ms) // 2


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
