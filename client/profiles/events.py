"""From behaviour events to facts: how often, what was looked at, and carts that were left.

The latest events of each customer are kept one by one (`RECENT_EVENTS`), all others in sums. An
event that comes twice counts once, as long as it is among the latest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from client.profiles.purchases import (
    DAY_MS,
    NOBODY,
    SHARDS,
    Admitted,
    LocalTime,
    fresh,
    known_pairs,
)
from client.profiles.tables import (
    BROWSED,
    DAYS,
    KEY_BITS,
    KINDS,
    RECENT,
    Array,
    Facts,
    LongArray,
    collected,
    latest,
    pairs_of,
)
from common.catalogue import Catalogue
from common.errors import InputError

#: What customers do, by number. Kinds are added at the end alone: the numbers are kept.
KIND_NAMES = ("view", "click", "search", "cart", "favourite", "dwell", "abandon", "purchase")
VIEW, CLICK, SEARCH, CART, FAVOURITE, DWELL, ABANDON, PURCHASE = range(len(KIND_NAMES))
#: Kinds by which a customer looks at a category.
LOOKING = (VIEW, CLICK, SEARCH, DWELL)
COLUMNS = ("customer", "time", "kind", "item", "category")

_NO_CATEGORY = -1
_MOST_DAYS = 1 << 16
_MARK_MASK = np.uint64((1 << KEY_BITS) - 1)
_PRIME, _SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(29)
_NAMES = ("rank", "kind", "time_ms", "category", "day", "digest")


class EventCollector:
    """Takes tables of events in and gives their facts, shard by shard.

    Args:
        admitted: Whose events count; all others' are passed over.
        catalogue: The public catalogue, which says what category an item is of.
        local: The region's local time.
        until_ms: What is later, or at that moment, is passed over; None takes everything in.
    """

    def __init__(
        self,
        admitted: Admitted,
        catalogue: Catalogue,
        local: LocalTime,
        *,
        until_ms: int | None = None,
    ) -> None:
        self._admitted = admitted
        self._until_ms = np.iinfo(np.int64).max if until_ms is None else until_ms
        self._catalogue = catalogue
        self._category_of = {name: n for n, name in enumerate(catalogue.category_names)}
        self._local = local
        self._held: list[dict[str, Array]] = []
        #: Events of kinds that are not known, which are passed over.
        self.unknown_kinds = 0

    def add(self, events: pa.Table) -> None:
        """Takes events in.

        Args:
            events: With the columns `COLUMNS`: customer, kind, item and category are text
                (dictionaries or not), time is a timestamp; item and category may be null, or
                missing altogether.

        Raises:
            InputError: A column is missing.
        """
        missing = {"customer", "time", "kind"} - set(events.column_names)
        if missing:
            raise InputError(
                f"A table of events has no column {min(missing)!r}.",
                remedy="Declare customer, time and kind of the region's events.",
            )
        rank, kind = self._codes(events, "customer"), self._codes(events, "kind")
        times = events["time"].combine_chunks().cast(pa.timestamp("ms", "UTC"))
        time_ms = times.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
        category = self._codes(events, "category")
        category = np.where(category == _NO_CATEGORY, self._codes(events, "item"), category)
        self.unknown_kinds += int((kind < 0).sum())
        day = self._local.local_ms(time_ms) // DAY_MS
        inside = (time_ms >= 0) & (time_ms < self._until_ms) & (day >= 0) & (day < _MOST_DAYS)
        kept = np.flatnonzero((rank != NOBODY) & (kind >= 0) & inside)
        arrays = {"rank": rank, "kind": kind, "time_ms": time_ms, "category": category, "day": day}
        arrays["digest"] = _digests(time_ms, kind, category, _texts(events, "item"))
        self._held.append({name: values[kept] for name, values in arrays.items()})

    def shards(self) -> list[int]:
        """The shards that something waits for."""
        rank = self._waiting()["rank"]
        return [shard for shard in range(SHARDS) if len(self._of(rank, shard))]

    def customers(self, shard: int) -> Array:
        """S32[n]: the customers of one shard that events wait of, ascending."""
        rank = self._waiting()["rank"]
        own: Array = self._admitted.sids[np.unique(rank[self._of(rank, shard)])]
        return own

    def facts(self, shard: int, known: Facts | None = None) -> Facts:
        """The facts of one shard's events.

        Args:
            shard: The shard.
            known: What is known of its customers: the latest events are not counted again.
        """
        waiting, sids = self._waiting(), self.customers(shard)
        rows = self._of(waiting["rank"], shard)
        rank, kind, time_ms, category, day, digest = (each[rows] for each in waiting.values())
        owner = np.searchsorted(sids, self._admitted.sids[rank])
        new = fresh(pairs_of(owner, digest), known_pairs(sids, known, RECENT))
        owner, kind, time_ms, category, day, digest = (
            each[new] for each in (owner, kind, time_ms, category, day, digest)
        )
        one = np.ones(len(owner), dtype=np.int64)
        looked = np.isin(kind, LOOKING) & (category != _NO_CATEGORY)
        recent = collected(RECENT, owner, digest, {"time_ms": time_ms, "kind": kind})
        return Facts(
            sids,
            {
                KINDS: collected(KINDS, owner, kind, {"count": one, "last_ms": time_ms}),
                BROWSED: collected(
                    BROWSED,
                    owner[looked],
                    category[looked],
                    {"count": one[looked], "first_day": day[looked], "last_day": day[looked]},
                ),
                RECENT: latest(recent),
            },
        )

    def _waiting(self) -> dict[str, Array]:
        """All events that were taken in, as one."""
        if len(self._held) != 1:
            none = dict.fromkeys(_NAMES, np.zeros(0, dtype=np.int64))
            parts = self._held or [none]
            joined = {name: np.concatenate([each[name] for each in parts]) for name in _NAMES}
            self._held = [joined]
        return self._held[0]

    def _of(self, rank: Array, shard: int) -> LongArray:
        low, high = self._admitted.bounds[shard], self._admitted.bounds[shard + 1]
        return np.flatnonzero((rank >= low) & (rank < high)).astype(np.int64)

    def _codes(self, events: pa.Table, name: str) -> LongArray:
        """int64[n]: what each row's value is by number, −1 for none; looked up once a value."""
        if name not in events.column_names:
            return np.full(len(events), _NO_CATEGORY, dtype=np.int64)
        values, codes = _coded(events, name)
        numbers = np.append(self._numbers(name, values), -1)
        found: LongArray = numbers[codes].astype(np.int64)
        return found

    def _numbers(self, name: str, values: list[Any]) -> LongArray:
        if name == "customer":
            return self._admitted.ranks(values).astype(np.int64)
        if name == "kind":
            known = {kind: number for number, kind in enumerate(KIND_NAMES)}
            return np.array([known.get(each, -1) for each in values], dtype=np.int64)
        if name == "category":
            find = self._category_of.get
            return np.array([find(each, _NO_CATEGORY) for each in values], dtype=np.int64)
        items = self._catalogue.positions([str(each) for each in values])
        category = np.append(self._catalogue.category, _NO_CATEGORY)
        return category[items].astype(np.int64)


def carts_left_in_a_row(
    facts: Facts, local: LocalTime, *, now_ms: int, after_ms: int
) -> npt.NDArray[np.int64]:
    """int64[n]: how many carts each customer has left since she last bought something.

    A cart is left if an event says so, or if nothing was bought within a time after it; carts
    within that time of each other are one. A day with a purchase in the store ends when the day
    does.

    Args:
        facts: The customers' facts.
        local: The region's local time.
        now_ms: The time, milliseconds since the epoch.
        after_ms: After how long a cart counts as left.
    """
    recent, days = facts[RECENT], facts[DAYS]
    decisive = np.isin(recent.columns["kind"], (CART, ABANDON, PURCHASE))
    owner, time_ms = recent.owner[decisive], recent.columns["time_ms"][decisive]
    kind = recent.columns["kind"][decisive]
    # Only of customers with carts: all others have left none.
    shopping = np.isin(days.owner, owner)
    bought_ms = local.day_ends_ms(days.key[shopping].astype(np.int64))
    owner = np.concatenate([owner, days.owner[shopping]]).astype(np.int64)
    time_ms = np.concatenate([time_ms, bought_ms])
    kind = np.concatenate([kind, np.full(len(bought_ms), PURCHASE)])
    order = np.lexsort((time_ms, owner))
    owner, time_ms, kind = owner[order], time_ms[order], kind[order]
    same = np.append(owner[1:] == owner[:-1], False)
    next_ms = np.where(same, np.append(time_ms[1:], 0), now_ms)
    left = (kind == ABANDON) | ((kind == CART) & (next_ms - time_ms > after_ms))
    place = np.arange(len(owner))
    last_bought = np.full(len(facts), -1, dtype=np.int64)
    np.maximum.at(last_bought, owner[kind == PURCHASE], place[kind == PURCHASE])
    counted = left & (place > last_bought[owner])
    return np.bincount(owner[counted], minlength=len(facts)).astype(np.int64)


def _coded(events: pa.Table, name: str) -> tuple[list[Any], Array]:
    """A column's distinct values, and each row's as a place among them; past the end for null."""
    column = events[name].combine_chunks()
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    values = column.dictionary.to_pylist()
    codes = column.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)
    return values, codes


def _texts(events: pa.Table, name: str) -> npt.NDArray[np.uint64]:
    """uint64[n]: a digest of each row's text in a column; 0 where there is none."""
    if name not in events.column_names:
        return np.zeros(len(events), dtype=np.uint64)
    values, codes = _coded(events, name)
    digests = pd.util.hash_array(np.array(values, dtype=object), categorize=False)
    found: npt.NDArray[np.uint64] = np.append(digests, np.uint64(0)).astype(np.uint64)[codes]
    return found


def _digests(
    time_ms: LongArray, kind: LongArray, category: LongArray, item: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """uint64[n], below 2^40: what makes an event of one customer the same event."""
    packed = item
    for values in (time_ms, kind, category):
        packed = (packed ^ pd.util.hash_array(values)) * _PRIME
        packed ^= packed >> _SHIFT
    return packed & _MARK_MASK
