"""Transactions in a PostgreSQL or SQLite table, read through SQLAlchemy."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.sql.elements import quoted_name

from client.data.canonicalise import canonicalise
from client.data.source_config import SqlSourceConfig, check_columns
from client.data.transactions import Transactions
from common.errors import InputError

_CHUNK_ROWS = 50_000
_CONNECT_TIMEOUT_S = 10


class SqlSource:
    """Transactions in a table or view of PostgreSQL or SQLite, read in one read-only query."""

    def __init__(self, config: SqlSourceConfig) -> None:
        self._config = config

    @property
    def _origin(self) -> str:
        schema = f"{self._config.db_schema}." if self._config.db_schema else ""
        return f"The table {schema}{self._config.table} of {self._config.server}"

    def columns(self) -> list[str]:
        """The table's columns, from the database's catalogue."""
        with self._connection() as connection:
            return self._columns(connection)

    def read(self) -> Transactions:
        """Reads the mapped columns.

        Raises:
            InputError: The database cannot be reached, the table or a column does not exist or may
                not be read, or there are no rows.
        """
        mapped = list(self._config.columns.by_canonical_name.values())
        with self._connection() as connection:
            check_columns(mapped, self._columns(connection), self._origin)
            # Names are always quoted: they come from a file and may be anything.
            table = sa.table(
                quoted_name(self._config.table, quote=True), schema=_quoted(self._config.db_schema)
            )
            query: sa.Executable = sa.select(
                *(sa.column(quoted_name(name, quote=True)) for name in mapped)
            ).select_from(table)
            streamed = connection.execution_options(yield_per=_CHUNK_ROWS)
            chunks = [
                pa.table([_arrow(values) for values in zip(*rows, strict=True)], names=mapped)
                for rows in streamed.execute(query).partitions()
            ]
        if not chunks:
            chunks = [pa.table({name: pa.array([], pa.null()) for name in mapped})]
        return canonicalise(_concatenate(chunks), self._config, self._origin)

    def _columns(self, connection: sa.Connection) -> list[str]:
        try:
            found = sa.inspect(connection).get_columns(
                self._config.table, schema=self._config.db_schema
            )
        except sa.exc.NoSuchTableError as error:
            raise InputError(
                f"{self._origin} does not exist.",
                remedy="Correct table and db_schema in the store's declaration.",
            ) from error
        return [column["name"] for column in found]

    @contextmanager
    def _connection(self) -> Iterator[sa.Connection]:
        engine = self._engine()
        try:
            with engine.connect() as connection:
                yield connection
        except DBAPIError as error:
            cause = str(error.orig).strip().split("\n")[0]
            raise InputError(
                f"{self._origin} cannot be read: {cause}.",
                remedy="Check that the database runs and the reader may select these columns.",
            ) from error
        finally:
            engine.dispose()

    def _engine(self) -> sa.Engine:
        try:
            url = sa.make_url(self._config.resolve_url())
        except SQLAlchemyError:
            # The original repeats the URL, and with it the password.
            raise InputError(
                "The url of the store's declaration is not a database URL.",
                remedy="Write it as postgresql://user@host/database or sqlite:///file.",
            ) from None
        backend = url.get_backend_name()
        if backend == "postgresql":
            return sa.create_engine(
                url.set(drivername="postgresql+psycopg"),
                connect_args={"connect_timeout": _CONNECT_TIMEOUT_S},
                execution_options={"postgresql_readonly": True},
            )
        if backend == "sqlite":
            return _sqlite_engine(self._config.base / (url.database or ""))
        raise InputError(
            f"The store's declaration names a {backend} database, which is not supported.",
            remedy="Use PostgreSQL or SQLite, or export the table to Parquet or CSV.",
        )


def _quoted(name: str | None) -> quoted_name | None:
    return None if name is None else quoted_name(name, quote=True)


def _sqlite_engine(path: Path) -> sa.Engine:
    if not path.is_file():
        raise InputError(
            f"The SQLite database {path} does not exist.",
            remedy="Correct url in the store's declaration.",
        )
    # Opened read-only by URI: SQLite would otherwise create what it does not find.
    uri = f"{path.resolve().as_uri()}?mode=ro"
    return sa.create_engine("sqlite://", creator=lambda: sqlite3.connect(uri, uri=True))


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


def _concatenate(chunks: list[pa.Table]) -> pa.Table:
    try:
        return pa.concat_tables(chunks, promote_options="permissive")
    except pa.ArrowTypeError:
        # A dynamically typed column (SQLite) changed its type from one chunk to another.
        return pa.concat_tables([_as_text(chunk) for chunk in chunks])


def _as_text(chunk: pa.Table) -> pa.Table:
    return pa.table({name: chunk.column(name).cast(pa.string()) for name in chunk.column_names})
