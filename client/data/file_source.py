"""Rows in Parquet or CSV files: each file is a unit, read batch by batch.

Parquet is read through pyarrow, CSV through duckdb. A file is known by its size and its times of
change; one that changed is read again, one that is gone is given up.
"""

from __future__ import annotations

import csv
import glob
import gzip
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from client.data.canonicalise import canonicalise
from client.data.source_config import FileReading, FileSourceConfig, check_columns
from client.data.store_units import (
    BATCH_ROWS,
    TEXT,
    Changes,
    StoreUnit,
    kind_of,
    require_meaning,
)
from client.data.transactions import Transactions
from common.errors import InputError

_SUFFIXES = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".csv.gz": "csv"}
# A file that changed this lately may change again without showing it, as times have a grain: some
# milliseconds in general, up to two seconds on file systems that know whole seconds only. Such a
# file is read once more when it has been left alone for as long.
_GRAIN_NS, _COARSE_GRAIN_NS = 100_000_000, 2_000_000_000
_SECOND_NS = 1_000_000_000
_PARQUET_BUFFER_BYTES = 1 << 20
# Extensions are never fetched, what duckdb carries must do; nothing is ever spilt to a disk.
_DUCKDB = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "memory_limit": "512MB",
    "temp_directory": "",
}


class FileRows:
    """The rows of Parquet or CSV files, under the store's own names of columns.

    Args:
        config: How they are read.
        names: The store's names of the mapped columns, by canonical name.
        times: The canonical names of the columns that hold times.
    """

    def __init__(
        self,
        config: FileReading,
        names: Mapping[str, str],
        *,
        times: Collection[str] = ("time",),
    ) -> None:
        self._config = config
        self._names = names
        self._times = times
        self._location = config.base.absolute() / config.path

    @property
    def origin(self) -> str:
        """What messages call the store."""
        return str(self._location)

    def columns(self) -> list[str]:
        """The columns of the first file."""
        return list(self._schema(self._files()[0]))

    def check(self) -> None:
        """Checks that there are files, and that the first one has what is mapped.

        Raises:
            InputError: No such file, or the first one cannot be read or lacks a column.
        """
        first = self._files()[0]
        style = self._config.time_format
        require_meaning(self._kinds(first), self._names, style, first, times=self._times)

    def changes(self, taken: Mapping[str, StoreUnit], now_ms: int) -> Changes:
        """New, changed and vanished files.

        Raises:
            InputError: There are no files at all.
        """
        fresh, there = [], set()
        for name in self._files():
            mark = _mark(name)
            there.add(name)
            if name not in taken or taken[name].mark != mark:
                fresh.append(StoreUnit(name, mark, now_ms))
        again = {unit.name for unit in fresh}
        return Changes(frozenset(taken.keys() & again | taken.keys() - there), tuple(fresh))

    def kinds(self, unit: StoreUnit) -> Mapping[str, str]:
        """What each mapped column of a file holds, by its canonical name.

        Raises:
            InputError: The file cannot be read, or lacks a mapped column.
        """
        return self._kinds(unit.name)

    def tables(self, unit: StoreUnit) -> Iterator[pa.Table]:
        """Reads the mapped columns of a file, `BATCH_ROWS` rows at a time; none without rows.

        Raises:
            InputError: The file cannot be read.
        """
        read = self._parquet if self._format(unit.name) == "parquet" else self._csv
        with unreadable_is_input_error(unit.name):
            for batch in read(unit.name):
                if batch.num_rows:
                    yield batch

    def _files(self) -> list[str]:
        location = self._location
        if location.is_dir():
            # What is still being written is often hidden.
            files = [
                str(entry)
                for entry in sorted(location.iterdir())
                if entry.is_file()
                and not entry.name.startswith((".", "_"))
                and _format_of(entry.name) is not None
            ]
        elif location.exists():
            files = [str(location)]
        else:
            files = sorted(glob.glob(str(location), recursive=True))  # noqa: PTH207 # Path.glob takes no absolute pattern
            files = [name for name in files if not os.path.isdir(name)]  # noqa: PTH112 # glob's own strings
        if not files:
            raise InputError(
                f"There are no data files at {location}.",
                remedy="Correct path in the store's declaration: a file, a glob or a folder.",
            )
        if self._config.format is None:
            formats = {_format_of(name) for name in files}
            if len(formats) != 1 or None in formats:
                raise InputError(
                    f"The files at {location} are not all of one known format "
                    f"({', '.join(_SUFFIXES)}).",
                    remedy="Narrow path, or set format to parquet or csv.",
                )
        return files

    def _format(self, name: str) -> str:
        return self._config.format or cast("str", _format_of(name))

    def _kinds(self, name: str) -> dict[str, str]:
        schema = self._schema(name)
        check_columns(list(self._names.values()), list(schema), f"The file {name}")
        return {canonical: schema[column] for canonical, column in self._names.items()}

    def _schema(self, name: str) -> dict[str, str]:
        """A file's columns in order, and what each holds."""
        if self._format(name) == "csv":
            return dict.fromkeys(self._csv_header(name), TEXT)
        with unreadable_is_input_error(name), pq.ParquetFile(name) as file:
            return {field.name: kind_of(field.type) for field in file.schema_arrow}

    def _parquet(self, name: str) -> Iterator[pa.Table]:
        columns = list(self._names.values())
        # Without a buffer of whole column chunks: a file may be one row group.
        with pq.ParquetFile(name, buffer_size=_PARQUET_BUFFER_BYTES, pre_buffer=False) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                yield pa.Table.from_batches([batch])

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

    def _csv(self, name: str) -> Iterator[pa.Table]:
        """Reads without guessing: every value is text, so that 00123 stays what it is."""
        selected = ", ".join(_quote(column) for column in self._names.values())
        options = (
            "auto_detect=false, header=true, quote='\"', escape='\"', strict_mode=true, "
            "delim=?, encoding=?, columns=?"
        )
        values = [
            [glob.escape(name)],  # duckdb would take it for a pattern
            self._config.delimiter,
            self._config.encoding,
            dict.fromkeys(self._csv_header(name), "VARCHAR"),
        ]
        statement = f"SELECT {selected} FROM read_csv(?, {options})"  # noqa: S608 # names are quoted, values are bound
        with duckdb.connect(config=cast("dict[str, Any]", _DUCKDB)) as connection:
            connection.execute("SET enable_progress_bar = false")  # it writes to the terminal
            reader = connection.sql(statement, params=values).to_arrow_reader(BATCH_ROWS)
            for batch in reader:
                yield pa.Table.from_batches([batch])


class FileSource(FileRows):
    """Transactions in Parquet or CSV files.

    Args:
        config: Their declaration.
    """

    def __init__(self, config: FileSourceConfig) -> None:
        super().__init__(config, config.columns.by_canonical_name)
        self._declared = config

    def batches(self, unit: StoreUnit) -> Iterator[Transactions]:
        """Reads the mapped columns of a file.

        Raises:
            InputError: The file cannot be read.
        """
        with unreadable_is_input_error(unit.name):
            for table in self.tables(unit):
                yield canonicalise(table, self._declared, f"The file {unit.name}")


@contextmanager
def unreadable_is_input_error(name: str) -> Iterator[None]:
    """Says of whatever keeps a file from being read which file it is, and no more of its rows."""
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise InputError(
            f"The file {name} cannot be read: {_reason(str(error))}.",
            remedy="Check that the file is whole and of the declared format and encoding.",
        ) from None  # the original repeats whole rows, columns that are not mapped too


def _mark(name: str) -> str:
    """What a file was like: size and times, and whether it changed too lately to be sure."""
    try:
        status = os.stat(name)  # noqa: PTH116 # glob's own strings
    except OSError as error:
        raise InputError(
            f"The file {name} cannot be read: {error.strerror}.",
            remedy="Check that it is there, and that the engine's user may read it.",
        ) from error
    changed_ns = max(status.st_mtime_ns, status.st_ctime_ns)
    grain_ns = _GRAIN_NS if status.st_ctime_ns % _SECOND_NS else _COARSE_GRAIN_NS
    lately = time.time_ns() - changed_ns < grain_ns
    mark = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    return f"{mark} unsettled" if lately else mark


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


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
