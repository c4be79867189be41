"""The budget ledger on disk: one append-only SQLite table, chained by hash, one writer.

Whatever the disk answers, a charge is in the table whole or not at all, and a caller learns it by
an error of ours.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from client.engine.charges import GENESIS_HEAD, NO_KEYS, Charge, ChargeRequest
from common.audit.writer_lock import WriterBusyError, WriterLock
from common.errors import StorageError
from common.failpoints import Point, reach

#: In SQLite's ``user_version``. 2: each charge names its model and its purpose. 3: a round may be
#: charged once for each attempt. 4: a charge has a δ for keys. A ledger of format 3 has charges
#: without one, and is read as it is; its first writer gives it the column.
SCHEMA_VERSION = 4
_WITHOUT_KEYS = 3

_KEY_COLUMN = f"key_delta TEXT NOT NULL DEFAULT '{NO_KEYS}'"
# `ChargeRequest`'s fields in their order, between the row's number and its head.
_FIELDS = (
    "charge_id, run, model, purpose, round, attempt, mechanism, noise_multiplier, clipping_norm, "
    "sampling_probability, steps, permit_id, time, "
)
_INSERT = (
    "INSERT INTO charges (seq, charge_id, run, model, purpose, round, attempt, mechanism, "
    "noise_multiplier, clipping_norm, sampling_probability, steps, permit_id, time, key_delta, "
    "head) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)

_SCHEMA = f"""
CREATE TABLE charges (
  seq INTEGER PRIMARY KEY,
  charge_id TEXT NOT NULL UNIQUE,
  run TEXT NOT NULL,
  model TEXT NOT NULL,
  purpose TEXT NOT NULL,
  round INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  mechanism TEXT NOT NULL,
  noise_multiplier TEXT NOT NULL,
  clipping_norm TEXT NOT NULL,
  sampling_probability TEXT NOT NULL,
  steps INTEGER NOT NULL,
  permit_id TEXT NOT NULL,
  time TEXT NOT NULL,
  head TEXT NOT NULL,
  {_KEY_COLUMN},
  UNIQUE (run, round, attempt)
) STRICT;
CREATE TRIGGER charges_no_update BEFORE UPDATE ON charges
  BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER charges_no_delete BEFORE DELETE ON charges
  BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
PRAGMA user_version = {SCHEMA_VERSION};
"""


def make_ledger(path: Path) -> None:
    """Makes an empty ledger, readable by its owner alone; once, when a region is set up.

    Raises:
        StorageError: There is one already, or the disk refuses.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise StorageError(
            f"The budget ledger {path} cannot be made: {error.strerror}.",
            remedy="A ledger is never begun anew; to begin another region, name another folder.",
        ) from error
    with _storage_errors(path):
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            with connection:
                connection.execute(_SCHEMA)
        finally:
            connection.close()


@contextmanager
def open_for_writing(path: Path) -> Iterator[apsw.Connection]:
    """A connection to a ledger, under its writer's lock.

    Raises:
        StorageError: Missing, locked by another process, unreadable, not a ledger, or of another
            version.
    """
    if not path.is_file():
        # An empty ledger in its place would forget what was spent.
        raise StorageError(
            f"The budget ledger {path} is missing.",
            remedy="Restore its newest backup; nothing is trained till then.",
        )
    # One writer; readers, such as a backup, may look on meanwhile.
    lock = _writer_lock(path)
    try:
        with _storage_errors(path):
            connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=FULL")
                if _require_version(connection, path) == _WITHOUT_KEYS:
                    _give_keys(connection)
            except BaseException:
                connection.close()
                raise
        try:
            yield connection
        finally:
            connection.close()
    finally:
        lock.release()


def read_charges(path: Path) -> list[Charge]:
    """A ledger's charges, oldest first, its chain of heads checked; beside its writer, too.

    Raises:
        StorageError: It is missing, unreadable, altered or of another version.
    """
    with _storage_errors(path):
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        with _storage_errors(path):
            _require_version(connection, path)
        return read_chain(connection, path)
    finally:
        connection.close()


def read_charge(path: Path, charge_id: str) -> Charge | None:
    """One charge as the file has it now, checked against the row before it; beside its writer, too.

    Args:
        path: The ledger.
        charge_id: The charge's id.

    Raises:
        StorageError: The ledger is missing, unreadable, altered or of another version.
    """
    rows = "WHERE seq BETWEEN (SELECT seq FROM charges WHERE charge_id = ?1)"
    rows += " - 1 AND (SELECT seq FROM charges WHERE charge_id = ?1)"
    with _storage_errors(path):
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        with _storage_errors(path):
            _require_version(connection, path)
            found = _rows(connection, rows, charge_id)
    finally:
        connection.close()
    if not found:
        return None
    head = found[-2][-1] if len(found) > 1 else GENESIS_HEAD
    seq, _, *rest, stored_head = found[-1]
    charge = Charge.after(head, ChargeRequest(charge_id, *rest), seq)
    if charge.head != stored_head or (seq == 1) != (len(found) == 1):
        raise _altered(path, seq)
    return charge


def read_chain(connection: apsw.Connection, path: Path) -> list[Charge]:
    """All charges, oldest first.

    Raises:
        StorageError: The table cannot be read, or a row does not continue the chain of heads.
    """
    charges: list[Charge] = []
    head = GENESIS_HEAD
    with _storage_errors(path):
        rows = _rows(connection)
    for expected, row in enumerate(rows, start=1):
        seq, charge_id, *rest, stored_head = row
        charge = Charge.after(head, ChargeRequest(charge_id, *rest), seq)
        if (seq, stored_head) != (expected, charge.head):
            raise _altered(path, expected)
        head = charge.head
        charges.append(charge)
    return charges


def insert(connection: apsw.Connection, path: Path, charge: Charge) -> None:
    """Commits a row; returns only after it is durable.

    Raises:
        StorageError: The disk refuses; there is no row.
    """
    request = charge.request
    with _storage_errors(path), connection:
        connection.execute(
            _INSERT,
            (
                charge.seq,
                request.charge_id,
                request.run,
                request.model,
                request.purpose,
                request.server_round,
                request.attempt,
                request.mechanism,
                request.noise_multiplier,
                request.clipping_norm,
                request.sampling_probability,
                request.steps,
                request.permit_id,
                request.time,
                request.key_delta,
                charge.head,
            ),
        )
        reach(Point.LEDGER_WRITTEN)
    reach(Point.LEDGER_COMMITTED)


def _rows(connection: apsw.Connection, where: str = "", *values: str) -> list[tuple[Any, ...]]:
    """Rows in order: number, fields, head; those of an older ledger without a δ for keys."""
    older = connection.pragma("user_version") == _WITHOUT_KEYS
    key_delta = f"'{NO_KEYS}'" if older else "key_delta"
    fields = f"seq, {_FIELDS} {key_delta}, head"
    select = f"SELECT {fields} FROM charges {where} ORDER BY seq"  # noqa: S608 # ours; values bound
    return list(connection.execute(select, values))


def _give_keys(connection: apsw.Connection) -> None:
    """Gives an older ledger the column: all of it or nothing. No row's head depends on it."""
    with connection:
        connection.execute(f"ALTER TABLE charges ADD COLUMN {_KEY_COLUMN}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _require_version(connection: apsw.Connection, path: Path) -> int:
    """The format of a ledger that can be read.

    Raises:
        StorageError: It is of another one.
    """
    # Fails for what is no database, and for a database without the table.
    connection.execute("SELECT count(*) FROM charges")
    version = int(connection.pragma("user_version"))
    if version in (_WITHOUT_KEYS, SCHEMA_VERSION):
        return version
    whose = "an earlier" if version < SCHEMA_VERSION else "a later"
    raise StorageError(
        f"The budget ledger {path} was made by {whose} version of fedpref (format {version}; this "
        f"one reads format {SCHEMA_VERSION}). It is left as it is.",
        remedy="Go on with the version that made it, or enrol the region anew with an empty ledger "
        "and a cap from which you take off what this one has spent.",
    )


def _altered(path: Path, row: int) -> StorageError:
    return StorageError(
        f"The budget ledger {path} was altered: row {row} does not continue the chain of heads.",
        remedy="Restore its newest backup; nothing is trained till then.",
    )


def _writer_lock(path: Path) -> WriterLock:
    try:
        return WriterLock(path)
    except WriterBusyError as error:
        raise StorageError(
            f"The budget ledger {path} is in use by another process.",
            remedy="Stop the other engine of this region first.",
        ) from error


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except apsw.BusyError as error:
        raise StorageError(
            f"The budget ledger {path} is in use by another process.",
            remedy="Stop the other engine of this region first.",
        ) from error
    except apsw.Error as error:
        raise StorageError(
            f"The budget ledger {path} cannot be used: {error}.",
            remedy="Check the disk's space and the file's mode and owner.",
        ) from error
