"""Segments: files of examined rows, by parts, encrypted; written once, read part by part.

A segment is its sealed chunks one after the other, then a sealed index of them, then where the
index begins. Each chunk is bound to its segment, part and place: none can take another's.
"""

from __future__ import annotations

import os
import secrets
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from client.data.row_blocks import PARTS, RowBlock, decode, encode
from common import canonical_json
from common.canonical_json import JsonValue
from common.durable_file import sync_folder
from common.errors import FormatError, StorageError
from common.failpoints import Point, reach

SUFFIX = ".rows"
_DOMAIN = "fedpref-prepared/1"
_TRAILER_BYTES = 8
_MAX_INDEX_BYTES = 1 << 28


class DamagedRowsError(StorageError):
    """What was kept of a store's rows cannot be read; it is read from the store anew."""


class Cipher(Protocol):
    """What keeps rows at rest from everyone but the region (`client.engine.storage_key`)."""

    def seal(self, value: bytes, context: bytes) -> bytes:
        """Encrypts a value, bound to its context."""
        ...

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Decrypts a value.

        Raises:
            StorageError: It was altered, is another context's or under another key.
        """
        ...


class SegmentWriter:
    """Writes one segment.

    Args:
        folder: Where it is to lie.
        cipher: What it is encrypted with.
    """

    def __init__(self, folder: Path, cipher: Cipher) -> None:
        self.name = secrets.token_hex(12)
        #: The rows so far.
        self.rows = 0
        self._path = segment_path(folder, self.name)
        self._cipher = cipher
        self._index: list[list[list[int]]] = [[] for _ in range(PARTS)]
        self._at = 0
        with disk_errors(folder):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            self._file = os.fdopen(descriptor, "wb")
            reach(Point.FILE_OPENED)

    def add(self, part: int, block: RowBlock) -> None:
        """Appends rows of one part.

        Raises:
            StorageError: The disk refuses.
        """
        sealed = self._cipher.seal(encode(block), _context(self.name, part, self._at))
        self._index[part].append([self._at, len(sealed)])
        with disk_errors(self._path.parent):
            self._file.write(sealed)
        self._at += len(sealed)
        self.rows += len(block)

    def finish(self) -> None:
        """Writes the index; the segment is on the disk on return.

        Raises:
            StorageError: The disk refuses.
        """
        index: list[JsonValue] = [[list(chunk) for chunk in chunks] for chunks in self._index]
        data = canonical_json.encode(index, max_bytes=_MAX_INDEX_BYTES)
        sealed = self._cipher.seal(data, _context(self.name, PARTS, 0))
        with disk_errors(self._path.parent):
            self._file.write(sealed)
            self._file.write(self._at.to_bytes(_TRAILER_BYTES, "big"))
            self._file.flush()
            reach(Point.FILE_WRITTEN)
            os.fsync(self._file.fileno())
            self._file.close()
            reach(Point.FILE_SYNCED)
            sync_folder(self._path.parent)

    def discard(self) -> None:
        """Removes what was written."""
        with suppress(OSError):
            self._file.close()
        self._path.unlink(missing_ok=True)


class SegmentFile:
    """A finished segment, open. It can be read for as long as this is kept, even if it is removed.

    Args:
        folder: Where it lies.
        name: Its name.
        cipher: What it is encrypted with.

    Raises:
        DamagedRowsError: It is missing, was altered, or is under another key.
    """

    def __init__(self, folder: Path, name: str, cipher: Cipher) -> None:
        self._folder, self._name, self._cipher = folder, name, cipher
        try:
            self._descriptor = os.open(segment_path(folder, name), os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self._damaged(error.strerror or "it cannot be opened") from error
        weakref.finalize(self, os.close, self._descriptor)
        self._index = self._read_index()

    def blocks(self, part: int) -> Iterator[RowBlock]:
        """Reads the rows of one part, chunk by chunk.

        Raises:
            DamagedRowsError: A chunk was altered.
        """
        for at, length in self._index[part]:
            yield decode(self._open(at, length, _context(self._name, part, at)))

    def _read_index(self) -> Sequence[Sequence[tuple[int, int]]]:
        size = os.fstat(self._descriptor).st_size
        trailer = self._pread(max(size - _TRAILER_BYTES, 0), _TRAILER_BYTES)
        begin = int.from_bytes(trailer, "big")
        if not 0 <= begin <= size - _TRAILER_BYTES:
            raise self._damaged("it ends too early")
        data = self._open(begin, size - _TRAILER_BYTES - begin, _context(self._name, PARTS, 0))
        try:
            index = canonical_json.decode(data, max_bytes=_MAX_INDEX_BYTES)
        except FormatError as error:
            raise self._damaged(error.message) from error
        # What was sealed under the region's own key is what `finish` wrote.
        return index  # type: ignore[return-value]

    def _open(self, at: int, length: int, context: bytes) -> bytes:
        try:
            return self._cipher.open(self._pread(at, length), context)
        except StorageError as error:
            raise self._damaged("it does not decrypt") from error

    def _pread(self, at: int, length: int) -> bytes:
        pieces = []
        while length > 0:
            try:
                piece = os.pread(self._descriptor, length, at)
            except OSError as error:
                raise self._damaged(str(error.strerror)) from error
            if not piece:
                raise self._damaged("it ends too early")
            pieces.append(piece)
            at, length = at + len(piece), length - len(piece)
        return b"".join(pieces)

    def _damaged(self, why: str) -> DamagedRowsError:
        return DamagedRowsError(
            f"The rows kept in {segment_path(self._folder, self._name)} cannot be read: {why}.",
            remedy="The store is read anew next time; check the disk if it happens again.",
        )


def segment_path(folder: Path, name: str) -> Path:
    """Where a segment lies."""
    return folder / f"{name}{SUFFIX}"


def _context(name: str, part: int, at: int) -> bytes:
    return f"{_DOMAIN} {name} {part} {at}".encode()


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Says in words what a disk refuses."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"What is read of the store cannot be kept in {folder}: {error.strerror}.",
            remedy="Make room on its disk (about 25 bytes for each row of the store), and let the "
            "engine's user write there.",
        ) from error
