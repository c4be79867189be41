"""Sums of cells over a tree: for answers about ranges, which single cells would add up to noise.

A customer is in one cell, or spreads a weight of 1 over several. Released are the cells and, level
by level, the sums of neighbouring ones, each level scaled so that one customer's row has a norm of
at most 1. Least squares then make one consistent table of all levels (Hay, Rastogi, Miklau and
Suciu, "Boosting the Accuracy of Differentially Private Histograms Through Consistency", 2010; Li
and others, "The Matrix Mechanism", 2015).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from common.errors import InputError

FloatArray = npt.NDArray[np.float64]
LongArray = npt.NDArray[np.int64]

#: Solving takes the third power of it.
MAX_CELLS = 512
_BRANCHINGS = (2, 3, 4, 6, 8, 12, 16, 24)


@dataclass(frozen=True)
class TreeSums:
    """Which sums of cells are released.

    Attributes:
        n_cells: How many cells there are.
        branching: How many neighbours are added up from each level to the next. As many as there
            are cells or more: the cells alone are released.
    """

    n_cells: int
    branching: int

    def __post_init__(self) -> None:
        if not (1 <= self.n_cells <= MAX_CELLS and self.branching >= 2):
            raise InputError(
                f"There is no tree over {self.n_cells} cells with {self.branching} branches.",
                remedy=f"Use 1 to {MAX_CELLS} cells, and 2 branches or more.",
            )

    @classmethod
    def for_ranges(cls, n_cells: int) -> TreeSums:
        """The tree whose least certain range from the first cell on is the most certain."""
        return _for_ranges(n_cells)

    @property
    def widths(self) -> tuple[int, ...]:
        """How many sums each level has, the cells first; the sum of all is not one of them."""
        found = [self.n_cells]
        while (wider := math.ceil(found[-1] / self.branching)) > 1:
            found.append(wider)
        return tuple(found)

    @property
    def size(self) -> int:
        """How many values are released."""
        return sum(self.widths)

    @property
    def scale(self) -> float:
        """What a weight of 1 is in each level: one customer's row has a norm of at most 1."""
        return 1.0 / math.sqrt(len(self.widths))

    def places(self) -> LongArray:
        """int64[levels, cells]: which released sums each cell is in."""
        cells, start, found = np.arange(self.n_cells), 0, []
        for width in self.widths:
            found.append(start + cells)
            start, cells = start + width, cells // self.branching
        return np.array(found)

    def solution(self) -> FloatArray:
        """float64[cells, released]: gives the cells, as least squares have them."""
        return _solution(self)

    def worst_range(self) -> float:
        """The largest standard deviation of a range's weight beside the same part of the total.

        In units of the noise's; it is what a quantile is off by, at the worst one.
        """
        share = np.arange(1, self.n_cells) / self.n_cells
        ranges = np.tril(np.ones((self.n_cells, self.n_cells)))[: self.n_cells - 1]
        weights = (ranges - share[:, None]) @ self.solution()
        return float(np.linalg.norm(weights, axis=1).max(initial=0.0))


@lru_cache(maxsize=32)
def _for_ranges(n_cells: int) -> TreeSums:
    branchings = [each for each in _BRANCHINGS if each < n_cells]
    trees = [TreeSums(n_cells, each) for each in (max(2, n_cells), *branchings)]
    return min(trees, key=lambda each: (each.worst_range(), -each.branching))


@lru_cache(maxsize=32)
def _solution(tree: TreeSums) -> FloatArray:
    measured = np.zeros((tree.size, tree.n_cells))
    measured[tree.places(), np.arange(tree.n_cells)] = tree.scale
    found = np.linalg.solve(measured.T @ measured, measured.T).astype(np.float64)
    found.setflags(write=False)
    return found
