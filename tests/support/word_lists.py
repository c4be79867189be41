"""A source of random words whose words a test chooses."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


class Words:
    """Gives the words of a list, and fails when it is asked for more."""

    def __init__(self, *words: int) -> None:
        self._left: Iterator[int] = iter(words)

    def words(self, n: int) -> np.ndarray:
        return np.array([next(self._left) for _ in range(n)], dtype=np.uint64)
