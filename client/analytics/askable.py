"""What can be asked of a region's customers, by name: for itself, or by a plan of several regions.

Both ways make the same statistics of the same names. The engine makes them too, for what leaves the
region, so nothing here knows the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from client.analytics.answerability import silence_of
from client.analytics.further import further_statistic
from client.analytics.purchases import (
    PurchaseStatistic,
    category_customers,
    category_trend,
    frequency_cuts,
    purchase_scenes,
    recency_cuts,
    repeat_purchases,
)
from client.data.tables.declaration import DeclaredTables
from client.recommend.local_statistics import Clock
from common.analytics.further_questions import FURTHER, Named
from common.analytics.purchase_questions import (
    CATEGORIES,
    CATEGORY_TREND,
    FREQUENCY,
    RECENCY,
    REPEATS,
    SCENES,
    later_from,
    most_purchase_days,
    window_days,
)
from common.catalogue import Catalogue
from common.errors import InputError

#: What can be asked, in the order in which it is asked: of purchases, then of further tables.
ASKABLE = (CATEGORIES, CATEGORY_TREND, SCENES, RECENCY, FREQUENCY, REPEATS, *FURTHER)
_NO_NAMES = Named()


def answerable(
    names: Sequence[str], named: Named, declared: DeclaredTables, *, experiment: str | None = None
) -> list[str]:
    """Those of some questions that a region's tables have something to say to.

    Args:
        names: Of `ASKABLE`.
        named: The public names that its declarations list.
        declared: The further tables that it declares.
        experiment: What its recommender's own experiment is called, if it runs one.
    """
    return [
        name
        for name in names
        if named.has(name) and silence_of(name, named, declared, experiment=experiment) is None
    ]


def statistics(
    names: Sequence[str],
    catalogue: Catalogue,
    clock: Clock,
    *,
    start_ms: int,
    end_ms: int,
    named: Named = _NO_NAMES,
) -> list[PurchaseStatistic]:
    """What is asked, by name.

    Args:
        names: Of `ASKABLE`, each once.
        catalogue: The region's public catalogue.
        clock: How moments are told apart.
        start_ms: Begin of the window, milliseconds since the epoch, inclusive.
        end_ms: End of the window, exclusive. A trend is from its first half to its second.
        named: The retailer's public names, of which some questions are made.

    Raises:
        InputError: A name is unknown or twice, the window is empty, or a question needs names that
            are not given.
    """
    if len(set(names)) != len(names) or start_ms >= end_ms:
        raise InputError(
            "The same is asked twice, or the window of purchases is empty.",
            remedy="Name each question once, and let the window begin before it ends.",
        )
    days = window_days(start_ms, end_ms)
    made: dict[str, Callable[[], PurchaseStatistic]] = {
        CATEGORIES: lambda: category_customers(catalogue),
        CATEGORY_TREND: lambda: category_trend(
            catalogue, later_from_ms=later_from(start_ms, end_ms)
        ),
        SCENES: lambda: purchase_scenes(clock),
        RECENCY: lambda: recency_cuts(window_days=days, end_ms=end_ms),
        FREQUENCY: lambda: frequency_cuts(most_days=most_purchase_days(days)),
        REPEATS: repeat_purchases,
    }
    unknown = [name for name in names if name not in ASKABLE]
    if unknown:
        raise InputError(
            f"{unknown[0][:64]!r} is nothing that can be asked.",
            remedy=f"Use {', '.join(ASKABLE)}.",
        )
    return [
        made[name]()
        if name in made
        else further_statistic(name, named, catalogue, clock, end_ms=end_ms)
        for name in names
    ]
