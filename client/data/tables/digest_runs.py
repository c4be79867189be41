"""A set of digests that grows: what is added costs as much as it is large, not as what there is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

DigestArray = npt.NDArray[np.uint64]
BoolArray = npt.NDArray[np.bool_]

NO_DIGESTS: DigestArray = np.zeros(0, dtype=np.uint64)


def joined(parts: list[DigestArray]) -> DigestArray:
    """Several arrays as one; none is an empty one."""
    return np.concatenate([NO_DIGESTS, *parts])


def among(values: DigestArray, ascending: DigestArray) -> BoolArray:
    """bool[n]: which values are among others, which ascend."""
    if not len(ascending):
        return np.zeros(len(values), dtype=bool)
    place = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    found: BoolArray = ascending[place] == values
    return found


class DigestRuns:
    """A set of digests, held in runs that ascend, each at most half as long as the one before it.

    Args:
        digests: What is in it at first, in any order.
    """

    def __init__(self, digests: DigestArray = NO_DIGESTS) -> None:
        self._runs = [np.unique(digests)] if len(digests) else []

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def has(self, values: DigestArray) -> BoolArray:
        """bool[n]: which values are in it."""
        found = np.zeros(len(values), dtype=bool)
        for run in self._runs:
            found |= among(values, run)
        return found

    def add(self, values: DigestArray) -> None:
        """Puts values in.

        Args:
            values: Distinct, and none of them in it.
        """
        if not len(values):
            return
        self._runs.append(np.sort(values))
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            last = self._runs.pop()
            # Stable sorting merges runs that ascend in one pass.
            self._runs[-1] = np.sort(np.concatenate([self._runs[-1], last]), kind="stable")

    def remove(self, ascending: DigestArray) -> None:
        """Takes values out, which ascend."""
        if not len(ascending):
            return
        left = [run[~among(run, ascending)] for run in self._runs]
        self._runs = [run for run in left if len(run)]
