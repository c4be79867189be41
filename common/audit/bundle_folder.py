"""Writing a bundle's files: whole or not at all, durable, under a signed manifest."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from common.canonical_json import JsonValue
from common.envelope import sign_record
from common.errors import StorageError
from common.keys import Signer
from common.timestamps import format_time

BUNDLE_FOLDER = "bundle"
MANIFEST_NAME = "manifest.json"
# A million entries are some 4,000 files of 120 bytes each in the manifest.
MAX_MANIFEST_BYTES = 64 << 20

#: What a bundle may hold: all logs whole; one region's and the server's; or the server's only.
SCOPE_REGIONAL = "regional"
SCOPE_ONE_REGION = "one-region"
SCOPE_CROSS_BORDER = "cross-border"


def write_file(path: Path, data: bytes) -> None:
    """Writes a file, and the folders above it if they are not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def file_state(path: Path) -> JsonValue:
    """A file as a manifest states it: its digest and size."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "bytes": path.stat().st_size}


def write_manifest(
    folder: Path,
    *,
    federation: str,
    run: str,
    scope: str,
    artifacts: Mapping[str, JsonValue],
    signer: Signer,
    created_at_ms: int,
) -> None:
    """Signs a manifest for all files of a bundle folder, and writes it there.

    Args:
        folder: The bundle folder, complete but for the manifest.
        federation: The federation's name.
        run: The run's id.
        scope: One of the scopes above.
        artifacts: The states of the run's results beside the folder, by name.
        signer: The server's ``aggregator`` key, or the ``controller`` key of a region.
        created_at_ms: Now, in milliseconds since the epoch.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest: dict[str, JsonValue] = {
        "v": "fedpref-manifest/1",
        "federation": federation,
        "run": run,
        "scope": scope,
        "created_at": format_time(created_at_ms),
        "files": {path.relative_to(folder).as_posix(): file_state(path) for path in files},
        "artifacts": dict(artifacts),
    }
    signed = sign_record(manifest, signer, max_bytes=MAX_MANIFEST_BYTES)
    write_file(folder / MANIFEST_NAME, signed)


def publish(folder: Path, target: Path) -> Path:
    """Makes a finished folder durable and puts it where it belongs, for whatever is there."""
    for path in [*folder.rglob("*"), folder]:
        _sync(path)
    previous = folder.with_suffix(".old")
    if target.exists():
        # A folder cannot be renamed onto one that has files: the old one steps aside first.
        target.rename(previous)
    try:
        folder.rename(target)
    except OSError:
        if previous.exists():
            previous.rename(target)
        raise
    shutil.rmtree(previous, ignore_errors=True)
    _sync(target.parent)
    return target


@contextmanager
def temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """A new folder beside its later place; whatever is left of it at the end is removed."""
    folder = parent / f".{name}-{os.getpid()}.tmp"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def storage_errors(place: Path) -> Iterator[None]:
    """Turns a disk's refusal into an error that names where, and what to do.

    Raises:
        StorageError: The disk is full or refuses.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"The audit bundle cannot be written in {place}: {error.strerror}.",
            remedy="Free disk space or correct the folder's mode; then write the bundle again.",
        ) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
