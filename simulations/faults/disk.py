"""A SQLite file system that fails at a chosen write, or shows what a power cut would leave."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

_NAME = "faults"
_SYSTEM = "unix"


class FaultVFS(apsw.VFS):
    """Everything SQLite writes passes here.

    Attributes:
        operations: How many writes, truncations, syncs and deletions there were.
        operation: What the last of them was, and of which file.
        fault: Called before each with its number; what it raises is the disk's answer.
        survivors: Folder that gets a copy of each file as it was when it was last synced.
    """

    def __init__(self) -> None:
        super().__init__(_NAME, _SYSTEM, makedefault=True)
        self.operations = 0
        self.operation = ""
        self.fault: Callable[[int], object] = lambda _: None
        self.survivors: Path | None = None

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's name
        """Opens a file whose writes pass here."""
        return _FaultFile(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 - SQLite's name
        """Deletes a file, or fails."""
        self.step("delete", Path(filename))
        super().xDelete(filename, syncdir)
        if self.survivors is not None:
            (self.survivors / Path(filename).name).unlink(missing_ok=True)

    def step(self, what: str, path: Path) -> None:
        """Counts an operation and lets it fail."""
        self.operations += 1
        self.operation = f"{what} {path.name}"
        self.fault(self.operations)


class _FaultFile(apsw.VFSFile):
    def __init__(
        self, vfs: FaultVFS, name: apsw.URIFilename | str | None, flags: list[int]
    ) -> None:
        super().__init__(_SYSTEM, name, flags)
        self._vfs = vfs
        self._read_only = bool(flags[0] & apsw.SQLITE_OPEN_READONLY)
        self._path = Path(name.filename() if isinstance(name, apsw.URIFilename) else name or "")

    def xLock(self, level: int) -> None:  # noqa: N802 - SQLite's name
        try:
            super().xLock(level)
        except apsw.IOError as error:
            if not self._read_only:
                raise
            # A reader that closes tries for the writer's lock, and SQLite does without; apsw would
            # raise what its own file says of it.
            raise apsw.BusyError("opened for reading") from error

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        self._vfs.step("write", self._path)
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - SQLite's name
        self._vfs.step("truncate", self._path)
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        self._vfs.step("sync", self._path)
        super().xSync(flags)
        if self._vfs.survivors is not None:
            shutil.copyfile(self._path, self._vfs.survivors / self._path.name)


@contextmanager
def fault_vfs() -> Iterator[FaultVFS]:
    """All SQLite files opened within go through one ``FaultVFS``."""
    vfs = FaultVFS()
    try:
        yield vfs
    finally:
        vfs.unregister()
