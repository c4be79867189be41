"""Statistics of receipts: in which kind of store customers buy when, how they pay, what returns."""

from __future__ import annotations

import numpy as np

from client.analytics.purchases import PurchaseStatistic, moments_of
from client.analytics.rows import share_rows
from client.data.table_rows import NONE
from client.data.transactions import Purchases
from client.recommend.local_statistics import WEEKDAYS, Clock
from client.training.bounded_sums import Contributions
from common.analytics.further_questions import KEPT_OR_RETURNED
from common.analytics.shares import Shares
from common.canonical_json import JsonValue

#: The table of receipts' rows; the store's purchases keep none of what is asked here.
RECEIPTS = "purchases"


def store_scenes(question: Shares, clock: Clock, more: dict[str, JsonValue]) -> PurchaseStatistic:
    """Where and when customers buy: types of stores × parts of the day × weekdays.

    Args:
        question: What is asked.
        clock: How moments are told apart.
        more: The public constants of it.
    """
    types, dayparts = question.axes[0], len(question.axes[1])

    def rows(purchases: Purchases) -> Contributions:
        receipts = purchases.further[RECEIPTS]
        kind = receipts.text("store_type").among(types)
        daypart, weekday = moments_of(receipts.time_ms, clock)
        known = (kind != NONE) & (daypart >= 0)
        cell = (kind * dayparts + daypart) * WEEKDAYS + weekday
        return share_rows(question, receipts.owner.astype(np.int64)[known], cell[known])

    return PurchaseStatistic(question, rows, more, tables=(RECEIPTS,))


def payment_shares(question: Shares) -> PurchaseStatistic:
    """How customers pay: the mean of each one's own shares."""

    def rows(purchases: Purchases) -> Contributions:
        receipts = purchases.further[RECEIPTS]
        way = receipts.text("payment").among(question.axes[0])
        known = way != NONE
        return share_rows(question, receipts.owner.astype(np.int64)[known], way[known])

    return PurchaseStatistic(question, rows, tables=(RECEIPTS,))


def return_shares(question: Shares) -> PurchaseStatistic:
    """Which share of what they buy customers give back: the mean of each one's own share.

    A row that says nothing of returns counts neither way: where none does, nothing is known, which
    is not that nothing came back.
    """
    returned = KEPT_OR_RETURNED.index("returned")

    def rows(purchases: Purchases) -> Contributions:
        receipts = purchases.further[RECEIPTS]
        given_back = receipts.number("returned")
        known = ~np.isnan(given_back)
        cell = np.where(given_back[known] > 0, returned, 1 - returned)
        return share_rows(question, receipts.owner.astype(np.int64)[known], cell.astype(np.int64))

    return PurchaseStatistic(question, rows, tables=(RECEIPTS,))
