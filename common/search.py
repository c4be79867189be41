"""Searches for how often something fits."""

from __future__ import annotations

from collections.abc import Callable

#: Beyond so many more rounds or runs nobody plans.
MAX_MORE = 1_000_000


def largest_that_fits(fits: Callable[[int], bool], most: int = MAX_MORE) -> int:
    """The largest number up to ``most`` that fits, where every smaller one does; 0 if none.

    Doubles, then bisects: some 2·log₂ of the answer are tried, not the answer.
    """
    if most < 1 or not fits(1):
        return 0
    low, high = 1, 2
    while high <= most and fits(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low
