"""A store's examined rows, kept on disk, so that only what is new is read of the store.

Rows are encrypted under the region's storage key: when an erasure turns that key, they cannot be
read any more, and the store is read anew. What is kept is a copy that can be made again at any time
and is in no backup. Whatever is given up in the store is removed here in the same step.

Its size is bounded: as many segments as `_CROWD` of a size are merged into one.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import numpy as np

from client.data.prepared_files import (
    SUFFIX,
    Cipher,
    SegmentFile,
    SegmentWriter,
    disk_errors,
    segment_path,
)
from client.data.prepared_manifest import Manifest, Segment, TakenUnit
from client.data.row_blocks import PARTS, RowBlock, concatenate, split
from client.data.row_checks import RowCounts
from client.data.store_units import StoreUnit
from common.durable_file import make_folder_durably
from common.errors import StorageError

_MANIFEST = "manifest"
_LOCK = "lock"
# A chunk for each part is written of so many rows.
_FLUSH_ROWS = 1 << 18
# Segments of about one size: up to 2^16 rows, then up to eight times as many, and so on.
_CROWD = 8
_SMALLEST_TIER_BITS = 16
_LOCK_POLL_S = 0.1


class PreparedRows:
    """The rows kept of one region's store.

    Args:
        folder: Where they lie.
        cipher: What they are encrypted with.
        basis: What they depend on besides the store, such as the catalogue.
        lock_wait_s: For how long another process may be reading the store.
    """

    def __init__(
        self, folder: Path, cipher: Cipher, basis: str, *, lock_wait_s: float = 900.0
    ) -> None:
        self._folder = folder
        self._cipher = cipher
        self._basis = basis
        self._lock_wait_s = lock_wait_s
        self.manifest = Manifest(basis)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keeps every other process from changing the rows; knows their present state.

        Raises:
            StorageError: Another process keeps them for too long, or the disk refuses.
        """
        with disk_errors(self._folder):
            if not self._folder.is_dir():
                make_folder_durably(self._folder)
            lock = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._wait_for(lock)
            self.manifest = Manifest.read(self._folder / _MANIFEST, self._cipher, self._basis)
            self._remove_leftovers()
            yield
        finally:
            os.close(lock)

    def clear(self) -> None:
        """Forgets everything; to be called within `exclusive`."""
        self._replace(Manifest(self._basis))

    def intake(self) -> Intake:
        """Begins to take up and give up units; to be called within `exclusive`."""
        return Intake(self, self._folder, self._cipher)

    def snapshot(self, origin: str, catalogue: str) -> KeptRows:
        """All rows as they are now; they can be read whatever happens to the store later.

        To be called within `exclusive`.

        Args:
            origin: The store, for messages.
            catalogue: The digest of the catalogue that the rows were examined with.

        Raises:
            DamagedRowsError: They cannot be read.
        """
        files = [
            SegmentFile(self._folder, segment.name, self._cipher)
            for segment in self.manifest.segments
        ]
        return KeptRows(files, self.manifest.counts, origin, catalogue)

    def _replace(self, manifest: Manifest) -> None:
        """Makes a state the present one, then removes what it does not name."""
        manifest.write(self._folder / _MANIFEST, self._cipher)
        self.manifest = manifest
        self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        named = {segment_path(self._folder, each.name) for each in self.manifest.segments}
        with disk_errors(self._folder):
            for path in chain(self._folder.glob(f"*{SUFFIX}"), self._folder.glob(".*.tmp")):
                if path not in named:
                    path.unlink(missing_ok=True)

    def _wait_for(self, lock: int) -> None:
        deadline = time.monotonic() + self._lock_wait_s
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise StorageError(
                        f"Another process has been reading the store into {self._folder} for more "
                        f"than {self._lock_wait_s:.0f} s.",
                        remedy="Wait until fedpref-region prepare is done, or stop it.",
                    ) from None
                time.sleep(_LOCK_POLL_S)
            else:
                return


class KeptRows:
    """Examined rows on disk (`client.data.quality.ExaminedRows`).

    Args:
        files: The segments.
        counts: What was read.
        origin: The store, for messages.
        catalogue: The digest of the catalogue that items are numbers of.
    """

    def __init__(
        self, files: Sequence[SegmentFile], counts: RowCounts, origin: str, catalogue: str
    ) -> None:
        self._files = files
        self.counts = counts
        self.origin = origin
        self.catalogue = catalogue

    def part(self, number: int) -> RowBlock:
        """The rows of one part."""
        return concatenate([block for file in self._files for block in file.blocks(number)])


class Intake:
    """A change of what is kept, which happens as a whole or not at all.

    Args:
        kept: The rows.
        folder: Where they lie.
        cipher: What they are encrypted with.
    """

    def __init__(self, kept: PreparedRows, folder: Path, cipher: Cipher) -> None:
        self._kept = kept
        self._folder = folder
        self._cipher = cipher
        self._number = kept.manifest.next_number - 1
        self._taken: list[TakenUnit] = []
        self._waiting: list[RowBlock] = []
        self._writer: SegmentWriter | None = None
        self._writers: list[SegmentWriter] = []
        #: What the columns hold.
        self.kinds = kept.manifest.kinds

    def __enter__(self) -> Intake:
        return self

    def __exit__(self, *_: object) -> None:
        # After `commit` there are none left.
        for writer in self._writers:
            writer.discard()

    def begin(self, unit: StoreUnit) -> int:
        """Begins with a unit; gives the number that its rows have to carry."""
        self._number += 1
        self._taken.append(TakenUnit(self._number, unit, RowCounts()))
        return self._number

    def add(self, block: RowBlock, counts: RowCounts) -> None:
        """Takes rows of the unit that was begun with.

        Raises:
            StorageError: The disk refuses.
        """
        last = self._taken[-1]
        self._taken[-1] = TakenUnit(last.number, last.unit, last.counts + counts)
        if len(block):
            self._waiting.append(block)
        if sum(map(len, self._waiting)) >= _FLUSH_ROWS:
            self._flush()

    def commit(self, gone: frozenset[str]) -> None:
        """Makes the change the present state.

        Args:
            gone: The names of units whose rows no longer count.

        Raises:
            StorageError: The disk refuses; what is kept is whole, as before or as after.
        """
        self._flush()
        before = self._kept.manifest
        units = [each for each in before.units if each.unit.name not in gone] + self._taken
        segments = list(before.segments)
        if self._writer is not None:
            self._writer.finish()
            numbers = tuple(each.number for each in self._taken)
            segments.append(Segment(self._writer.name, numbers, self._writer.rows))
        manifest = before.following(
            next_number=self._number + 1,
            kinds=self.kinds,
            units=tuple(units),
            segments=self._tidied(segments, {each.number for each in units}),
        )
        # From here on the manifest may name the new files, even if writing it fails: whoever is
        # next within `exclusive` removes those that it does not name.
        self._writers.clear()
        self._kept._replace(manifest)

    def _flush(self) -> None:
        if not self._waiting:
            return
        if self._writer is None:
            self._writer = self._new_writer()
        for part, block in split(concatenate(self._waiting)):
            self._writer.add(part, block)
        self._waiting.clear()

    def _new_writer(self) -> SegmentWriter:
        writer = SegmentWriter(self._folder, self._cipher)
        self._writers.append(writer)
        return writer

    def _tidied(self, segments: Sequence[Segment], live: set[int]) -> tuple[Segment, ...]:
        """Without the rows of units that were given up, and not too many of a size."""
        present = [each for each in segments if not live.isdisjoint(each.units)]
        rewritten = [each for each in present if not live.issuperset(each.units)]
        rewritten += _crowded([each for each in present if each not in rewritten])
        if not rewritten:
            return tuple(present)
        merged = self._merged(rewritten, live)
        return (*(each for each in present if each not in rewritten), merged)

    def _merged(self, segments: Sequence[Segment], live: set[int]) -> Segment:
        """One segment with the rows of several, of live units only."""
        files = [SegmentFile(self._folder, each.name, self._cipher) for each in segments]
        counted = np.array(sorted(live), dtype=np.int32)
        writer = self._new_writer()
        for part in range(PARTS):
            held: list[RowBlock] = []
            for block in chain.from_iterable(file.blocks(part) for file in files):
                held.append(block.take(np.isin(block.unit, counted)))
                if sum(map(len, held)) >= _FLUSH_ROWS:
                    writer.add(part, concatenate(held))
                    held.clear()
            if any(map(len, held)):
                writer.add(part, concatenate(held))
        writer.finish()
        numbers = {number for each in segments for number in each.units} & live
        return Segment(writer.name, tuple(sorted(numbers)), writer.rows)


def _crowded(segments: Sequence[Segment]) -> list[Segment]:
    """Segments to be merged: those of a size that there are too many of, and all smaller ones."""
    by_tier: dict[int, list[Segment]] = {}
    for each in segments:
        bits = max(each.rows.bit_length() - _SMALLEST_TIER_BITS, 0)
        by_tier.setdefault((bits + 2) // 3, []).append(each)
    full = [tier for tier, those in by_tier.items() if len(those) >= _CROWD]
    return [each for tier, those in by_tier.items() if full and tier <= max(full) for each in those]
