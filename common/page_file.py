"""Where a page is written: whole or not at all, and never over a file that is no such page."""

from __future__ import annotations

from pathlib import Path

from common.durable_file import write_durably
from common.errors import InputError, StorageError, UsageError

_HEAD_BYTES = 1024


def check_page_file(out: Path, generator: str, kind: str) -> None:
    """Checks, before any work is done, that a page may be written to a file.

    Args:
        out: The file.
        generator: What a page of this kind names as its generator.
        kind: What it is called, such as ``compliance report``.

    Raises:
        UsageError: It would overwrite what is no such page.
        InputError: There is no folder for the file.
    """
    if not out.parent.is_dir():
        raise InputError(
            f"There is no folder {out.parent} for the {kind}.",
            remedy="Make it, or name another.",
        )
    if (out.exists() or out.is_symlink()) and not _made_by(generator, out):
        raise UsageError(
            f"{out} exists and is no {kind}.",
            remedy="Name another file, or move that one away.",
        )


def write_page_file(out: Path, page: str, kind: str, *, mode: int = 0o644) -> None:
    """Writes a page durably; an earlier one of that name is replaced.

    Args:
        out: The file.
        page: Its text.
        kind: What it is called.
        mode: Its permission bits.

    Raises:
        StorageError: The disk is full or refuses; what was there is as it was.
    """
    try:
        write_durably(out, page.encode("utf-8"), mode=mode)
    except OSError as error:
        raise StorageError(
            f"The {kind} cannot be written to {out}: {error.strerror}.",
            remedy="Free disk space or correct the folder's mode; then make it again.",
        ) from error


def _made_by(generator: str, path: Path) -> bool:
    """Whether a file is a page that names its generator so, in its first lines."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    return f'content="{generator}"'.encode() in head
