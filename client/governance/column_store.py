"""Tables that the region keeps column by column, the sensitive ones encrypted at rest.

A column is a file: an Arrow stream, in clear if its grade is low, else encrypted under a data key
of its own (`client.governance.column_keys`). Who may read which is in `client.governance.grades`,
and nothing of this module gives a column of high grade to anyone but for a use that was logged
under a grant: the type of such a use is made where it is logged, and nowhere else.

A table's files are new ones each time; the manifest names those that count, and is replaced as a
whole. What a crash leaves behind is removed by the next change.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from client.data.standards import Grade
from client.engine.home import RegionHome
from client.engine.storage_key import StorageKey
from client.governance.column_keys import (
    WrappingKey,
    key_context,
    new_data_key,
    open_chunks,
    seal_chunks,
)
from client.governance.column_manifest import (
    MAX_COLUMNS,
    ColumnManifest,
    KeptColumn,
    KeptTable,
    read_manifest,
)
from client.governance.grades import FOR_PEOPLE, FOR_PROGRAMS, IN_CLEAR
from common.durable_file import make_folder_durably, sync_folder, write_durably
from common.errors import FormatError, InputError, StorageError
from common.validate import line

if TYPE_CHECKING:
    from client.governance.grants import GrantedUse

_SUFFIX = ".column"
_TRIES = 3
_NO_KEYS: Mapping[str, Collection[str]] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class AboutCustomers:
    """What a kept table says of some customers.

    Attributes:
        rows: Their rows, of the columns that programs read without a grant.
        withheld: The columns that take one.
    """

    rows: pa.Table = field(repr=False)
    withheld: tuple[str, ...]


class ColumnStore:
    """The tables that a region keeps by columns.

    Args:
        home: The region's home.
    """

    def __init__(self, home: RegionHome) -> None:
        self._folder = home.columns
        self._key = WrappingKey(home.columns_key)

    def manifest(self) -> ColumnManifest:
        """What is kept now.

        Raises:
            StorageError: It cannot be read.
        """
        return read_manifest(self._folder)

    def keep(
        self, table: str, rows: pa.Table, grades: Mapping[str, Grade], *, subject: str | None = None
    ) -> KeptTable:
        """Keeps a table, in the place of what was kept under its name.

        Args:
            table: Its name.
            rows: Its rows.
            grades: The grade of each of its columns.
            subject: The column that says which customer a row is about, if one does: without it
                nothing of the table goes when a customer is erased.

        Raises:
            InputError: A column has no grade, no name of its own, or `subject` is none of them or
                holds no references.
            StorageError: The disk refuses, or the wrapping key does not fit what is kept.
        """
        _check_table(table, rows, grades, subject)
        with self._changing() as (manifest, key):
            kept = self._write(table, rows, grades, subject, key)
            self._replace(manifest, {**manifest.tables, table: kept}, key)
        return kept

    def for_people(self, table: str, columns: Collection[str]) -> pa.Table:
        """Reads columns that nobody needs a grant for.

        Raises:
            PolicyError: One of them needs a grant.
            InputError: The table or a column is not kept.
            StorageError: What is kept cannot be read.
        """
        return self._read(table, tuple(columns), FOR_PEOPLE)

    def for_programs(self, table: str, columns: Collection[str]) -> pa.Table:
        """Reads columns for the region's own programs; raises as `for_people`."""
        return self._read(table, tuple(columns), FOR_PROGRAMS)

    def granted(self, use: GrantedUse) -> pa.Table:
        """Reads columns of any grade for a use that was logged under a grant.

        Args:
            use: The use; only where it is logged can one be made.

        Raises:
            InputError: The table or a column is not kept any more.
            StorageError: What is kept cannot be read.
        """
        return self._read(use.table, use.columns)

    def erase(
        self, customers: Collection[str], keys: Mapping[str, Collection[str]] = _NO_KEYS
    ) -> int:
        """Takes customers out of every table whose rows say whom they are about.

        Each of their tables is written anew under new data keys and the wrapping key is turned, so
        that copies of what was kept before can be opened by nobody.

        Args:
            customers: The region's references of them.
            keys: By table, what it calls them instead, if it does: the keys of a channel.

        Returns:
            How many rows are gone.

        Raises:
            InputError: What says whom a table's rows are about holds no references.
            StorageError: A store refuses; calling it again completes what was begun.
        """
        if not self.manifest().tables:
            return 0
        gone = 0
        with self._changing() as (manifest, key):
            tables = dict(manifest.tables)
            for name, table in manifest.tables.items():
                if table.subject is None:
                    continue
                about = self._open(name, table.columns, (table.subject,), key)[table.subject]
                hers = _is_about(about, keys.get(name, customers), name, table.subject)
                if not hers.any():
                    continue
                whole = self._open(name, table.columns, tuple(table.columns), key)
                rows = whole.filter(pa.array(~hers))
                gone += table.rows - rows.num_rows
                grades = {column: each.grade for column, each in table.columns.items()}
                tables[name] = self._write(name, rows, grades, table.subject, key)
            self._replace(manifest, tables, key)
            # Also if an earlier attempt took the rows out: this one may have come before its key.
            self._turn(key)
        return gone

    def about(
        self, customers: Collection[str], keys: Mapping[str, Collection[str]] = _NO_KEYS
    ) -> dict[str, AboutCustomers]:
        """What programs may read about customers, of every table that says whom it is about.

        Args:
            customers: The region's references of them.
            keys: By table, what it calls them instead, if it does: the keys of a channel.

        Raises:
            InputError: What says whom a table's rows are about holds no references.
            StorageError: What is kept cannot be read.
        """
        found = {}
        for name, table in self.manifest().tables.items():
            if table.subject is None:
                continue
            read = [each for each, kept in table.columns.items() if kept.grade in FOR_PROGRAMS]
            withheld = tuple(each for each in table.columns if each not in read)
            if table.subject not in read:
                # Not even whose a row is can be told without a grant.
                found[name] = AboutCustomers(pa.table({}), tuple(table.columns))
                continue
            rows = self.for_programs(name, read)
            known = keys.get(name, customers)
            hers = _is_about(rows.column(table.subject), known, name, table.subject)
            found[name] = AboutCustomers(rows.filter(pa.array(hers)), withheld)
        return found

    def turn_key(self) -> None:
        """Draws a new wrapping key and wraps every data key with it; the columns stay as they are.

        Raises:
            StorageError: The disk refuses, or the wrapping key does not fit what is kept.
        """
        with self._changing() as (_, key):
            self._turn(key)

    @contextmanager
    def _changing(self) -> Iterator[tuple[ColumnManifest, StorageKey]]:
        """What is kept and the key to it, while nobody else changes either."""
        with self._disk_errors():
            make_folder_durably(self._folder)
            with self._key.changing():
                key = self._key.open_while_changing(lambda: self.manifest().key)
                yield self.manifest(), key

    def _turn(self, key: StorageKey) -> None:
        manifest, following = self.manifest(), self._key.draw_next()
        tables = {
            name: replace(
                table,
                columns={
                    column: _rewrapped(name, column, each, key, following)
                    for column, each in table.columns.items()
                },
            )
            for name, table in manifest.tables.items()
        }
        self._replace(manifest, tables, following)
        self._key.activate_next()

    def _replace(
        self, before: ColumnManifest, tables: Mapping[str, KeptTable], key: StorageKey
    ) -> None:
        after = ColumnManifest(key.fingerprint, tables)
        after.write(self._folder)
        # Old files, and what a crash left of new ones.
        for path in self._folder.glob(f"*{_SUFFIX}*"):
            if path.name not in after.files:
                path.unlink(missing_ok=True)
        if before.files != after.files:
            sync_folder(self._folder)

    def _write(
        self,
        table: str,
        rows: pa.Table,
        grades: Mapping[str, Grade],
        subject: str | None,
        key: StorageKey,
    ) -> KeptTable:
        columns = {
            name: self._write_column(table, name, rows.select([name]), grades[name], key)
            for name in rows.column_names
        }
        return KeptTable(rows.num_rows, subject, columns)

    def _write_column(
        self, table: str, column: str, rows: pa.Table, grade: Grade, key: StorageKey
    ) -> KeptColumn:
        data, file = _encoded(rows), f"{secrets.token_hex(12)}{_SUFFIX}"
        if grade in IN_CLEAR:
            write_durably(self._folder / file, data)
            return KeptColumn(grade, file, len(data), None)
        secret = new_data_key()
        write_durably(self._folder / file, [*seal_chunks(data, secret, table, column, file)])
        wrapped = key.seal(secret, key_context(table, column, grade, file))
        return KeptColumn(grade, file, len(data), wrapped)

    def _read(
        self, table: str, columns: tuple[str, ...], allowed: frozenset[Grade] | None = None
    ) -> pa.Table:
        """Reads columns of allowed grades; if the table is replaced meanwhile, what is there then.

        Args:
            table: The table.
            columns: Its columns.
            allowed: Their grades; None for any, for a use under a grant.
        """
        with self._disk_errors():
            for _ in range(_TRIES):
                manifest = self.manifest()
                found = manifest.find(table, columns)
                if allowed is not None:
                    manifest.require_grades(table, columns, allowed)
                sealed = any(each.wrapped is not None for each in found.values())
                key = self._key.open(lambda: self.manifest().key) if sealed else None
                try:
                    return self._open(table, found, columns, key)
                except (FileNotFoundError, StorageError):
                    if self.manifest() == manifest:
                        raise
        raise StorageError(
            f"The table {table} was replaced again and again while it was read.",
            remedy="Read it when nothing keeps it anew.",
        )

    def _open(
        self,
        table: str,
        kept: Mapping[str, KeptColumn],
        columns: tuple[str, ...],
        key: StorageKey | None,
    ) -> pa.Table:
        read = [self._open_column(table, name, kept[name], key) for name in columns]
        return pa.table({each.column_names[0]: each.column(0) for each in read})

    def _open_column(
        self, table: str, column: str, kept: KeptColumn, key: StorageKey | None
    ) -> pa.Table:
        data = (self._folder / kept.file).read_bytes()
        try:
            if kept.wrapped is not None and key is not None:
                context = key_context(table, column, kept.grade, kept.file)
                secret = key.open(kept.wrapped, context)
                data = open_chunks(data, kept.size_bytes, secret, table, column, kept.file)
            return pa.ipc.open_stream(data).read_all()
        except (StorageError, pa.ArrowException) as error:
            raise StorageError(
                f"The column {column} of {table} was altered, or is under another key.",
                remedy="Restore columns and key from the same backup, or keep the table anew.",
            ) from error

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"The kept columns in {self._folder}: {error.strerror}.",
                remedy="Make room on the disk, and let the engine's user write there.",
            ) from error


def _check_table(
    table: str, rows: pa.Table, grades: Mapping[str, Grade], subject: str | None
) -> None:
    try:
        for name in (table, *rows.column_names):
            line(name, f"The name {name[:40]!r}")
    except FormatError as error:
        raise InputError(f"A table cannot be kept: {error.message}") from error
    names = set(rows.column_names)
    if not 0 < len(names) == rows.num_columns <= MAX_COLUMNS:
        raise InputError(
            f"The table {table} has no columns, two of one name, or more than {MAX_COLUMNS}.",
            remedy="Give every column a name of its own.",
        )
    if names != set(grades):
        raise InputError(f"Not every column of {table} has a grade, or others have.")
    if subject is not None and subject not in names:
        raise InputError(
            f"The table {table} has no column {subject!r} that says whom a row is about.",
            remedy="Name the column of customers' references, or say that there is none.",
        )
    if subject is not None:
        _is_about(rows.column(subject), (), table, subject)


def _is_about(
    column: pa.ChunkedArray, customers: Collection[str], table: str, subject: str
) -> npt.NDArray[np.bool_]:
    """bool[n]: the rows that are about some customers, by references as every reader takes them.

    Raises:
        InputError: The column holds no references.
    """
    from client.data.canonicalise import as_references  # Imports pandas: only where rows are kept.

    found = as_references(column, len(column), f"The table {table}, column {subject!r}")
    by_code = np.array([*(each in customers for each in found.categories), False], dtype=bool)
    about: npt.NDArray[np.bool_] = by_code[found.codes]
    return about


def _rewrapped(
    table: str, column: str, kept: KeptColumn, key: StorageKey, following: StorageKey
) -> KeptColumn:
    if kept.wrapped is None:
        return kept
    context = key_context(table, column, kept.grade, kept.file)
    return replace(kept, wrapped=following.seal(key.open(kept.wrapped, context), context))


def _encoded(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, rows.schema, options=options) as writer:
        writer.write_table(rows)
    data: bytes = sink.getvalue().to_pybytes()
    return data
