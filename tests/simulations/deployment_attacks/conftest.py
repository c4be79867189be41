"""A folder that users of attackers and victims can pass through, and accounts in it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def work() -> Iterator[Path]:
    # Not below pytest's folder: other users must be able to pass through, and sockets have short
    # paths.
    with tempfile.TemporaryDirectory(prefix="fedpref-d") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)
