"""What a region's tables say of one person, for that person: their rows, and nobody else's.

Two kinds of tables. Those that the region reads (`client.data.tables`): purchases, events, members
and so on, wherever they lie, each row under its canonical columns, as its store says it: nothing
fenced, filled in, merged or capped; what is no row of its table is left out. And those that it
keeps by columns (`client.governance.column_store`), as they are kept; columns of high grade take a
grant, so that they are named and not read.

A store is read unit by unit, and of each only the person's rows are kept: it may be larger than
memory.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from client.data.source_config import SourceConfig
from client.data.tables.declaration import declared_tables
from client.data.tables.reading import RegionTables
from client.data.tables.rows import arrow_schema
from client.data.tables.schema import EXPOSURES, schema_of
from client.engine.home import HOME_NAME, RegionHome
from client.engine.shown_lists import shown_to
from client.governance.column_store import ColumnStore
from client.governance.kept_references import channel_keys_of
from client.settings import declared_source, settings_file
from common.canonical_json import JsonValue
from common.timestamps import format_time

#: A row, by column; what is not there is left out.
Row = dict[str, bool | int | float | str]

_TABLES, _KEPT = "tables", "kept-tables"
# What parts folders somewhere, or is no part of a file's name; and the sign that stands for it.
_NO_FILE_NAME = re.compile(r'[/\\:*?"<>|%]')


@dataclass(frozen=True)
class SubjectTables:
    """A person's rows.

    Attributes:
        tables: By table, the rows of what the region reads, oldest first.
        kept: By table, the rows of what it keeps by columns.
        withheld: By kept table, the columns that take a grant: what they say is not here.
    """

    tables: Mapping[str, list[Row]] = field(repr=False)
    kept: Mapping[str, list[Row]] = field(repr=False)
    withheld: Mapping[str, tuple[str, ...]]

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(len(rows) for each in (self.tables, self.kept) for rows in each.values())

    def files(self) -> dict[str, list[Row]]:
        """The rows by the name of their file, which leads out of no folder it is unpacked in."""
        return {
            f"{folder}/{_file_name(name)}.json": rows
            for folder, found in ((_TABLES, self.tables), (_KEPT, self.kept))
            for name, rows in found.items()
        }

    def summary(self) -> dict[str, JsonValue]:
        """In short, for the export's summary."""
        return {
            "tables": {name: len(rows) for name, rows in self.tables.items()},
            "kept_tables": {
                name: {"rows": len(rows), "withheld": list(self.withheld[name])}
                for name, rows in self.kept.items()
            },
        }


def subject_tables(home: RegionHome, customer_ref: str, sid: str) -> SubjectTables:
    """Collects the rows of one person.

    Args:
        home: The region's home.
        customer_ref: The region's reference of the customer.
        sid: Their pseudonym.

    Raises:
        InputError: A declaration is malformed, or a table cannot be read: names it.
        StorageError: What is kept cannot be read.
    """
    tables = RegionTables(declared_tables(home), store=_store_of(home))
    found = {
        name: _plain_rows(_read(tables, name, customer_ref))
        for name in tables.names
        if schema_of(name).of_customers
    }
    if EXPOSURES not in found:
        shown = shown_to(home, customer_ref, sid)
        if len(shown):
            found[EXPOSURES] = _plain_rows(shown)
    kept = ColumnStore(home).about({customer_ref}, channel_keys_of(home, customer_ref))
    return SubjectTables(
        found,
        {name: _plain_rows(each.rows) for name, each in kept.items()},
        {name: each.withheld for name, each in kept.items()},
    )


def _file_name(table: str) -> str:
    """A table's name as a file's on any system: a kept table may be called whatever is a line."""
    return _NO_FILE_NAME.sub(lambda found: f"%{ord(found.group()):02X}", table)


def _store_of(home: RegionHome) -> SourceConfig | None:
    """The store that the home or its settings declare, if they declare one."""
    beside = home.root.name == HOME_NAME and settings_file(home.root).exists()
    return declared_source(home) if beside or home.source.exists() else None


def _read(tables: RegionTables, name: str, customer_ref: str) -> pa.Table:
    """One person's rows of a table, unit by unit."""
    keys, at_ms, found = tables.keys_of(name), tables.clock_ms(), list[pa.Table]()
    for place in tables.places(name):
        for unit in place.source.changes({}, at_ms).fresh:
            batches, _ = place.read(unit, keys, at_ms)
            for each in batches:
                hers = pc.equal(each.column("customer").cast(pa.string()), customer_ref)
                found.append(each.filter(hers))
    # Not judged as a whole: repeats, contradictions and the rows beyond a cap are hers, too.
    return pa.concat_tables([arrow_schema(schema_of(name)).empty_table(), *found])


def _plain_rows(rows: pa.Table) -> list[Row]:
    """Rows as JSON values, what is not there left out; in the order of time and then of content."""
    plain: list[Row] = [
        {name: _plain(value) for name, value in row.items() if value is not None}
        for row in rows.to_pylist()
    ]
    plain.sort(key=lambda row: (str(row.get("time", "")), json.dumps(row, sort_keys=True)))
    return plain


def _plain(value: object) -> bool | int | float | str:
    """A value as JSON has it; moments in UTC, what JSON cannot say as text."""
    if isinstance(value, datetime):
        whole = value if value.tzinfo else value.replace(tzinfo=UTC)
        return format_time(round(whole.timestamp() * 1000))
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bool | int | float | str):
        return value
    return str(value)
