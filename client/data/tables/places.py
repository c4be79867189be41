"""The places that a table's rows are in: how they are opened, and what is read of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa

from client.data.canonicalise import as_references
from client.data.customer_keys import CustomerKeys
from client.data.file_source import FileRows, unreadable_is_input_error
from client.data.source_config import Reading
from client.data.sql_source import SqlRows
from client.data.store_units import Changes, StoreUnit, kind_of, merge_kinds
from client.data.tables.declaration import FileTable, GradedTable, TableConfig
from client.data.tables.rows import RowReader, TableCounts
from client.data.tables.schema import TableSchema
from client.engine.home import RegionHome
from client.governance.column_store import ColumnStore
from client.governance.kept_rows import KeptRows


class RowSource(Protocol):
    """Where a table's rows are: units of them, under the place's own names of columns."""

    @property
    def origin(self) -> str:
        """What messages call it."""
        ...

    def check(self) -> None:
        """Checks that it can be read and has what is mapped; reads no row."""
        ...

    def changes(self, taken: Mapping[str, StoreUnit], now_ms: int) -> Changes:
        """What is new or gone since some units were taken up."""
        ...

    def kinds(self, unit: StoreUnit) -> Mapping[str, str]:
        """What each mapped column of a unit holds."""
        ...

    def tables(self, unit: StoreUnit) -> Iterator[pa.Table]:
        """The mapped columns of a unit, batch by batch."""
        ...


class TreatedBatch(Protocol):
    """Rows that were held to the region's standards."""

    @property
    def reasons(self) -> Mapping[str, int]:
        """Reason → rows that fail for it."""
        ...

    def __len__(self) -> int:
        """How many rows there are, those that fail among them."""
        ...

    def guesses(self) -> int:
        """In how many of those that do not fail a value was filled in or fenced."""
        ...

    def kept(self) -> pa.Table:
        """Those that do not, under canonical names."""
        ...


class RowTreating(Protocol):
    """Holds rows of a table to the region's standards (`client.governance.quality_rows`)."""

    def apply(self, raw: pa.Table, *, origin: str) -> TreatedBatch:
        """Treats a batch, whose columns have their canonical names."""
        ...


@dataclass(frozen=True, eq=False)
class RawRows:
    """What one place of a table holds, for quality governance: nothing judged, nothing unified.

    Attributes:
        rows: The mapped columns under their canonical names, in whatever types the place has them;
            codes that the declaration translates are translated.
        reading: How times are written, and in which zone.
        origin: Where the rows are from, for messages.
        channel: Whose keys the customers' references are; None: the region's own.
    """

    rows: pa.Table = field(repr=False)
    reading: Reading
    origin: str
    channel: str | None


class TablePlace:
    """One place that a table's rows are in.

    Args:
        schema: The table.
        config: How the place is declared.
        source: Its rows, if they are not where the declaration says.
        treatment: What its rows are held to before they are read; without, nothing.
        require_kinds: Refuses what columns hold, by name, if they held something else when that was
            last accepted; asked of rows that are treated.
    """

    def __init__(
        self,
        schema: TableSchema,
        config: TableConfig,
        source: RowSource | None = None,
        treatment: RowTreating | None = None,
        require_kinds: Callable[[Mapping[str, str]], None] | None = None,
    ) -> None:
        self.schema = schema
        self.config = config
        self._treatment = treatment
        self._require_kinds = require_kinds
        self.source: RowSource = _opened(schema, config) if source is None else source
        self._source_of_all = _opened(schema, config, config.columns) if source is None else source

    def read(
        self, unit: StoreUnit, keys: CustomerKeys | None, now_ms: int
    ) -> tuple[list[pa.Table], TableCounts]:
        """Reads a unit.

        Raises:
            InputError: It cannot be read, or a column holds what its meaning does not allow.
        """
        treatment = self._treatment
        reader = RowReader(self.schema, self.config, keys)
        if treatment is not None:
            reader = RowReader(self.schema, self.canonical_config, keys)
        tables, counts = [], TableCounts()
        # What Arrow makes of a broken value is told as the unit's, without the value.
        with unreadable_is_input_error(unit.name):
            for raw in self.source.tables(unit):
                where, rows = f"{self.source.origin}, {unit.name}", raw
                if treatment is not None:
                    canonical = self._canonical(raw, unit)
                    if self._require_kinds is not None:
                        self._require_kinds({f.name: kind_of(f.type) for f in canonical.schema})
                    treated = treatment.apply(canonical, origin=where)
                    rows, guessed = treated.kept(), treated.guesses()
                    left_out = len(treated) - rows.num_rows
                    counts += TableCounts(left_out, reasons=treated.reasons, guessed=guessed)
                table, found = reader.read(rows, where, now_ms)
                tables.append(table)
                counts += found
        return tables, counts

    @property
    def canonical_config(self) -> TableConfig:
        """The declaration of rows whose columns and codes are canonical already."""
        codes = {
            column: {code: code for code in each.values()}
            for column, each in self.config.codes.items()
        }
        columns = {name: name for name in self.config.columns}
        return self.config.model_copy(update={"columns": columns, "codes": codes})

    def raw(self, at_ms: int) -> RawRows:
        """All that is mapped, canonical or not, as it is written.

        Args:
            at_ms: The time, milliseconds since the epoch.

        Raises:
            InputError: It cannot be read.
        """
        config = self.config
        empty = pa.table({name: pa.nulls(0) for name in config.columns})
        tables = [empty, *self.raw_batches(at_ms)]
        rows = pa.concat_tables(tables, promote_options="permissive")
        return RawRows(rows, config, self._source_of_all.origin, config.channel)

    def raw_batches(self, at_ms: int) -> Iterator[pa.Table]:
        """The same, batch by batch.

        Args:
            at_ms: The time, milliseconds since the epoch.

        Raises:
            InputError: It cannot be read, or its parts contradict each other in what a column
                holds.
        """
        source, kinds = self._source_of_all, dict[str, str]()
        for unit in source.changes({}, at_ms).fresh:
            kinds = merge_kinds(kinds, source.kinds(unit), self.config.columns, unit.name)
            with unreadable_is_input_error(unit.name):
                for raw in source.tables(unit):
                    yield self._canonical(raw, unit)

    def _canonical(self, raw: pa.Table, unit: StoreUnit) -> pa.Table:
        """Columns under their canonical names, declared codes translated."""
        config = self.config
        columns = {
            name: _translated(raw.column(stored), config.codes.get(name, {}), unit.name)
            for name, stored in config.columns.items()
            if stored in raw.column_names
        }
        return pa.table(columns)


def _opened(
    schema: TableSchema, config: TableConfig, columns: Mapping[str, str] | None = None
) -> RowSource:
    """The rows of a declared place.

    Args:
        schema: The table.
        config: The place.
        columns: The columns to select; the canonical ones if they are not given.
    """
    if columns is None:
        columns = {name: each for name, each in config.columns.items() if name in schema.columns}
    times = schema.holding("time")
    if isinstance(config, FileTable):
        return FileRows(config, columns, times=times)
    if isinstance(config, GradedTable):
        store, style = ColumnStore(RegionHome.read(config.home)), config.time_format
        return KeptRows(store, config.table, columns, time_format=style, times=times)
    return SqlRows(config, columns, times=times)


def _translated(
    column: pa.ChunkedArray, codes: Mapping[str, str], where: str
) -> pa.ChunkedArray | pa.Array:
    if not codes:
        return column
    texts = as_references(column, len(column), where)
    names = [codes.get(each, each) for each in texts.categories.tolist()]
    places = pa.array(np.asarray(texts.codes), mask=np.asarray(texts.codes) < 0)
    return pa.array(names, pa.string()).take(places)
