"""Installing is tested as an ordinary user's, whoever runs the tests, and in short folders."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.small_deployment import one_user

__all__ = ["one_user"]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder of a short name: a socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="fp-") as folder:
        yield Path(folder)
