from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.assembly import MS_PER_WEEK, AssembledRows, assemble, count_purchases
from client.data.transactions import Purchases
from common.errors import InputError

END_MS = 10 * MS_PER_WEEK
SIDS = [f"{number:x}" * 64 for number in range(10, 16)]
# Whose, what, when.
PURCHASE = st.tuples(st.sampled_from(SIDS), st.integers(0, 3), st.integers(-2, 12))
Bought = tuple[str, int, int]


def part_of(bought: Sequence[Bought]) -> Purchases:
    owners = tuple(dict.fromkeys(sid for sid, _, _ in bought))
    return Purchases(
        owners,
        np.array([owners.index(sid) for sid, _, _ in bought], dtype=np.int32),
        np.array([item for _, item, _ in bought], dtype=np.int32),
        np.array([week * MS_PER_WEEK for _, _, week in bought], dtype=np.int64),
    )


def rows_of(parts: Sequence[Sequence[Bought]], most_rows: int = 100) -> AssembledRows:
    return assemble(
        [
            count_purchases(part_of(part), start_ms=0, end_ms=END_MS, most_rows=most_rows)
            for part in parts
        ]
    )


def listed(rows: AssembledRows) -> list[Any]:
    arrays = {name: array.tolist() for name, array in rows.arrays.items()}
    return [rows.sids, rows.indptr.tolist(), arrays]


@settings(deadline=None)
@given(st.lists(PURCHASE, max_size=30), st.integers(1, 4), st.data())
def test_parts_and_order_change_nothing(
    bought: list[Bought], most_rows: int, data: st.DataObject
) -> None:
    whole = listed(rows_of([bought], most_rows))
    where = {sid: data.draw(st.integers(0, 3)) for sid in SIDS}
    shuffled = data.draw(st.permutations(bought))
    parts = [[each for each in shuffled if where[each[0]] == number] for number in range(4)]
    assert listed(rows_of(parts, most_rows)) == whole


def test_entries_lie_by_pseudonym_then_item_and_purchases_by_time() -> None:
    early, late = SIDS[0], SIDS[1]
    rows = rows_of([[(late, 2, 1), (late, 0, 3), (late, 2, 7), (late, 2, 4)], [(early, 3, 9)]])
    assert rows.sids == (early, late)
    assert rows.indptr.tolist() == [0, 1, 3]
    assert rows.arrays["items"].tolist() == [3, 0, 2]
    assert rows.arrays["counts"].tolist() == [1, 1, 3]
    assert (rows.arrays["last_ms"] // MS_PER_WEEK).tolist() == [9, 3, 7]
    assert rows.arrays["ages_weeks"].tolist() == [1, 7, 9, 6, 3]
    assert [array.dtype for array in rows.arrays.values()] == [
        np.int32,
        np.float32,
        np.int64,
        np.float32,
    ]


def test_at_the_cap_the_item_decides_between_purchases_of_one_moment() -> None:
    bought = [(SIDS[0], item, 5) for item in (3, 1, 2)]
    for order in (bought, bought[::-1]):
        counted = count_purchases(part_of(order), start_ms=0, end_ms=END_MS, most_rows=2)
        assert (counted.capped_customers, counted.capped_rows) == (1, 1)
        assert counted.arrays["items"].tolist() == [1, 2]


def test_a_customer_in_two_parts_is_refused() -> None:
    with pytest.raises(InputError, match="in two parts of the data"):
        rows_of([[(SIDS[0], 0, 1)], [(SIDS[0], 1, 1)]])


def test_no_parts_and_parts_of_nothing() -> None:
    for parts in ([], [[]], [[], [(SIDS[0], 0, 50)]]):
        rows = rows_of(parts)
        assert (rows.sids, rows.indptr.tolist()) == ((), [0])
        assert {name: array.dtype for name, array in rows.arrays.items()} == {
            "items": np.int32,
            "counts": np.float32,
            "last_ms": np.int64,
            "ages_weeks": np.float32,
        }
