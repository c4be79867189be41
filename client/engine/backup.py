"""Backups of a region's home: a consistent copy while the engine runs, without any key.

Order makes the copies fit: the log first. Whatever the log says was charged, sealed or enrolled
before, the ledger, the seals and the subjects' table have by the time they are copied. Private keys
and the storage key are never in a backup; their own is kept apart (``fedpref-region keys``).
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import apsw

from client.engine.charges import GENESIS_HEAD
from client.engine.home import RegionHome
from client.engine.ledger_store import read_charges
from client.engine.subjects import read_fingerprint
from common import canonical_json
from common.audit.log import AuditLog
from common.canonical_json import JsonValue
from common.durable_file import write_durably
from common.errors import FormatError, InputError, StorageError, VerificationError
from common.timestamps import now
from common.validate import exact_fields, sha256_hex, whole_number

MANIFEST = "backup.json"
#: The home's databases, in the order in which they are copied.
DATABASES = ("log.sqlite", "ledger.sqlite", "subjects.sqlite", "witness.sqlite")
#: Single files of the home, if they are there.
FILES = (
    "home.json",
    "policy.json",
    "consent-form.json",
    "consent.toml",
    "notice.json",
    # What the operator set for the recommender.
    "recommend/settings.toml",
    "recommend/service.toml",
    # And for profiles, which themselves are built again.
    "profiles/library.toml",
    "profiles/settings.toml",
    # What was decided about the treatment of tables, and how their quality was.
    "quality/undone.json",
    "quality/kinds.json",
    "quality/history.json",
    # What draws an experiment's arms: it opens and signs nothing, and without it they are others.
    "recommend/experiment.key",
)
#: Folders whose files are copied, though not those of folders in them.
FOLDERS = ("seals", "permits", "queries", "registry", "columns", "recommend/local")

_VERSION = "fedpref-backup/1"
_FIELDS = frozenset({"v", "federation", "region", "made_at", "log", "ledger", "files"})
_MAX_MANIFEST_BYTES = 1 << 26


@dataclass(frozen=True)
class Backup:
    """A backup whose files are those that its manifest lists.

    Attributes:
        folder: Where it lies.
        federation: The federation's name.
        region: The region.
        made_at: When it was made.
        log_size: The size of its log.
        charges: How many charges its ledger has.
        files: Each file's digest, by its path in the home.
    """

    folder: Path
    federation: str
    region: str
    made_at: str
    log_size: int
    charges: int
    files: Mapping[str, str]

    def path(self, name: str) -> Path:
        """Where a file of the home lies in the backup."""
        return self.folder / name


def make_backup(home: RegionHome, destination: Path) -> Backup:
    """Copies a home into a new folder; its engine may run meanwhile.

    Raises:
        InputError: The folder exists and is not empty or lies inside the home, or the home lacks a
            database.
        StorageError: Something cannot be read or written, or the copy of a database is damaged.
    """
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise InputError(
            f"{destination} exists already and is not an empty folder.",
            remedy="Name a new folder for each backup.",
        )
    if destination.resolve().is_relative_to(home.root.resolve()):
        raise InputError(
            f"{destination} is inside the home: what takes the home takes the backup with it.",
            remedy="Name a folder elsewhere, best on another disk.",
        )
    for needed in (home.log, home.ledger, home.subjects):
        if not needed.is_file():
            raise InputError(
                f"{needed} is missing: there is no whole home to back up.",
                remedy="Name the region's home; if the file is lost, restore an older backup.",
            )
    with ExitStack() as stack:
        # What fails leaves no part of a backup behind.
        stack.callback(shutil.rmtree, destination, ignore_errors=True)
        backup = _make(home, destination)
        stack.pop_all()
    return backup


def _make(home: RegionHome, destination: Path) -> Backup:
    try:
        destination.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in DATABASES:
            if (home.root / name).is_file():
                _copy_database(home.root / name, destination / name)
        for name in _plain_files(home.root):
            make_folder_of(destination, name)
            write_durably(destination / name, (home.root / name).read_bytes())
    except OSError as error:
        raise StorageError(
            f"The backup {destination} cannot be made: {error.strerror} ({error.filename}).",
            remedy="Make room, and begin anew.",
        ) from error
    record = _describe(home, destination)
    # Last: a folder without it is no backup.
    write_durably(
        destination / MANIFEST, canonical_json.encode(record, max_bytes=_MAX_MANIFEST_BYTES)
    )
    return read_backup(destination)


def read_backup(folder: Path) -> Backup:
    """Opens a backup and checks every file of it against its manifest.

    Raises:
        InputError: It is no backup.
        VerificationError: A file is missing or altered.
    """
    try:
        data = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise InputError(
            f"{folder} is no backup: its {MANIFEST} cannot be read ({error.strerror}).",
            remedy="Name the folder that fedpref-region backup made.",
        ) from error
    try:
        backup = _parse(folder, data)
    except (FormatError, KeyError, TypeError) as error:
        raise InputError(f"{folder / MANIFEST} is no manifest of a backup: {error}") from error
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    added = sorted(found - backup.files.keys() - {MANIFEST})
    if added:
        raise VerificationError(
            f"The backup {folder} has a file that its manifest does not list: {added[0]}.",
            remedy="Use another backup; nothing was restored.",
        )
    for name, expected in backup.files.items():
        if not backup.path(name).is_file() or _digest(backup.path(name)) != expected:
            raise VerificationError(
                f"The backup's file {backup.path(name)} is missing or altered.",
                remedy="Use another backup; nothing was restored.",
            )
    return backup


def _parse(folder: Path, data: bytes) -> Backup:
    value = canonical_json.decode(data, max_bytes=_MAX_MANIFEST_BYTES)
    fields = exact_fields(value, _FIELDS, "The manifest")
    log = exact_fields(fields["log"], {"origin", "size", "root"}, "log")
    ledger = exact_fields(fields["ledger"], {"charges", "head"}, "ledger")
    files = fields["files"]
    if fields["v"] != _VERSION or not isinstance(files, dict):
        raise FormatError(f"It is no {_VERSION}.")
    known = {*DATABASES, *FILES}
    for name in files:
        folder_name, _, rest = name.rpartition("/")
        if name not in known and (folder_name not in FOLDERS or not _is_plain_name(rest)):
            raise FormatError("It lists a file that no backup has.")
    return Backup(
        folder=folder,
        federation=str(fields["federation"]),
        region=str(fields["region"]),
        made_at=str(fields["made_at"]),
        log_size=whole_number(log["size"], "log.size", least=0),
        charges=whole_number(ledger["charges"], "ledger.charges", least=0),
        files={name: sha256_hex(digest, name) for name, digest in files.items()},
    )


def _is_plain_name(name: str) -> bool:
    return bool(name) and "/" not in name and "\0" not in name and not name.startswith(".")


def _plain_files(root: Path) -> list[str]:
    """The paths of the files that are copied as they are; nothing behind a link."""
    names = [name for name in FILES if (root / name).is_file()]
    for folder in FOLDERS:
        if (root / folder).is_dir():
            names += sorted(
                f"{folder}/{path.name}"
                for path in (root / folder).iterdir()
                if path.is_file() and _is_plain_name(path.name)
            )
    return [name for name in names if not _is_behind_link(root, name)]


def _is_behind_link(root: Path, name: str) -> bool:
    path = Path(name)
    return any((root / each).is_symlink() for each in (path, *path.parents[:-1]))


def _copy_database(source: Path, target: Path) -> None:
    """Copies a database as it is at one moment, by SQLite's own means; writers go on."""
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        reader = apsw.Connection(os.fspath(source), apsw.SQLITE_OPEN_READONLY)
        writer = apsw.Connection(os.fspath(target), apsw.SQLITE_OPEN_READWRITE)
        try:
            reader.set_busy_timeout(10_000)
            with writer.backup("main", reader, "main") as copying:
                # All pages in one step: the copy is of one moment.
                copying.step(-1)
            # A copy that nobody writes to needs no side files to be read.
            writer.pragma("journal_mode", "delete")
            if writer.pragma("integrity_check") != "ok":
                raise StorageError(
                    f"The database {source} is damaged.",
                    remedy="Restore it from an older backup before making a new one.",
                )
        finally:
            writer.close()
            reader.close()
    except apsw.Error as error:
        raise StorageError(
            f"The database {source} cannot be copied: {error}.",
            remedy="Check the disk's space, and whether the database is damaged.",
        ) from error


def make_folder_of(root: Path, name: str) -> None:
    """Makes the folders that a file of a home lies in, each its owner's alone."""
    for folder in reversed(Path(name).parents):
        (root / folder).mkdir(mode=0o700, exist_ok=True)


def _describe(home: RegionHome, folder: Path) -> dict[str, JsonValue]:
    """The manifest; reading log and ledger for it also checks the copies."""
    with AuditLog.open_read_only(folder / home.log.name) as log:
        size, root = log.size, log.root.hex()
    charges = read_charges(folder / home.ledger.name)
    # Under no known key a copy is worth nothing; this also checks that it is such a table.
    read_fingerprint(folder / home.subjects.name)
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    return {
        "v": _VERSION,
        "federation": home.federation,
        "region": home.region,
        "made_at": now(),
        "log": {"origin": home.origin, "size": size, "root": root},
        "ledger": {
            "charges": len(charges),
            "head": charges[-1].head if charges else GENESIS_HEAD,
        },
        "files": {name: _digest(folder / name) for name in names},
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
