"""What the library says of customers at one moment, and since when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from client.profiles.columns import Columns
from client.profiles.library import TagLibrary
from client.profiles.tables import (
    SID_BYTES,
    Array,
    LongArray,
    pairs_of,
    raw_sids,
)
from common.errors import FormatError

#: A tag's number in the library (below 2^10), above the number of a category and one; 0 for none.
CATEGORY_BITS = 24
#: The numbers about customers that overviews need.
KEPT_NUMBERS = (
    "days_since_purchase", "purchase_days_365", "spend_365", "alive", "lifetime_value", "group",
)  # fmt: skip

_SID_TYPE = f"S{SID_BYTES}"
_CATEGORY_MASK = (1 << CATEGORY_BITS) - 1


@dataclass(frozen=True, eq=False)
class Judged:
    """What is said of some customers.

    Attributes:
        sids: S32[n], their pseudonyms, ascending.
        segment: uint8[n], the segment's number in the library.
        segment_since: uint16[n], the day (since the epoch) on which it was found first.
        numbers: float32[n, k], `KEPT_NUMBERS`.
        owner: int32[m], the customer of each thing that is said, ascending.
        said: uint64[m], which (`CATEGORY_BITS`), ascending for each customer.
        since: uint16[m], the day on which it was found first.
    """

    sids: Array = field(repr=False)
    segment: npt.NDArray[np.uint8] = field(repr=False)
    segment_since: npt.NDArray[np.uint16] = field(repr=False)
    numbers: npt.NDArray[np.float32] = field(repr=False)
    owner: npt.NDArray[np.int32] = field(repr=False)
    said: npt.NDArray[np.uint64] = field(repr=False)
    since: npt.NDArray[np.uint16] = field(repr=False)

    def __len__(self) -> int:
        return len(self.sids)

    @classmethod
    def nobody(cls) -> Judged:
        """What is said of no customers."""
        return cls(
            np.zeros(0, dtype=_SID_TYPE),
            np.zeros(0, dtype=np.uint8),
            np.zeros(0, dtype=np.uint16),
            np.zeros((0, len(KEPT_NUMBERS)), dtype=np.float32),
            np.zeros(0, dtype=np.int32),
            np.zeros(0, dtype=np.uint64),
            np.zeros(0, dtype=np.uint16),
        )

    def of(self, sid: Array) -> dict[tuple[int, int | None], int]:
        """What is said of one customer: (number in the library, category or None) → since."""
        row = np.searchsorted(self.sids, sid)
        those = np.flatnonzero(self.owner == row)
        return {
            named(int(code)): int(since)
            for code, since in zip(self.said[those], self.since[those], strict=True)
        }

    def take(self, rows: LongArray) -> Judged:
        """What is said of some of them; rows are ascending."""
        place = np.full(len(self), -1, dtype=np.int64)
        place[rows] = np.arange(len(rows))
        kept = place[self.owner] >= 0
        return Judged(
            self.sids[rows],
            self.segment[rows],
            self.segment_since[rows],
            self.numbers[rows],
            place[self.owner[kept]].astype(np.int32),
            self.said[kept],
            self.since[kept],
        )

    def replaced(self, part: Judged) -> Judged:
        """With what is now said of some customers in the place of what was."""
        rest = self.take(np.flatnonzero(~np.isin(self.sids, part.sids)))
        sids = np.concatenate([rest.sids, part.sids])
        order = np.argsort(sids, kind="stable")
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        owner = np.concatenate([place[: len(rest)][rest.owner], place[len(rest) :][part.owner]])
        said = np.concatenate([rest.said, part.said])
        by_owner = np.argsort(pairs_of(owner, said), kind="stable")
        return Judged(
            sids[order],
            np.concatenate([rest.segment, part.segment])[order],
            np.concatenate([rest.segment_since, part.segment_since])[order],
            np.concatenate([rest.numbers, part.numbers])[order],
            owner[by_owner].astype(np.int32),
            said[by_owner],
            np.concatenate([rest.since, part.since])[by_owner],
        )

    def renumbered(
        self, old: Sequence[str], library: TagLibrary, old_segments: Sequence[str]
    ) -> Judged:
        """In the numbers of another state of the library; what it no longer has is left out.

        Args:
            old: The ids of tags and triggers of the library that it was made by, in order.
            library: The library now.
            old_segments: The ids of that library's segments.
        """
        now = {each.id: number for number, each in enumerate(library.said)}
        number = np.array([now.get(each, -1) for each in old], dtype=np.int64)
        tag = number[(self.said >> np.uint64(CATEGORY_BITS)).astype(np.int64)]
        kept = tag >= 0
        category = self.said[kept] & np.uint64(_CATEGORY_MASK)
        said = (tag[kept].astype(np.uint64) << np.uint64(CATEGORY_BITS)) | category
        owner, since = self.owner[kept], self.since[kept]
        order = np.lexsort((said, owner))
        places = {each.id: place for place, each in enumerate(library.segment)}
        last = len(library.segment) - 1
        segment = np.array([places.get(each, last) for each in old_segments], dtype=np.uint8)
        return Judged(
            self.sids, segment[self.segment], self.segment_since, self.numbers,
            owner[order], said[order], since[order],
        )  # fmt: skip


def code_of(number: int | Array, category: Array | None = None) -> Array:
    """uint64: what is said, as one number.

    Args:
        number: The number in the library.
        category: Of which category; None for none.
    """
    above = np.asarray(number).astype(np.uint64) << np.uint64(CATEGORY_BITS)
    return above if category is None else above | (category + 1).astype(np.uint64)


def named(code: int) -> tuple[int, int | None]:
    """The number in the library, and the category or None."""
    category = (code & _CATEGORY_MASK) - 1
    return code >> CATEGORY_BITS, category if category >= 0 else None


def judge(
    sids: Array, columns: Columns, library: TagLibrary, day: int, before: Judged | None = None
) -> Judged:
    """What the library says of some customers.

    Args:
        sids: S32[n], their pseudonyms, ascending.
        columns: The numbers about them.
        library: The library.
        day: Today, as days since the epoch.
        before: What was said of them until now: what still is keeps its day.
    """
    n = len(sids)
    owners, codes = [], []
    for number, each in enumerate(library.said):
        held = each.customers(columns, n)
        if each.each is None:
            owner = np.flatnonzero(held)
            codes.append(np.full(len(owner), code_of(number), dtype=np.uint64))
        else:
            pairs = np.flatnonzero(each.categories(columns) & held[columns.owner])
            owner = columns.owner[pairs]
            codes.append(code_of(number, columns.category[pairs]))
        owners.append(owner)
    owner, code = np.concatenate(owners), np.concatenate(codes)
    # As one number each: of few runs that ascend, which a stable sort only has to merge.
    order = np.argsort(pairs_of(owner, code), kind="stable")
    owner, code = owner[order], code[order]
    segment = _segments(columns, library, n)
    numbers = [columns.values.get(name, np.full(n, np.nan)) for name in KEPT_NUMBERS]
    found = Judged(
        sids,
        segment,
        np.full(n, day, dtype=np.uint16),
        np.column_stack(numbers).astype(np.float32),
        owner.astype(np.int32),
        code,
        np.full(len(owner), day, dtype=np.uint16),
    )
    return found if before is None or not len(before) else _dated(found, before)


def fired(now: Judged, before: Judged | None, library: TagLibrary) -> dict[str, int]:
    """How many times each trigger is complete now that was not before."""
    counts = {}
    codes, known = now.said, _codes_known(now, before)
    number = codes >> np.uint64(CATEGORY_BITS)
    for place, trigger in enumerate(library.trigger, start=len(library.tag)):
        counts[trigger.id] = int(((number == place) & ~known).sum())
    return counts


def _segments(columns: Columns, library: TagLibrary, n: int) -> npt.NDArray[np.uint8]:
    segment = np.full(n, len(library.segment) - 1, dtype=np.uint8)
    open_ = np.ones(n, dtype=bool)
    for number, each in enumerate(library.segment):
        held = each.customers(columns, n) & open_
        segment[held] = number
        open_ &= ~held
    return segment


def _dated(found: Judged, before: Judged) -> Judged:
    """With the days on which what is found was found first."""
    place = np.searchsorted(before.sids, found.sids)
    place[place == len(before)] = 0
    was = before.sids[place] == found.sids
    same = was & (before.segment[place] == found.segment)
    segment_since = np.where(same, before.segment_since[place], found.segment_since)
    since, entry = found.since.copy(), _entries_before(found, before)
    since[entry >= 0] = before.since[entry[entry >= 0]]
    return Judged(
        found.sids, found.segment, segment_since.astype(np.uint16), found.numbers,
        found.owner, found.said, since,
    )  # fmt: skip


def _codes_known(now: Judged, before: Judged | None) -> npt.NDArray[np.bool_]:
    if before is None or not len(before):
        return np.zeros(len(now.said), dtype=bool)
    return _entries_before(now, before) >= 0


def _entries_before(now: Judged, before: Judged) -> LongArray:
    """int64[m]: where each thing that is said now stood before; −1 where it did not."""
    place = np.searchsorted(before.sids, now.sids)
    place[place == len(before)] = 0
    was = before.sids[place] == now.sids
    wanted = pairs_of(np.where(was, place, 0)[now.owner], now.said)
    there = pairs_of(before.owner, before.said)
    found = np.searchsorted(there, wanted)
    found[found == len(there)] = 0
    same = was[now.owner]
    # Of what is compared with nothing, nothing is the same.
    same &= (there[found] == wanted) if len(there) else False
    return np.where(same, found, -1).astype(np.int64)


def encode(judged: Judged) -> bytes:
    """As the bytes of a safetensors file; `decode` gives it back."""
    arrays: Mapping[str, Array] = {
        **{name: np.ascontiguousarray(array) for name, array in vars(judged).items()},
        "sids": raw_sids(judged.sids),
    }
    data: bytes = safetensors.numpy.save(dict(arrays))
    return data


def decode(data: bytes) -> Judged:
    """Reads what `encode` wrote.

    Raises:
        FormatError: It is nothing like it.
    """
    try:
        arrays = safetensors.numpy.load(data)
        arrays["sids"] = arrays["sids"].view(_SID_TYPE).reshape(-1)
        return Judged(**arrays)
    except (SafetensorError, TypeError, ValueError, KeyError) as error:
        raise FormatError(f"What profiles say is malformed: {error!r}.") from error
