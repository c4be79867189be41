"""Processes of other users: forked, so that all they need is imported, and then no longer root.

A test of who may do what shows nothing when everybody is root: where it cannot be made, it fails.
"""

from __future__ import annotations

import json
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


def require_root() -> None:
    """Fails the test where no other user can be acted as: a skipped one would show nothing."""
    if os.geteuid() != 0:
        pytest.fail("This test acts as other users, which needs root.")


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every user can enter, unlike pytest's."""
    require_root()
    with tempfile.TemporaryDirectory(prefix="fedpref-users-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def become(user: int, group: int, groups: Sequence[int] = ()) -> None:
    """Gives up root for good, in a process that was forked for it."""
    os.setgroups([*groups])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)


def as_user(user: int, group: int, act: Callable[[], Any], groups: Sequence[int] = ()) -> Any:
    """What a process of another user comes to; its result travels as JSON.

    Raises:
        AssertionError: It ended by an exception.
    """
    require_root()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            become(user, group, groups)
            told = {"is": act()}
        except BaseException:  # noqa: BLE001 # pytest is in the parent, which is told
            told = {"failed": traceback.format_exc()}
        with os.fdopen(writing, "w") as pipe:
            json.dump(told, pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = json.load(pipe)
    os.waitpid(child, 0)
    assert "failed" not in told, told["failed"]
    return told["is"]
