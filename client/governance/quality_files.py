"""What a home keeps of its data's quality: past reports, decisions, and the journal of changes.

| file in ``quality/`` | what it is |
|---|---|
| ``history.json`` | the reports so far, the newest last |
| ``undone.json`` | what is not to be treated |
| ``kinds.json`` | what each table's columns hold, since that was last accepted |
| ``TABLE.changes`` | what treatment changed when the table was last examined, encrypted |

All of it holds exact counts or values of the region's data, and stays in the region. The journal is
under the storage key: an erasure makes it unreadable, and the next report makes it anew.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from client.engine.home import RegionHome
from client.engine.storage_key import StorageKey, StorageKeyFile
from client.governance.quality_changes import SCHEMA, Undone
from client.governance.quality_score import TableQuality
from common import canonical_json
from common.canonical_json import JsonValue
from common.durable_file import make_folder_durably, write_durably
from common.errors import FormatError, InputError, StorageError
from common.timestamps import parse_time

FOLDER = "quality"
HISTORY, UNDONE, KINDS = "history.json", "undone.json", "kinds.json"
#: So many reports are kept: daily ones of more than a year.
MAX_REPORTS = 400
_VERSION = "fedpref-quality/1"
_CONTEXT = "fedpref-quality-changes/1 "
_MAX_BYTES = 1 << 27


@dataclass(frozen=True)
class QualityReport:
    """What was found of a region's tables at one time.

    Attributes:
        region: The region.
        at: When, UTC.
        standards: The digest of the standards that they were judged by.
        tables: Each table.
        meant: Definition → how many customers it was about.
        notes: What is worth knowing and refuses nothing.
    """

    region: str
    at: str
    standards: str
    tables: tuple[TableQuality, ...]
    meant: dict[str, int]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether all tables may be used."""
        return all(each.passed for each in self.tables)

    def to_record(self) -> dict[str, JsonValue]:
        """As canonical JSON values."""
        return {
            "region": self.region,
            "at": self.at,
            "standards": self.standards,
            "tables": [each.to_record() for each in self.tables],
            "meant": dict(self.meant),
            "notes": list(self.notes),
        }

    @classmethod
    def of_record(cls, record: Any) -> QualityReport:
        """Reads what `to_record` gave.

        Raises:
            FormatError: It is nothing like it.
        """
        try:
            parse_time(record["at"])
            return cls(
                region=str(record["region"]),
                at=record["at"],
                standards=str(record["standards"]),
                tables=tuple(TableQuality.of_record(each) for each in record["tables"]),
                meant={str(name): int(n) for name, n in record["meant"].items()},
                notes=tuple(str(each) for each in record["notes"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"A report of quality is malformed: {error!r}.") from error


class QualityFiles:
    """The files of a home.

    Args:
        home: The home.
    """

    def __init__(self, home: RegionHome) -> None:
        self._folder = home.root / FOLDER
        self._key_file = home.stored_key

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Keeps every other process from changing them meanwhile.

        Raises:
            StorageError: The folder cannot be made or locked.
        """
        try:
            make_folder_durably(self._folder)
            lock = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._broken(self._folder, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def history(self) -> list[QualityReport]:
        """The reports so far, the newest last.

        Raises:
            InputError: They cannot be read, or are malformed.
        """
        data = self._read(HISTORY)
        if data is None:
            return []
        with self._malformed_is_input_error(HISTORY):
            record: Any = canonical_json.decode(data, max_bytes=_MAX_BYTES)
            if not isinstance(record, dict) or record.get("v") != _VERSION:
                raise FormatError(f"It is no history of reports ({_VERSION}).")
            return [QualityReport.of_record(each) for each in record["reports"]]

    def append(self, report: QualityReport) -> None:
        """Keeps a report, durably; to be called within `changing`.

        Raises:
            InputError: The reports so far cannot be read.
            StorageError: The disk refuses.
        """
        kept = [*self.history(), report][-MAX_REPORTS:]
        record: dict[str, JsonValue] = {
            "v": _VERSION,
            "reports": [each.to_record() for each in kept],
        }
        self._write(HISTORY, canonical_json.encode(record, max_bytes=_MAX_BYTES))

    def undone(self) -> Undone:
        """What is not to be treated.

        Raises:
            InputError: It cannot be read, or is malformed.
        """
        data = self._read(UNDONE)
        if data is None:
            return Undone()
        with self._malformed_is_input_error(UNDONE):
            return Undone.decode(data)

    def keep_undone(self, undone: Undone) -> None:
        """Keeps what is not to be treated, durably; to be called within `changing`.

        Raises:
            StorageError: The disk refuses.
        """
        self._write(UNDONE, undone.encode())

    def kinds(self) -> dict[str, dict[str, str]]:
        """What each table's columns hold, as it was last accepted.

        Raises:
            InputError: It cannot be read, or is malformed.
        """
        data = self._read(KINDS)
        if data is None:
            return {}
        with self._malformed_is_input_error(KINDS):
            record: Any = canonical_json.decode(data, max_bytes=_MAX_BYTES)
            return {
                str(table): {str(name): str(kind) for name, kind in columns.items()}
                for table, columns in record.items()
            }

    def keep_kinds(self, kinds: Mapping[str, Mapping[str, str]]) -> None:
        """Keeps what columns hold, durably; to be called within `changing`.

        Raises:
            StorageError: The disk refuses.
        """
        record: dict[str, JsonValue] = {table: dict(columns) for table, columns in kinds.items()}
        self._write(KINDS, canonical_json.encode(record, max_bytes=_MAX_BYTES))

    def keep_changes(self, table: str, changes: pa.Table) -> None:
        """Keeps what treatment changed in a table; to be called within `changing`.

        Raises:
            InputError: The storage key cannot be read.
            StorageError: The disk refuses.
        """
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_stream(sink, SCHEMA, options=options) as stream:
            stream.write_table(changes)
        sealed = self._key().seal(sink.getvalue().to_pybytes(), _context(table))
        self._write(f"{table}.changes", sealed)

    def changes(self, table: str) -> pa.Table | None:
        """What treatment changed when a table was last examined; None if that is not known.

        Raises:
            InputError: The storage key cannot be read.
        """
        sealed = self._read(f"{table}.changes")
        if sealed is None:
            return None
        try:
            data = self._key().open(sealed, _context(table))
            with pa.ipc.open_stream(pa.py_buffer(data)) as stream:
                return stream.read_all().cast(SCHEMA)
        except (StorageError, pa.ArrowException):
            # Under the storage key of before an erasure: it is made anew by the next report.
            return None

    def _key(self) -> StorageKey:
        return StorageKeyFile(self._key_file).find(lambda: None)

    def _read(self, name: str) -> bytes | None:
        path = self._folder / name
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(
                f"The file {path} cannot be read: {error.strerror}.",
                remedy="Give the region's user the right to read it.",
            ) from error

    def _write(self, name: str, data: bytes) -> None:
        path = self._folder / name
        try:
            write_durably(path, data)
        except OSError as error:
            raise self._broken(path, error) from error

    @staticmethod
    def _broken(path: Path, error: OSError) -> StorageError:
        return StorageError(
            f"{path} cannot be written: {error.strerror}.",
            remedy="Make room on the disk, or give the region's user the right to write there.",
        )

    @contextmanager
    def _malformed_is_input_error(self, name: str) -> Iterator[None]:
        try:
            yield
        except (FormatError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"The file {self._folder / name} is malformed: {error}",
                remedy="Restore it from a backup, or remove it: it is begun anew.",
            ) from error


def _context(table: str) -> bytes:
    return (_CONTEXT + table).encode()
