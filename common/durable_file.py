"""Files that are there whole after a crash, or as they were before."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from common.failpoints import Point, reach


def write_durably(
    path: Path, data: bytes | Sequence[bytes | memoryview], *, mode: int = 0o600
) -> None:
    """Writes a file so that after a crash it is there whole, or as it was before.

    Args:
        path: The file to make or replace.
        data: Its whole content, or the parts of it in order.
        mode: Its permission bits from the first moment on.

    Raises:
        OSError: As the operating system says; ``path`` is untouched then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            reach(Point.FILE_OPENED)
            file.writelines([data] if isinstance(data, bytes) else data)
            file.flush()
            reach(Point.FILE_WRITTEN)
            os.fsync(file.fileno())
        reach(Point.FILE_SYNCED)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    reach(Point.FILE_RENAMED)
    sync_folder(path.parent)


def make_folder_durably(path: Path) -> None:
    """Makes a folder, for its owner alone, that is still there after a power cut.

    Raises:
        OSError: As the operating system says.
    """
    if not path.is_dir():
        path.mkdir(mode=0o700)
        reach(Point.FOLDER_MADE)
    # Also of a folder that is there: a crash may have come before its name was durable.
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Makes the names in a folder durable: what was made, renamed or removed there stays so.

    Raises:
        OSError: As the operating system says.
    """
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    reach(Point.FOLDER_SYNCED)
