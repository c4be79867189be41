"""The system users that a deployment's processes run as, where root sets it up.

Started by root, each process has a user of its own, and each secret belongs to the one process that
needs it. Started by anyone else there is one user for all, and nothing here changes anything.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError, StorageError

#: What useradd takes on every Linux distribution.
USER_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_USERADD_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class SystemUser:
    """A user of this machine.

    Attributes:
        name: Its name.
        uid: Its number.
        gid: The number of its own group.
    """

    name: str
    uid: int
    gid: int


def is_root() -> bool:
    """Whether processes of other users can be started from here."""
    return os.geteuid() == 0


def find_user(name: str | int) -> SystemUser | None:
    """The user of that name or id, or None if there is none."""
    try:
        entry = pwd.getpwnam(name) if isinstance(name, str) else pwd.getpwuid(name)
    except KeyError:
        return None
    return SystemUser(entry.pw_name, entry.pw_uid, entry.pw_gid)


def ensure_user(name: str) -> SystemUser | None:
    """The user a process is to run as; made if root asks and it is not there.

    It has no password, no shell and no home.

    Args:
        name: Its name.

    Returns:
        The user; None if this process is not root's, so that everything stays its own user's.

    Raises:
        InputError: The name is none, or the user cannot be made.
    """
    if USER_NAME.fullmatch(name) is None:
        raise InputError(
            f"{name[:64]!r} is no name of a system user.",
            remedy="A name has up to 32 lower-case letters, digits, hyphens and underscores.",
        )
    if not is_root():
        return None
    if (found := find_user(name)) is not None:
        return found
    _make_user(name)
    made = find_user(name)
    if made is None:
        raise InputError(
            f"The system user {name} was made, but this machine does not find it.",
            remedy="Look into /etc/nsswitch.conf.",
        )
    return made


def give(path: Path, user: SystemUser | None, *, mode: int | None = None) -> None:
    """Gives one file or folder to a user, and sets its mode; a link itself, not what it points to.

    Args:
        path: The file or folder.
        user: Its new owner; None leaves it as it is.
        mode: Its new permission bits; None leaves them.

    Raises:
        StorageError: It cannot be changed.
    """
    try:
        if user is not None:
            os.chown(path, user.uid, user.gid, follow_symlinks=False)
        if mode is not None and not path.is_symlink():
            path.chmod(mode)
    except OSError as error:
        raise StorageError(f"The owner or mode of {path} cannot be set: {error.strerror}.") from (
            error
        )


def give_all(folder: Path, user: SystemUser | None) -> None:
    """Gives a folder and what is in it to a user, as far as it is still root's.

    What another user has already is left: nobody gets more than they had by planting a name there.
    """
    if user is None:
        return
    for path in (folder, *folder.rglob("*")):
        if path.lstat().st_uid == 0:
            give(path, user)


def require_reachable(path: Path, user: SystemUser | None) -> None:
    """Checks that a user can get to a path: that no folder above it is closed to them.

    Raises:
        InputError: One is; names it.
    """
    if user is None or user.uid == 0:
        return
    for folder in reversed(path.absolute().parents):
        state = folder.stat()
        if state.st_uid == user.uid:
            allowed = state.st_mode & stat.S_IXUSR
        elif state.st_gid == user.gid:
            allowed = state.st_mode & stat.S_IXGRP
        else:
            allowed = state.st_mode & stat.S_IXOTH
        if not allowed:
            raise InputError(
                f"The user {user.name} cannot get to {path}: the folder {folder} has mode "
                f"{stat.S_IMODE(state.st_mode):04o}.",
                remedy=f"Choose another folder, or let others pass: chmod o+x {folder}.",
            )


@contextmanager
def acting_as(user: SystemUser | None) -> Iterator[None]:
    """Lets root open and make files as a user while the body runs; changes nothing for others.

    Keys are opened by their owner only, so that nobody can have another's put under them.

    Args:
        user: As whom; None, or our own user, changes nothing.
    """
    if user is None or user.uid == os.geteuid():
        yield
        return
    group, own = os.getegid(), os.geteuid()
    os.setegid(user.gid)
    os.seteuid(user.uid)
    try:
        yield
    finally:
        os.seteuid(own)
        os.setegid(group)


@contextmanager
def as_owner(folder: Path) -> Iterator[None]:
    """Lets root write in a folder as whoever owns it while the body runs.

    In a folder of a less trusted user a link may lie where root is about to write.
    """
    state = folder.stat()
    owner = SystemUser(str(state.st_uid), state.st_uid, state.st_gid)
    with acting_as(owner if is_root() else None):
        yield


def run_as(
    user: SystemUser | None,
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    stdin: bytes = b"",
    timeout_s: float,
) -> subprocess.CompletedProcess[bytes]:
    """Runs a program to its end as a user, without any other group of ours.

    Args:
        user: As whom; None as whoever we are.
        command: The program and its arguments; no shell.
        environment: Its whole environment.
        stdin: What it reads.
        timeout_s: For how long it may run, in seconds.

    Raises:
        StorageError: It did not end in time.
    """
    try:
        return subprocess.run(  # noqa: S603 - a program of ours, no shell
            list(command),
            input=stdin,
            capture_output=True,
            env=dict(environment),
            cwd="/",
            timeout=timeout_s,
            check=False,
            user=None if user is None else user.uid,
            group=None if user is None else user.gid,
            extra_groups=None if user is None else [],
        )
    except subprocess.TimeoutExpired as error:
        raise StorageError(f"{command[0]} did not end within {timeout_s:g} s.") from error


def _make_user(name: str) -> None:
    program = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is None:
        raise InputError(
            f"There is no system user {name}, and no useradd to make it with.",
            remedy="Make the user by hand, without a shell and without a home.",
        )
    ended = subprocess.run(  # noqa: S603 - the system's program, no shell; the name was checked
        [
            program,
            "--system",
            "--user-group",
            "--no-create-home",
            "--home-dir",
            "/nonexistent",
            "--shell",
            "/usr/sbin/nologin",
            name,
        ],
        capture_output=True,
        timeout=_USERADD_TIMEOUT_S,
        check=False,
    )
    if ended.returncode and find_user(name) is None:
        raise InputError(
            f"The system user {name} cannot be made: "
            f"{ended.stderr.decode(errors='replace').strip()[-300:]}",
            remedy="Make the user by hand, without a shell and without a home.",
        )
