"""Users that own nothing but a folder, and programs that run as one of them.

Whoever attacks, and whoever is attacked, is a program of its own under a user of its own: a number
that no account of the system has. Only root can give programs such users, so that without root
there is nothing to show here: an attack within one user says nothing about what users keep apart.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from common.errors import InputError, UsageError
from simulations.attack_demos.users import let_pass, victims_users
from simulations.external_runtime import OFFLINE
from simulations.supervisor import supervised

_SETPRIV = "setpriv"
_FOLDER_MODE = 0o700
# What others need of a folder on the way, and of a file at its end.
_PASS, _READ = 0o001, 0o004


@dataclass(frozen=True)
class Account:
    """A user of the system, and the folder that is theirs alone.

    Attributes:
        name: Whose it is, for messages and log files.
        user: The system's number.
        folder: Their folder, mode 0700; programs start in it.
        scripts: The folder of the Python that their programs run, and of its commands.
        groups: What further groups their programs are in.
    """

    name: str
    user: int
    folder: Path
    scripts: Path
    groups: tuple[int, ...] = ()

    @classmethod
    def at(cls, name: str, user: int, folder: Path, scripts: Path) -> Account:
        """An account of a user who is there already, with a folder that is made for it."""
        folder.mkdir(exist_ok=True)
        os.chown(folder, user, user)
        folder.chmod(_FOLDER_MODE)
        return cls(name, user, folder, scripts)

    def in_group(self, group: int) -> Account:
        """The same, in a further group of the system's."""
        return replace(self, groups=(*self.groups, group))

    def command(self, command: Sequence[str]) -> list[str]:
        """The command line that runs a command as this user, with nothing of root's left."""
        return [
            _setpriv(),
            f"--reuid={self.user}",
            f"--regid={self.user}",
            f"--groups={','.join(map(str, self.groups))}" if self.groups else "--clear-groups",
            "--no-new-privs",
            "--",
            *command,
        ]

    def environment(self, **more: str) -> dict[str, str]:
        """All the environment that their programs get: nothing of whoever runs this."""
        return {
            **OFFLINE,
            "PATH": f"{self.scripts}:/usr/bin:/bin",
            "HOME": str(self.folder),
            "FLWR_HOME": str(self.folder / "flwr"),
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "no_proxy": "127.0.0.1",
            "NO_PROXY": "127.0.0.1",
            **more,
        }

    def give(self, name: str, content: bytes, *, mode: int = 0o600) -> Path:
        """Puts a file into their folder, theirs alone by default."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)
        for each in (path, *(above for above in path.parents if self.folder in above.parents)):
            os.chown(each, self.user, self.user)
        return path


def own_scripts() -> Path:
    """The folder of the Python that runs this, and of its commands."""
    return Path(sys.executable).parent


def make_accounts(
    root: Path, names: Sequence[str], scripts: Path | None = None
) -> dict[str, Account]:
    """Makes a folder for each of several users, whom nobody else is.

    Args:
        root: Where the folders are made; others may pass through it, not look into it.
        names: What they are called here.
        scripts: The folder of the Python that they run; this one's by default.

    Raises:
        UsageError: Whoever runs this is not root.
        InputError: Other users could not run that Python.
    """
    scripts = scripts or own_scripts()
    require_users(scripts)
    let_pass(root)
    return {
        name: Account.at(name, user.number or 0, root / name, scripts)
        for name, user in victims_users(names).items()
    }


def require_users(scripts: Path | None = None) -> None:
    """Checks that programs can be given users of their own.

    Args:
        scripts: The folder of the Python that they are to run; this one's by default.

    Raises:
        UsageError: Whoever runs this is not root.
        InputError: A part that every user's programs need is out of their reach.
    """
    if os.geteuid() != 0:
        raise UsageError(
            "Attacks on a deployment are carried out by users who own nothing, and only root can "
            "give a program such a user.",
            remedy="Run it as root: sudo, or a container's root.",
        )
    _setpriv()
    python = (scripts or own_scripts()) / "python"
    for needed in (python, python.resolve(), Path(__file__).resolve()):
        for part in (needed, *needed.parents):
            mode = part.stat().st_mode
            if not mode & (_PASS if stat.S_ISDIR(mode) else _READ):
                raise InputError(
                    f"{part} is closed to other users, who are to run {needed}.",
                    remedy="Install this where every user may read it, for example under /opt, "
                    "with a Python that every user may run.",
                )


class Programs:
    """Programs that run till the block ends, each under its account; use as a context manager."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._running: dict[str, tuple[subprocess.Popen[bytes], ExitStack]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, name: str, account: Account, command: Sequence[str]) -> Path:
        """Starts a program; gives the file that its output goes to, which only root reads."""
        log = account.folder.parent / f"{name}.log"
        own = self._stack.enter_context(ExitStack())
        process = own.enter_context(
            supervised(
                account.command(command),
                environment=account.environment(),
                folder=account.folder,
                log=log,
            )
        )
        self._running[name] = (process, own)
        return log

    def stop(self, name: str) -> None:
        """Stops a program, and whatever it started."""
        _, own = self._running.pop(name)
        own.close()

    def is_running(self, name: str) -> bool:
        """Whether a program that was started is still there."""
        return name in self._running and self._running[name][0].poll() is None


def processes_of(user: int) -> list[int]:
    """The ids of a user's processes, the one that was started first at the front."""
    found: list[tuple[int, int]] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if entry.stat().st_uid == user:
                    # The name in parentheses may hold spaces; the time of the start is 20th after.
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    found.append((int(fields[19]), int(entry.name)))
    return [process for _, process in sorted(found)]


def _setpriv() -> str:
    found = shutil.which(_SETPRIV)
    if found is None:
        raise InputError(
            f"{_SETPRIV} is missing: it starts programs under other users.",
            remedy="Install Debian's package util-linux.",
        )
    return found
