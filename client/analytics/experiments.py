"""Statistics of experiments: what customers do after they were shown something, arm against arm.

Customers are compared by the arm that they were drawn into, whatever they did with what they were
shown (intention to treat), and followed for the same number of days from their first exposure; one
whose days are not over by the window's end is left out. So is one who was in both arms: of her it
cannot be said which it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from client.analytics.purchases import PurchaseStatistic
from client.analytics.rows import LongArray, uplift_rows
from client.data.table_rows import NONE, TableRows
from client.data.tables.schema import CONTROL, EVENTS, EXPOSURES, TREATED
from client.data.transactions import Purchases
from client.training.bounded_sums import Contributions
from common.analytics.further_questions import CLICK_UPLIFT, REPURCHASE_UPLIFT, Named
from common.analytics.purchase_questions import DAY_MS
from common.analytics.uplift import Uplift
from common.canonical_json import JsonValue

#: The arms of the table of exposures, in the order of `Uplift`'s cells.
ARMS = (CONTROL, TREATED)

BoolArray = npt.NDArray[np.bool_]


def uplift(
    question: Uplift, named: Named, *, end_ms: int, more: dict[str, JsonValue]
) -> PurchaseStatistic:
    """Clicks, purchases or repurchases after the first exposure, by arm.

    Clicks count on what a customer was shown, or on anything if her exposures do not say what it
    was; purchases count whatever was bought.

    Args:
        question: What is asked; its name says which.
        named: Which experiment, and for how many days.
        end_ms: End of the window, milliseconds since the epoch.
        more: The public constants of it.
    """
    clicks = question.name == CLICK_UPLIFT

    def rows(purchases: Purchases) -> Contributions:
        followed = _followed(purchases, named, end_ms)
        if clicks:
            events = purchases.further[EVENTS]
            clicked = _clicks_on_shown(events, purchases.further[EXPOSURES], named)
            whose = events.owner[clicked].astype(np.int64)
            count = followed.counts(whose, events.time_ms[clicked], by_day=False)
        else:
            whose = purchases.owner.astype(np.int64)
            count = followed.counts(whose, purchases.time_ms, by_day=True)
        did = count >= (2 if question.name == REPURCHASE_UPLIFT else 1)
        return uplift_rows(question, followed.owner, followed.treated, did)

    tables = (EXPOSURES, EVENTS) if clicks else (EXPOSURES,)
    return PurchaseStatistic(question, rows, more, tables=tables)


@dataclass(frozen=True, eq=False)
class _Followed:
    """The customers of an experiment who were followed to the end.

    Attributes:
        owner: int64[n], distinct, ascending.
        treated: bool[n], their arms.
        first_ms: int64[n], when each was first shown something, milliseconds since the epoch.
        days: For how many days they are followed.
    """

    owner: LongArray = field(repr=False)
    treated: BoolArray = field(repr=False)
    first_ms: LongArray = field(repr=False)
    days: int

    def counts(self, owner: LongArray, time_ms: LongArray, *, by_day: bool) -> LongArray:
        """int64[n]: how often each did something in her days, or on how many days (in UTC)."""
        if not len(self.owner):
            return np.zeros(0, dtype=np.int64)
        place = np.minimum(np.searchsorted(self.owner, owner), len(self.owner) - 1)
        begun = self.first_ms[place]
        inside = self.owner[place] == owner
        inside &= (time_ms >= begun) & (time_ms < begun + self.days * DAY_MS)
        place, moment = place[inside], time_ms[inside]
        if by_day and len(place):
            place = np.unique(np.column_stack([place, moment // DAY_MS]), axis=0)[:, 0]
        return np.bincount(place, minlength=len(self.owner))


def _clicks_on_shown(events: TableRows, exposures: TableRows, named: Named) -> BoolArray:
    """bool[n]: the events that are clicks on what their customer was shown."""
    clicked = events.text("kind").among(["click"]) != NONE
    shown = exposures.text("experiment").among([named.experiment]) != NONE
    items = exposures.text("item")
    n_items = len(items.labels) + 1
    # Beside each customer's items the last place, which stands for anything.
    pairs = exposures.owner[shown].astype(np.int64) * n_items + items.codes[shown] % n_items
    whose = events.owner.astype(np.int64) * n_items
    item = events.text("item").among(items.labels)
    on_shown = (item != NONE) & np.isin(whose + item, pairs)
    counted: BoolArray = clicked & (on_shown | np.isin(whose + n_items - 1, pairs))
    return counted


def _followed(purchases: Purchases, named: Named, end_ms: int) -> _Followed:
    exposures = purchases.further[EXPOSURES]
    arm = exposures.text("arm").among(ARMS)
    kept = (exposures.text("experiment").among([named.experiment]) != NONE) & (arm != NONE)
    owner, whose = np.unique(exposures.owner[kept].astype(np.int64), return_inverse=True)
    first_ms = np.full(len(owner), np.iinfo(np.int64).max)
    np.minimum.at(first_ms, whose, exposures.time_ms[kept])
    in_arm = np.zeros((len(owner), len(ARMS)), dtype=bool)
    in_arm[whose, arm[kept]] = True
    complete = ~in_arm.all(axis=1) & (first_ms <= end_ms - named.follow_days * DAY_MS)
    return _Followed(owner[complete], in_arm[complete, 1], first_ms[complete], named.follow_days)
