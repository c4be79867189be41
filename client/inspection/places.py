"""Files and disk: what must be there, whose it must be, who else could use it, and room to work."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from client.engine.home import RegionHome
from client.inspection.findings import Findings, Kind
from client.inspection.subject import Inspected
from common.errors import StorageError

#: Beside what sealed updates need, logs and write-ahead logs grow.
RESERVE_BYTES = 256 << 20
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_READ_BY_ALL = stat.S_IROTH


def check_places(subject: Inspected, findings: Findings) -> None:
    """Checks every file and folder of the region."""
    if subject.settings is not None:
        _check_settings_file(subject, findings)
    for folder in _above(subject):
        _check_not_writable(folder, findings)
    if subject.home is None:
        return
    _check_needed(subject.home, findings)
    owner = subject.engine_user
    for path in (subject.home.root, subject.home.keys):
        _check_private(path, owner, findings, mode="0700")
    for path in _secrets(subject.home):
        _check_private(path, owner, findings, mode="0600")


def is_commissioned(home: RegionHome) -> bool:
    """Whether the region's records were ever begun; what is left of them may be broken."""
    begun = (home.log, home.ledger, home.subjects, home.witness, home.registry / "1.json")
    return any(path.exists() for path in begun)


def check_disk(subject: Inspected, needed_bytes: int, findings: Findings) -> None:
    """Checks that the disk takes what permitted runs will write.

    Args:
        subject: The region.
        needed_bytes: What the sealed updates of all permitted rounds have together.
        findings: Takes the problems.
    """
    if subject.home is None:
        return
    root = subject.home.root
    try:
        disk = subject.machine.disk(root)
    except OSError as error:
        findings.add(Kind.DISK, root, f"It cannot be looked at: {error.strerror}.", "Mount it.")
        return
    if disk.read_only:
        findings.add(
            Kind.DISK,
            root,
            "It is on a file system that is mounted read-only: nothing can be charged or logged.",
            "Mount it for writing.",
            exit_code=StorageError.exit_code,
        )
    least = RESERVE_BYTES + needed_bytes
    if disk.free_bytes < least:
        findings.add(
            Kind.DISK,
            root,
            f"Its disk has {disk.free_bytes:,} bytes left; the permitted rounds and the logs need "
            f"{least:,}.",
            "Free disk space, or move the region to a larger disk.",
            exit_code=StorageError.exit_code,
        )


def _above(subject: Inspected) -> Iterator[Path]:
    """The folders whose owner could put another region in this one's place."""
    folder = (subject.home.root if subject.home else subject.folder).absolute()
    yield from (each for each in folder.parents if each.is_dir())


def _check_not_writable(folder: Path, findings: Findings) -> None:
    mode = folder.stat().st_mode
    # In a sticky folder such as /tmp, only its owner can rename what is in it.
    if mode & _OTHERS_WRITE and not mode & stat.S_ISVTX:
        findings.add(
            Kind.FILES,
            folder,
            f"It has mode {stat.S_IMODE(mode):04o}: others could put another region's folder in "
            "this one's place.",
            f"chmod go-w {folder}",
        )


def _check_settings_file(subject: Inspected, findings: Findings) -> None:
    path = subject.settings_path
    found = path.stat()
    mode = stat.S_IMODE(found.st_mode)
    if mode & _OTHERS_WRITE:
        findings.add(
            Kind.FILES,
            path,
            f"It has mode {mode:04o}: others could change what the region's processes do.",
            f"chmod go-w {path}",
        )
    if mode & _READ_BY_ALL and subject.settings and _has_password(subject.settings.source_table):
        findings.add(
            Kind.FILES,
            f"{path}, [source] url",
            f"It has the store's password, and mode {mode:04o}: every user can read it.",
            "Put the URL into the environment and name it as url_env, or chmod o-r the file.",
        )


def _has_password(source: object) -> bool:
    url = source.get("url") if isinstance(source, dict) else None
    return isinstance(url, str) and urlsplit(url).password is not None


def _check_needed(home: RegionHome, findings: Findings) -> None:
    """What no other check opens: registry, policy and catalogue are told of by their own."""
    if not is_commissioned(home):
        findings.add(
            Kind.FILES,
            home.root,
            f"{home.region} is installed, and its records are not begun yet.",
            "Enrol it with the coordinator; then fedpref-region commission, or fedpref-region "
            "start, with the federation's --registry.",
        )
        return
    again = "Commission the region, or restore the file: fedpref-region restore."
    remedies = {
        home.keys: "Make the region's keys: fedpref-region keys new.",
        home.log: again,
        home.ledger: again,
        home.subjects: again,
        home.witness: again,
    }
    for path, remedy in remedies.items():
        if not path.exists():
            findings.add(Kind.FILES, path, "It is missing.", remedy)


def _secrets(home: RegionHome) -> Iterator[Path]:
    if home.keys.is_dir() and os.access(home.keys, os.R_OK | os.X_OK):
        yield from sorted(home.keys.glob("*.pem"))
    store = home.key_store
    for path in (
        store.passphrase_path,
        store.next_passphrase_path,
        store.passphrase_command,
        store.signers,
        home.stored_key,
    ):
        if path.exists():
            yield path


def _check_private(path: Path, owner: int, findings: Findings, *, mode: str) -> None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return  # `_check_needed` tells of it.
    except OSError as error:
        findings.add(
            Kind.FILES,
            path,
            f"It cannot be looked at: {error.strerror}.",
            "Run the check as root, or as the engine's user.",
        )
        return
    permitted = stat.S_IMODE(found.st_mode)
    if permitted & _OTHERS:
        findings.add(
            Kind.FILES,
            path,
            f"It has mode {permitted:04o}: others than its owner can use it.",
            f"chmod {mode} {path}, and replace the keys if others had access.",
        )
    if found.st_uid != owner:
        findings.add(
            Kind.FILES,
            path,
            f"It belongs to user {found.st_uid}; the engine runs as user {owner}.",
            f"chown {owner} {path}",
        )
