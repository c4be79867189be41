"""From a store's purchases to the facts of those customers who may have a profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from client.profiles.tables import (
    CATEGORIES,
    DAYS,
    KEY_BITS,
    KINDS,
    MARKS,
    SCENES,
    Array,
    Facts,
    FactTable,
    LongArray,
    collected,
    pairs_of,
    raw_sids,
    sids_of,
)
from client.recommend.local_statistics import Clock
from common.catalogue import Catalogue

#: Customers are parted by the first bits of their pseudonyms, each part kept and judged by itself.
SHARDS = 32
DAY_MS, WEEKDAYS = 86_400_000, 7
#: A customer who may have no profile.
NOBODY = -1
#: The number of what was given back, beside the kinds of `client.profiles.events`.
RETURN = 100

_HOUR_MS = 3_600_000
# Day 0 of the epoch was a Thursday.
_THURSDAY = 3
_MOST_DAYS, _NEVER = 1 << 16, -1
_HUNDREDTHS = 100
_MARK_MASK = np.uint64((1 << KEY_BITS) - 1)
_MULTIPLIER, _HALF = np.uint64(0xFF51AFD7ED558CCD), np.uint64(32)


@dataclass(frozen=True, eq=False)
class PurchaseRows:
    """Purchases as a store gave them, each checked by itself.

    Attributes:
        customers: The distinct references of customers in these rows.
        customer: int32[n], each row's customer as a position in `customers`.
        item: int32[n], the item's number in the public catalogue.
        time_ms: int64[n], milliseconds since the epoch.
        amount: float64[n], what was paid; NaN where it is not stated.
        rest: uint64[n], a digest of what tells rows of one customer and moment apart.
        returned: bool[n], whether some of it was given back.
    """

    customers: Sequence[str] = field(repr=False)
    customer: npt.NDArray[np.int32] = field(repr=False)
    item: npt.NDArray[np.int32] = field(repr=False)
    time_ms: LongArray = field(repr=False)
    amount: npt.NDArray[np.float64] = field(repr=False)
    rest: npt.NDArray[np.uint64] = field(repr=False)
    returned: npt.NDArray[np.bool_] = field(repr=False)

    def __len__(self) -> int:
        return len(self.customer)


class Admitted:
    """The customers who may have a profile, numbered by their pseudonyms.

    Args:
        pseudonyms: Store's reference → pseudonym (`EligibleCustomers.pseudonyms`).
    """

    def __init__(self, pseudonyms: Mapping[str, str]) -> None:
        self._pseudonyms = pseudonyms
        sids = sids_of(list(pseudonyms.values()))
        order = np.argsort(sids, kind="stable")
        #: S32[n], ascending.
        self.sids: Array = sids[order]
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        self._rank = dict(zip(pseudonyms, place.tolist(), strict=True))
        #: int64[SHARDS + 1]: where the numbers of each shard's customers begin.
        self.bounds = np.searchsorted(shard_of(self.sids), np.arange(SHARDS + 1))

    def __len__(self) -> int:
        return len(self.sids)

    def only(self, sids: Array) -> Admitted:
        """Those among some pseudonyms (S32[k], ascending, all of them here)."""
        if len(sids) == len(self):
            return self
        among = np.isin(self.sids, sids)
        kept = {ref: sid for ref, sid in self._pseudonyms.items() if among[self._rank[ref]]}
        return Admitted(kept)

    def ranks(self, references: Sequence[str]) -> npt.NDArray[np.int32]:
        """int32[n]: each customer's number, or `NOBODY`."""
        find = self._rank.get
        return np.array([find(each, NOBODY) for each in references], dtype=np.int32)


def shard_of(sids: Array) -> npt.NDArray[np.uint8]:
    """uint8[n]: the shard that each pseudonym belongs to; ascending as pseudonyms are."""
    first: npt.NDArray[np.uint8] = raw_sids(sids)[:, 0] // np.uint8(256 // SHARDS)
    return first


@dataclass(frozen=True)
class LocalTime:
    """The region's local time, by which days and parts of the day are told apart."""

    clock: Clock

    def local_ms(self, time_ms: LongArray) -> LongArray:
        """int64[n]: moments as the local clock shows them, as if that were UTC."""
        moments = pd.DatetimeIndex(time_ms.astype("datetime64[ms]"), tz="UTC")
        local = moments.tz_convert(self.clock.zone).tz_localize(None)
        return local.to_numpy().astype("datetime64[ms]").astype(np.int64)

    def day(self, time_ms: int) -> int:
        """The local day of a moment, since the epoch."""
        return int(self.local_ms(np.array([time_ms], dtype=np.int64))[0] // DAY_MS)

    def day_ends_ms(self, days: LongArray) -> LongArray:
        """int64[n]: the last moment of local days, milliseconds since the epoch."""
        ends = pd.DatetimeIndex(((days + 1) * DAY_MS - 1).astype("datetime64[ms]"))
        # An hour that a change of clocks skips or repeats decides nothing here.
        utc = ends.tz_localize(self.clock.zone, ambiguous=False, nonexistent="shift_forward")
        return (
            utc.tz_convert("UTC")
            .tz_localize(None)
            .to_numpy()
            .astype("datetime64[ms]")
            .astype(np.int64)
        )

    def cells(self, local_ms: LongArray) -> LongArray:
        """int64[n]: part of the day × weekday, Monday first; −1 where no part has the hour."""
        part = self.clock.daypart(local_ms % DAY_MS // _HOUR_MS)
        weekday = (local_ms // DAY_MS + _THURSDAY) % WEEKDAYS
        return np.where(part < 0, -1, part * WEEKDAYS + weekday)


@dataclass
class _Held:
    """What waits to become facts of one shard: arrays by name, batch by batch."""

    rank: list[Array] = field(default_factory=list)
    category: list[Array] = field(default_factory=list)
    day: list[Array] = field(default_factory=list)
    cell: list[Array] = field(default_factory=list)
    cents: list[Array] = field(default_factory=list)
    mark: list[Array] = field(default_factory=list)
    returned_ms: list[Array] = field(default_factory=list)


class PurchaseCollector:
    """Takes rows of purchases in and gives their facts, shard by shard.

    A row takes 32 bytes until its shard's facts are asked for.

    Args:
        admitted: Whose rows count; all others' are passed over.
        catalogue: The public catalogue.
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
        self._category = catalogue.category
        self._local = local
        self._held = [_Held() for _ in range(SHARDS)]
        #: Rows that wait.
        self.waiting = 0

    def add(self, rows: PurchaseRows) -> None:
        """Takes rows in."""
        rank = self._admitted.ranks(rows.customers)[rows.customer]
        local_ms = self._local.local_ms(rows.time_ms)
        day = local_ms // DAY_MS
        inside = (day >= 0) & (day < _MOST_DAYS) & (rows.time_ms < self._until_ms)
        kept = np.flatnonzero((rank != NOBODY) & inside)
        kept = kept[np.argsort(rank[kept], kind="stable")]
        rank = rank[kept]
        cents = np.rint(np.nan_to_num(rows.amount[kept]) * _HUNDREDTHS)
        arrays: dict[str, Array] = {
            "rank": rank,
            "category": self._category[rows.item[kept]].astype(np.int32),
            "day": day[kept].astype(np.uint16),
            "cell": self._local.cells(local_ms[kept]).astype(np.int8),
            "cents": np.clip(cents, 0, np.iinfo(np.int32).max).astype(np.int32),
            "mark": _marks(rows.rest[kept], rows.time_ms[kept]),
            "returned_ms": np.where(rows.returned[kept], rows.time_ms[kept], _NEVER),
        }
        bounds = np.searchsorted(rank, self._admitted.bounds)
        for shard in np.flatnonzero(np.diff(bounds)).tolist():
            for name, values in arrays.items():
                getattr(self._held[shard], name).append(values[bounds[shard] : bounds[shard + 1]])
        self.waiting += len(kept)

    def shards(self) -> list[int]:
        """The shards that something waits for."""
        return [shard for shard in range(SHARDS) if self._held[shard].rank]

    def customers(self, shard: int) -> Array:
        """S32[n]: the customers of one shard that rows wait of, ascending."""
        ranks = [np.zeros(0, dtype=np.int32), *self._held[shard].rank]
        own: Array = self._admitted.sids[np.unique(np.concatenate(ranks))]
        return own

    def facts(self, shard: int, known: Facts | None = None) -> Facts:
        """The facts of one shard's rows, which wait no longer.

        Args:
            shard: The shard.
            known: What is known of its customers, marks among it: a row that was counted is not
                counted again.
        """
        sids = self.customers(shard)
        held, self._held[shard] = self._held[shard], _Held()
        if not held.rank:
            return Facts(sids, {})
        rank, category, day, cell, cents, mark, returned_ms = (
            np.concatenate(each) for each in vars(held).values()
        )
        self.waiting -= len(rank)
        low, high = self._admitted.bounds[shard], self._admitted.bounds[shard + 1]
        owner = np.searchsorted(sids, self._admitted.sids[low:high])[rank - low]
        new = fresh(pairs_of(owner, mark), known_pairs(sids, known, MARKS))
        rows = (each[new] for each in (owner, category, day, cell, cents, mark, returned_ms))
        return Facts(sids, _purchase_tables(*rows))


def known_pairs(sids: Array, known: Facts | None, name: str) -> npt.NDArray[np.uint64]:
    """uint64[n]: pairs of customer and key of a table, with customers numbered as in ``sids``."""
    if known is None or not len(known):
        return np.zeros(0, dtype=np.uint64)
    place = np.searchsorted(sids, known.sids)
    place[place == len(sids)] = 0
    here = sids[place] == known.sids if len(sids) else np.zeros(len(known), dtype=bool)
    table = known[name]
    kept = here[table.owner]
    return pairs_of(place[table.owner[kept]], table.key[kept])


def fresh(pairs: npt.NDArray[np.uint64], known: npt.NDArray[np.uint64]) -> LongArray:
    """int64[k]: the first of each pair that is not known, ascending."""
    order = np.argsort(pairs, kind="stable")
    ordered = pairs[order]
    new = np.ones(len(pairs), dtype=bool)
    new[1:] = ordered[1:] != ordered[:-1]
    if len(known):
        known = np.sort(known)
        place = np.searchsorted(known, ordered)
        place[place == len(known)] = 0
        new &= known[place] != ordered
    return np.sort(order[new]).astype(np.int64)


def _purchase_tables(
    owner: Array,
    category: Array,
    day: Array,
    cell: Array,
    cents: Array,
    mark: Array,
    returned_ms: LongArray,
) -> dict[str, FactTable]:
    one = np.ones(len(owner), dtype=np.int64)
    timed, back = cell >= 0, returned_ms != _NEVER
    returned = np.full(int(back.sum()), RETURN)
    return {
        MARKS: collected(MARKS, owner, mark, {}),
        DAYS: collected(DAYS, owner, day, {"rows": one, "cents": cents}),
        CATEGORIES: collected(
            CATEGORIES, owner, category, {"rows": one, "first_day": day, "last_day": day}
        ),
        SCENES: collected(SCENES, owner[timed], cell[timed], {"rows": one[timed]}),
        KINDS: collected(
            KINDS, owner[back], returned, {"count": one[back], "last_ms": returned_ms[back]}
        ),
    }


def _marks(rest: npt.NDArray[np.uint64], time_ms: LongArray) -> npt.NDArray[np.uint64]:
    """uint64[n], below 2^40: a digest of what makes a row of one customer the same row."""
    mixed = (rest ^ time_ms.astype(np.uint64)) * _MULTIPLIER
    mixed ^= mixed >> _HALF
    mixed *= _MULTIPLIER
    return (mixed >> np.uint64(64 - KEY_BITS)) & _MARK_MASK
