"""A store in memory, whose units come and go as a test says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from client.data.store_units import TEXT, Changes, StoreUnit
from client.data.transactions import Transactions

#: Rows as `make_transactions` takes them.
Rows = Sequence[Mapping[str, Any]]


class MadeStore:
    """A `TransactionSource` of units that a test puts there.

    Args:
        make: Makes transactions of plain rows.
    """

    origin = "The store in memory"

    def __init__(self, make: Callable[[Rows], Transactions]) -> None:
        self._make = make
        self._versions: dict[str, int] = {}
        self.units: dict[str, Rows] = {}
        #: The units that were read, in order.
        self.read: list[str] = []
        #: What the columns hold.
        self.holds: dict[str, str] = {"time": TEXT}
        #: Raised before the batch with this number is given.
        self.fails: tuple[int, Exception] | None = None
        self._batches = 0

    def put(self, name: str, rows: Rows) -> None:
        """Adds or replaces a unit."""
        self.units[name] = rows
        self._versions[name] = self._versions.get(name, 0) + 1

    def columns(self) -> list[str]:
        return list(self.holds)

    def check(self) -> None:
        return None

    def changes(self, taken: Mapping[str, StoreUnit], now_ms: int) -> Changes:
        fresh = [
            StoreUnit(name, str(self._versions[name]), now_ms)
            for name in self.units
            if name not in taken or taken[name].mark != str(self._versions[name])
        ]
        again = {unit.name for unit in fresh}
        gone = {name for name in taken if name not in self.units or name in again}
        return Changes(frozenset(gone), tuple(fresh))

    def kinds(self, unit: StoreUnit) -> Mapping[str, str]:
        del unit
        return self.holds

    def batches(self, unit: StoreUnit) -> Iterator[Transactions]:
        """Two rows at a time."""
        self.read.append(unit.name)
        rows = self.units[unit.name]
        for start in range(0, len(rows), 2):
            self._batches += 1
            if self.fails is not None and self._batches >= self.fails[0]:
                raise self.fails[1]
            yield self._make(rows[start : start + 2])

    def all_batches(self) -> Iterator[Transactions]:
        """Everything there is now."""
        for rows in self.units.values():
            if rows:
                yield self._make(rows)
