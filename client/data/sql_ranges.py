"""Which ranges of a growing column to read of a table, given those that were read before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import total_ordering
from typing import Any

import sqlalchemy as sa

from client.data.store_units import Changes, StoreUnit
from common import canonical_json
from common.canonical_json import JsonValue
from common.errors import FormatError, InputError

_ALL_ROWS = "all rows"
_EASTERNMOST = timedelta(hours=14)


@total_ordering
@dataclass(frozen=True)
class Bound:
    """A value of the growing column: a whole number or a time."""

    value: int | datetime

    def cut(self, overlap: int, now_ms: int) -> Bound:
        """So many steps, or seconds, below; of a time that is still to come, below the present."""
        if isinstance(self.value, int):
            return Bound(self.value - overlap)
        now = datetime.fromtimestamp(now_ms / 1000, UTC)
        if self.value.tzinfo is None:
            # Whatever zone it is in, it is no later than this there.
            now = (now + _EASTERNMOST).replace(tzinfo=None)
        return Bound(min(self.value, now) - timedelta(seconds=overlap))

    def literal(self) -> sa.BindParameter[Any]:
        """The value as a bound parameter of a query."""
        return sa.literal(self.value)

    def comparable(self, other: Bound) -> bool:
        """Whether one can be greater than the other: both numbers, or times that state alike."""
        if isinstance(self.value, int) or isinstance(other.value, int):
            return isinstance(self.value, int) and isinstance(other.value, int)
        return (self.value.tzinfo is None) == (other.value.tzinfo is None)

    def __lt__(self, other: Bound) -> bool:
        return bool(self.value < other.value)  # type: ignore[operator] # `comparable` ones only

    def __str__(self) -> str:
        return str(self.value)

    def to_json(self) -> JsonValue:
        """The bound as canonical JSON."""
        # As text: canonical JSON's numbers end at 2^53.
        if isinstance(self.value, int):
            return {"number": str(self.value)}
        return {"time": self.value.isoformat()}

    @classmethod
    def of_json(cls, value: JsonValue) -> Bound | None:
        """Reads what `to_json` wrote.

        Raises:
            FormatError: It is nothing like it.
        """
        if value is None:
            return None
        if isinstance(value, dict) and isinstance(number := value.get("number"), str):
            return cls(int(number))
        if isinstance(value, dict) and isinstance(time := value.get("time"), str):
            return cls(datetime.fromisoformat(time))
        raise FormatError("A range of rows has another bound than a number or a time.")


def value_of(found: object, origin: str, column: str) -> Bound | None:
    """The greatest value of the growing column, as a database gave it; None without rows.

    Raises:
        InputError: It is neither a whole number nor a time.
    """
    if found is None:
        return None
    if isinstance(found, int) and not isinstance(found, bool):
        return Bound(found)
    if isinstance(found, Decimal) and found.is_finite() and found == found.to_integral_value():
        return Bound(int(found))
    if isinstance(found, datetime):
        return Bound(found)
    if isinstance(found, date):
        return Bound(datetime(found.year, found.month, found.day))
    raise InputError(
        f"{origin}: refresh_by names the column {column!r}, which holds neither whole numbers nor "
        "times.",
        remedy="Name an ascending number, or the time at which a row was written.",
    )


@dataclass(frozen=True)
class Range:
    """A range of rows.

    Attributes:
        above: Rows with a greater value of the growing column; None: from the first one on.
        upto: Rows with this value at most; None: all.
        tail: Whether it is read again with whatever is new.
        n_above: For a tail, how many rows were above its lower bound when it was looked at.
    """

    above: Bound | None = None
    upto: Bound | None = None
    tail: bool = False
    n_above: int = 0

    @property
    def settled(self) -> Bound | None:
        """Up to where rows are not read again; None if it does not say."""
        return self.above if self.tail else self.upto

    @property
    def name(self) -> str:
        """What messages call it."""
        if self.upto is None:
            return _ALL_ROWS
        kind = "newest rows" if self.tail else "rows"
        return f"{kind} above {self.above or 'nothing'} up to {self.upto}"

    def unit(self, now_ms: int) -> StoreUnit:
        """The unit that this range is."""
        record: dict[str, JsonValue] = {
            "above": None if self.above is None else self.above.to_json(),
            "upto": None if self.upto is None else self.upto.to_json(),
            "tail": self.tail,
            "n_above": self.n_above,
        }
        return StoreUnit(self.name, canonical_json.encode(record).decode(), now_ms)

    @classmethod
    def of_mark(cls, mark: str) -> Range:
        """The range that a unit's mark states."""
        record = canonical_json.decode(mark.encode())
        if not isinstance(record, dict) or type(record.get("n_above")) is not int:
            raise FormatError("A unit of a table has another mark than a range of rows.")
        return cls(
            Bound.of_json(record["above"]),
            Bound.of_json(record["upto"]),
            record["tail"] is True,
            int(str(record["n_above"])),
        )


@dataclass(frozen=True)
class Seen:
    """What a table is like.

    Attributes:
        highest: The greatest value of the growing column; None if there are no rows.
        cut: Up to where its rows are settled.
        n_above_settled: How many rows are above what was settled before.
        n_above_cut: How many are above `cut`.
    """

    highest: Bound | None
    cut: Bound | None
    n_above_settled: int
    n_above_cut: int


def is_read_again(unit: StoreUnit) -> bool:
    """Whether a unit is a table's newest rows, which are read again with whatever is new.

    That such a unit is gone says nothing: its rows are in the one that takes its place.
    """
    try:
        return Range.of_mark(unit.mark).tail
    except (FormatError, KeyError):
        # A file's.
        return False


def settled_before(taken: Mapping[str, StoreUnit]) -> Bound | None:
    """Up to where rows that were taken up are settled; None if nothing is."""
    bounds = [Range.of_mark(unit.mark).settled for unit in taken.values()]
    known = [bound for bound in bounds if bound is not None]
    return max(known) if known and all(known[0].comparable(each) for each in known) else None


def ranges_to_read(
    taken: Mapping[str, StoreUnit],
    seen: Seen | None,
    *,
    reread_after_ms: int,
    now_ms: int,
) -> Changes:
    """What to read, and what is no longer counted.

    Args:
        taken: The units that were taken up before.
        seen: What the table is like now; None if it has no growing column.
        reread_after_ms: After how long everything is read anew.
        now_ms: The time, in milliseconds since the epoch.
    """
    ranges = [Range.of_mark(unit.mark) for unit in taken.values()]
    oldest_ms = min((unit.taken_ms for unit in taken.values()), default=now_ms)
    overdue = not taken or now_ms - oldest_ms >= reread_after_ms
    everything = frozenset(taken)
    if seen is None:
        if not overdue and ranges == [Range()]:
            return Changes()
        return Changes(everything, (Range().unit(now_ms),))
    if seen.highest is None or seen.cut is None:
        return Changes(everything)
    settled = settled_before(taken)
    if overdue or settled is None or not settled.comparable(seen.cut) or settled > seen.cut:
        tail = Range(seen.cut, seen.highest, tail=True, n_above=seen.n_above_cut)
        return Changes(everything, (Range(None, seen.cut).unit(now_ms), tail.unit(now_ms)))
    tails = {name for name, unit in taken.items() if Range.of_mark(unit.mark).tail}
    newest = [each for each in ranges if each.tail]
    if [(each.upto, each.n_above) for each in newest] == [(seen.highest, seen.n_above_settled)]:
        return Changes()
    fresh = [Range(settled, seen.cut).unit(now_ms)] if settled < seen.cut else []
    tail = Range(seen.cut, seen.highest, tail=True, n_above=seen.n_above_cut)
    return Changes(frozenset(tails), (*fresh, tail.unit(now_ms)))
