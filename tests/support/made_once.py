"""What takes long to make, made once for all processes that share out the tests."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(temporary: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A copy, this process's own, of the folder that ``make`` makes.

    The first process that needs it makes it, while others that do wait; each then has its own copy,
    so that none meets another's locks. If making fails, it fails for that process, and the next
    tries for itself.

    Args:
        temporary: The session's factory. With pytest-xdist its folder lies in one of all processes.
        name: What the folder is called.
        make: Makes the folder it is given, which does not exist yet.
    """
    base = temporary.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    original = shared / f"{name}-made-once"
    own = temporary.mktemp(name) / "run"
    with (shared / f"{name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not original.exists():
            make(own)
            # Renamed when it is whole: what a failure leaves is nobody's run.
            partial = original.with_name(f"{original.name}-part")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(own, partial, symlinks=True)
            partial.rename(original)
            return own
    shutil.copytree(original, own, symlinks=True)
    return own
