"""Where a report is written: whole or not at all, and never over a file that is no report."""

from __future__ import annotations

from pathlib import Path

from common.audit.report.page import GENERATOR
from common.audit.verify.files import BundleFolder
from common.durable_file import write_durably
from common.errors import InputError, StorageError, UsageError

_HEAD_BYTES = 1024


def check_output(out: Path, bundle: Path) -> None:
    """Checks, before any work is done, that a report may be written to a file.

    Raises:
        UsageError: It would overwrite what is no report, or lie within the bundle, which would
            then hold a file that its manifest does not name.
        InputError: There is no bundle, or no folder for the file.
    """
    root = BundleFolder(bundle).root.resolve()
    target = out.parent.resolve() / out.name
    if target == root or root in target.parents:
        raise UsageError(
            f"{out} lies within the bundle, which would then not verify.",
            remedy="Name a file outside the bundle folder.",
        )
    if not out.parent.is_dir():
        raise InputError(
            f"There is no folder {out.parent} for the report.", remedy="Make it, or name another."
        )
    if (out.exists() or out.is_symlink()) and not made_by(GENERATOR, out):
        raise UsageError(
            f"{out} exists and is no compliance report.",
            remedy="Name another file, or move that one away.",
        )


def write_report(out: Path, page: str) -> None:
    """Writes a report durably; an earlier report of that name is replaced.

    Raises:
        StorageError: The disk is full or refuses; what was there is as it was.
    """
    try:
        write_durably(out, page.encode("utf-8"), mode=0o644)
    except OSError as error:
        raise StorageError(
            f"The report cannot be written to {out}: {error.strerror}.",
            remedy="Free disk space or correct the folder's mode; then make the report again.",
        ) from error


def made_by(generator: str, path: Path) -> bool:
    """Whether a file is a page that names its generator so, in its first lines."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    return f'content="{generator}"'.encode() in head
