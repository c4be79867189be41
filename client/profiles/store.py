"""Profiles at rest: files by shard, encrypted under the region's storage key.

A shard's facts are layers that add up: what is new is written beside what is there, and now and
then a shard is written anew as one layer. When an erasure turns the storage key nothing of it can
be read any more, and profiles are built anew. They are in no backup.

Whoever writes holds a lock; whoever reads does not, and reads again if files were replaced.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np

from client.data.prepared_files import Cipher
from client.profiles import judging, tables
from client.profiles.judging import Judged
from client.profiles.manifest import Manifest, Shard
from client.profiles.purchases import shard_of
from client.profiles.tables import FORMS, MARKS, SID_BYTES, Array, Facts, added
from common.durable_file import make_folder_durably, sync_folder
from common.errors import FormatError, StorageError
from common.failpoints import Point, reach

#: So many layers of a shard become one, and so many as are no smaller than the first altogether.
MOST_LAYERS = 8

_MANIFEST, _LOCK, _SUFFIX = "manifest", "lock", ".profiles"
_DOMAIN = "fedpref-profiles/1"
_LOCK_POLL_S, _READ_AGAIN = 0.1, 5
_LENGTH_BYTES = 8
_NOT_MARKS = tuple(name for name in FORMS if name != MARKS)
_T = TypeVar("_T")


class DamagedProfilesError(StorageError):
    """What is kept of profiles cannot be read; they are built anew."""


class ProfileStore:
    """The profiles of one region.

    Args:
        folder: Where they lie.
        cipher: What they are encrypted with.
        lock_wait_s: For how long another process may be writing.
    """

    def __init__(self, folder: Path, cipher: Cipher, *, lock_wait_s: float = 900.0) -> None:
        self.folder = folder
        self._cipher = cipher
        self._lock_wait_s = lock_wait_s

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keeps every other process from writing.

        Raises:
            StorageError: Another process writes for too long, or the disk refuses.
        """
        with disk_errors(self.folder):
            for folder in (self.folder.parent, self.folder):
                if not folder.is_dir():
                    make_folder_durably(folder)
            lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._wait_for(lock)
            yield
        finally:
            os.close(lock)

    def manifest(self) -> Manifest | None:
        """What is kept now; None if there is nothing, or nothing that can be read.

        Raises:
            StorageError: The disk refuses.
        """
        with disk_errors(self.folder):
            return Manifest.read(self.folder / _MANIFEST, self._cipher)

    def require(self) -> Manifest:
        """What is kept now.

        Raises:
            DamagedProfilesError: There is nothing that can be read.
        """
        found = self.manifest()
        if found is None:
            raise DamagedProfilesError(
                f"There are no profiles in {self.folder} that can be read.",
                remedy="Build them: fedpref-region profile build HOME. After an erasure, too.",
            )
        return found

    def facts(self, shard: Shard, *, marks: bool = False) -> list[Facts]:
        """The layers of a shard.

        Args:
            shard: The shard, as a manifest has it.
            marks: Whether the marks of rows are read, too.

        Raises:
            DamagedProfilesError: They cannot be read.
        """
        return [self._layer(name, marks=marks) for name in shard.layers]

    def judged(self, shard: Shard) -> Judged:
        """What is said of a shard's customers.

        Raises:
            DamagedProfilesError: It cannot be read.
        """
        if not shard.judged:
            return Judged.nobody()
        return self._decoded(shard.judged, 0, judging.decode)

    def admitted(self, manifest: Manifest) -> Array:
        """S32[n]: the pseudonyms of all who were chosen at the last build, ascending.

        Raises:
            DamagedProfilesError: They cannot be read.
        """
        if not manifest.admitted:
            return np.zeros(0, dtype=f"S{SID_BYTES}")
        return self._decoded(manifest.admitted, 0, tables.decode).sids

    def blob(self, name: str) -> bytes:
        """Bytes that a change kept; none under no name.

        Raises:
            DamagedProfilesError: They cannot be read.
        """
        return self._decoded(name, 0, lambda data: data) if name else b""

    def of(self, sid: Array) -> tuple[Manifest, Facts, Judged]:
        """One customer's facts and what is said of her; empty if she has no profile.

        Args:
            sid: S32[1], her pseudonym.

        Raises:
            DamagedProfilesError: There are no profiles that can be read.
        """
        number = int(shard_of(sid)[0])

        def read(manifest: Manifest) -> tuple[Manifest, Facts, Judged]:
            shard = manifest.shards[number]
            own = [layer.take(layer.rows_of(sid)) for layer in self.facts(shard)]
            judged = self.judged(shard)
            rows = np.flatnonzero(judged.sids == sid[0])
            return manifest, added([Facts(sid[:0], {}), *own]), judged.take(rows)

        return self.read(read)

    def read(self, reader: Callable[[Manifest], _T]) -> _T:
        """Reads what a manifest names, again if another process replaced it meanwhile.

        Raises:
            DamagedProfilesError: It cannot be read.
        """
        for attempt in range(_READ_AGAIN):
            manifest = self.require()
            try:
                return reader(manifest)
            except DamagedProfilesError:
                now = self.manifest()
                if attempt == _READ_AGAIN - 1 or now is None or now.state == manifest.state:
                    raise
        return reader(self.require())

    def change(self, manifest: Manifest) -> Change:
        """Begins a change of a state; to be called within `exclusive`."""
        return Change(self, manifest)

    def clear(self) -> None:
        """Removes everything; to be called within `exclusive`."""
        with disk_errors(self.folder):
            (self.folder / _MANIFEST).unlink(missing_ok=True)
            sync_folder(self.folder)
        self._remove_leftovers(frozenset())

    def _write(self, name: str, sections: Sequence[bytes]) -> None:
        sealed = [
            self._cipher.seal(section, _context(name, number))
            for number, section in enumerate(sections)
        ]
        with disk_errors(self.folder):
            path = self._path(name)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                reach(Point.FILE_OPENED)
                for section in sealed:
                    file.write(len(section).to_bytes(_LENGTH_BYTES, "big"))
                    file.write(section)
                file.flush()
                reach(Point.FILE_WRITTEN)
                os.fsync(file.fileno())
            reach(Point.FILE_SYNCED)

    def _publish(self, manifest: Manifest) -> None:
        with disk_errors(self.folder):
            sync_folder(self.folder)
            manifest.write(self.folder / _MANIFEST, self._cipher)
        self._remove_leftovers(manifest.files)

    def _remove_leftovers(self, named: frozenset[str]) -> None:
        with disk_errors(self.folder):
            for path in chain(self.folder.glob(f"*{_SUFFIX}"), self.folder.glob(".*.tmp")):
                if path.name.removesuffix(_SUFFIX) not in named:
                    path.unlink(missing_ok=True)

    def _layer(self, name: str, *, marks: bool) -> Facts:
        facts = self._decoded(name, 0, tables.decode)
        if not marks:
            return facts
        more = self._decoded(name, 1, tables.decode)
        return Facts(facts.sids, {**facts.tables, **more.tables})

    def _decoded(self, name: str, number: int, decode: Callable[[bytes], _T]) -> _T:
        try:
            return decode(self._cipher.open(self._section(name, number), _context(name, number)))
        except (OSError, StorageError, FormatError) as error:
            raise DamagedProfilesError(
                f"The profiles in {self._path(name)} cannot be read: {error}.",
                remedy="Build them anew: fedpref-region profile build HOME.",
            ) from error

    def _section(self, name: str, number: int) -> bytes:
        with self._path(name).open("rb") as file:
            for _ in range(number):
                file.seek(int.from_bytes(file.read(_LENGTH_BYTES), "big"), os.SEEK_CUR)
            return file.read(int.from_bytes(file.read(_LENGTH_BYTES), "big"))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{_SUFFIX}"

    def _wait_for(self, lock: int) -> None:
        deadline = time.monotonic() + self._lock_wait_s
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise StorageError(
                        f"Another process has been writing profiles in {self.folder} for more "
                        f"than {self._lock_wait_s:.0f} s.",
                        remedy="Wait until it is done, or stop it.",
                    ) from None
                time.sleep(_LOCK_POLL_S)
            else:
                return


class Change:
    """A change of what is kept, which happens as a whole or not at all.

    Args:
        store: The store.
        manifest: The state that it changes.
    """

    def __init__(self, store: ProfileStore, manifest: Manifest) -> None:
        self._store = store
        self._shards = list(manifest.shards)
        self._manifest = manifest
        self._admitted = manifest.admitted
        self._written: list[str] = []

    def __enter__(self) -> Change:
        return self

    def __exit__(self, *_: object) -> None:
        # After `commit` there are none left.
        for name in self._written:
            with suppress(OSError):
                self._store._path(name).unlink()

    def shard(self, number: int) -> Shard:
        """A shard's files, as the change has left them so far."""
        return self._shards[number]

    def add_layer(self, number: int, facts: Facts) -> None:
        """Adds facts of new rows to a shard; makes one layer of all if there are too many.

        Raises:
            StorageError: The disk refuses.
        """
        shard, rows = self._shards[number], _entries(facts)
        small = sum(shard.rows[1:]) + rows
        if shard.layers and (len(shard.layers) >= MOST_LAYERS or small >= shard.rows[0]):
            self.replace_layers(number, added([*self._store.facts(shard, marks=True), facts]))
            return
        name = self._write_layer(facts)
        self._shards[number] = Shard((*shard.layers, name), (*shard.rows, rows), shard.judged)

    def replace_layers(self, number: int, facts: Facts) -> None:
        """Puts facts in the place of all of a shard's layers.

        Raises:
            StorageError: The disk refuses.
        """
        name = self._write_layer(facts)
        self._shards[number] = Shard((name,), (_entries(facts),), self._shards[number].judged)

    def put_judged(self, number: int, judged: Judged) -> None:
        """Puts what is said now of a shard's customers in the place of what was said.

        Raises:
            StorageError: The disk refuses.
        """
        name = self._write([judging.encode(judged)])
        shard = self._shards[number]
        self._shards[number] = Shard(shard.layers, shard.rows, name)

    def put_admitted(self, sids: Array) -> None:
        """Keeps who was chosen.

        Raises:
            StorageError: The disk refuses.
        """
        self._admitted = self._write([tables.encode(Facts(sids, {}))])

    def put_blob(self, data: bytes) -> str:
        """Keeps bytes; gives the name for the manifest, empty for none.

        Raises:
            StorageError: The disk refuses.
        """
        return self._write([data]) if data else ""

    def commit(self, **changed: object) -> Manifest:
        """Makes the change the present state.

        Args:
            changed: What else of the manifest is new.

        Raises:
            StorageError: The disk refuses; what is kept is whole, as before or as after.
        """
        manifest = self._manifest.following(
            shards=tuple(self._shards), admitted=self._admitted, **changed
        )
        # From here on the manifest may name the new files, even if writing it fails.
        self._written.clear()
        self._store._publish(manifest)
        return manifest

    def _write_layer(self, facts: Facts) -> str:
        marks = Facts(facts.sids, facts.only([MARKS]).tables)
        return self._write([tables.encode(facts.only(_NOT_MARKS)), tables.encode(marks)])

    def _write(self, sections: Sequence[bytes]) -> str:
        name = secrets.token_hex(12)
        self._written.append(name)
        self._store._write(name, sections)
        return name


def _entries(facts: Facts) -> int:
    return sum(len(table) for table in facts.tables.values())


def _context(name: str, number: int) -> bytes:
    return f"{_DOMAIN} {name} {number}".encode()


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Says in words what a disk refuses."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"Profiles cannot be kept in {folder}: {error.strerror}.",
            remedy="Make room on its disk (about 2 kB for each customer), and let the engine's "
            "user write there.",
        ) from error
