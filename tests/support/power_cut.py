"""What a power cut would leave of a run's folder: only what was synced, under names that were.

`kill -9` leaves what the system has in memory; a power cut does not. SQLite's files are there as
they were last synced, other files with the content that was last synced and under the names that
their folder had when it was last synced.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from simulations.faults.disk import fault_vfs


class PowerCut:
    """Follows the syncs of a region's home; use `follow`.

    Args:
        live: The run's folder.
        kept: Where the durable copy of it is kept.
        home: The region's home below ``live``.
    """

    def __init__(self, live: Path, kept: Path, home: Path) -> None:
        self._live = live
        self._kept = kept
        self._home = home
        self._synced: dict[int, bytes] = {}
        shutil.copytree(live, kept, symlinks=True)

    def cut(self, to: Path) -> None:
        """Copies what would be there now."""
        shutil.copytree(self._kept, to, symlinks=True)

    @property
    def kept_home(self) -> Path:
        return self._kept / self._home.relative_to(self._live)

    def synced(self, descriptor: int) -> None:
        """A file or a folder was synced."""
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if not path.is_relative_to(self._home):
            return
        if path.is_dir():
            self._sync_names(path)
        else:
            self._synced[os.fstat(descriptor).st_ino] = path.read_bytes()

    def _sync_names(self, folder: Path) -> None:
        kept = self._kept / folder.relative_to(self._live)
        live = {path.name: path for path in folder.iterdir() if ".sqlite" not in path.name}
        for path in kept.iterdir():
            if ".sqlite" not in path.name and path.name not in live:
                path.unlink()
        for name, path in live.items():
            if path.is_dir() and not path.is_symlink():
                (kept / name).mkdir(exist_ok=True)
            elif path.is_file() and path.stat().st_ino in self._synced:
                (kept / name).write_bytes(self._synced[path.stat().st_ino])
            elif path.is_file() and not (kept / name).exists():
                (kept / name).write_bytes(b"")  # its name is durable, its content is not


@contextmanager
def follow(live: Path, kept: Path, home: Path) -> Iterator[PowerCut]:
    """Follows all syncs of this process within."""
    cut, fsync = PowerCut(live, kept, home), os.fsync

    def sync(descriptor: int) -> None:
        fsync(descriptor)
        cut.synced(descriptor)

    with fault_vfs() as vfs, patch.object(os, "fsync", sync):
        vfs.survivors = cut.kept_home
        try:
            yield cut
        finally:
            vfs.survivors = None
