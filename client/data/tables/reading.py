"""A region's further tables, read whole: rows unified, repeats left out, everything counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import pyarrow as pa

from client.data.customer_keys import CustomerKeys
from client.data.source_config import Reading, SourceConfig
from client.data.store_units import merge_kinds
from client.data.tables.declaration import DeclaredTables, declared_tables
from client.data.tables.finishing import TableRead, finished
from client.data.tables.governed import governed_read, problems_of
from client.data.tables.places import RawRows, RowTreating, TablePlace
from client.data.tables.rows import TableCounts
from client.data.tables.schema import KEYS, PURCHASES, schema_of
from client.data.tables.stored_purchases import StoredPurchases
from client.engine.home import RegionHome
from client.governance.quality_home import Governance
from client.settings import declared_source
from common.errors import InputError
from common.timestamps import now_ms


class RegionTables:
    """The tables of a region.

    Args:
        declared: Their declarations.
        store: The region's store, of which the table `purchases` is made if it is not declared.
        governance: The standards that rows are held to; without, to their schema alone.
        clock_ms: A test's own clock, milliseconds since the epoch.
    """

    def __init__(
        self,
        declared: DeclaredTables,
        *,
        store: SourceConfig | None = None,
        governance: Governance | None = None,
        clock_ms: Callable[[], int] = now_ms,
    ) -> None:
        self.declared = declared
        self.governance = governance
        self._store = store
        self.clock_ms = clock_ms

    @property
    def names(self) -> tuple[str, ...]:
        """The tables that there are, the map of keys left out."""
        made = [PURCHASES] if self._store is not None and PURCHASES not in self.declared else []
        return (*made, *(name for name in self.declared if name != KEYS))

    def places(self, name: str) -> list[TablePlace]:
        """Where a table's rows are.

        Raises:
            InputError: It is not declared.
        """
        schema = schema_of(name)
        if name == PURCHASES and name not in self.declared and self._store is not None:
            stored = StoredPurchases(self._store)
            config = stored.as_table()
            return [
                TablePlace(
                    schema, config, stored, self._treatment(name, config), self._kinds_of(name)
                )
            ]
        if name not in self.declared:
            raise InputError(
                f"The region declares no table {name}; it declares "
                f"{', '.join(self.names) or 'none'}.",
                remedy=f"Add [{name}] to tables.toml, beside source.toml.",
            )
        return [
            TablePlace(
                schema,
                config,
                treatment=self._treatment(name, config),
                require_kinds=self._kinds_of(name),
            )
            for config in self.declared[name]
        ]

    def check(self) -> None:
        """Checks that every table can be reached and has what is mapped; reads no row.

        Raises:
            InputError: Names the file or table, what is wrong and what to do.
        """
        for name in {*self.declared, *self.names}:
            for place in self.places(name):
                place.source.check()

    def keys(self) -> CustomerKeys | None:
        """The region's map of keys; None if no table needs one.

        Raises:
            InputError: It cannot be read.
        """
        if KEYS not in self.declared:
            return None
        return CustomerKeys.of_rows(self._read(KEYS, None).rows.to_pandas())

    def keys_of(self, name: str) -> CustomerKeys | None:
        """The map of keys, if a table's customers are a channel's in any place.

        Raises:
            InputError: It cannot be read.
        """
        channels = any(config.channel is not None for config in self.declared.get(name, ()))
        return self.keys() if channels else None

    def read(self, name: str) -> TableRead:
        """Reads a table whole; its customers are the region's own references.

        Not filtered by consent: whoever uses rows of customers takes those of
        `EligibleCustomers`, as `client.data.tables.joining` does.

        Raises:
            InputError: It is not declared or cannot be read, or two of its parts contradict each
                other in what a column holds.
        """
        keys = self.keys_of(name)
        governance = self.governance
        if governance is None or name not in governance.standards.tables:
            return self._read(name, keys)
        return governed_read(name, self.places(name), governance, keys, self.clock_ms())

    def problems(self, name: str, counts: TableCounts) -> tuple[str, ...]:
        """Why the region's standards let nobody use a table; empty if they do.

        For whoever takes rows in as they come; of a table that is read whole, `TableRead` says so.

        Args:
            name: The table.
            counts: What was read of it, and what of it is right.
        """
        return () if self.governance is None else problems_of(name, counts, self.governance)

    def raw(self, name: str) -> list[RawRows]:
        """All that is mapped of a table, place by place; see `RawRows`.

        Raises:
            InputError: It is not declared or cannot be read.
        """
        return [each.raw(self.clock_ms()) for each in self.places(name)]

    def _treatment(self, name: str, reading: Reading) -> RowTreating | None:
        return None if self.governance is None else self.governance.treatment(name, reading)

    def _kinds_of(self, name: str) -> Callable[[Mapping[str, str]], None] | None:
        return None if self.governance is None else partial(self.governance.require_kinds, name)

    def _read(self, name: str, keys: CustomerKeys | None) -> TableRead:
        schema, at_ms = schema_of(name), self.clock_ms()
        tables, counts = list[pa.Table](), TableCounts()
        for place in self.places(name):
            kinds = dict[str, str]()
            for unit in place.source.changes({}, at_ms).fresh:
                held = place.source.kinds(unit)
                kinds = merge_kinds(kinds, held, place.config.columns, unit.name)
                found, counted = place.read(unit, keys, at_ms)
                tables += found
                counts += counted
        return finished(schema, tables, counts)


def read_tables(home: RegionHome) -> RegionTables:
    """The tables of a home: those that it declares, and its purchases in any case.

    Nothing is read before it is asked for. Rows are held to the home's data standards.

    Raises:
        InputError: A declaration or the standards are missing or malformed: names file, table and
            field.
    """
    governance = Governance.of(home)
    return RegionTables(declared_tables(home), store=declared_source(home), governance=governance)
