"""What a profile is made of: small tables of facts by customer, which add up.

A *fact table* has at most one entry for each customer and key, such as a day and how much was
bought on it. Tables of different rows of the store add up to the table of all of them, in any order
and grouping, so that new rows cost what they are and not what was there before. Rows are told apart
by marks: a row that comes twice counts once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from common.errors import FormatError

Array = npt.NDArray[Any]
LongArray = npt.NDArray[np.int64]

SID_BYTES = 32
#: Keys are below 2^40, and customers of one table below 2^24: a pair is one number.
KEY_BITS = 40
_KEY_MASK = np.uint64((1 << KEY_BITS) - 1)
_SID_TYPE = f"S{SID_BYTES}"

DAYS, CATEGORIES, SCENES = "days", "categories", "scenes"
MARKS, KINDS, BROWSED, RECENT = "marks", "kinds", "browsed", "recent"
MEMBER = "member"
#: Of each customer, so many of the latest events are kept one by one; all others in sums only.
RECENT_EVENTS = 64


@dataclass(frozen=True)
class TableForm:
    """What the entries of a table have, and how entries of one key become one.

    Attributes:
        key: The type of keys at rest.
        columns: By name the type of values at rest, and how they add up.
    """

    key: str
    columns: Mapping[str, tuple[str, np.ufunc]]


#: All tables. Sums that are larger than their type stay at its largest value.
FORMS: Mapping[str, TableForm] = MappingProxyType(
    {
        # By day (local time, since the epoch): rows, and what was paid, in hundredths.
        DAYS: TableForm("<u2", {"rows": ("<u2", np.add), "cents": ("<i4", np.add)}),
        # By category of the public catalogue: rows, and the first and last day.
        CATEGORIES: TableForm(
            "<u4",
            {
                "rows": ("<u4", np.add),
                "first_day": ("<u2", np.minimum),
                "last_day": ("<u2", np.maximum),
            },
        ),
        # By part of the day and weekday: rows.
        SCENES: TableForm("<u2", {"rows": ("<u4", np.add)}),
        # By the digest of a row: nothing but that it was counted.
        MARKS: TableForm("<u8", {}),
        # By kind of event: how many, and the latest, in milliseconds since the epoch.
        KINDS: TableForm("<u1", {"count": ("<u4", np.add), "last_ms": ("<i8", np.maximum)}),
        # By category: how often it was looked at, and the first and last day.
        BROWSED: TableForm(
            "<u4",
            {
                "count": ("<u4", np.add),
                "first_day": ("<u2", np.minimum),
                "last_day": ("<u2", np.maximum),
            },
        ),
        # By digest, the latest events: when, and the kind's number.
        RECENT: TableForm("<u8", {"time_ms": ("<i8", np.maximum), "kind": ("<u1", np.maximum)}),
        # What the member's record states, by `MEMBER_FACTS`.
        MEMBER: TableForm("<u1", {"value": ("<i4", np.maximum)}),
    }
)
#: Days (since the epoch), and years, of a member's record, by their keys in `MEMBER`.
MEMBER_FACTS = ("joined_day", "birth_year")


@dataclass(frozen=True, eq=False)
class FactTable:
    """Entries by customer and key, ascending by both.

    Attributes:
        owner: int32[n], each entry's customer as a row of the facts it belongs to.
        key: Each entry's key.
        columns: Its values, by name.
    """

    owner: npt.NDArray[np.int32] = field(repr=False)
    key: Array = field(repr=False)
    columns: Mapping[str, Array] = field(repr=False)

    def __len__(self) -> int:
        return len(self.owner)

    def bounds(self, rows: int) -> LongArray:
        """int64[rows + 1]: where each customer's entries begin, and the last ones end."""
        return np.searchsorted(self.owner, np.arange(rows + 1)).astype(np.int64)

    def take(self, entries: Array, owner: Array | None = None) -> FactTable:
        """Some entries, in their order; as other customers' rows if these are given."""
        return FactTable(
            (self.owner[entries] if owner is None else owner).astype(np.int32),
            self.key[entries],
            {name: values[entries] for name, values in self.columns.items()},
        )

    @property
    def pairs(self) -> npt.NDArray[np.uint64]:
        """uint64[n]: customer and key as one number, ascending."""
        return pairs_of(self.owner, self.key)


def pairs_of(owner: Array, key: Array) -> npt.NDArray[np.uint64]:
    """uint64[n]: customers and keys as one number each."""
    return (owner.astype(np.uint64) << np.uint64(KEY_BITS)) | (key.astype(np.uint64) & _KEY_MASK)


def collected(name: str, owner: Array, key: Array, columns: Mapping[str, Array]) -> FactTable:
    """A table of rows in any order; rows of the same customer and key become one entry.

    Args:
        name: The table, of `FORMS`.
        owner: Each row's customer.
        key: Each row's key, 0 to 2^40 − 1.
        columns: The rows' values.
    """
    form = FORMS[name]
    pairs = pairs_of(owner, key)
    order = np.argsort(pairs, kind="stable")
    pairs = pairs[order]
    first = np.ones(len(pairs), dtype=bool)
    first[1:] = pairs[1:] != pairs[:-1]
    begins = np.flatnonzero(first)
    values = {}
    for column, (dtype, adds) in form.columns.items():
        # Wider than at rest, so that a sum that is too large is seen to be.
        ordered = columns[column][order].astype(np.int64)
        added = adds.reduceat(ordered, begins) if len(begins) else ordered
        values[column] = np.clip(added, *_limits(dtype)).astype(dtype)
    return FactTable(
        (pairs[begins] >> np.uint64(KEY_BITS)).astype(np.int32),
        (pairs[begins] & _KEY_MASK).astype(form.key),
        values,
    )


def empty(name: str) -> FactTable:
    """A table without an entry."""
    none = np.zeros(0, dtype=np.int64)
    return collected(name, none, none, dict.fromkeys(FORMS[name].columns, none))


@dataclass(frozen=True, eq=False)
class Facts:
    """The facts of some customers.

    Attributes:
        sids: S32[n], their pseudonyms' bytes, ascending, each once.
        tables: By name; one that is missing is empty.
    """

    sids: Array = field(repr=False)
    tables: Mapping[str, FactTable] = field(repr=False)

    def __len__(self) -> int:
        return len(self.sids)

    def __getitem__(self, name: str) -> FactTable:
        found = self.tables.get(name)
        return empty(name) if found is None else found

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The tables that have entries."""
        return tuple(name for name, table in self.tables.items() if len(table))

    def rows_of(self, sids: Array) -> LongArray:
        """int64[k]: the rows of those of some pseudonyms that are here, ascending."""
        place = np.searchsorted(self.sids, sids)
        place[place == len(self.sids)] = 0
        found = place[self.sids[place] == sids] if len(self.sids) else place[:0]
        return np.unique(found).astype(np.int64)

    def take(self, rows: LongArray) -> Facts:
        """Some customers' facts.

        Args:
            rows: Their rows, ascending, each once.
        """
        if len(rows) == len(self.sids):
            return self
        tables = {}
        for name, table in self.tables.items():
            bounds = table.bounds(len(self.sids))
            begins, sizes = bounds[rows], bounds[rows + 1] - bounds[rows]
            own = np.cumsum(sizes) - sizes
            entries = np.repeat(begins - own, sizes) + np.arange(int(sizes.sum()))
            tables[name] = table.take(entries, np.repeat(np.arange(len(rows)), sizes))
        return Facts(self.sids[rows], tables)

    def only(self, names: Sequence[str]) -> Facts:
        """The same customers, with some tables alone."""
        return Facts(self.sids, {name: self.tables[name] for name in names if name in self.tables})


def sids_of(pseudonyms: Sequence[str]) -> Array:
    """S32[n]: pseudonyms of 64 hex digits as bytes, in their order."""
    packed = np.frombuffer(bytes.fromhex("".join(pseudonyms)), dtype=np.uint8)
    return packed.reshape(-1, SID_BYTES).copy().view(_SID_TYPE).reshape(-1)


def raw_sids(sids: Array) -> npt.NDArray[np.uint8]:
    """uint8[n, 32]: the bytes of pseudonyms, zeros at their ends among them."""
    packed: npt.NDArray[np.uint8] = np.ascontiguousarray(sids).view(np.uint8)
    return packed.reshape(-1, SID_BYTES)


def added(parts: Sequence[Facts]) -> Facts:
    """The facts of all parts together.

    Marks decide nothing here: what is added must be of different rows.
    """
    if len(parts) == 1:
        return parts[0]
    sids = np.unique(np.concatenate([np.zeros(0, _SID_TYPE), *(part.sids for part in parts)]))
    rows = [np.searchsorted(sids, part.sids) for part in parts]
    tables = {}
    for name in FORMS:
        those = [
            (part[name], row) for part, row in zip(parts, rows, strict=True) if name in part.names
        ]
        if not those:
            continue
        owner = np.concatenate([row[table.owner] for table, row in those])
        key = np.concatenate([table.key for table, _ in those])
        columns = {
            column: np.concatenate([table.columns[column] for table, _ in those])
            for column in FORMS[name].columns
        }
        tables[name] = collected(name, owner, key, columns)
    if RECENT in tables:
        tables[RECENT] = latest(tables[RECENT])
    return Facts(sids, tables)


def latest(events: FactTable, most: int = RECENT_EVENTS) -> FactTable:
    """The latest events of each customer, of those that are kept one by one."""
    if not len(events) or np.bincount(events.owner).max() <= most:
        return events
    newest_first = np.lexsort((events.key, -events.columns["time_ms"], events.owner))
    owner = events.owner[newest_first]
    rank = np.arange(len(owner)) - np.searchsorted(owner, owner)
    kept = np.zeros(len(owner), dtype=bool)
    kept[newest_first[rank < most]] = True
    return events.take(np.flatnonzero(kept))


def encode(facts: Facts) -> bytes:
    """Facts as the bytes of a safetensors file; `decode` gives them back."""
    arrays: dict[str, Array] = {"sids": raw_sids(facts.sids)}
    for name, table in facts.tables.items():
        # A customer's entries lie together: how many each has says whose they are.
        arrays[f"{name}/size"] = np.bincount(table.owner, minlength=len(facts)).astype(np.uint32)
        arrays[f"{name}/key"] = table.key
        arrays |= {f"{name}/{column}": values for column, values in table.columns.items()}
    kept = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    data: bytes = safetensors.numpy.save(kept)
    return data


def decode(data: bytes) -> Facts:
    """Reads what `encode` wrote.

    Raises:
        FormatError: It is nothing like it.
    """
    try:
        arrays = safetensors.numpy.load(data)
        sids = arrays["sids"].view(_SID_TYPE).reshape(-1)
        tables = {}
        for name, form in FORMS.items():
            if f"{name}/size" in arrays:
                owner = np.repeat(np.arange(len(sids), dtype=np.int32), arrays[f"{name}/size"])
                columns = {column: arrays[f"{name}/{column}"] for column in form.columns}
                tables[name] = FactTable(owner, arrays[f"{name}/key"], columns)
    except (SafetensorError, KeyError, ValueError) as error:
        raise FormatError(f"Facts of profiles are malformed: {error!r}.") from error
    return Facts(sids, tables)


def _limits(dtype: str) -> tuple[int, int]:
    kind = np.iinfo(np.dtype(dtype))
    return int(kind.min), int(min(kind.max, np.iinfo(np.int64).max))
