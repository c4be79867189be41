"""A growing set of digests, held against Python's own sets."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.tables.digest_runs import DigestArray, DigestRuns, among, joined

NUMBERS = st.sets(st.integers(0, 40) | st.integers((1 << 64) - 20, (1 << 64) - 1), max_size=12)


def digests(numbers: set[int]) -> DigestArray:
    return np.array(list(numbers), dtype=np.uint64)


@settings(max_examples=60, deadline=None)
@given(NUMBERS, st.lists(st.tuples(st.booleans(), NUMBERS), max_size=8))
def test_it_is_a_set(first: set[int], steps: list[tuple[bool, set[int]]]) -> None:
    runs, kept = DigestRuns(digests(first)), set(first)
    for adding, numbers in steps:
        if adding:
            runs.add(digests(numbers - kept))
            kept |= numbers
        else:
            runs.remove(np.sort(digests(numbers)))
            kept -= numbers
        asked = digests(numbers | first)
        assert runs.has(asked).tolist() == [int(each) in kept for each in asked]
        assert len(runs) == len(kept)


def test_nothing_is_among_nothing() -> None:
    assert among(digests({1, 2}), joined([])).tolist() == [False, False]
