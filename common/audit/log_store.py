"""The SQLite file of an audit log: how it is opened, read and written, and what its errors mean.

WAL with ``synchronous=FULL``: what COMMIT has acknowledged is on the disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from common.audit.log_schema import (
    SCHEMA_VERSION,
    create_schema,
    expected_schema,
    is_log,
    schema_of,
)
from common.audit.writer_lock import WriterLock
from common.errors import FedprefError, InputError, StorageError
from common.failpoints import Point, reach

_BUSY_TIMEOUT_MS = 5_000
_MAGIC = b"SQLite format 3\x00"

_RESTORE = (
    "Keep the file as it is; restore the newest backup beside it and compare both with the"
    " checkpoints that other parties hold."
)


class StoredCheckpoint(NamedTuple):
    """A row of the checkpoint table."""

    size: int
    key_id: str
    root: bytes
    note: bytes


class LogStore:
    """One open log file. Not thread-safe by itself: the log above it holds a lock.

    Args:
        path: The file.
        connection: It, opened.
        lock: The writer's lock; None for a reader.
    """

    def __init__(self, path: Path, connection: apsw.Connection, lock: WriterLock | None) -> None:
        self.path = path
        #: Whether the file is taken for one that nobody changes; see `_connect_read_only`.
        self.unchanging = False
        self._connection = connection
        self._lock = lock

    @classmethod
    def open(cls, path: Path, *, origin: str, create: bool) -> LogStore:
        """Opens a log for writing.

        Args:
            path: The file.
            origin: The log's identity; an existing file must have the same.
            create: Whether to make the file if it is not there.

        Raises:
            InputError: If the file is not there and ``create`` is False.
            StorageError: If it is held by another writer, not writable, damaged or another log.
        """
        if not create and not path.is_file():
            raise InputError(f"There is no audit log {path}.", remedy="Create it first.")
        with _translated(path), ExitStack() as undo:
            lock = WriterLock(path)
            undo.callback(lock.release)
            _check_kind(path)
            # SQLite would make it by the umask; its side files take the mode from this one.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection = apsw.Connection(os.fspath(path), apsw.SQLITE_OPEN_READWRITE)
            undo.callback(connection.close, True)
            store = cls(path, connection, lock)
            store._prepare(origin, create=create)
            undo.pop_all()
        return store

    @classmethod
    def open_read_only(cls, path: Path) -> LogStore:
        """Opens a log for reading, beside its writer if there is one.

        Raises:
            InputError: If the file is not there.
            StorageError: If it cannot be read or is damaged.
        """
        if not path.is_file():
            raise InputError(f"There is no audit log {path}.")
        _check_kind(path)
        with _translated(path), ExitStack() as undo:
            connection, unchanging = _connect_read_only(path)
            undo.callback(connection.close, True)
            store = cls(path, connection, None)
            store.unchanging = unchanging
            store._check_schema()
            undo.pop_all()
        return store

    def _prepare(self, origin: str, *, create: bool) -> None:
        self._connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
        # A crash before the first commit leaves a file without tables.
        fresh = create and not schema_of(self._connection)
        if not fresh:
            self._check_schema()
        if self._connection.pragma("journal_mode", "wal") != "wal":
            raise StorageError(f"The file system of {self.path} does not allow a write-ahead log.")
        self._connection.pragma("synchronous", "full")
        if fresh:
            with self.transaction():
                create_schema(self._connection, origin)
            _sync_folder(self.path.parent)
        if self.origin != origin:
            raise StorageError(
                f"{self.path} is the log of {self.origin}, not of {origin}.",
                remedy="Check the path of the log and the party's name.",
            )

    def _check_schema(self) -> None:
        if not is_log(self._connection):
            raise StorageError(
                f"{self.path} is not an audit log of version {SCHEMA_VERSION}.",
                remedy="Check the path of the log.",
            )
        if schema_of(self._connection) != expected_schema():
            raise StorageError(
                f"The tables or append-only triggers of {self.path} were changed.", remedy=_RESTORE
            )

    @property
    def writable(self) -> bool:
        """Whether this is the log's writer."""
        return self._lock is not None

    @property
    def origin(self) -> str:
        """The log's identity, as the file says."""
        rows = self._rows((str,), "SELECT value FROM meta WHERE name = 'origin'")
        if len(rows) != 1:
            raise self.damaged("it does not say whose log it is")
        return str(rows[0][0])

    def close(self) -> None:
        """Closes the file and lets the next writer in."""
        try:
            with _translated(self.path):
                self._connection.close()
        finally:
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction: for a writer one that lasts on the disk, for a reader one view."""
        with _translated(self.path):
            self._connection.execute("BEGIN IMMEDIATE" if self.writable else "BEGIN")
            try:
                yield
                reach(Point.LOG_WRITTEN)
                self._connection.execute("COMMIT")
            except BaseException:
                # Some errors have rolled back already.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            reach(Point.LOG_COMMITTED)

    def changes_seen(self) -> int:
        """A number that is another one once somebody else has written to the file."""
        with _translated(self.path):
            return int(self._connection.pragma("data_version"))

    def entry_count(self) -> int:
        """How many entries there are."""
        rows = self._rows((int,), "SELECT coalesce(max(leaf_index) + 1, 0) FROM entry")
        return int(rows[0][0])

    def entries(self, start: int, stop: int) -> list[bytes]:
        """The entries [start, stop), in order.

        Raises:
            StorageError: If one of them is missing.
        """
        rows = self._rows(
            (int, bytes),
            "SELECT leaf_index, data FROM entry WHERE leaf_index >= ? AND leaf_index < ?"
            " ORDER BY leaf_index",
            (start, stop),
        )
        if [row[0] for row in rows] != list(range(start, stop)):
            raise self.damaged(f"it has not all of the entries {start} to {stop - 1}")
        return [row[1] for row in rows]

    def tiled_size(self) -> int:
        """How many entries have their leaf hash in a tile."""
        rows = self._rows(
            (int,),
            "SELECT number * 256 + length(hashes) / 32 FROM tile WHERE level = 0"
            " ORDER BY number DESC LIMIT 1",
        )
        return int(rows[0][0]) if rows else 0

    def tile(self, level: int, number: int) -> bytes:
        """The stored hashes of a tile.

        Raises:
            StorageError: If it is not there.
        """
        rows = self._rows(
            (bytes,), "SELECT hashes FROM tile WHERE level = ? AND number = ?", (level, number)
        )
        if not rows:
            raise self.damaged(f"hash tile {number} of level {level} is missing")
        return bytes(rows[0][0])

    def checkpoint(self, size: int, key_id: str | None) -> StoredCheckpoint | None:
        """The checkpoint of a size, by one key or by the one that signed last."""
        rows = self._rows(
            (int, str, bytes, bytes),
            "SELECT size, key_id, root, note FROM checkpoint"
            " WHERE size = ?1 AND key_id = coalesce(?2, key_id) ORDER BY rowid DESC LIMIT 1",
            (size, key_id),
        )
        return StoredCheckpoint(*rows[0]) if rows else None

    def newest_checkpoint_size(self) -> int | None:
        """The largest size with a checkpoint."""
        rows = self._rows((int,), "SELECT size FROM checkpoint ORDER BY size DESC LIMIT 1")
        return int(rows[0][0]) if rows else None

    def add_entries(self, start: int, entries: Sequence[bytes]) -> None:
        """Inserts entries from index ``start`` on, within a transaction."""
        with _translated(self.path):
            self._connection.executemany(
                "INSERT INTO entry VALUES (?, ?)", enumerate(entries, start)
            )

    def put_tile(self, level: int, number: int, hashes: bytes) -> None:
        """Stores a new tile or the longer form of a partial one, within a transaction."""
        with _translated(self.path):
            self._connection.execute(
                "UPDATE tile SET hashes = ?3 WHERE level = ?1 AND number = ?2",
                (level, number, hashes),
            )
            if not self._connection.changes():
                self._connection.execute(
                    "INSERT INTO tile VALUES (?, ?, ?)", (level, number, hashes)
                )

    def add_checkpoint(self, checkpoint: StoredCheckpoint) -> None:
        """Inserts a checkpoint, within a transaction."""
        with _translated(self.path):
            self._connection.execute("INSERT INTO checkpoint VALUES (?, ?, ?, ?)", checkpoint)

    def damaged(self, what: str) -> StorageError:
        """The error that says how the file is damaged."""
        return StorageError(f"The audit log {self.path} is damaged: {what}.", remedy=_RESTORE)

    def _rows(
        self, types: tuple[type, ...], sql: str, values: tuple[object, ...] = ()
    ) -> list[tuple[Any, ...]]:
        """Runs a query; its columns must have exactly these types."""
        with _translated(self.path):
            rows = self._connection.execute(sql, values).fetchall()
        for row in rows:
            # STRICT holds for what was inserted; a damaged page can say otherwise.
            if tuple(map(type, row)) != types:
                raise self.damaged("a row has values of foreign types")
        return rows


def _check_kind(path: Path) -> None:
    """Refuses a file that is no database; SQLite would take a very short one for empty."""
    with _translated(path):
        if not path.exists() or not path.stat().st_size:
            return
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
    if start != _MAGIC:
        raise StorageError(f"{path} is not an audit log.", remedy="Check the path of the log.")


def _connect_read_only(path: Path) -> tuple[apsw.Connection, bool]:
    """Opens a file for reading, also where nothing can be written.

    A log in WAL mode needs side files. Where they cannot be made, the file alone is read, which is
    right only if no write-ahead log is left beside it.

    Returns:
        The connection, and whether it takes the file for one that nobody changes.
    """
    connection = apsw.Connection(os.fspath(path), apsw.SQLITE_OPEN_READONLY)
    connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
    try:
        connection.pragma("application_id")
    except (apsw.CantOpenError, apsw.ReadOnlyError):
        connection.close()
        left = path.with_name(f"{path.name}-wal")
        if left.exists() and left.stat().st_size:
            raise
        address = f"{path.absolute().as_uri()}?immutable=1"
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        return apsw.Connection(address, flags), True
    return connection, False


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turns SQLite's and the system's errors into ones that say what to do."""
    try:
        yield
    except FedprefError:
        raise
    except apsw.FullError as error:
        raise StorageError(
            f"The disk of the audit log {path} is full; nothing was appended.",
            remedy="Make room on it and try again.",
        ) from error
    except (
        apsw.ReadOnlyError,
        apsw.PermissionsError,
        apsw.CantOpenError,
        PermissionError,
    ) as error:
        raise StorageError(
            f"The audit log {path} cannot be opened or written: {error}.",
            remedy="Give this user the right to write to the file and its folder.",
        ) from error
    except (apsw.BusyError, apsw.LockedError) as error:
        raise StorageError(
            f"The audit log {path} is locked by another program: {error}.",
            remedy="Close what reads or copies the file and try again.",
        ) from error
    except (
        apsw.CorruptError,
        apsw.NotADBError,
        apsw.FormatError,
        # apsw decodes a TEXT value that a damaged page gives.
        UnicodeDecodeError,
    ) as error:
        raise StorageError(f"The audit log {path} is damaged: {error}.", remedy=_RESTORE) from error
    except (apsw.Error, OSError) as error:
        raise StorageError(
            f"The audit log {path} cannot be used: {error}.",
            remedy="Check the disk and the file's rights.",
        ) from error
