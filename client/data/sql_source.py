"""Rows of a PostgreSQL or SQLite table, read through SQLAlchemy, batch by batch.

The units of a table are ranges of a column that grows from row to row (`refresh_by`): what is
settled, and a tail that is read again, since transactions end in another order than they began.
Without such a column the table is one unit. Whatever the units, the whole table is read anew after
a while: rows that were deleted or altered are not seen otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.sql.elements import quoted_name

from client.data.canonicalise import canonicalise
from client.data.source_config import SqlReading, SqlSourceConfig, check_columns
from client.data.sql_connection import Patience, connected
from client.data.sql_ranges import Range, Seen, ranges_to_read, settled_before, value_of
from client.data.store_units import (
    BATCH_ROWS,
    DATE,
    NUMBER,
    TEXT,
    UNKNOWN,
    ZONED,
    ZONELESS,
    Changes,
    StoreUnit,
    require_meaning,
)
from client.data.transactions import Transactions
from common.errors import InputError

# Rows come as Python objects, several hundred bytes each: fewer at a time than from files.
_CHUNK_ROWS = BATCH_ROWS // 4


class SqlRows:
    """The rows of a table or view of PostgreSQL or SQLite, under its own names of columns.

    Args:
        config: How it is read.
        names: Its names of the mapped columns, by canonical name.
        times: The canonical names of the columns that hold times.
    """

    def __init__(
        self,
        config: SqlReading,
        names: Mapping[str, str],
        *,
        times: Collection[str] = ("time",),
    ) -> None:
        self._config = config
        self._names = names
        self._times = times

    @property
    def origin(self) -> str:
        """What messages call the store."""
        schema = f"{self._config.db_schema}." if self._config.db_schema else ""
        return f"The table {schema}{self._config.table} of {self._config.server}"

    def columns(self) -> list[str]:
        """The table's columns, from the database's catalogue."""
        with connected(self._config, self.origin) as (connection, patience):
            return list(self._types(connection, patience))

    def check(self) -> None:
        """Checks that the table can be reached and has what is mapped.

        Raises:
            InputError: It cannot, or has not.
        """
        with connected(self._config, self.origin) as (connection, patience):
            kinds = self._kinds(connection, patience)
            # That the columns may be read shows only when they are.
            query = self._select().limit(0)
            with patience.waiting():
                connection.execute(query).close()
        style = self._config.time_format
        require_meaning(kinds, self._names, style, self.origin, times=self._times)

    def changes(self, taken: Mapping[str, StoreUnit], now_ms: int) -> Changes:
        """New ranges of rows.

        Raises:
            InputError: The database cannot be read, or `refresh_by` is no column to go by.
        """
        with connected(self._config, self.origin) as (connection, patience):
            self._kinds(connection, patience)
            seen = self._look(connection, patience, taken, now_ms)
        return ranges_to_read(
            taken,
            seen,
            reread_after_ms=self._config.reread_after_hours * 3_600_000,
            now_ms=now_ms,
        )

    def kinds(self, unit: StoreUnit) -> Mapping[str, str]:  # noqa: ARG002 # all units have one table's
        """What each mapped column holds, by its canonical name, from the database's catalogue.

        Raises:
            InputError: The database cannot be read, or the table lacks a mapped column.
        """
        with connected(self._config, self.origin) as (connection, patience):
            return self._kinds(connection, patience)

    def tables(self, unit: StoreUnit) -> Iterator[pa.Table]:
        """Reads the mapped columns of a range of rows; no table without rows.

        Raises:
            InputError: The database cannot be reached, the table or a column does not exist or may
                not be read.
        """
        mapped = list(self._names.values())
        query = self._within(self._select(), Range.of_mark(unit.mark))
        with connected(self._config, self.origin) as (connection, patience):
            streamed = connection.execution_options(yield_per=_CHUNK_ROWS)
            with patience.waiting():
                partitions = streamed.execute(query).partitions()
            while True:
                with patience.waiting():
                    rows = next(partitions, None)
                if rows is None:
                    return
                columns = [_arrow(values) for values in zip(*rows, strict=True)]
                del rows
                yield pa.table(columns, names=mapped)

    def _look(
        self,
        connection: sa.Connection,
        patience: Patience,
        taken: Mapping[str, StoreUnit],
        now_ms: int,
    ) -> Seen | None:
        """The greatest `refresh_by`, and how many rows are above what is settled."""
        if self._config.refresh_by is None:
            return None
        column: sa.ColumnClause[Any] = sa.column(quoted_name(self._config.refresh_by, quote=True))
        table = self._table()
        with patience.waiting():
            found = connection.scalar(sa.select(sa.func.max(column)).select_from(table))
        highest = value_of(found, self.origin, column.name)
        without = sa.select(sa.literal(1)).select_from(table).where(column.is_(None)).limit(1)
        with patience.waiting():
            if connection.scalar(without) is not None:
                raise InputError(
                    f"{self.origin}: refresh_by names the column {column.name!r}, which has no "
                    "value in some rows.",
                    remedy="Name a column that every row has a value in.",
                )
        if highest is None:
            return Seen(None, None, 0, 0)
        cut = highest.cut(self._config.refresh_overlap, now_ms)
        settled = settled_before(taken)
        if settled is None or not settled.comparable(cut):
            settled = cut
        above = []
        for bound in (settled, cut):
            count = sa.select(sa.func.count()).select_from(table).where(column > bound.literal())
            with patience.waiting():
                above.append(int(connection.scalar(count) or 0))
        return Seen(highest, cut, *above)

    def _table(self) -> sa.TableClause:
        # Names are always quoted: they come from a file and may be anything.
        schema = self._config.db_schema
        return sa.table(
            quoted_name(self._config.table, quote=True),
            schema=None if schema is None else quoted_name(schema, quote=True),
        )

    def _select(self) -> sa.Select[Any]:
        columns: list[sa.ColumnClause[Any]] = [
            sa.column(quoted_name(name, quote=True)) for name in self._names.values()
        ]
        return sa.select(*columns).select_from(self._table())

    def _within(self, query: sa.Select[Any], rows: Range) -> sa.Select[Any]:
        name = quoted_name(self._config.refresh_by or "", quote=True)
        column: sa.ColumnClause[Any] = sa.column(name)
        if rows.above is not None:
            query = query.where(column > rows.above.literal())
        if rows.upto is not None:
            query = query.where(column <= rows.upto.literal())
        return query

    def _kinds(self, connection: sa.Connection, patience: Patience) -> dict[str, str]:
        types = self._types(connection, patience)
        asked = [*self._names.values(), *filter(None, [self._config.refresh_by])]
        check_columns(asked, list(types), self.origin)
        return {canonical: _kind(types[column]) for canonical, column in self._names.items()}

    def _types(
        self, connection: sa.Connection, patience: Patience
    ) -> dict[str, sa.types.TypeEngine[Any]]:
        try:
            with patience.waiting():
                found = sa.inspect(connection).get_columns(
                    self._config.table, schema=self._config.db_schema
                )
        except sa.exc.NoSuchTableError as error:
            raise InputError(
                f"{self.origin} does not exist.",
                remedy="Correct table and db_schema in the store's declaration.",
            ) from error
        return {column["name"]: column["type"] for column in found}


class SqlSource(SqlRows):
    """Transactions in a table or view of PostgreSQL or SQLite.

    Args:
        config: Its declaration.
    """

    def __init__(self, config: SqlSourceConfig) -> None:
        super().__init__(config, config.columns.by_canonical_name)
        self._declared = config

    def batches(self, unit: StoreUnit) -> Iterator[Transactions]:
        """Reads the mapped columns of a range of rows.

        Raises:
            InputError: As `tables`.
        """
        for table in self.tables(unit):
            yield canonicalise(table, self._declared, self.origin)


def _kind(column: sa.types.TypeEngine[Any]) -> str:
    if isinstance(column, sa.DateTime):
        return ZONED if column.timezone else ZONELESS
    if isinstance(column, sa.Date):
        return DATE
    if isinstance(column, sa.String):
        return TEXT
    # What a database of dynamic types declares as a number may hold anything.
    return NUMBER if isinstance(column, sa.Numeric | sa.Integer) else UNKNOWN


def _arrow(values: tuple[Any, ...]) -> pa.Array:
    """One chunk of one database column; mixed types as text."""
    if any(isinstance(value, Decimal | datetime) for value in values):
        values = tuple(_plain(value) for value in values)
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        return pa.array([None if value is None else str(value) for value in values])


def _plain(value: Any) -> Any:
    """Decimals as int or float, zoned times in UTC; anything else as it is."""
    if isinstance(value, Decimal):
        # Whole decimals stay exact: long references are often NUMERIC.
        whole = value.is_finite() and value == value.to_integral_value()
        return int(value) if whole else float(value)
    if isinstance(value, datetime) and value.tzinfo is not None:
        # Importing pandera sets PYARROW_IGNORE_TIMEZONE, which makes pyarrow take the wall clock
        # of any zone for UTC. In UTC the two are one.
        return value.astimezone(UTC)
    return value
