"""Transactions in Parquet or CSV files, read through duckdb."""

from __future__ import annotations

import csv
import glob
import gzip
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

import duckdb
import pyarrow as pa

from client.data.canonicalise import canonicalise
from client.data.source_config import FileSourceConfig, check_columns
from client.data.transactions import Transactions
from common.errors import InputError

_SUFFIXES = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".csv.gz": "csv"}


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
        check_columns(mapped, self.columns(), str(self._location))
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
