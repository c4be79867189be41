"""One writer at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from common.errors import StorageError


class WriterBusyError(StorageError):
    """Another process holds the lock."""


class WriterLock:
    """Holds a log for one writer, by an advisory lock on a file beside it.

    The lock belongs to the open file and goes with the process, however it ends; the file stays, as
    removing it would let two writers lock two files of one name.

    Args:
        path: The log's path; the lock file is ``<path>.lock``.

    Raises:
        WriterBusyError: If another open log holds it; the message names the process.
        StorageError: If the lock file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        lock_path = path.with_name(f"{path.name}.lock")
        try:
            self._file = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(
                f"The lock file {lock_path} cannot be opened: {error.strerror}.",
                remedy="Make its folder writable for this user.",
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, b"%d\n" % os.getpid(), 0)
        except BlockingIOError:
            holder = os.pread(self._file, 32, 0).decode("ascii", "replace").strip()
            os.close(self._file)
            raise WriterBusyError(
                f"Another process (pid {holder or 'unknown'}) writes to the log {path}.",
                remedy="Stop it, or open the log read-only.",
            ) from None
        except OSError as error:
            os.close(self._file)
            raise StorageError(f"The lock file {lock_path}: {error.strerror}.") from error

    def release(self) -> None:
        """Lets the next writer in."""
        os.close(self._file)


def writer_of(path: Path) -> str:
    """The process that writes to a log, by its number; empty if none does. Changes nothing.

    Args:
        path: The log's path.
    """
    try:
        file = os.open(path.with_name(f"{path.name}.lock"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""  # Nobody ever wrote, or we may not look.
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(file, 32, 0).decode("ascii", "replace").strip() or "unknown"
    finally:
        os.close(file)
    return ""
