"""A user for each victim and for the attacker, where the system lets one choose: as root.

Users need no account, only a number that nobody else has. A region's home belongs to its region, so
that an attacker on the same machine cannot just read what it is after. Whoever is not root has one
user for all processes; the table says which it was.
"""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

from common.errors import StorageError
from simulations.faults.children import end_with_parent

_FIRST_NUMBER, _BLOCK, _MOST_BLOCKS = 61_000, 64, 64
_HOME_MODE = 0o700
_PASSABLE_MODE = 0o711


@dataclass(frozen=True)
class User:
    """Whom a process runs as.

    Attributes:
        number: The system's number; None for whoever runs this.
    """

    number: int | None

    def become(self) -> None:
        """Makes this process the user's, for good."""
        if self.number is not None:
            os.setgroups([])
            os.setresgid(self.number, self.number, self.number)
            os.setresuid(self.number, self.number, self.number)
            # Which the kernel forgets when a process changes its user.
            end_with_parent()

    def own(self, *folders: Path) -> None:
        """Gives folders, with all that is in them, to the user alone.

        Args:
            folders: Symbolic links in them stay as they are.
        """
        for folder in folders if self.number is not None else ():
            for path in (folder, *folder.rglob("*")):
                os.chown(path, self.number or 0, self.number or 0, follow_symlinks=False)
            folder.chmod(_HOME_MODE)


def are_distinct() -> bool:
    """Whether processes get users of their own."""
    return os.geteuid() == 0


def attacker() -> User:
    """The attacker's user."""
    return _users(1)[0]


def victims_users(names: Iterable[str]) -> dict[str, User]:
    """A user for each victim, none of them the attacker."""
    listed = list(names)
    return dict(zip(listed, _users(1 + len(listed))[1:], strict=True))


def let_pass(folder: Path) -> None:
    """Lets others go through a folder, without seeing what is in it."""
    if are_distinct():
        folder.chmod(_PASSABLE_MODE)


def _users(how_many: int) -> list[User]:
    if not are_distinct():
        return [User(None)] * how_many
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    free = (number for number in _own_numbers() if number not in taken)
    users = [User(number) for number in islice(free, how_many)]
    if len(users) < how_many:
        raise StorageError(f"An attack needs {how_many} users; only {len(users)} numbers are free.")
    return users


@cache
def _own_numbers() -> range:
    """The numbers that this process gives out: two at work on one machine share none."""
    for block in range(_MOST_BLOCKS):
        claim = socket.socket(socket.AF_UNIX)
        with suppress(OSError):
            # A name that no file stands for; it is free again once this process and its forks end.
            claim.bind(f"\0fedpref-users-{block}")
            _claims.append(claim)
            return range(_FIRST_NUMBER + block * _BLOCK, _FIRST_NUMBER + (block + 1) * _BLOCK)
        claim.close()
    raise StorageError(
        f"{_MOST_BLOCKS} attacks are under way on this machine, and have all the numbers.",
        remedy="Wait till one has ended.",
    )


_claims: list[socket.socket] = []
