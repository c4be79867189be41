"""From parts of customers' purchases to the rows of one matrix, in the order of pseudonyms.

A part is counted by itself, so that what takes several times its size in memory is bounded by the
largest part. What comes out depends on which purchases there are, never on their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from client.data.transactions import Purchases
from common.errors import InputError

MS_PER_WEEK = 7 * 24 * 3600 * 1000
_SID_BYTES = 64

LongArray = npt.NDArray[np.int64]
# What there is of each entry, and of each purchase.
_ENTRY_TYPES: Mapping[str, Any] = {"items": np.int32, "counts": np.float32, "last_ms": np.int64}
_PURCHASE_TYPES: Mapping[str, Any] = {"ages_weeks": np.float32}


@dataclass(frozen=True, eq=False)
class CountedPart:
    """Some customers' purchases in a window, counted by customer and item.

    Attributes:
        sids: The customers with a purchase in the window; a row each.
        entries: int64[rows], how many distinct items each row has.
        purchases: int64[rows], how many purchases each row has.
        arrays: By entry, row after row and ascending by item: ``items`` (int32), ``counts``
            (float32) and ``last_ms`` (int64, the last purchase); by purchase, in the order of the
            entries and of time: ``ages_weeks`` (float32, before the window's end). `assemble` takes
            them out.
        capped_customers: Customers with more rows than the cap.
        capped_rows: Their oldest rows, left out.
    """

    sids: tuple[str, ...] = field(repr=False)
    entries: LongArray = field(repr=False)
    purchases: LongArray = field(repr=False)
    arrays: dict[str, npt.NDArray[Any]] = field(repr=False)
    capped_customers: int
    capped_rows: int


@dataclass(frozen=True, eq=False)
class AssembledRows:
    """All customers' rows.

    Attributes:
        sids: The rows' pseudonyms, ascending.
        indptr: int64[rows + 1], the rows' bounds among the entries.
        arrays: As in `CountedPart`, of all rows.
    """

    sids: tuple[str, ...] = field(repr=False)
    indptr: LongArray = field(repr=False)
    arrays: Mapping[str, npt.NDArray[Any]] = field(repr=False)


def count_purchases(part: Purchases, *, start_ms: int, end_ms: int, most_rows: int) -> CountedPart:
    """Counts one part's purchases within [start_ms, end_ms).

    Args:
        part: The purchases; all of each customer.
        start_ms: Begin of the window, milliseconds since the epoch, inclusive.
        end_ms: End of the window, exclusive.
        most_rows: Of a customer with more rows in the window, the latest are kept.
    """
    inside = (part.time_ms >= start_ms) & (part.time_ms < end_ms)
    owners, items, times = part.owner[inside], part.item[inside], part.time_ms[inside]
    per_owner = np.bincount(owners, minlength=len(part.owners))
    present = np.flatnonzero(per_owner)
    row_of = np.full(len(per_owner), -1, dtype=np.int64)
    row_of[present] = np.arange(len(present))
    rows = row_of[owners]
    beyond = _beyond_cap(rows, items, times, per_owner[present], most_rows)
    capped_customers, capped_rows = len(np.unique(rows[beyond])), int(beyond.sum())
    if capped_rows:
        rows, items, times = rows[~beyond], items[~beyond], times[~beyond]
    order = np.lexsort((times, items, rows))
    rows, items, times = rows[order], items[order], times[order]
    first = np.flatnonzero(_changes(rows) | _changes(items))
    per_entry = np.diff(np.append(first, len(rows)))
    return CountedPart(
        sids=tuple(part.owners[owner] for owner in present),
        entries=np.bincount(rows[first], minlength=len(present)),
        purchases=np.bincount(rows, minlength=len(present)),
        arrays={
            "items": items[first].astype(np.int32),
            "counts": per_entry.astype(np.float32),
            "last_ms": times[first + per_entry - 1],
            "ages_weeks": ((end_ms - times) / MS_PER_WEEK).astype(np.float32),
        },
        capped_customers=capped_customers,
        capped_rows=capped_rows,
    )


def assemble(parts: Sequence[CountedPart]) -> AssembledRows:
    """Puts the rows of all parts in the order of their pseudonyms.

    Takes the parts' arrays out of them, one after the other: beyond the result, no more than one
    array of all rows is in memory.

    Raises:
        InputError: A customer has rows in two parts: training would take them for two people.
    """
    sids = [sid for part in parts for sid in part.sids]
    by_bytes = np.array(sids, dtype=f"S{_SID_BYTES}")
    order = np.argsort(by_bytes, kind="stable")
    ordered = by_bytes[order]
    if (ordered[1:] == ordered[:-1]).any():
        raise InputError(
            "A customer's purchases are in two parts of the data.",
            remedy="Report this: one customer would weigh as two.",
        )
    place = np.empty(len(sids), dtype=np.int64)
    place[order] = np.arange(len(sids))
    arrays: dict[str, npt.NDArray[Any]] = {}
    indptr = _bounds([part.entries for part in parts], order)
    for name, kind in _ENTRY_TYPES.items():
        arrays[name] = _gather(parts, name, kind, [part.entries for part in parts], place, indptr)
    bounds = _bounds([part.purchases for part in parts], order)
    for name, kind in _PURCHASE_TYPES.items():
        arrays[name] = _gather(parts, name, kind, [part.purchases for part in parts], place, bounds)
    return AssembledRows(tuple(sids[row] for row in order), indptr, arrays)


def _bounds(sizes: Sequence[LongArray], order: LongArray) -> LongArray:
    """Where each row begins, and the last ends, once the rows are in order."""
    of_all = np.concatenate([np.zeros(0, dtype=np.int64), *sizes])
    return np.concatenate([[0], np.cumsum(of_all[order])]).astype(np.int64)


def _gather(
    parts: Sequence[CountedPart],
    name: str,
    kind: Any,
    sizes: Sequence[LongArray],
    place: LongArray,
    bounds: LongArray,
) -> npt.NDArray[Any]:
    """One array of all rows in order; takes it out of the parts."""
    gathered: npt.NDArray[Any] = np.empty(int(bounds[-1]), dtype=kind)
    row = 0
    for part, size in zip(parts, sizes, strict=True):
        values = part.arrays.pop(name)
        begins = bounds[place[row : row + len(size)]]
        own_begins = np.cumsum(size) - size
        gathered[np.repeat(begins - own_begins, size) + np.arange(len(values))] = values
        row += len(size)
    return gathered


def _beyond_cap(
    rows: LongArray,
    items: npt.NDArray[np.int32],
    times: LongArray,
    per_row: LongArray,
    most: int,
) -> npt.NDArray[np.bool_]:
    """Marks all but the latest `most` purchases of each row; at the same moment, by item."""
    beyond = np.zeros(len(rows), dtype=bool)
    if not (per_row > most).any():
        return beyond
    latest_first = np.lexsort((items, -times, rows))
    begins = np.cumsum(per_row) - per_row
    rank = np.arange(len(rows)) - begins[rows[latest_first]]
    beyond[latest_first[rank >= most]] = True
    return beyond


def _changes(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """True where a value differs from the one before; the first does."""
    return np.concatenate([[True], values[1:] != values[:-1]]) if len(values) else values != 0
