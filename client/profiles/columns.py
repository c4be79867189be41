"""What the facts say at one moment: numbers about each customer, which tags are rules over.

A number that is not known is NaN, and no rule holds of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from client.profiles.clusters import Groups
from client.profiles.events import (
    CART,
    CLICK,
    FAVOURITE,
    SEARCH,
    VIEW,
    carts_left_in_a_row,
)
from client.profiles.lifetime import BuyingModel, SpendingModel
from client.profiles.purchases import DAY_MS, RETURN, WEEKDAYS, LocalTime
from client.profiles.rfm import Cuts
from client.profiles.tables import (
    BROWSED,
    CATEGORIES,
    DAYS,
    KINDS,
    MEMBER,
    MEMBER_FACTS,
    SCENES,
    Array,
    Facts,
    FactTable,
    LongArray,
    pairs_of,
)

FloatArray = npt.NDArray[np.float64]

YEAR_DAYS, QUARTER_DAYS, MONTH_DAYS = 365, 90, 30
#: Lifetime value looks so far ahead, in weeks; times are told apart by weeks.
AHEAD_WEEKS = 52
_DAYS_PER_WEEK, _HUNDREDTHS = 7, 100.0
# Monday is 0.
_SATURDAY = 5

#: Numbers about a customer, in the order in which they are shown; `locales` has their names.
CUSTOMER_FACTS = (
    "member_for_days", "age_years", "customer_for_days", "days_since_purchase",
    "purchase_days", "purchase_days_30", "purchase_days_90", "purchase_days_365", "items",
    "mean_gap_days", "gaps_since_purchase", "returned_share", "spend", "spend_90", "spend_365",
    "spend_per_day", "spend_change", "categories", "top_category_share", "weekend_share",
    "views", "clicks", "searches", "carts", "favourites", "days_since_event",
    "carts_left_in_a_row", "categories_browsed",
    "recency_score", "frequency_score", "monetary_score", "alive", "expected_purchases",
    "lifetime_value", "group",
)  # fmt: skip
#: The share of purchases in each part of the day: this and the part's name.
SHARE_OF = "share_"
#: Numbers about a customer and a category.
CATEGORY_FACTS = (
    "category_items", "category_share", "category_days_since", "category_views",
    "category_first_view_days", "category_bought_before",
)  # fmt: skip
#: Numbers that rest on other customers' data too.
RELATIVE_FACTS = frozenset(
    {"recency_score", "frequency_score", "monetary_score", "alive", "expected_purchases"}
    | {"lifetime_value", "group"}
)


@dataclass(frozen=True)
class Models:
    """What profiles compare a customer with.

    Attributes:
        cuts: Of recency, frequency and monetary value.
        buying: When customers buy again, in weeks; None where there are too few to tell.
        spending: For how much; None without amounts, or where there are too few.
        groups: Groups of customers; None where there are too few.
    """

    cuts: Cuts
    buying: BuyingModel | None = None
    spending: SpendingModel | None = None
    groups: Groups | None = None


@dataclass(frozen=True)
class Moment:
    """When profiles are judged, and by what.

    Attributes:
        now_ms: The time, milliseconds since the epoch.
        local: The region's local time.
        stated: The columns that all purchases have, such as ``amount``.
        cart_left_after_ms: After how long a cart counts as left.
    """

    now_ms: int
    local: LocalTime
    stated: frozenset[str]
    cart_left_after_ms: int

    @property
    def amounts(self) -> bool:
        """Whether the store says what was paid."""
        return "amount" in self.stated

    @property
    def day(self) -> int:
        """The local day."""
        return self.local.day(self.now_ms)


@dataclass(frozen=True, eq=False)
class Columns:
    """Numbers about some customers.

    Attributes:
        values: float64[n] each, by the fact's name; NaN where it is not known.
        owner: int64[m], the customer of each pair of customer and category, ascending.
        category: int64[m], the category.
        pairs: float64[m] each, by the fact's name.
    """

    values: Mapping[str, FloatArray] = field(repr=False)
    owner: LongArray = field(repr=False)
    category: LongArray = field(repr=False)
    pairs: Mapping[str, FloatArray] = field(repr=False)


def columns_of(facts: Facts, moment: Moment, models: Models | None = None) -> Columns:
    """The numbers about some customers at a moment.

    Args:
        facts: Their facts.
        moment: When, and by what.
        models: What they are compared with; without, all that compares is unknown.
    """
    day = moment.day
    values = buying_columns(facts, day, amounts=moment.amounts)
    values |= _breadth(facts, values["items"])
    values |= _scenes(facts, moment.local)
    if "returned" in moment.stated:
        back = _of_kind(facts[KINDS], len(facts), RETURN)
        values["returned_share"] = _ratio(back, values["items"])
    values |= _events(facts, moment)
    values |= _member(facts, day)
    if models is not None:
        values |= _compared(values, models)
    known = {name: np.full(len(facts), np.nan) for name in CUSTOMER_FACTS} | values
    owner, category, pairs = _pairs(facts, day, known["items"])
    return Columns(MappingProxyType(known), owner, category, MappingProxyType(pairs))


def _sums(table: FactTable, rows: int, values: FloatArray) -> FloatArray:
    sums: FloatArray = np.bincount(table.owner, weights=values, minlength=rows).astype(np.float64)
    return sums


def _ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    ratio: FloatArray = np.full(len(above), np.nan)
    np.divide(above, below, out=ratio, where=below > 0)
    return ratio


def buying_columns(facts: Facts, day: int, *, amounts: bool) -> dict[str, FloatArray]:
    """When customers bought, and for how much; see `CUSTOMER_FACTS`.

    Args:
        facts: Their facts.
        day: Today, as days since the epoch.
        amounts: Whether the store says what was paid.
    """
    days, n = facts[DAYS], len(facts)
    bounds = days.bounds(n)
    has = bounds[1:] > bounds[:-1]
    key = np.append(days.key.astype(np.float64), np.nan)
    first = np.where(has, key[np.where(has, bounds[:-1], -1)], np.nan)
    last = np.where(has, key[np.where(has, bounds[1:] - 1, -1)], np.nan)
    number = np.diff(bounds).astype(np.float64)
    # What each customer bought since a day is what she bought in all, less what was before it.
    rows = _running(days.columns["rows"])
    cents = _running(days.columns["cents"])
    since = {ago: _since(days, n, day - ago) for ago in (MONTH_DAYS, QUARTER_DAYS, YEAR_DAYS)}
    before = _since(days, n, day - 2 * QUARTER_DAYS)
    ends = bounds[1:]
    found = {
        "customer_for_days": day - first,
        "days_since_purchase": np.maximum(day - last, 0),
        "purchase_days": np.where(has, number, np.nan),
        "items": np.where(has, rows[ends] - rows[bounds[:-1]], np.nan),
        "mean_gap_days": _ratio(last - first, number - 1),
    }
    found["gaps_since_purchase"] = _ratio(found["days_since_purchase"], found["mean_gap_days"])
    for ago, begin in since.items():
        found[f"purchase_days_{ago}"] = np.where(has, ends - begin, np.nan)
    if amounts:
        spent = {ago: (cents[ends] - cents[begin]) / _HUNDREDTHS for ago, begin in since.items()}
        earlier = (cents[since[QUARTER_DAYS]] - cents[before]) / _HUNDREDTHS
        found["spend"] = (cents[ends] - cents[bounds[:-1]]) / _HUNDREDTHS
        found["spend_90"], found["spend_365"] = spent[QUARTER_DAYS], spent[YEAR_DAYS]
        found["spend_per_day"] = _ratio(found["spend"], number)
        found["spend_change"] = _ratio(spent[QUARTER_DAYS], earlier)
        for name in ("spend", "spend_90", "spend_365"):
            found[name] = np.where(has, found[name], np.nan)
    return found


def _breadth(facts: Facts, items: FloatArray) -> dict[str, FloatArray]:
    """How many categories each customer bought of, and the largest one's share."""
    table, n = facts[CATEGORIES], len(facts)
    most = np.zeros(n)
    np.maximum.at(most, table.owner, table.columns["rows"].astype(np.float64))
    number = np.bincount(table.owner, minlength=n).astype(np.float64)
    return {
        "categories": np.where(number > 0, number, np.nan),
        "top_category_share": _ratio(most, items),
    }


def _running(values: Array) -> LongArray:
    """int64[n + 1]: the sum of all values before each place."""
    return np.concatenate([[0], np.cumsum(values, dtype=np.int64)])


def _since(table: FactTable, rows: int, day: int) -> LongArray:
    """int64[rows]: where each customer's entries later than a day begin."""
    wanted = pairs_of(np.arange(rows), np.full(rows, max(day + 1, 0)))
    return np.searchsorted(table.pairs, wanted).astype(np.int64)


def _scenes(facts: Facts, local: LocalTime) -> dict[str, FloatArray]:
    scenes, n = facts[SCENES], len(facts)
    rows = scenes.columns["rows"].astype(np.float64)
    total = _sums(scenes, n, rows)
    part, weekday = scenes.key // WEEKDAYS, scenes.key % WEEKDAYS
    found = {"weekend_share": _ratio(_sums(scenes, n, rows * (weekday >= _SATURDAY)), total)}
    for number, name in enumerate(local.clock.dayparts):
        found[SHARE_OF + name] = _ratio(_sums(scenes, n, rows * (part == number)), total)
    return found


def _events(facts: Facts, moment: Moment) -> dict[str, FloatArray]:
    kinds, n = facts[KINDS], len(facts)
    # What was returned is known from purchases, and is nothing that a customer did on a page.
    kinds = kinds.take(np.flatnonzero(kinds.key != RETURN))
    if not len(kinds):
        return {}
    named = {"views": VIEW, "clicks": CLICK, "searches": SEARCH, "carts": CART}
    named["favourites"] = FAVOURITE
    has = np.bincount(kinds.owner, minlength=n) > 0
    found = {name: np.where(has, _of_kind(kinds, n, kind), np.nan) for name, kind in named.items()}
    newest = np.full(n, np.iinfo(np.int64).min)
    np.maximum.at(newest, kinds.owner, kinds.columns["last_ms"])
    age = (moment.now_ms - newest.astype(np.float64)) / DAY_MS
    found["days_since_event"] = np.where(has, np.maximum(np.floor(age), 0), np.nan)
    left = carts_left_in_a_row(
        facts, moment.local, now_ms=moment.now_ms, after_ms=moment.cart_left_after_ms
    )
    found["carts_left_in_a_row"] = np.where(has, left, np.nan)
    browsed = np.bincount(facts[BROWSED].owner, minlength=n)
    found["categories_browsed"] = np.where(has, browsed, np.nan)
    return found


def _of_kind(kinds: FactTable, rows: int, kind: int) -> FloatArray:
    """float64[rows]: how often each customer did something of a kind."""
    return _sums(kinds, rows, kinds.columns["count"] * (kinds.key == kind).astype(np.float64))


def _member(facts: Facts, day: int) -> dict[str, FloatArray]:
    member, n = facts[MEMBER], len(facts)
    stated = {}
    for key, name in enumerate(MEMBER_FACTS):
        stated[name] = np.full(n, np.nan)
        those = member.key == key
        stated[name][member.owner[those]] = member.columns["value"][those]
    year = np.datetime64(day, "D").astype("datetime64[Y]").astype(int) + 1970
    return {
        "member_for_days": day - stated["joined_day"],
        "age_years": year - stated["birth_year"],
    }


def rfm_points(values: Mapping[str, FloatArray]) -> FloatArray:
    """[n, 3]: recency, frequency, and monetary value (0 where amounts are not known)."""
    recency = values["days_since_purchase"]
    monetary = values.get("spend_365", np.full(len(recency), np.nan))
    if not np.isfinite(monetary).any():
        monetary = np.zeros(len(recency))
    return np.column_stack([recency, values["purchase_days_365"], monetary])


def buying_history(values: Mapping[str, FloatArray]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Repeat purchases, and weeks from the first to the last and until now; NaN for none."""
    weeks = np.floor(values["customer_for_days"] / _DAYS_PER_WEEK)
    since = np.floor(values["days_since_purchase"] / _DAYS_PER_WEEK)
    # Within one week there is no repeat purchase: that is the unit of time.
    last = np.maximum(weeks - since, 0)
    repeats = np.where(last > 0, values["purchase_days"] - 1, 0.0)
    return np.where(np.isfinite(weeks), repeats, np.nan), last, weeks


def _compared(values: Mapping[str, FloatArray], models: Models) -> dict[str, FloatArray]:
    found = {
        "recency_score": models.cuts.scores(values["days_since_purchase"], "recency"),
        "frequency_score": models.cuts.scores(values["purchase_days_365"], "frequency"),
    }
    if "spend_365" in values:
        found["monetary_score"] = models.cuts.scores(values["spend_365"], "monetary")
    if models.groups is not None:
        found["group"] = models.groups.of(rfm_points(values))
    if models.buying is not None:
        found["alive"], found["expected_purchases"] = _ahead(models.buying, values)
        if models.spending is not None and "spend_per_day" in values:
            mean = values["spend_per_day"]
            paid = np.where(mean > 0, values["purchase_days"], 0.0)
            each = models.spending.expected(paid, np.where(mean > 0, mean, 0.0))
            found["lifetime_value"] = found["expected_purchases"] * each
    return found


def _ahead(model: BuyingModel, values: Mapping[str, FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Each customer's probability to buy again, and her purchases of the next year."""
    repeats, last, age = buying_history(values)
    known = np.isfinite(repeats)
    # Many have the same history in weeks: it is looked up once.
    alike, which = np.unique(
        np.column_stack([repeats[known], last[known], age[known]]), axis=0, return_inverse=True
    )
    alive, expected = np.full(len(known), np.nan), np.full(len(known), np.nan)
    if len(alike):
        alive[known] = model.alive(*alike.T)[which.reshape(-1)]
        expected[known] = model.expected(AHEAD_WEEKS, *alike.T)[which.reshape(-1)]
    return alive, expected


def _pairs(
    facts: Facts, day: int, items: FloatArray
) -> tuple[LongArray, LongArray, dict[str, FloatArray]]:
    """Customers and categories that were bought or looked at, and the numbers about each pair."""
    bought, looked = facts[CATEGORIES], facts[BROWSED]
    both = np.union1d(bought.pairs, looked.pairs) if len(looked) else bought.pairs
    owner, category = (both >> np.uint64(40)).astype(np.int64), both & np.uint64((1 << 40) - 1)
    found = {name: np.full(len(both), np.nan) for name in CATEGORY_FACTS}
    at = np.searchsorted(both, bought.pairs)
    rows = bought.columns["rows"].astype(np.float64)
    found["category_items"][:] = 0.0
    found["category_items"][at] = rows
    found["category_share"] = _ratio(found["category_items"], items[owner])
    found["category_days_since"][at] = np.maximum(day - bought.columns["last_day"].astype(int), 0)
    if len(looked):
        first_bought = np.full(len(both), np.inf)
        first_bought[at] = bought.columns["first_day"]
        at = np.searchsorted(both, looked.pairs)
        first = looked.columns["first_day"].astype(np.float64)
        found["category_views"][at] = looked.columns["count"]
        found["category_first_view_days"][at] = np.maximum(day - first, 0)
        found["category_bought_before"][at] = first_bought[at] < first
    return owner, category.astype(np.int64), found
