"""Who is at the other end of a Unix socket: the kernel's word, never the peer's own.

A process cannot lie about its user to ``SO_PEERCRED``. For the one who connects it says who
listened, and for the one who listens who connected.
"""

from __future__ import annotations

import grp
import os
import pwd
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from common.errors import InputError

_CREDENTIALS = struct.Struct("3i")
_MAX_ID = 2**32 - 2


@dataclass(frozen=True)
class Peers:
    """The users whose processes may be at a socket's other end.

    Attributes:
        users: Their user ids.
    """

    users: frozenset[int]

    @classmethod
    def own(cls) -> Peers:
        """This process's own user, and nobody else; not even root."""
        return cls(frozenset({os.geteuid()}))

    @classmethod
    def with_own(cls, users: Iterable[str]) -> Peers:
        """This process's own user, and others by name or number.

        Raises:
            InputError: The machine has no such user.
        """
        return cls(cls.own().users | {user_id(user) for user in users})

    def admit(self, user: int) -> bool:
        """Whether a process of this user may be there."""
        return user in self.users


def peer_user(connection: socket.socket) -> int:
    """The user id of the process at the other end, as the kernel recorded it."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(packed)
    return int(user)


def user_id(user: str) -> int:
    """The id of a user, given as a name or a number.

    Raises:
        InputError: The machine has no such user.
    """
    if (number := _number(user)) is not None:
        return number
    try:
        return pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError) as error:
        raise InputError(
            f"There is no user {user[:64]!r} on this machine.",
            remedy="Make the user first, or give its number.",
        ) from error


def group_id(group: str) -> int:
    """The id of a group, given as a name or a number.

    Raises:
        InputError: The machine has no such group.
    """
    if (number := _number(group)) is not None:
        return number
    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, ValueError) as error:
        raise InputError(
            f"There is no group {group[:64]!r} on this machine.",
            remedy="Make the group first, or give its number.",
        ) from error


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdecimal() and len(text) <= 10):
        return None
    return int(text) if int(text) <= _MAX_ID else None
