"""The SQLite file of a witness: how it is opened, locked and written, and what its errors mean.

Several threads and several processes may use one file at a time: ``transaction`` lets one of them
in, from the first read to the commit. WAL with ``synchronous=FULL``: what COMMIT has acknowledged
is on the disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

import apsw

from common.audit.witness.schema import (
    create_schema,
    expected_schema,
    is_witness_file,
    schema_of,
)
from common.errors import FedprefError, InputError, StorageError
from common.failpoints import Point, reach

_BUSY_TIMEOUT_MS = 10_000
_MAGIC = b"SQLite format 3\x00"

_RESTORE = (
    "Keep the file as it is. A witness whose memory is lost must not go on under its old key: an"
    " older copy of it could cosign a rollback."
)


class WitnessDatabase:
    """One open witness file; use `open`.

    Args:
        path: The file.
        connection: It, opened.
    """

    def __init__(self, path: Path, connection: apsw.Connection) -> None:
        self.path = path
        self._connection = connection
        self._turn = RLock()

    @classmethod
    def open(cls, path: Path, *, create: bool) -> WitnessDatabase:
        """Opens a witness's file for reading and writing.

        Raises:
            InputError: The file is not there and ``create`` is False.
            StorageError: It cannot be written, is damaged or is another kind of file.
        """
        if not create and not path.is_file():
            raise InputError(
                f"There is no witness file {path}.",
                remedy="Make it once, with the witness's key; if it was there before, retire the"
                " key: without its memory a witness could cosign a rollback.",
            )
        with translated(path), ExitStack() as undo:
            _check_kind(path)
            # SQLite would make it by the umask; its side files take the mode from this one.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection = apsw.Connection(os.fspath(path), apsw.SQLITE_OPEN_READWRITE)
            undo.callback(connection.close, True)
            database = cls(path, connection)
            database._prepare(create=create)
            undo.pop_all()
        return database

    def _prepare(self, *, create: bool) -> None:
        self._connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
        if self._connection.pragma("journal_mode", "wal") != "wal":
            raise StorageError(f"The file system of {self.path} does not allow a write-ahead log.")
        self._connection.pragma("synchronous", "full")
        if create:
            with self.transaction():
                # Within the transaction: another process may be making the same file.
                if not schema_of(self._connection):
                    create_schema(self._connection)
            _sync_folder(self.path.parent)
        if not is_witness_file(self._connection):
            raise StorageError(
                f"{self.path} is not a witness's file of this version.",
                remedy="Check the path.",
            )
        if schema_of(self._connection) != expected_schema():
            raise StorageError(
                f"The tables or triggers of {self.path} were changed.", remedy=_RESTORE
            )

    def close(self) -> None:
        """Closes the file."""
        with self._turn, translated(self.path):
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Shuts out every other thread and process from here to the durable commit.

        Raises:
            StorageError: Nothing of it was stored.
        """
        with self._turn, translated(self.path):
            # IMMEDIATE takes the write lock before the first read: what is read stays true.
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                reach(Point.WITNESS_WRITTEN)
                self._connection.execute("COMMIT")
            except BaseException:
                # Some errors have rolled back already.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            reach(Point.WITNESS_COMMITTED)

    def rows(
        self, types: tuple[type, ...], sql: str, values: tuple[object, ...] = ()
    ) -> list[tuple[Any, ...]]:
        """Runs a query; its columns must have exactly these types."""
        with self._turn, translated(self.path):
            rows = self._connection.execute(sql, values).fetchall()
        for row in rows:
            # STRICT holds for what was inserted; a damaged page can say otherwise.
            if tuple(map(type, row)) != types:
                raise StorageError(
                    f"The witness file {self.path} is damaged: a row has values of foreign types.",
                    remedy=_RESTORE,
                )
        return rows

    def run(self, sql: str, values: tuple[object, ...]) -> int:
        """Runs a change, within a transaction, and says how many rows it touched."""
        with self._turn, translated(self.path):
            self._connection.execute(sql, values)
            return self._connection.changes()


def _check_kind(path: Path) -> None:
    """Refuses a file that is no database; SQLite would take a very short one for empty."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb") as file:
        start = file.read(len(_MAGIC))
    if start != _MAGIC:
        raise StorageError(f"{path} is not a witness's file.", remedy="Check the path.")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turns SQLite's and the system's errors into ones that say what to do."""
    try:
        yield
    except FedprefError:
        raise
    except apsw.FullError as error:
        raise StorageError(
            f"The disk of the witness file {path} is full; nothing was stored or cosigned.",
            remedy="Make room on it and try again.",
        ) from error
    except (
        apsw.ReadOnlyError,
        apsw.PermissionsError,
        apsw.CantOpenError,
        PermissionError,
    ) as error:
        raise StorageError(
            f"The witness file {path} cannot be opened or written: {error}.",
            remedy="Give this user the right to write to the file and its folder.",
        ) from error
    except (apsw.BusyError, apsw.LockedError) as error:
        raise StorageError(
            f"The witness file {path} is locked by another program: {error}.",
            remedy="Close what reads or copies the file and try again.",
        ) from error
    except (
        apsw.CorruptError,
        apsw.NotADBError,
        apsw.FormatError,
        # apsw decodes a TEXT value that a damaged page gives.
        UnicodeDecodeError,
    ) as error:
        raise StorageError(
            f"The witness file {path} is damaged: {error}.", remedy=_RESTORE
        ) from error
    except (apsw.Error, OSError) as error:
        raise StorageError(
            f"The witness file {path} cannot be used: {error}.",
            remedy="Check the disk and the file's rights.",
        ) from error
