"""A coordinator's app bundle: its digest first, and only then its content.

A bundle (Flower's FAB) is a zip archive of source files. Nothing here looks into one whose digest
was not asked about; what is permitted is unpacked anew for each message, so that nothing a bundle
does to its own files outlives the message.
"""

from __future__ import annotations

import hashlib
import io
import re
import tomllib
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from common.errors import FormatError

#: Flower takes no larger bundle.
MAX_BUNDLE_BYTES = 10 << 20
MAX_UNPACKED_BYTES = 64 << 20
MAX_FILES = 2000

_APP_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
#: Flower's own notes on the archive; the digest of the whole covers what they say.
_NOTES = ".info"
_PIECE_BYTES = 1 << 16
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    EOFError,
    ValueError,
    RuntimeError,
    # One name is a file and a folder at once.
    FileExistsError,
    NotADirectoryError,
)
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True)
class UnpackedBundle:
    """A bundle's files on disk.

    Attributes:
        folder: Where they lie.
        app: Which object is the ClientApp, as ``module:name``.
    """

    folder: Path
    app: str


def bundle_digest(content: bytes) -> str:
    """SHA-256 of a bundle, in hex: what permits name."""
    return hashlib.sha256(content).hexdigest()


def unpack(content: bytes, sha256: str, folder: Path) -> UnpackedBundle:
    """Unpacks a permitted bundle.

    Args:
        content: The bundle.
        sha256: The digest that is permitted, in hex.
        folder: An empty folder, or none yet.

    Raises:
        FormatError: It is another bundle than is permitted, or none; nothing of another one is
            read.
        OSError: The folder cannot be written.
    """
    if bundle_digest(content) != sha256:
        raise FormatError("The app bundle is not the one that is permitted.")
    if len(content) > MAX_BUNDLE_BYTES:
        raise FormatError(f"An app bundle has at most {MAX_BUNDLE_BYTES} bytes.")
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _extract(archive, folder)
    except _BROKEN as error:
        raise FormatError(f"The app bundle is no archive of files: {error}.") from error
    return UnpackedBundle(folder, _app_reference(folder))


def _extract(archive: zipfile.ZipFile, folder: Path) -> None:
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    if len(entries) > MAX_FILES:
        raise FormatError(f"An app bundle has at most {MAX_FILES} files.")
    seen: set[PurePosixPath] = set()
    left = MAX_UNPACKED_BYTES
    for entry in entries:
        path = _inner_path(entry)
        if entry.compress_type not in _COMPRESSIONS:
            raise FormatError("The app bundle is compressed by another method than Flower's.")
        if path in seen:
            raise FormatError("The app bundle has a file twice.")
        seen.add(path)
        if path.parts[0] == _NOTES:
            continue
        target = folder.joinpath(*path.parts)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with target.open("xb") as file:
            for piece in _pieces(archive, entry, left):
                file.write(piece)
                left -= len(piece)


def _pieces(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, left: int) -> Iterator[bytes]:
    """A file's content; what is inflated counts, not what the archive says of it."""
    with archive.open(entry) as source:
        while piece := source.read(_PIECE_BYTES):
            left -= len(piece)
            if left < 0:
                raise FormatError(f"An app bundle unpacks to at most {MAX_UNPACKED_BYTES} bytes.")
            yield piece


def _inner_path(entry: zipfile.ZipInfo) -> PurePosixPath:
    """Where a file belongs: inside the folder, by plain names, and a regular file."""
    path = PurePosixPath(entry.filename)
    # The upper half of the attributes is Unix's mode; its highest four bits are the file's type.
    kind = entry.external_attr >> 28
    plain = all(_PART.fullmatch(part) or part == _NOTES for part in path.parts)
    if not path.parts or path.is_absolute() or not plain or kind not in (0, 0o10):
        raise FormatError("The app bundle has a file that is not a plain one inside of it.")
    return path


def _app_reference(folder: Path) -> str:
    try:
        with (folder / "pyproject.toml").open("rb") as file:
            project = tomllib.load(file)
        reference = project["tool"]["flwr"]["app"]["components"]["clientapp"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise FormatError("The app bundle does not say which object is its ClientApp.") from error
    if not isinstance(reference, str) or _APP_REFERENCE.fullmatch(reference) is None:
        raise FormatError("The app bundle's ClientApp is not named as module:object.")
    return reference
