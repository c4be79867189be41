"""Reading a region's transactions: files through duckdb, databases through SQLAlchemy.

Data minimisation: only the mapped columns are ever selected. The rest of a store's table is listed
by name, never read.
"""

from __future__ import annotations

import csv
import difflib
import glob
import gzip
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol, TextIO, cast

import duckdb
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.sql.elements import quoted_name

from client.data.canonicalise import canonicalise
from client.data.source_config import FileSourceConfig, SqlSourceConfig, load_source_config
from client.data.transactions import Transactions
from common.errors import InputError

__all__ = ["FileSource", "SqlSource", "TransactionSource", "load_source_config", "open_source"]

_SUFFIXES = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".csv.gz": "csv"}
_SQL_CHUNK_ROWS = 50_000
_CONNECT_TIMEOUT_S = 10


class TransactionSource(Protocol):
    """A store of transactions."""

    def columns(self) -> list[str]:
        """The store's column names, in its order."""
        ...

    def read(self) -> Transactions:
        """Reads the mapped columns of all rows."""
        ...


def open_source(config: FileSourceConfig | SqlSourceConfig) -> TransactionSource:
    """The source that a declaration describes. Nothing is opened before it is asked."""
    return FileSource(config) if isinstance(config, FileSourceConfig) else SqlSource(config)


def _check_columns(mapped: Sequence[str], available: list[str], origin: str) -> None:
    for name in mapped:
        if name not in available:
            closest = difflib.get_close_matches(name, available, n=1, cutoff=0.5)
            hint = f" Did you mean {closest[0]!r}?" if closest else ""
            raise InputError(
                f"{origin} has no column {name!r}; it has {', '.join(available)}.{hint}",
                remedy="Correct [columns] in the store's declaration.",
            )


class FileSource:
    """Transactions in Parquet or CSV files."""

    def __init__(self, config: FileSourceConfig) -> None:
        self._config = config
        self._location = config.base / config.path

    def columns(self) -> list[str]:
        """The columns of the first file; all files must have them."""
        files = self._files()
        if self._format(files) == "csv":
            return self._csv_header(files[0])
        with self._unreadable_is_input_error():
            relation = _run("SELECT * FROM read_parquet(?)", [_literal(files[:1])])
            return [str(name) for name in relation.columns]

    def read(self) -> Transactions:
        """Reads the mapped columns.

        Raises:
            InputError: No such file, unknown column, unreadable file, or no rows.
        """
        files = self._files()
        mapped = list(self._config.columns.by_canonical_name.values())
        _check_columns(mapped, self.columns(), str(self._location))
        selected = ", ".join(_quote(name) for name in mapped)
        with self._unreadable_is_input_error():
            if self._format(files) == "csv":
                scan, values = self._csv_scan(files)
            else:
                scan, values = "read_parquet(?)", [_literal(files)]
            table = _run(f"SELECT {selected} FROM {scan}", values).to_arrow_table()  # noqa: S608 # names are quoted, values are bound
        return canonicalise(table, self._config, str(self._location))

    def _files(self) -> list[str]:
        location = self._location
        if location.is_dir():
            files = [
                str(entry)
                for entry in sorted(location.iterdir())
                if entry.is_file() and _format_of(entry.name) is not None
            ]
        elif location.exists():
            files = [str(location)]
        else:
            files = sorted(glob.glob(str(location)))  # noqa: PTH207 # Path.glob takes no absolute pattern
        if not files:
            raise InputError(
                f"There are no transaction files at {location}.",
                remedy="Correct path in the store's declaration: a file, a glob or a folder.",
            )
        return files

    def _format(self, files: list[str]) -> str:
        if self._config.format is not None:
            return self._config.format
        formats = {_format_of(name) for name in files}
        if len(formats) != 1 or None in formats:
            raise InputError(
                f"The files at {self._location} are not all of one known format "
                f"({', '.join(_SUFFIXES)}).",
                remedy="Narrow path, or set format to parquet or csv.",
            )
        return cast("str", formats.pop())

    def _csv_header(self, name: str) -> list[str]:
        path = Path(name)
        opener: Callable[..., TextIO] = gzip.open if path.suffix == ".gz" else open
        encoding = "utf-8-sig" if self._config.encoding == "utf-8" else self._config.encoding
        try:
            # Bytes of another encoding are the reader's to report, with their line.
            with opener(path, "rt", encoding=encoding, errors="replace", newline="") as file:
                header = next(csv.reader(file, delimiter=self._config.delimiter, strict=True), [])
        except (OSError, UnicodeError, csv.Error) as error:
            raise InputError(
                f"The file {path} cannot be read: {error}.",
                remedy="Check the file, and delimiter and encoding in the declaration.",
            ) from error
        if not header:
            raise InputError(f"The file {path} is empty.", remedy="Give it a header line and rows.")
        repeated = {column for column in header if header.count(column) > 1}
        if repeated:
            raise InputError(
                f"The header of {path} has the column {min(repeated)!r} more than once.",
                remedy="Give each column its own name.",
            )
        return header

    def _csv_scan(self, files: list[str]) -> tuple[str, list[object]]:
        """A scan without guessing: every value is text, so that 00123 stays what it is."""
        header = self._csv_header(files[0])
        for name in files[1:]:
            if self._csv_header(name) != header:
                raise InputError(
                    f"The header of {name} is not that of {files[0]}.",
                    remedy="Give all files of the source the same columns in the same order.",
                )
        options = (
            "auto_detect=false, header=true, quote='\"', escape='\"', strict_mode=true, "
            "delim=?, encoding=?, columns=?"
        )
        values = [
            _literal(files),
            self._config.delimiter,
            self._config.encoding,
            dict.fromkeys(header, "VARCHAR"),
        ]
        return f"read_csv(?, {options})", cast("list[object]", values)

    @contextmanager
    def _unreadable_is_input_error(self) -> Iterator[None]:
        try:
            yield
        except (duckdb.Error, pa.ArrowException) as error:
            raise InputError(
                f"The file at {self._location} cannot be read: {_reason(str(error))}.",
                remedy="Check that the file is whole and of the declared format and encoding.",
            ) from None  # the original repeats whole rows, columns that are not mapped too


def _reason(message: str) -> str:
    """What a reader's error says, without the customers' rows that it quotes."""
    line = re.search(r"CSV Error on Line: \d+", message)
    if line is None:
        return message.split("\n")[0].rstrip(". ")
    known = (
        r"Expected Number of Columns: \d+ Found: \d+",
        r"Value with unterminated quote found",
        r"Invalid unicode \(byte sequence mismatch\) detected",
        r"file = .+",
    )
    found = (re.search(pattern, message) for pattern in known)
    return "; ".join(match.group() for match in (line, *found) if match is not None)


def _format_of(name: str) -> str | None:
    return next((kind for end, kind in _SUFFIXES.items() if name.lower().endswith(end)), None)


def _literal(files: list[str]) -> list[str]:
    """Names of files that exist, for a reader that would take them for patterns."""
    return [glob.escape(name) for name in files]


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _run(statement: str, values: list[Any]) -> duckdb.DuckDBPyRelation:
    # Extensions are never fetched: what duckdb carries must do.
    offline = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
    connection = duckdb.connect(config=cast("dict[str, Any]", offline))
    return connection.sql(statement, params=values)


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
            _check_columns(mapped, self._columns(connection), self._origin)
            # Names are always quoted: they come from a file and may be anything.
            table = sa.table(
                quoted_name(self._config.table, quote=True), schema=_quoted(self._config.db_schema)
            )
            query: sa.Executable = sa.select(
                *(sa.column(quoted_name(name, quote=True)) for name in mapped)
            ).select_from(table)
            streamed = connection.execution_options(yield_per=_SQL_CHUNK_ROWS)
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
