"""What a store consists of, for taking up what is new without reading all anew.

A *unit* is a part of a store that is taken up, and given up, as a whole: a file, or the rows of a
table within a range. A source says which units there are now; which of them were taken up before is
remembered beside the rows (`client.data.prepared_rows`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from client.data.transactions import Transactions
from common.errors import InputError

#: So many rows at most are read at a time.
BATCH_ROWS = 1 << 18

#: What a column holds, as far as a change of it would change what its values mean.
TEXT, NUMBER, DATE = "text", "numbers", "dates"
ZONED, ZONELESS = "times with a time zone", "times without a time zone"
#: A column without a value so far, or of which a database does not say what it holds.
UNKNOWN = "nothing"


@dataclass(frozen=True)
class StoreUnit:
    """A unit, as it was when it was looked at.

    Attributes:
        name: What messages call it; no two units of a store have the same name.
        mark: What it was like. Under another mark it has to be read again. Only the source that
            made it can read it.
        taken_ms: When it was looked at, in milliseconds since the epoch.
    """

    name: str
    mark: str
    taken_ms: int


@dataclass(frozen=True)
class Changes:
    """What has changed in a store.

    Attributes:
        gone: The names of units taken up before whose rows no longer count: they are not in the
            store any more, or are read again.
        fresh: The units to read, in the order to read them in.
    """

    gone: frozenset[str] = frozenset()
    fresh: tuple[StoreUnit, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.gone or self.fresh)


class TransactionSource(Protocol):
    """A store of transactions.

    Data minimisation: only the mapped columns are ever selected. The rest of a store's table is
    listed by name, never read.
    """

    @property
    def origin(self) -> str:
        """What messages call the store."""
        ...

    def columns(self) -> list[str]:
        """The store's column names, in its order."""
        ...

    def check(self) -> None:
        """Checks that the store can be reached and has the mapped columns; reads no row.

        Raises:
            InputError: Names the file or table, what is wrong and what to do.
        """
        ...

    def changes(self, taken: Mapping[str, StoreUnit], now_ms: int) -> Changes:
        """What is new or gone since some units were taken up.

        Args:
            taken: The units that were taken up before, by name; none, and all there is is new.
            now_ms: The time, in milliseconds since the epoch.

        Raises:
            InputError: The store cannot be reached, or has no units.
        """
        ...

    def kinds(self, unit: StoreUnit) -> Mapping[str, str]:
        """What each mapped column of a unit holds, by its canonical name.

        Raises:
            InputError: The unit cannot be read, or lacks a mapped column.
        """
        ...

    def batches(self, unit: StoreUnit) -> Iterator[Transactions]:
        """Reads the mapped columns of a unit, `BATCH_ROWS` rows at a time at most.

        Raises:
            InputError: It cannot be read.
        """
        ...


def kind_of(arrow: pa.DataType) -> str:
    """What a column of an Arrow type holds."""
    if pa.types.is_dictionary(arrow):
        return kind_of(arrow.value_type)
    if pa.types.is_timestamp(arrow):
        return ZONELESS if arrow.tz is None else ZONED
    if pa.types.is_string(arrow) or pa.types.is_large_string(arrow):
        return TEXT
    if pa.types.is_integer(arrow) or pa.types.is_floating(arrow) or pa.types.is_decimal(arrow):
        return NUMBER
    if pa.types.is_date(arrow):
        return DATE
    return UNKNOWN if pa.types.is_null(arrow) else str(arrow)


def merge_kinds(
    before: Mapping[str, str], now: Mapping[str, str], names: Mapping[str, str], where: str
) -> dict[str, str]:
    """Checks that columns still hold what they held; remembers what is seen for the first time.

    A column that held text and holds numbers, or times whose zone was stated and now is not, would
    be read all the same, and mean something else: ``00123`` is not ``123``.

    Args:
        before: What the columns held until now, by canonical name.
        now: What they hold in this unit.
        names: The store's names of the columns.
        where: The unit, for messages.

    Raises:
        InputError: A column holds something else.
    """
    for name, kind in now.items():
        known = before.get(name, UNKNOWN)
        if UNKNOWN not in (known, kind) and known != kind:
            raise InputError(
                f"{where}: the column {names.get(name)!r} ({name}) holds {kind}, where the store "
                f"held {known} before.",
                remedy="Have it written as before. If the change is meant, and all of the store is "
                "written so now, read it anew: fedpref-region prepare HOME --anew.",
            )
    return dict(before) | {name: kind for name, kind in now.items() if kind != UNKNOWN}


def require_meaning(
    kinds: Mapping[str, str],
    names: Mapping[str, str],
    time_format: str,
    where: str,
    *,
    times: Collection[str] = ("time",),
) -> None:
    """Checks that each mapped column holds what its meaning allows.

    Args:
        kinds: What the columns hold, by canonical name.
        names: The store's names of the columns.
        time_format: How times that are no timestamps are read.
        where: The unit, for messages.
        times: The canonical names of the columns that hold times.

    Raises:
        InputError: One does not.
    """
    for name, kind in kinds.items():
        if name in times:
            allowed = {TEXT, ZONED, ZONELESS, DATE, UNKNOWN}
            if time_format.startswith("epoch"):
                allowed.add(NUMBER)
        else:
            allowed = {TEXT, NUMBER, UNKNOWN}
        if kind not in allowed:
            raise InputError(
                f"{where}: the column {names.get(name)!r} ({name}) holds {kind}.",
                remedy="Map a column that holds what is meant; for times as numbers set "
                "time_format to epoch_s or epoch_ms.",
            )
