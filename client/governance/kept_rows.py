"""A further table whose rows are kept by columns: what the region's own programs read of it.

So a table's file can go once it is kept, and what programs take from it goes by grade: low and
medium columns, and no other (`client.governance.grades`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping

import pyarrow as pa

from client.data.store_units import BATCH_ROWS, Changes, StoreUnit, kind_of, require_meaning
from client.governance.column_store import ColumnStore
from client.governance.grades import FOR_PROGRAMS


class KeptRows:
    """The rows of a kept table, as `client.data.tables.places` reads a place.

    Args:
        store: The region's column store.
        table: The table's name in it.
        names: The store's names of the mapped columns, by canonical name.
        time_format: How times that are no timestamps are read.
        times: The canonical names of the columns that hold times.
    """

    def __init__(
        self,
        store: ColumnStore,
        table: str,
        names: Mapping[str, str],
        *,
        time_format: str,
        times: Collection[str] = ("time",),
    ) -> None:
        self._store = store
        self._table = table
        self._names = names
        self._time_format = time_format
        self._times = times

    @property
    def origin(self) -> str:
        """What messages call it."""
        return f"the kept table {self._table}"

    def check(self) -> None:
        """Checks that it is kept, and that programs may read what is mapped.

        Raises:
            InputError: The table or a column is not kept, or holds what its meaning does not allow.
            PolicyError: A column is of high grade: programs do not read it.
            StorageError: What is kept cannot be read.
        """
        columns = tuple(self._names.values())
        self._store.manifest().require_grades(self._table, columns, FOR_PROGRAMS)
        kinds = self.kinds(self._unit(0))
        require_meaning(kinds, self._names, self._time_format, self.origin, times=self._times)

    def changes(self, taken: Mapping[str, StoreUnit], now_ms: int) -> Changes:
        """The table as a whole, if it was kept anew; a turned key changes nothing of it.

        Raises:
            InputError: The table or a column is not kept.
            StorageError: What is kept cannot be read.
        """
        unit = self._unit(now_ms)
        if unit.name in taken and taken[unit.name].mark == unit.mark:
            return Changes(frozenset(taken.keys() - {unit.name}))
        return Changes(frozenset(taken), (unit,))

    def kinds(self, unit: StoreUnit) -> Mapping[str, str]:
        """What each mapped column holds, by its canonical name; raises as `check`."""
        del unit  # There is one.
        schema = self._rows().schema
        return {name: kind_of(schema.field(each).type) for name, each in self._names.items()}

    def tables(self, unit: StoreUnit) -> Iterator[pa.Table]:
        """Reads the mapped columns, `BATCH_ROWS` rows at a time; raises as `check`."""
        del unit
        for batch in self._rows().to_batches(max_chunksize=BATCH_ROWS):
            if batch.num_rows:
                yield pa.Table.from_batches([batch])

    def _rows(self) -> pa.Table:
        return self._store.for_programs(self._table, [*self._names.values()])

    def _unit(self, now_ms: int) -> StoreUnit:
        # Each keeping writes new files under random names.
        found = self._store.manifest().find(self._table, tuple(self._names.values()))
        files = " ".join(each.file for _, each in sorted(found.items()))
        return StoreUnit(self.origin, hashlib.sha256(files.encode()).hexdigest(), now_ms)
