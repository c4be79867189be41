"""Envelope encryption of columns: a data key for each, wrapped by the region's wrapping key.

A column's data key encrypts that column once and is then only kept wrapped (AES-256-GCM, 256-bit
keys; NIST SP 800-38D), bound to the table, the column, its grade and its file. So turning the
wrapping key rewraps some hundred bytes and leaves the data as they are; and destroying a data key
destroys a column, in backups too once the wrapping key has been turned.

The wrapping key is a file of the region's keys; it is changed as the storage key is, and a crash on
the way leaves one of the two (`client.engine.storage_key`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from client.engine.storage_key import (
    STORAGE_KEY_BYTES,
    StorageKey,
    StorageKeyFile,
    make_storage_key,
)
from common import canonical_json
from common.canonical_json import JsonValue
from common.errors import InputError, StorageError

#: What is sealed at a time: a wrong byte is found before more than this is decrypted.
CHUNK_BYTES = 1 << 20
#: How much longer a sealed chunk is: the nonce before it, and the tag behind.
SEAL_BYTES = 12 + 16
_VERSION = "fedpref-column/1"


class WrappingKey:
    """The region's key that wraps the data keys of columns.

    Args:
        path: Its file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = StorageKeyFile(path)

    def open(self, stated: Callable[[], str | None]) -> StorageKey:
        """Opens it for reading what is kept.

        Args:
            stated: Reads the fingerprint of the key that the kept columns state.

        Raises:
            InputError: It is missing.
            StorageError: The columns are under another key.
        """
        with _in_words_of_columns(self._path):
            return self._file.find(stated)

    def open_while_changing(self, stated: Callable[[], str | None]) -> StorageKey:
        """As `open`, within `changing`; makes the first key if nothing is kept yet."""
        with _in_words_of_columns(self._path):
            if stated() is None and not self._path.exists():
                make_storage_key(self._path)
            return self._file.find_while_changing(stated)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Keeps every other process from changing the key, or what is under it, meanwhile."""
        with self._file.changing():
            yield

    def draw_next(self) -> StorageKey:
        """Makes the next key, durably; within `changing`."""
        return self._file.draw_next()

    def activate_next(self) -> None:
        """Puts the next key in the present one's place; within `changing`, once it is stated."""
        self._file.activate_next()


def new_data_key() -> bytes:
    """A random data key."""
    return os.urandom(STORAGE_KEY_BYTES)


def key_context(table: str, column: str, grade: str, file: str) -> bytes:
    """What a wrapped data key is bound to: under another grade or name it does not open."""
    return _bytes([_VERSION, "key", table, column, grade, file])


def seal_chunks(data: bytes, secret: bytes, table: str, column: str, file: str) -> Iterator[bytes]:
    """Encrypts a column's bytes, chunk by chunk.

    Each chunk is bound to its column, its file, its number and how many there are: none can be
    left out, repeated or take another's place.

    Args:
        data: The bytes.
        secret: The data key, for this file alone.
        table: The table's name.
        column: The column's name.
        file: The file's name.
    """
    key, chunks = StorageKey(secret), _chunks(len(data))
    for number in range(chunks):
        piece = data[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
        yield key.seal(piece, _chunk_context(table, column, file, number, chunks))


def open_chunks(
    sealed: bytes, size_bytes: int, secret: bytes, table: str, column: str, file: str
) -> bytes:
    """Decrypts what `seal_chunks` made.

    Args:
        sealed: The file's bytes.
        size_bytes: How many bytes the column has in clear.
        secret: The data key.
        table: The table's name.
        column: The column's name.
        file: The file's name.

    Raises:
        StorageError: It was altered, cut short, or is another column's.
    """
    key, chunks = StorageKey(secret), _chunks(size_bytes)
    if len(sealed) != size_bytes + chunks * SEAL_BYTES:
        raise StorageError(
            f"The file of column {column} of table {table} is not as long as it must be."
        )
    step = CHUNK_BYTES + SEAL_BYTES
    return b"".join(
        key.open(
            sealed[number * step : (number + 1) * step],
            _chunk_context(table, column, file, number, chunks),
        )
        for number in range(chunks)
    )


def _chunks(size_bytes: int) -> int:
    return max(1, -(-size_bytes // CHUNK_BYTES))


def _chunk_context(table: str, column: str, file: str, number: int, chunks: int) -> bytes:
    return _bytes([_VERSION, "chunk", table, column, file, number, chunks])


def _bytes(parts: list[JsonValue]) -> bytes:
    return canonical_json.encode(parts)


@contextmanager
def _in_words_of_columns(path: Path) -> Iterator[None]:
    """What the file of a key says, of this key: its own words are about the subjects' table."""
    try:
        yield
    except InputError as error:
        raise InputError(
            f"The key {path} that wraps the columns' keys cannot be used.",
            remedy="Restore it from the region's key backup; without it, keep the tables anew from "
            "their stores.",
        ) from error
    except StorageError as error:
        raise StorageError(
            f"The kept columns are under another wrapping key than {path}.",
            remedy="Restore columns and key from the same backup, or keep the tables anew.",
        ) from error
