"""The deletable table of customers' pseudonym keys, and of the evidence of their choices.

A customer's pseudonym is a hash under 32 random bytes of their own. Deleting these bytes makes
every record of theirs in the append-only log unlinkable (crypto-shredding). Keys and evidence are
encrypted at rest under the region's storage key, each bound to its customer. Both lie in one file:
erasing someone deletes both and encrypts the rest under a new storage key in one transaction.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from client.engine.storage_key import StorageKey, StorageKeyFile, make_storage_key
from client.engine.subject_rows import Enrolment, EvidenceRow
from common.consent import SUBJECT_KEY_BYTES, subject_id
from common.errors import StorageError

__all__ = [
    "SUBJECT_KEY_BYTES",
    "Enrolment",
    "EvidenceRow",
    "SubjectKeys",
    "make_storage_key",
    "open_subject_keys",
]

# Rows that are encrypted anew at a time: a million rows must not be held at once.
_CHUNK_ROWS = 10_000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS subjects (
  customer_ref TEXT PRIMARY KEY,
  encrypted_key BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS evidence (
  record_id TEXT NOT NULL,
  giver TEXT NOT NULL,
  customer_ref TEXT NOT NULL,
  encrypted BLOB NOT NULL,
  PRIMARY KEY (record_id, giver)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS evidence_of_customer ON evidence (customer_ref);
CREATE TABLE IF NOT EXISTS imports (
  file_sha256 TEXT PRIMARY KEY,
  records INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (
  name TEXT PRIMARY KEY,
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""


class SubjectKeys:
    """An open table; use `open_subject_keys`. Safe to use from several threads.

    Args:
        connection: The table's file, opened.
        path: The file.
        key_file: The file of the storage key.
        key: The storage key that the table is under.
    """

    def __init__(
        self, connection: apsw.Connection, path: Path, key_file: StorageKeyFile, key: StorageKey
    ) -> None:
        self._connection = connection
        self._path = path
        self._key_file = key_file
        self._key = key
        self._lock = threading.RLock()
        # Pseudonyms seen so far; all of them once `_has_all`.
        self._sids: dict[str, str] = {}
        self._has_all = False
        self._version = self._data_version()
        if key_file.finished:
            self._truncate()

    @property
    def finished_erasure(self) -> bool:
        """Whether opening the table has completed an erasure that a crash had interrupted."""
        return self._key_file.finished

    def enrol(self, customer_refs: Iterable[str]) -> dict[str, str]:
        """Draws a key for each customer who has none; durable on return.

        Returns:
            The pseudonym of each of them.
        """
        with self._use():
            enrolment = self.draw(customer_refs)
            self.keep(enrolment)
            return dict(enrolment.sids)

    def draw(self, customer_refs: Iterable[str]) -> Enrolment:
        """Draws a key for each customer who has none, and stores nothing yet: see `keep`."""
        with self._use():
            sids: dict[str, str] = {}
            rows = []
            for ref in dict.fromkeys(customer_refs):
                sid = self._find(ref)
                if sid is None:
                    secret = os.urandom(SUBJECT_KEY_BYTES)
                    sid = subject_id(secret, ref)
                    rows.append((ref, self._key.seal(secret, ref.encode())))
                sids[ref] = sid
            return Enrolment(sids, tuple(rows))

    def keep(self, enrolment: Enrolment) -> None:
        """Stores the keys that were drawn; durable on return."""
        with self._use():
            if enrolment.rows:
                with self._connection:
                    self._connection.executemany(
                        "INSERT INTO subjects VALUES (?, ?)", enrolment.rows
                    )
            self._sids.update(enrolment.sids)

    def pseudonym(self, customer_ref: str) -> str | None:
        """One customer's pseudonym, or None if they have no key.

        Raises:
            StorageError: The key does not decrypt: the table or the storage key was altered.
        """
        with self._use():
            return self._find(customer_ref)

    def pseudonyms(self) -> dict[str, str]:
        """Every enrolled customer's pseudonym, by reference in order: ``{reference: hex}``.

        Raises:
            StorageError: A key does not decrypt: the table or the storage key was altered.
        """
        with self._use():
            if not self._has_all:
                rows = self._connection.execute("SELECT * FROM subjects ORDER BY customer_ref")
                self._sids = {ref: subject_id(self._open(ref, sealed), ref) for ref, sealed in rows}
                self._has_all = True
            return dict(self._sids)

    def secret(self, customer_ref: str) -> bytes | None:
        """A customer's own key, for that customer alone; None if they have none."""
        with self._use():
            return self._secret(customer_ref)

    def keep_evidence(self, rows: Sequence[EvidenceRow]) -> None:
        """Stores evidence, encrypted; durable on return."""
        with self._use(), self._connection:
            self._connection.executemany(
                "INSERT INTO evidence VALUES (?, ?, ?, ?)",
                [
                    (
                        row.record_id,
                        row.giver,
                        row.customer_ref,
                        self._key.seal(row.value, _evidence_context(row.record_id, row.giver)),
                    )
                    for row in rows
                ],
            )

    def evidence(self, customer_ref: str) -> list[EvidenceRow]:
        """All evidence of one customer's records."""
        with self._use():
            rows = self._rows(
                "SELECT record_id, giver, encrypted FROM evidence WHERE customer_ref = ?"
                " ORDER BY record_id, giver",
                (customer_ref,),
            )
            return [
                EvidenceRow(
                    record_id,
                    giver,
                    customer_ref,
                    self._key.open(sealed, _evidence_context(record_id, giver)),
                )
                for record_id, giver, sealed in rows
            ]

    def evidence_records(self) -> frozenset[str]:
        """The ids of all records of which there is evidence."""
        with self._use():
            rows = self._rows("SELECT DISTINCT record_id FROM evidence", ())
            return frozenset(record_id for (record_id,) in rows)

    def drop_evidence(self, record_ids: Iterable[str]) -> None:
        """Removes the evidence of some records, its freed pages overwritten; durable on return.

        Copies of the table from before have it still: `erase` is what makes those unreadable.
        """
        with self._use():
            with self._connection:
                self._connection.executemany(
                    "DELETE FROM evidence WHERE record_id = ?", [(each,) for each in record_ids]
                )
            self._truncate()

    def imported(self, file_sha256: str) -> int | None:
        """How many records the finished import of a file has made; None if there was none."""
        with self._use():
            row = self._connection.execute(
                "SELECT records FROM imports WHERE file_sha256 = ?", (file_sha256,)
            ).fetchone()
            return None if row is None else int(row[0])

    def finish_import(self, file_sha256: str, records: int) -> None:
        """Remembers that a file was imported whole."""
        with self._use(), self._connection:
            self._connection.execute(
                "INSERT OR REPLACE INTO imports VALUES (?, ?)", (file_sha256, records)
            )

    def erase(self, customer_refs: Collection[str]) -> None:
        """Destroys customers' keys and evidence, in every older copy of the table too.

        The rest is encrypted under a new storage key, and the old one is destroyed; killed at any
        moment, it leaves the state before or the state after. Costs time in proportion to the
        table: about ten seconds for a million customers.

        Raises:
            StorageError: The disk refuses, or something else keeps the table's write-ahead log in
                use: the keys are destroyed then, but their ciphertext lies there still.
        """
        with self._use(), self._key_file.changing():
            # Whatever goes wrong from here on, the next use asks the table for its key again.
            self._version = -1
            # Who held the lock before may have died after its commit: the next key is in use then.
            self._key = self._key_file.find_while_changing(self._stated)
            following = self._key_file.draw_next()
            refs = [(ref,) for ref in customer_refs]
            with self._connection:
                self._connection.executemany("DELETE FROM subjects WHERE customer_ref = ?", refs)
                self._connection.executemany("DELETE FROM evidence WHERE customer_ref = ?", refs)
                self._encrypt_anew(following)
            self._key_file.activate_next()
            for ref in customer_refs:
                self._sids.pop(ref, None)
            self._key, self._version = following, self._data_version()
            self._truncate()

    def _encrypt_anew(self, following: StorageKey) -> None:
        """Encrypts every row under another key, and says so, within a transaction."""
        for rows in self._chunks("SELECT customer_ref, encrypted_key FROM subjects", 1):
            self._connection.executemany(
                "UPDATE subjects SET encrypted_key = ?2 WHERE customer_ref = ?1",
                [(ref, following.seal(self._open(ref, old), ref.encode())) for ref, old in rows],
            )
        for rows in self._chunks("SELECT record_id, giver, encrypted FROM evidence", 2):
            contexts = [_evidence_context(record_id, giver) for record_id, giver, _ in rows]
            self._connection.executemany(
                "UPDATE evidence SET encrypted = ?3 WHERE record_id = ?1 AND giver = ?2",
                [
                    (record_id, giver, following.seal(self._key.open(old, context), context))
                    for (record_id, giver, old), context in zip(rows, contexts, strict=True)
                ],
            )
        self._connection.execute(
            "UPDATE meta SET value = ? WHERE name = 'storage_key'", (following.fingerprint,)
        )

    def _chunks(self, select: str, key_columns: int) -> Iterator[list[tuple[Any, ...]]]:
        """A table's rows in order of its primary key, the first columns, some at a time."""
        names = select.split()[1 : 1 + key_columns]
        key = ", ".join(name.rstrip(",") for name in names)
        marks = ", ".join("?" * key_columns)
        last: tuple[Any, ...] = ("",) * key_columns
        while rows := self._rows(
            f"{select} WHERE ({key}) > ({marks}) ORDER BY {key} LIMIT {_CHUNK_ROWS}", last
        ):
            yield rows
            last = rows[-1][:key_columns]

    def _rows(self, sql: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, values).fetchall()

    def _truncate(self) -> None:
        """Empties the write-ahead log: it holds pages as they were before."""
        self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def _find(self, customer_ref: str) -> str | None:
        sid = self._sids.get(customer_ref)
        if sid is None and not self._has_all:
            secret = self._secret(customer_ref)
            if secret is not None:
                sid = self._sids[customer_ref] = subject_id(secret, customer_ref)
        return sid

    def _secret(self, customer_ref: str) -> bytes | None:
        row = self._connection.execute(
            "SELECT encrypted_key FROM subjects WHERE customer_ref = ?", (customer_ref,)
        ).fetchone()
        return None if row is None else self._open(customer_ref, row[0])

    def _open(self, customer_ref: str, sealed: bytes) -> bytes:
        try:
            return self._key.open(sealed, customer_ref.encode())
        except StorageError as error:
            raise StorageError(
                f"A customer's key in {self._path} does not decrypt.", remedy=error.remedy
            ) from error

    def _stated(self) -> str | None:
        return _fingerprint(self._connection)

    def _data_version(self) -> int:
        return int(self._connection.pragma("data_version"))

    @contextmanager
    def _use(self) -> Iterator[None]:
        """Holds the table; forgets what was read if another process has written since."""
        with self._lock, _storage_errors(self._path):
            version = self._data_version()
            if version != self._version:
                self._sids, self._has_all, self._version = {}, False, version
                self._key = self._key_file.find(self._stated)
            yield


def _evidence_context(record_id: str, giver: str) -> bytes:
    return f"{record_id} {giver}".encode()


@contextmanager
def open_subject_keys(path: Path, storage_key_path: Path) -> Iterator[SubjectKeys]:
    """Opens the table, making it if it is missing; finishes an erasure that a crash interrupted.

    Raises:
        InputError: The storage key is missing or not 32 bytes.
        StorageError: The table cannot be used, or is under another storage key.
    """
    key_file = StorageKeyFile(storage_key_path)
    if not path.exists():
        # A new table needs a key; without one none is made.
        key_file.find(lambda: None)
    # Made readable by its owner alone before anything is in it.
    path.touch(mode=0o600)
    with _storage_errors(path):
        connection = apsw.Connection(str(path))
        try:
            connection.set_busy_timeout(5_000)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            # Deleted keys must not linger in free pages.
            connection.execute("PRAGMA secure_delete=ON")
            with connection:
                connection.execute(_SCHEMA)
            key = key_file.find(lambda: _fingerprint(connection))
            with connection:
                connection.execute(
                    "INSERT OR IGNORE INTO meta VALUES ('storage_key', ?)", (key.fingerprint,)
                )
        except BaseException:
            connection.close()
            raise
    try:
        yield SubjectKeys(connection, path, key_file, key)
    finally:
        connection.close()


def read_fingerprint(path: Path) -> str:
    """The fingerprint of the storage key that a table is under.

    Raises:
        StorageError: It is no such table, or damaged.
    """
    with _storage_errors(path):
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            fingerprint = _fingerprint(connection)
        finally:
            connection.close()
    if fingerprint is None:
        raise StorageError(f"The subjects' table {path} does not say which key it is under.")
    return fingerprint


def _fingerprint(connection: apsw.Connection) -> str | None:
    row = connection.execute("SELECT value FROM meta WHERE name = 'storage_key'").fetchone()
    return None if row is None else str(row[0])


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except apsw.BusyError as error:
        raise StorageError(
            f"The subjects' table {path} is in use by another process: {error}.",
            remedy="Close what reads or copies it, and try again.",
        ) from error
    except (apsw.Error, OSError) as error:
        raise StorageError(
            f"The subjects' table {path} cannot be used: {error}.",
            remedy="Check the disk's space and the file's mode and owner.",
        ) from error
