"""The deletable table of customers' pseudonym keys.

A customer's pseudonym is a hash under 32 random bytes of their own. Deleting these bytes makes
every record of theirs in the append-only log unlinkable (crypto-shredding). The bytes are encrypted
at rest under the region's storage key, each bound to its customer.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from common.consent import subject_id
from common.durable_file import write_durably
from common.errors import InputError, StorageError

SUBJECT_KEY_BYTES = 32
_NONCE_BYTES = 12
_SCHEMA = """
CREATE TABLE IF NOT EXISTS subjects (
  customer_ref TEXT PRIMARY KEY,
  encrypted_key BLOB NOT NULL
) STRICT, WITHOUT ROWID;
"""


def make_storage_key(path: Path) -> None:
    """Makes a random storage key, mode 0600."""
    write_durably(path, os.urandom(32))


class SubjectKeys:
    """An open table of pseudonym keys; use `open_subject_keys`."""

    def __init__(self, connection: apsw.Connection, path: Path, storage_key: bytes) -> None:
        self._connection = connection
        self._path = path
        self._cipher = AESGCM(storage_key)

    def enrol(self, customer_refs: Iterable[str]) -> None:
        """Draws a key for each customer who has none; durable on return."""
        rows = []
        for customer_ref in customer_refs:
            nonce = os.urandom(_NONCE_BYTES)
            secret = os.urandom(SUBJECT_KEY_BYTES)
            rows.append(
                (customer_ref, nonce + self._cipher.encrypt(nonce, secret, customer_ref.encode()))
            )
        with _storage_errors(self._path), self._connection:
            self._connection.executemany("INSERT OR IGNORE INTO subjects VALUES (?, ?)", rows)

    def pseudonyms(self) -> dict[str, str]:
        """Every enrolled customer's pseudonym: ``{customer_ref: sid in hex}``.

        Raises:
            StorageError: A key does not decrypt: the table or the storage key was altered.
        """
        with _storage_errors(self._path):
            rows = list(self._connection.execute("SELECT * FROM subjects ORDER BY customer_ref"))
        return {customer_ref: self._sid(customer_ref, sealed) for customer_ref, sealed in rows}

    def _sid(self, customer_ref: str, sealed: bytes) -> str:
        nonce, ciphertext = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            secret = self._cipher.decrypt(nonce, ciphertext, customer_ref.encode())
        except InvalidTag as error:
            raise StorageError(
                f"A customer's key in {self._path} does not decrypt.",
                remedy="Restore the table and the storage key from the same backup.",
            ) from error
        return subject_id(secret, customer_ref)


@contextmanager
def open_subject_keys(path: Path, storage_key_path: Path) -> Iterator[SubjectKeys]:
    """Opens the table, making it if it is missing.

    Raises:
        InputError: The storage key is missing or not 32 bytes.
        StorageError: The table cannot be used.
    """
    try:
        storage_key = storage_key_path.read_bytes()
    except OSError as error:
        raise InputError(
            f"The storage key {storage_key_path} cannot be read: {error.strerror}.",
            remedy="Restore it from the region's key backup.",
        ) from error
    if len(storage_key) != 32:
        raise InputError(f"The storage key {storage_key_path} is not 32 bytes long.")
    # Made readable by its owner alone before anything is in it.
    path.touch(mode=0o600)
    with _storage_errors(path):
        connection = apsw.Connection(str(path))
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        # Deleted keys must not linger in free pages.
        connection.execute("PRAGMA secure_delete=ON")
        connection.execute(_SCHEMA)
    try:
        yield SubjectKeys(connection, path, storage_key)
    finally:
        connection.close()


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except apsw.Error as error:
        raise StorageError(
            f"The subjects' table {path} cannot be used: {error}.",
            remedy="Check the disk's space and the file's mode and owner.",
        ) from error
