"""Repeats and bounds: in any order of rows, and by nobody else's rows."""

from __future__ import annotations

from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from client.governance.quality_repeats import RowFacts, joined, repeats, rows_beyond

#: key, content, time, filled, passed
ROWS = st.lists(
    st.tuples(
        st.integers(1, 3), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2), st.booleans()
    ),
    max_size=12,
)


def facts(rows: list[tuple[int, int, int, int, bool]]) -> RowFacts:
    """A key belongs to the customer of its number; equal content under one key is all equal."""
    keys = np.array([key for key, *_ in rows], dtype=np.uint64)
    ids = np.array([key * 1000 + at * 100 + what * 10 + full for key, what, at, full, _ in rows])
    times = np.array([at for _, _, at, _, _ in rows], dtype=np.int64)
    return RowFacts(
        ids=ids.astype(np.uint64),
        keys=keys,
        customers=keys,
        times=times,
        newest=times,
        filled=np.array([full for *_, full, _ in rows], dtype=np.uint8),
        passed=np.array([passed for *_, passed in rows], dtype=bool),
    )


@settings(max_examples=40)
@given(ROWS)
def test_the_row_that_stays_is_the_best_of_its_key(
    rows: list[tuple[int, int, int, int, bool]],
) -> None:
    made = facts(rows)
    repeated, replaced = repeats(made)
    assert not (repeated & replaced).any()
    stays = ~(repeated | replaced)
    for key in {key for key, *_ in rows}:
        of_key = np.flatnonzero(made.keys == key)
        kept = of_key[stays[of_key]]
        assert len(kept) == 1
        rank = [
            (not made.passed[n], -made.times[n], -int(made.filled[n]), int(made.ids[n]))
            for n in of_key
        ]
        best = min(rank)
        place = kept[0]
        assert (
            not made.passed[place],
            -made.times[place],
            -int(made.filled[place]),
            int(made.ids[place]),
        ) == best
        for number in of_key:
            if number != place:
                assert repeated[number] == (made.ids[number] == made.ids[place])


@settings(max_examples=30)
@given(ROWS, st.randoms(use_true_random=False))
def test_order_does_not_matter(rows: list[tuple[int, int, int, int, bool]], random: Random) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    survivors = []
    for each in (rows, shuffled):
        repeated, replaced = repeats(facts(each))
        survivors.append(
            sorted(row for row, gone in zip(each, repeated | replaced, strict=True) if not gone)
        )
    assert survivors[0] == survivors[1]


@settings(max_examples=30)
@given(ROWS, ROWS, st.integers(1, 3))
def test_nobodys_row_goes_because_of_anothers(
    mine: list[tuple[int, int, int, int, bool]],
    others: list[tuple[int, int, int, int, bool]],
    most: int,
) -> None:
    """The sensitivity of a statistic over what is left rests on this."""
    mine = [(1, *row[1:]) for row in mine]
    others = [(row[0] + 1, *row[1:]) for row in others]
    alone, together = facts(mine), facts([*mine, *others])
    for one, all_of in zip(repeats(alone), repeats(together), strict=True):
        assert all_of[: len(mine)].tolist() == one.tolist()
    beyond_alone, _ = rows_beyond(alone, alone.passed, most)
    beyond, _ = rows_beyond(together, together.passed, most)
    assert beyond[: len(mine)].tolist() == beyond_alone.tolist()


@settings(max_examples=30)
@given(ROWS, st.integers(1, 4))
def test_the_newest_rows_of_a_customer_count(
    rows: list[tuple[int, int, int, int, bool]], most: int
) -> None:
    made = facts(rows)
    beyond, customers = rows_beyond(made, made.passed, most)
    assert not (beyond & ~made.passed).any()
    bounded = 0
    for customer in set(made.customers.tolist()):
        counted = np.flatnonzero((made.customers == customer) & made.passed)
        left = counted[~beyond[counted]]
        assert len(left) == min(len(counted), most)
        if len(counted) > most:
            bounded += 1
            oldest_left = made.times[left].min()
            assert (made.times[counted[beyond[counted]]] <= oldest_left).all()
    assert customers == bounded


def test_no_rows_and_parts() -> None:
    none = joined([])
    assert len(none) == 0
    assert [each.tolist() for each in repeats(none)] == [[], []]
    assert rows_beyond(none, none.passed, 1)[1] == 0
    two = facts([(1, 1, 0, 1, True), (1, 1, 0, 1, True)])
    assert len(joined([two, none, two])) == 4
