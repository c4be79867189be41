"""What a column store holds: its tables, their columns' grades, files and wrapped keys."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from client.data.standards import Grade
from client.governance.grades import IN_CLEAR, parse_grade
from common import canonical_json
from common.canonical_json import JsonValue
from common.durable_file import write_durably
from common.errors import FormatError, InputError, PolicyError, StorageError
from common.validate import exact_fields, line, matching, sha256_hex, whole_number

FILE_NAME = "columns.json"
MAX_COLUMNS = 1024
_VERSION = "fedpref-columns/1"
_FIELDS = frozenset({"v", "key", "tables"})
_TABLE_FIELDS = frozenset({"rows", "subject", "columns"})
_COLUMN_FIELDS = frozenset({"grade", "file", "bytes", "key"})
_FILE = re.compile(r"[0-9a-f]{24}\.column")
_MAX_BYTES = 1 << 24


@dataclass(frozen=True)
class KeptColumn:
    """A column that is kept.

    Attributes:
        grade: How sensitive it is.
        file: The name of its file.
        size_bytes: How long it is in clear.
        wrapped: Its data key, wrapped; None if it lies in clear.
    """

    grade: Grade
    file: str
    size_bytes: int
    wrapped: bytes | None = field(repr=False)

    def to_record(self) -> dict[str, JsonValue]:
        """As the manifest has it."""
        key = None if self.wrapped is None else base64.b64encode(self.wrapped).decode()
        return {"grade": self.grade, "file": self.file, "bytes": self.size_bytes, "key": key}


@dataclass(frozen=True)
class KeptTable:
    """A table that is kept.

    Attributes:
        rows: How many rows it has.
        subject: The column that says which customer a row is about; None if none does.
        columns: Its columns by name, in their order.
    """

    rows: int
    subject: str | None
    columns: Mapping[str, KeptColumn]

    def to_record(self) -> dict[str, JsonValue]:
        """As the manifest has it; the order of the columns is not of use to anyone."""
        columns: dict[str, JsonValue] = {
            name: each.to_record() for name, each in self.columns.items()
        }
        return {"rows": self.rows, "subject": self.subject, "columns": columns}


@dataclass(frozen=True)
class ColumnManifest:
    """What a column store holds.

    Attributes:
        key: The fingerprint of the wrapping key; None if nothing was ever kept.
        tables: The tables by name.
    """

    key: str | None = None
    tables: Mapping[str, KeptTable] = field(default_factory=dict)

    @property
    def files(self) -> frozenset[str]:
        """The files of all columns."""
        return frozenset(c.file for table in self.tables.values() for c in table.columns.values())

    def find(self, table: str, columns: tuple[str, ...]) -> dict[str, KeptColumn]:
        """Columns of a table.

        Raises:
            InputError: The table or a column is not kept.
        """
        kept = self.tables.get(table)
        if kept is None:
            raise InputError(
                f"No table {table!r} is kept.",
                remedy="fedpref-region access tables shows which are.",
            )
        missing = [name for name in columns if name not in kept.columns]
        if missing:
            raise InputError(
                f"The table {table} has no column {missing[0]!r}.",
                remedy="fedpref-region access tables shows the columns.",
            )
        return {name: kept.columns[name] for name in columns}

    def require_grades(
        self, table: str, columns: tuple[str, ...], allowed: frozenset[Grade]
    ) -> None:
        """Checks that columns may be read without a grant.

        Raises:
            PolicyError: One may not.
            InputError: The table or a column is not kept.
        """
        for name, column in self.find(table, columns).items():
            if column.grade not in allowed:
                raise PolicyError(
                    f"The column {name} of {table} is of {column.grade} grade, and no grant was "
                    "shown.",
                    remedy="Ask for one: fedpref-region access request.",
                )

    def write(self, folder: Path) -> None:
        """Writes it durably.

        Raises:
            OSError: The disk refuses.
        """
        tables: dict[str, JsonValue] = {
            name: each.to_record() for name, each in self.tables.items()
        }
        record: dict[str, JsonValue] = {"v": _VERSION, "key": self.key, "tables": tables}
        data = canonical_json.encode(record, max_bytes=_MAX_BYTES)
        write_durably(folder / FILE_NAME, data)


def read_manifest(folder: Path) -> ColumnManifest:
    """Reads the manifest of a folder; of one that has none, an empty one.

    Raises:
        StorageError: It cannot be read, or is damaged.
    """
    path = folder / FILE_NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return ColumnManifest()
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        return _parse(canonical_json.decode(data, max_bytes=_MAX_BYTES))
    except FormatError as error:
        raise StorageError(
            f"{path}, which says what columns are kept, is damaged: {error}",
            remedy="Restore the folder from a backup, or remove it and keep the tables anew.",
        ) from error


def _parse(value: JsonValue) -> ColumnManifest:
    fields = exact_fields(value, _FIELDS, "The manifest")
    if fields["v"] != _VERSION:
        raise FormatError("The manifest is of an unknown version.")
    key, tables = fields["key"], fields["tables"]
    if not isinstance(tables, dict):
        raise FormatError("tables is not an object.")
    return ColumnManifest(
        None if key is None else sha256_hex(key, "key"),
        {line(name, "a table's name"): _table(each) for name, each in tables.items()},
    )


def _table(value: JsonValue) -> KeptTable:
    fields = exact_fields(value, _TABLE_FIELDS, "A table")
    subject, columns = fields["subject"], fields["columns"]
    if not isinstance(columns, dict):
        raise FormatError("columns is not an object.")
    return KeptTable(
        whole_number(fields["rows"], "rows", least=0),
        None if subject is None else line(subject, "subject"),
        {line(name, "a column's name"): _column(each) for name, each in columns.items()},
    )


def _column(value: JsonValue) -> KeptColumn:
    fields = exact_fields(value, _COLUMN_FIELDS, "A column")
    grade, key = parse_grade(fields["grade"]), fields["key"]
    if (key is None) != (grade in IN_CLEAR):
        raise FormatError("A column's key and grade do not go together.")
    return KeptColumn(
        grade,
        matching(fields["file"], _FILE, "file", "the name of a column's file"),
        whole_number(fields["bytes"], "bytes", least=0),
        None if key is None else _from_base64(key),
    )


def _from_base64(value: JsonValue) -> bytes:
    text = str(value)
    try:
        data = base64.b64decode(text, validate=True)
    # Also of what is not ASCII.
    except ValueError as error:
        raise FormatError("A column's key is not base64.") from error
    if base64.b64encode(data).decode() != text:
        raise FormatError("A column's key is not in base64's one form.")
    return data
