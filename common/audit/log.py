"""An append-only audit log: RFC 6962 over a SQLite file, with a signed checkpoint per batch.

A batch of entries, the tiles of their hashes and the checkpoint over them are committed in one
transaction before ``append`` returns, so a crash leaves a log that is whole and signed. Opening is
the same path after a crash as after a clean end: the stored size, tiles, tail and checkpoint must
agree, and what is merely unfinished is finished.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from common.audit.checkpoint import Checkpoint, NoteKey, sign_note
from common.audit.entry import MAX_ENTRY_BYTES
from common.audit.log_recovery import (
    check_checkpoint,
    check_entries,
    load_state,
    stored_checkpoint,
)
from common.audit.log_store import LogStore, StoredCheckpoint
from common.audit.merkle import leaf_hash, prove_consistency, prove_inclusion
from common.audit.tiles import (
    TILE_HEIGHT,
    TILE_WIDTH,
    TiledTree,
    TileEdge,
    encode_bundle,
    entries_path,
)
from common.errors import FormatError, InputError, StorageError
from common.keys import Signer


class LogMovedError(StorageError):
    """Something else was appended before a batch that was meant for a certain size of the log."""


class AuditLog:
    """One open log; a context manager, safe to use from several threads of one process.

    Entries are bytes of at most 65,535; an entry's index is its place from 0. Make one with
    ``open`` or ``open_read_only``.
    """

    def __init__(self, store: LogStore, signer: Signer | None) -> None:
        self._store = store
        self._signer = signer
        self._mutex = threading.RLock()
        self._closed = False
        self._pid = os.getpid()
        # Set while memory may differ from the file: before the first load, after a failed write.
        self._unsure = True
        # Asked before the first load: what is written meanwhile is looked at again.
        self._version = store.changes_seen()
        self.origin = store.origin
        #: Entries without a checkpoint at opening; a writer has signed them then. Report them: a
        #: batch and its checkpoint are committed together, so our own crash leaves none.
        self.recovered = range(0)
        self._tree = TiledTree(TileEdge(0, []), store.tile, store.damaged)
        self._load()

    @classmethod
    def open(
        cls, path: Path | str, *, origin: str, signer: Signer, create: bool = False
    ) -> AuditLog:
        """Opens a log for writing; there is one writer at a time.

        Args:
            path: Its file.
            origin: Its identity, for example ``retail-5.example/region-1``.
            signer: The log's key, which signs its checkpoints.
            create: Make the log if it is not there.

        Raises:
            InputError: If there is no such log and ``create`` is False.
            StorageError: If another process writes to it, or it is full, read-only or damaged.
        """
        NoteKey(origin, signer.public_key)
        return cls._opened(LogStore.open(Path(path), origin=origin, create=create), signer)

    @classmethod
    def open_read_only(cls, path: Path | str) -> AuditLog:
        """Opens a log to read it as it is now; what its writer appends later is not seen.

        Raises:
            InputError: If there is no such log.
            StorageError: If it cannot be read or is damaged.
        """
        return cls._opened(LogStore.open_read_only(Path(path)), None)

    @classmethod
    def _opened(cls, store: LogStore, signer: Signer | None) -> AuditLog:
        try:
            return cls(store, signer)
        except BaseException:
            store.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file and lets the next writer in; closing twice does nothing."""
        with self._mutex:
            if not self._closed:
                self._closed = True
                self._store.close()

    @property
    def size(self) -> int:
        """How many entries the log has."""
        return self._tree.edge.size

    @property
    def root(self) -> bytes:
        """The root of the tree over all entries."""
        return self.root_at(self.size)

    def root_at(self, size: int) -> bytes:
        """The root of the tree over the first ``size`` entries."""
        with self._mutex:
            self._check_size(size)
            return self._tree.root(size)

    def leaf_hash(self, index: int) -> bytes:
        """The leaf hash of an entry."""
        with self._mutex:
            self._check_open()
            if not 0 <= index < self.size:
                raise InputError(f"The log {self.origin} has no entry {index}.")
            return self._tree.subtree(0, index)

    def inclusion_proof(self, index: int, size: int) -> list[bytes]:
        """Proves that entry ``index`` is in the tree of the first ``size`` entries."""
        with self._mutex:
            self._check_size(size)
            return prove_inclusion(self._tree.subtree, index, size)

    def consistency_proof(self, size_m: int, size_n: int) -> list[bytes]:
        """Proves that the tree of ``size_n`` entries only appends to that of ``size_m`` ≥ 1."""
        with self._mutex:
            self._check_size(size_n)
            return prove_consistency(self._tree.subtree, size_m, size_n)

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Reads entries, each checked against its leaf hash in the tree.

        Args:
            start: First index.
            stop: One past the last index; the log's size now if None.

        Yields:
            Each index and its entry.

        Raises:
            InputError: If the range is not in the log.
            StorageError: If an entry is not the one that was logged.
        """
        stop = self.size if stop is None else stop
        with self._mutex:
            self._check_size(stop)
            if not 0 <= start <= stop:
                raise InputError(f"The log {self.origin} has no entries {start} to {stop - 1}.")
        return self._entries(start, stop)

    def _entries(self, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        while start < stop:
            number, place = divmod(start, TILE_WIDTH)
            end = min(stop, (number + 1) * TILE_WIDTH)
            with self._mutex:
                self._check_open()
                hashes = self._tree.tile(0, number).rows[0][place : place + end - start]
                data = self._store.entries(start, end)
            check_entries(self._store, start, data, hashes)
            yield from enumerate(data, start)
            start = end

    def append(self, entries: Sequence[bytes], *, expected_size: int | None = None) -> range:
        """Appends a batch; when this returns, it is on the disk and under a signed checkpoint.

        Args:
            entries: The entries, in order; all of them are appended, or none.
            expected_size: Append only if the log still has this size; None for whatever size.

        Returns:
            Their indices.

        Raises:
            FormatError: If an entry is not bytes, or longer than 65,535.
            LogMovedError: If the log has another size than expected; nothing was appended.
            StorageError: If they could not be stored; the log is then as it was, unless the message
                says that it is damaged.
        """
        for entry in entries:
            if not isinstance(entry, bytes) or len(entry) > MAX_ENTRY_BYTES:
                raise FormatError(f"A log entry is at most {MAX_ENTRY_BYTES} bytes.")
        with self._mutex:
            self._check_writable()
            start = self.size
            if expected_size is not None and start != expected_size:
                raise LogMovedError(
                    f"The log {self.origin} has {start} entries by now, not {expected_size}.",
                    remedy="Judge anew by what was appended.",
                )
            if entries:
                edge = self._tree.edge.copy()
                for entry in entries:
                    edge.append(leaf_hash(entry))
                self._write(edge, entries)
            return range(start, start + len(entries))

    def checkpoint(self) -> bytes:
        """The signed checkpoint of the log's size."""
        with self._mutex:
            return self.checkpoint_at(self.size)

    def checkpoint_at(self, size: int) -> bytes:
        """The signed checkpoint of a size: the stored one, or one signed and stored now.

        Raises:
            InputError: If the log has fewer entries.
            StorageError: If there is none and the log is open for reading only.
        """
        with self._mutex:
            self._check_size(size)
            root = self._tree.root(size)
            stored = stored_checkpoint(self._store, self._signer, size)
            if stored is None:
                stored = self._sign_stored(size, root)
            else:
                check_checkpoint(self._store, self._signer, stored, root)
            return bytes(stored.note)

    def export(self, folder: Path | str, *, sizes: Collection[int] = ()) -> None:
        """Writes the log as static files in the C2SP tlog-tiles layout.

        ``checkpoint``, ``checkpoints/<size>`` for each of ``sizes``, and ``tile/entries/…``; no
        hash tiles, as a reader of all entries computes them.

        Args:
            folder: Where to; it must be empty or not there.
            sizes: Sizes of which to write the checkpoint too.

        Raises:
            InputError: If the folder has files already, or the log has fewer entries.
            StorageError: If a file could not be written, or an entry is damaged.
        """
        folder = Path(folder)
        if folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"The export folder {folder} is not empty.")
        with self._mutex:
            size = self.size
            notes = {f"checkpoints/{each}": self.checkpoint_at(each) for each in sorted(sizes)}
            notes["checkpoint"] = self.checkpoint_at(size)
        for name, note in notes.items():
            _write_file(folder / name, note)
        for start in range(0, size, TILE_WIDTH):
            stop = min(size, start + TILE_WIDTH)
            bundle = encode_bundle(entry for _, entry in self._entries(start, stop))
            _write_file(folder / entries_path(start // TILE_WIDTH, stop - start), bundle)

    def follow(self) -> bool:
        """For a reader: takes up what the writer has appended since the last look.

        Looking costs microseconds while nothing was written.

        Returns:
            Whether there was anything.

        Raises:
            InputError: The log is open for writing: nobody else appends.
            StorageError: It cannot be read, is damaged, no longer begins with the entries that it
                had, or was opened as a file that nobody changes; nothing was taken up.
        """
        with self._mutex:
            self._check_open()
            if self._signer is not None:
                raise InputError(f"The log {self.origin} is open for writing; it is up to date.")
            if self._store.unchanging:
                raise StorageError(
                    f"What is appended to {self._store.path} cannot be seen: its side files cannot "
                    "be used.",
                    remedy="Read it as the user who owns the folder.",
                )
            version = self._store.changes_seen()
            if version == self._version and not self._unsure:
                return False
            size, root, before = self.size, self.root, self._tree
            self._unsure = True
            self._load()
            if self.size < size or self.root_at(size) != root:
                self._tree, self._unsure = before, True
                raise self._store.damaged(f"its first {size} entries are not those it had")
            self._version = version
            return self.size > size

    def _load(self) -> None:
        """Reads the state of the file, and finishes what is unfinished."""
        state = load_state(self._store, self._signer)
        self._tree, self._unsure = state.tree, False
        self.recovered = state.unsigned or self.recovered
        if self._signer is None:
            self._tree = state.tree.extended(state.edge)
        elif state.unsigned or not state.signed or state.signed.key_id != self._signer.key_id:
            self._write(state.edge, ())

    def _write(self, edge: TileEdge, entries: Sequence[bytes]) -> None:
        """Commits the last entries, the tiles and the checkpoint; only then memory follows."""
        if self._signer is None:
            raise self._not_writable()
        before, self._unsure = self._tree.edge.size, True
        with self._store.transaction():
            self._store.add_entries(edge.size - len(entries), entries)
            for (level, number), tile in edge.completed.items():
                self._store.put_tile(level, number, tile.encode())
            for level, tile in enumerate(edge.partial):
                shift = TILE_HEIGHT * level
                # Its count of hashes tells whether this level has grown since the last batch.
                if tile.width and before >> shift != edge.size >> shift:
                    self._store.put_tile(level, edge.partial_number(level), tile.encode())
            tree = self._tree.extended(edge)
            root = tree.root(edge.size)
            self._store.add_checkpoint(self._signed(self._signer, edge.size, root))
        self._tree = tree
        self._unsure = False

    def _sign_stored(self, size: int, root: bytes) -> StoredCheckpoint:
        """Signs and stores the checkpoint of a size that has none."""
        if self._signer is None:
            raise StorageError(
                f"The log {self.origin} has no stored checkpoint of size {size}.",
                remedy="Open it for writing, with its key, to sign one.",
            )
        self._check_writable()
        signed = self._signed(self._signer, size, root)
        with self._store.transaction():
            self._store.add_checkpoint(signed)
        return signed

    def _signed(self, signer: Signer, size: int, root: bytes) -> StoredCheckpoint:
        note = sign_note(Checkpoint(self.origin, size, root).body(), self.origin, signer)
        return StoredCheckpoint(size, signer.key_id, root, note.encode())

    def _check_open(self) -> None:
        if self._closed:
            raise StorageError(f"The log {self.origin} is closed.")
        if os.getpid() != self._pid:
            # SQLite's connections and the lock must not be shared with a forked child.
            raise StorageError(f"The log {self.origin} was opened by another process.")

    def _check_size(self, size: int) -> None:
        self._check_open()
        if not 0 <= size <= self.size:
            raise InputError(f"The log {self.origin} has {self.size} entries, not {size}.")

    def _check_writable(self) -> None:
        self._check_open()
        if self._signer is None:
            raise self._not_writable()
        if self._unsure:
            self._load()

    def _not_writable(self) -> StorageError:
        return StorageError(f"The log {self.origin} is open for reading only.")


def _write_file(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.") from error
