"""Facts add up: in any order, in any grouping, and a row twice is a row once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.profiles.tables import (
    CATEGORIES,
    DAYS,
    FORMS,
    RECENT,
    RECENT_EVENTS,
    Facts,
    added,
    collected,
    decode,
    encode,
    latest,
    sids_of,
)
from common.errors import FormatError

SIDS = sids_of(sorted(f"{n:02x}" * 31 + "00" for n in range(8)))
Row = tuple[int, int, int, int]


def facts_of(rows: list[Row]) -> Facts:
    """Facts of (customer, day, category, cents), in the order of their pseudonyms."""
    owner, day, category, cents = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    present, place = np.unique(owner, return_inverse=True)
    one = np.ones(len(owner), dtype=np.int64)
    return Facts(
        SIDS[present],
        {
            DAYS: collected(DAYS, place.reshape(-1), day, {"rows": one, "cents": cents}),
            CATEGORIES: collected(
                CATEGORIES,
                place.reshape(-1),
                category,
                {"rows": one, "first_day": day, "last_day": day},
            ),
        },
    )


def as_rows(facts: Facts) -> list[tuple[object, ...]]:
    return [
        (bytes(facts.sids[owner]), name, key, *values)
        for name in FORMS
        for owner, key, *values in zip(
            facts[name].owner.tolist(),
            facts[name].key.tolist(),
            *(facts[name].columns[column].tolist() for column in FORMS[name].columns),
            strict=True,
        )
    ]


ROW = st.tuples(
    st.integers(0, 7), st.integers(0, 65_535), st.integers(0, 4), st.integers(0, 10_000)
)


@given(st.lists(ROW, max_size=40), st.lists(st.integers(0, 3), min_size=40, max_size=40))
def test_parts_add_up_to_the_whole(rows: list[Row], where: list[int]) -> None:
    parts = [
        facts_of([row for row, part in zip(rows, where, strict=False) if part == number])
        for number in range(4)
    ]
    whole = as_rows(facts_of(rows))
    assert as_rows(added(parts)) == whole
    assert as_rows(added(parts[::-1])) == whole
    assert as_rows(added([added(parts[:2]), added(parts[2:])])) == whole


@given(st.lists(ROW, max_size=30))
def test_what_was_written_is_read(rows: list[Row]) -> None:
    facts = facts_of(rows)
    again = decode(encode(facts))
    assert as_rows(again) == as_rows(facts)
    assert (again.sids == facts.sids).all()


@given(st.lists(ROW, min_size=1, max_size=30), st.sets(st.integers(0, 7)))
def test_some_customers_facts_are_theirs_alone(rows: list[Row], chosen: set[int]) -> None:
    facts = facts_of(rows)
    taken = facts.take(facts.rows_of(SIDS[sorted(chosen)]))
    assert as_rows(taken) == as_rows(facts_of([row for row in rows if row[0] in chosen]))


def test_sums_stay_at_the_largest_that_they_can_be() -> None:
    many = np.full(3, 2**31 - 1)
    table = collected(
        DAYS, np.zeros(3, int), np.full(3, 7), {"rows": np.full(3, 40_000), "cents": many}
    )
    assert table.columns["rows"].tolist() == [65_535]
    assert table.columns["cents"].tolist() == [2**31 - 1]


def test_the_latest_events_are_kept() -> None:
    n = RECENT_EVENTS + 10
    times = np.random.default_rng(1).permutation(n)
    events = collected(
        RECENT, np.zeros(n, int), np.arange(n), {"time_ms": times, "kind": times * 0}
    )
    kept = latest(events)
    assert sorted(kept.columns["time_ms"].tolist()) == list(range(10, n))


@pytest.mark.parametrize("data", [b"", b"\0" * 40, encode(facts_of([(0, 1, 1, 1)]))[:-5]])
def test_what_is_no_facts_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode(data)
