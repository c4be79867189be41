"""Statistics of behaviour events: how far customers come, what they do, what they look at."""

from __future__ import annotations

import numpy as np

from client.analytics.purchases import PurchaseStatistic
from client.analytics.rows import LongArray, count_rows, funnel_rows
from client.data.table_rows import NONE, TableRows
from client.data.tables.schema import EVENTS
from client.data.transactions import Purchases
from client.training.bounded_sums import Contributions
from common.analytics.funnels import Funnel
from common.analytics.further_questions import EVENT_KINDS, JOURNEY_STAGES, STAGE_OF
from common.analytics.groups import Groups
from common.analytics.purchase_questions import DAY_MS
from common.catalogue import Catalogue

_PURCHASE, _REPEAT = JOURNEY_STAGES.index("purchase"), JOURNEY_STAGES.index("repeat")
_STAGE_OF_KIND = np.array([JOURNEY_STAGES.index(STAGE_OF[kind]) for kind in EVENT_KINDS] + [NONE])


def journey_funnel(question: Funnel) -> PurchaseStatistic:
    """How far customers come: seen or searched, looked into, put into the cart, bought, came back.

    Each stage counts after the one before it. Coming back is buying on a later day (in UTC) than
    the purchase that counted. Whoever only buys, and was never seen before, is in no stage.
    """

    def rows(purchases: Purchases) -> Contributions:
        events = purchases.further[EVENTS]
        stage = _STAGE_OF_KIND[events.text("kind").among(EVENT_KINDS)]
        seen = stage != NONE
        bought = purchases.owner.astype(np.int64)
        # A moment before its day: after every purchase of the days before, and none of its own.
        later_day_ms = purchases.time_ms // DAY_MS * DAY_MS - 1
        return funnel_rows(
            question,
            np.concatenate([events.owner[seen].astype(np.int64), bought, bought]),
            np.concatenate(
                [stage[seen], np.full(len(bought), _PURCHASE), np.full(len(bought), _REPEAT)]
            ),
            np.concatenate([events.time_ms[seen], purchases.time_ms, later_day_ms]),
        )

    return PurchaseStatistic(question, rows, tables=(EVENTS,))


def events_done(question: Groups) -> PurchaseStatistic:
    """How many customers do each kind of thing."""

    def rows(purchases: Purchases) -> Contributions:
        events = purchases.further[EVENTS]
        kind = events.text("kind").among(question.labels)
        known = kind != NONE
        return count_rows(question, events.owner.astype(np.int64)[known], kind[known])

    return PurchaseStatistic(question, rows, tables=(EVENTS,))


def browsed_categories(question: Groups, catalogue: Catalogue) -> PurchaseStatistic:
    """How many customers look at each category, by the event's category or its item's."""

    def rows(purchases: Purchases) -> Contributions:
        events = purchases.further[EVENTS]
        group = _categories(events, question.labels, catalogue)
        known = group != NONE
        return count_rows(question, events.owner.astype(np.int64)[known], group[known])

    return PurchaseStatistic(question, rows, tables=(EVENTS,))


def _categories(events: TableRows, labels: tuple[str, ...], catalogue: Catalogue) -> LongArray:
    """int64[n]: the category of each event, as a position among public labels."""
    stated, items = events.text("category").among(labels), events.text("item")
    number = [catalogue.index_of.get(item, NONE) for item in items.labels]
    category = np.append(catalogue.category.astype(np.int64), NONE)
    of_item = category[np.array([*number, NONE], dtype=np.int64)[items.codes]]
    return np.where(stated != NONE, stated, of_item)
