"""What an inspection asks of the machine it runs on: its clock, its disk, its users."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from common.timestamps import now_ms


@dataclass(frozen=True)
class Disk:
    """A file system.

    Attributes:
        free_bytes: What an ordinary user may still write.
        read_only: Whether it is mounted so.
    """

    free_bytes: int
    read_only: bool


class Machine(Protocol):
    """The machine, as an inspection sees it."""

    def now_ms(self) -> int:
        """The clock, in milliseconds since the epoch."""

    def disk(self, path: Path) -> Disk:
        """The file system that a path is on.

        Raises:
            OSError: There is no such path.
        """

    def user(self) -> int:
        """Whose process this is, as a user id."""

    def is_root(self) -> bool:
        """Whether it may become other users, and start processes as them."""

    def acting_as(self, user: int) -> AbstractContextManager[None]:
        """Reads files as another user, while the body runs, if this process may."""


class ThisMachine:
    """The machine itself; implements `Machine`."""

    def now_ms(self) -> int:
        """The system clock."""
        return now_ms()

    def disk(self, path: Path) -> Disk:
        """The file system that a path is on."""
        found = os.statvfs(path)
        return Disk(
            free_bytes=found.f_bavail * found.f_frsize,
            read_only=bool(found.f_flag & os.ST_RDONLY),
        )

    def user(self) -> int:
        """The effective user."""
        return os.geteuid()

    def is_root(self) -> bool:
        """Whether the effective user is root."""
        return os.geteuid() == 0

    @contextmanager
    def acting_as(self, user: int) -> Iterator[None]:
        """As root, becomes the user for files: what is opened or made is that user's."""
        if os.geteuid() != 0 or user == 0:
            yield
            return
        os.seteuid(user)
        try:
            yield
        finally:
            os.seteuid(0)
