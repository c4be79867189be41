"""Step 0: the files of a bundle, against its signed manifest."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.audit.verify.records import FILE_SCHEMA, MANIFEST_SCHEMA
from common.audit.verify.verdict import MANIFEST, Findings
from common.envelope import Envelope
from common.errors import FormatError, InputError

MANIFEST_NAME = "manifest.json"
BUNDLE_FOLDER = "bundle"

MAX_MANIFEST_BYTES = 64 << 20
# The largest file of a bundle is a full tile: 256 entries of 65,535 bytes, with their lengths.
MAX_FILE_BYTES = 256 * (65_535 + 2)


@dataclass(frozen=True)
class FileState:
    """A file as the manifest states it."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Manifest:
    """A manifest that has the right form; its signature is checked once the registry is.

    Attributes:
        envelope: The signed envelope.
        federation: The federation's name.
        run: The run's id.
        scope: What the bundle holds, one of `common.audit.verify.records.SCOPES`.
        created_at: When the bundle was written, as a UTC timestamp.
        files: Every file of the bundle folder but the manifest itself, by relative path.
        artifacts: The run's results beside the bundle folder, by file name.
    """

    envelope: Envelope
    federation: str
    run: str
    scope: str
    created_at: str
    files: Mapping[str, FileState]
    artifacts: Mapping[str, FileState]


class BundleFolder:
    """A bundle on disk, named by its own folder or by the run folder that holds it.

    Args:
        path: The run folder or the bundle folder.

    Raises:
        InputError: There is no bundle at ``path``.
    """

    def __init__(self, path: Path) -> None:
        remedy = "Name a run folder, or a bundle folder with a manifest.json in it."
        try:
            if not path.exists():
                raise InputError(f"There is nothing at {path}.", remedy=remedy)
            inner = path / BUNDLE_FOLDER
            self.run_folder = path if inner.is_dir() else None
            self.root = inner if inner.is_dir() else path
            signs = (MANIFEST_NAME, "logs", "registry")
            found = any((self.root / name).exists() for name in signs)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.", remedy=remedy) from error
        if not found:
            raise InputError(f"{path} holds no audit bundle.", remedy=remedy)

    def read(self, name: str, *, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """Reads one file of the bundle.

        Raises:
            InputError: It is missing, unreadable, too large or no regular file.
        """
        path = self.root / name
        try:
            state = path.lstat()
            if not stat.S_ISREG(state.st_mode):
                raise InputError(f"{name} is not a regular file.")
            if state.st_size > max_bytes:
                raise InputError(f"{name} is {state.st_size} bytes, above the limit {max_bytes}.")
            return path.read_bytes()
        except FileNotFoundError as error:
            raise InputError(f"{name} is missing.") from error
        except (OSError, ValueError) as error:
            raise InputError(f"{name} cannot be read: {error}.") from error

    def has(self, name: str) -> bool:
        """Whether there is a regular file of this name."""
        try:
            return stat.S_ISREG((self.root / name).lstat().st_mode)
        except (OSError, ValueError):
            return False

    def names(self) -> tuple[set[str], set[str]]:
        """The paths of all regular files, and of everything else that is no folder."""
        files: set[str] = set()
        others: set[str] = set()
        for folder, subfolders, names in os.walk(self.root):
            for name in [*names, *subfolders]:
                path = Path(folder) / name
                relative = path.relative_to(self.root).as_posix()
                try:
                    mode = path.lstat().st_mode
                except OSError:
                    others.add(relative)
                    continue
                if stat.S_ISREG(mode):
                    files.add(relative)
                elif not stat.S_ISDIR(mode):
                    others.add(relative)
        return files, others

    def list_folder(self, name: str) -> list[str]:
        """The sorted names in a folder of the bundle; none if there is no such folder."""
        try:
            return sorted(path.name for path in (self.root / name).iterdir())
        except OSError:
            return []


def read_manifest(folder: BundleFolder, findings: Findings) -> Manifest | None:
    """Reads the manifest; a fault is recorded and gives None."""
    findings.begin(MANIFEST)
    try:
        data = folder.read(MANIFEST_NAME, max_bytes=MAX_MANIFEST_BYTES)
        envelope = Envelope.decode(data, max_bytes=MAX_MANIFEST_BYTES)
        record = envelope.record()
        MANIFEST_SCHEMA(record, "")
        return Manifest(
            envelope=envelope,
            federation=str(record["federation"]),
            run=str(record["run"]),
            scope=str(record["scope"]),
            created_at=str(record["created_at"]),
            files=_states(record["files"], "files"),
            artifacts=_states(record["artifacts"], "artifacts"),
        )
    except InputError as error:
        findings.fail(
            MANIFEST,
            "manifest-unreadable",
            f"The manifest cannot be used: {error.message}",
            file=MANIFEST_NAME,
        )
        return None


def _states(value: object, where: str) -> dict[str, FileState]:
    states: dict[str, FileState] = {}
    if not isinstance(value, dict):
        raise FormatError(f"Field {where} is not an object.")
    for name, state in value.items():
        FILE_SCHEMA(state, f"{where}.{name}")
        states[name] = FileState(state["sha256"], state["bytes"])
    return states


def check_files(folder: BundleFolder, manifest: Manifest, findings: Findings) -> None:
    """Checks that the folder holds exactly the manifest's files, byte for byte."""
    present, others = folder.names()
    present.discard(MANIFEST_NAME)
    for name in sorted(others):
        findings.fail(MANIFEST, "not-a-file", f"{name} is no regular file.", file=name)
    for name in sorted(present - manifest.files.keys()):
        findings.fail(MANIFEST, "file-added", f"{name} is not in the manifest.", file=name)
    for name in sorted(manifest.files.keys() - present):
        findings.fail(
            MANIFEST, "file-missing", f"{name} is in the manifest, not in the bundle.", file=name
        )
    for name in sorted(present & manifest.files.keys()):
        _check_file(folder.root / name, name, manifest.files[name], findings)
        findings.count(MANIFEST, "files")


def check_artifacts(folder: BundleFolder, manifest: Manifest, findings: Findings) -> None:
    """Checks the run's results beside the bundle, if the run folder was named."""
    if folder.run_folder is None:
        findings.note(
            "Only the bundle folder was named: the model file and the run's other results were "
            "not compared with it."
        )
        return
    for name, state in sorted(manifest.artifacts.items()):
        if "/" in name or name in ("", ".", ".."):
            findings.fail(
                MANIFEST, "artifact-name", f"{name!r} is no plain file name.", file=MANIFEST_NAME
            )
            continue
        _check_file(folder.run_folder / name, name, state, findings)
        findings.count(MANIFEST, "artifacts")


def _check_file(path: Path, name: str, stated: FileState, findings: Findings) -> None:
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            findings.fail(MANIFEST, "not-a-file", f"{name} is no regular file.", file=name)
            return
        with path.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        findings.fail(MANIFEST, "file-missing", f"{name} is missing.", file=name)
        return
    except (OSError, ValueError) as error:
        findings.fail(MANIFEST, "file-unreadable", f"{name} cannot be read: {error}.", file=name)
        return
    if (digest, size_bytes) != (stated.sha256, stated.size_bytes):
        findings.fail(
            MANIFEST,
            "file-changed",
            f"{name} is not the file the manifest was signed for: its SHA-256 or size differs.",
            file=name,
        )
