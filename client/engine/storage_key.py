"""The storage key, which encrypts the subjects' table at rest, and how another takes its place.

Erasing someone draws a new storage key, so that no older copy of the table can be opened again. The
order of the steps makes each moment of a crash one of two states:

1. the new key is written to ``storage.key.next``;
2. one transaction of the table encrypts everything anew and states the new key's fingerprint;
3. the old key's bytes are overwritten, and ``storage.key.next`` takes the place of ``storage.key``.

The fingerprint in the table says which of the two files is its key. What a crash left unfinished,
the next opening finishes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from common.durable_file import sync_folder, write_durably
from common.errors import InputError, StorageError

STORAGE_KEY_BYTES = 32
_NONCE_BYTES = 12


def make_storage_key(path: Path) -> None:
    """Makes a random storage key, mode 0600."""
    write_durably(path, os.urandom(STORAGE_KEY_BYTES))


class StorageKey:
    """An open storage key: seals and opens values, each bound to its context.

    Args:
        secret: Its 32 bytes.
    """

    def __init__(self, secret: bytes) -> None:
        self._cipher = AESGCM(secret)
        #: What a table states to say which key it is under; it tells nothing about the key.
        self.fingerprint = hashlib.sha256(b"fedpref-storage-key/1" + secret).hexdigest()

    def seal(self, value: bytes, context: bytes) -> bytes:
        """Encrypts a value (AES-256-GCM); a fresh random nonce comes first."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, value, context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Decrypts a value.

        Raises:
            StorageError: It was altered, is another context's or under another key.
        """
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context)
        except (InvalidTag, ValueError) as error:
            raise StorageError(
                "A value in the subjects' table does not decrypt.",
                remedy="Restore the table and the storage key from the same backup.",
            ) from error


class StorageKeyFile:
    """The file of a storage key, and the next one's beside it.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next = path.with_name(f"{path.name}.next")
        #: Whether `find` has finished a change of keys that a crash had interrupted.
        self.finished = False

    def find(self, stated: Callable[[], str | None]) -> StorageKey:
        """The key of a table, after finishing a change of keys that a crash interrupted.

        Args:
            stated: Reads the fingerprint that the table states; None if it is new. It is asked
                again once no other process changes the key: what it said before may be outdated.

        Raises:
            InputError: The storage key is missing or not 32 bytes.
            StorageError: The table is under another key.
        """
        if not self._next.exists():
            fingerprint, key = stated(), self._read(self._path)
            if fingerprint in (None, key.fingerprint):
                return key
        with self.changing():
            return self.find_while_changing(stated)

    def find_while_changing(self, stated: Callable[[], str | None]) -> StorageKey:
        """As `find`, to be called within `changing`."""
        fingerprint = stated()
        self._finish(fingerprint)
        key = self._read(self._path)
        self._check(key, fingerprint)
        return key

    def check(self, fingerprint: str) -> None:
        """Checks that the key or the next one opens a table with this fingerprint; changes nothing.

        Raises:
            InputError: The storage key is missing or not 32 bytes.
            StorageError: The table is under another key.
        """
        if self._next.exists() and self._read(self._next).fingerprint == fingerprint:
            return
        self._check(self._read(self._path), fingerprint)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Keeps every other process from changing the key meanwhile."""
        lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def draw_next(self) -> StorageKey:
        """Makes the next key, durably; to be called within `changing`."""
        write_durably(self._next, os.urandom(STORAGE_KEY_BYTES))
        return self._read(self._next)

    def activate_next(self) -> None:
        """Puts the next key in the place of the present one, whose bytes are destroyed.

        To be called within `changing`, when the table is under the next key. Overwriting reaches
        the same blocks on most disks; on copy-on-write file systems and SSDs it is the best that a
        program can do.
        """
        with suppress(FileNotFoundError):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.pwrite(descriptor, os.urandom(STORAGE_KEY_BYTES), 0)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        self._next.replace(self._path)
        self._remove_leftovers()
        sync_folder(self._path.parent)

    def _finish(self, fingerprint: str | None) -> None:
        """Finishes or takes back a change that a crash interrupted; no other is under way."""
        if not self._next.exists():
            return
        if fingerprint == self._read(self._next).fingerprint:
            self.activate_next()
            self.finished = True
        elif fingerprint == self._read(self._path).fingerprint:
            # The table was not encrypted anew: this key has never protected anything.
            self._next.unlink()
            self._remove_leftovers()
            sync_folder(self._path.parent)

    def _check(self, key: StorageKey, fingerprint: str | None) -> None:
        if fingerprint not in (None, key.fingerprint):
            raise StorageError(
                f"The subjects' table is encrypted under another storage key than {self._path}.",
                remedy="Restore the newest copy of the storage key; the copy of a table from "
                "before an erasure cannot be opened any more.",
            )

    def _remove_leftovers(self) -> None:
        """Removes what a crash left of writing a next key."""
        for path in self._path.parent.glob(f".{self._next.name}.*.tmp"):
            path.unlink(missing_ok=True)

    def _read(self, path: Path) -> StorageKey:
        try:
            secret = path.read_bytes()
        except OSError as error:
            raise InputError(
                f"The storage key {path} cannot be read: {error.strerror}.",
                remedy="Restore it from the region's key backup. If no copy is left: "
                "fedpref-region restore … --without-subjects.",
            ) from error
        if len(secret) != STORAGE_KEY_BYTES:
            raise InputError(f"The storage key {path} is not {STORAGE_KEY_BYTES} bytes long.")
        return StorageKey(secret)
