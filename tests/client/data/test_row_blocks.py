from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.row_blocks import (
    NONE,
    PARTS,
    RowBlock,
    concatenate,
    decode,
    encode,
    part_of,
    split,
)

# A row: customer or none, item, time, rest, unit, flags.
ROW = st.tuples(
    st.one_of(st.none(), st.sampled_from(["anna", "ben", "née", "日本", "c" * 300])),
    st.integers(-1, 9),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, 3),
    st.integers(0, 7),
)
ROWS = st.lists(ROW, max_size=12)
Row = tuple[Any, ...]


def block_of(rows: Sequence[Row]) -> RowBlock:
    names = list(dict.fromkeys(row[0] for row in rows if row[0] is not None))
    columns = list(zip(*rows, strict=True)) or [()] * 6
    kinds = (np.int32, np.int64, np.uint64, np.int32, np.uint8)
    return RowBlock(
        pa.array(names, pa.string()),
        np.array([NONE if name is None else names.index(name) for name in columns[0]], np.int32),
        *(np.array(column, kind) for column, kind in zip(columns[1:], kinds, strict=True)),
    )


def rows_of(block: RowBlock) -> list[Row]:
    customers = [*block.customers.to_pylist(), None]
    arrays = (block.item, block.time_us, block.rest, block.unit, block.flags)
    columns = [array.tolist() for array in arrays]
    return list(zip([customers[code] for code in block.customer], *columns, strict=True))


@given(ROWS)
def test_what_is_written_is_read(rows: list[Row]) -> None:
    assert rows_of(block_of(rows)) == rows
    read = decode(encode(block_of(rows)))
    assert rows_of(read) == rows
    assert [array.dtype for array in (read.customer, read.flags, read.rest)] == [
        np.int32,
        np.uint8,
        np.uint64,
    ]


@given(st.lists(ROWS, max_size=4))
def test_blocks_together_have_all_rows_in_order_and_each_customer_once(
    lists: list[list[Row]],
) -> None:
    together = concatenate([block_of(rows) for rows in lists])
    assert rows_of(together) == [row for rows in lists for row in rows]
    customers = together.customers.to_pylist()
    assert len(set(customers)) == len(customers)


@given(ROWS)
def test_all_rows_of_a_customer_are_in_one_part(rows: list[Row]) -> None:
    parts = dict(split(block_of(rows)))
    assert sorted(map(repr, rows)) == sorted(
        repr(row) for part in parts.values() for row in rows_of(part)
    )
    for number, part in parts.items():
        assert len(part)
        for customer, *_ in rows_of(part):
            expected = 0 if customer is None else int(part_of(pa.array([customer]))[0])
            assert number == expected
        # Rows keep their order, and a part names its own customers only.
        assert [row for row in rows if row in rows_of(part)] == rows_of(part)
        assert set(part.customers.to_pylist()) == {row[0] for row in rows_of(part)} - {None}


@given(ROWS, st.data())
def test_customers_without_a_row_left_are_forgotten(rows: list[Row], data: st.DataObject) -> None:
    kept = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    left = block_of(rows).take(np.array(kept, dtype=bool))
    expected = [row for row, keep in zip(rows, kept, strict=True) if keep]
    assert rows_of(left) == expected
    assert set(left.customers.to_pylist()) == {row[0] for row in expected} - {None}
    if expected != rows:
        gone = {row[0] for row in rows} - {row[0] for row in expected} - {None}
        assert not any(name.encode() in encode(left) for name in gone if len(name) > 4)


def test_a_customers_part_is_the_same_at_any_time() -> None:
    """Kept rows are judged together with rows that are read months later."""
    references = pa.array(["anna", "ben", "00123", "123"])
    assert part_of(references).tolist() == [31, 31, 4, 11]
    assert part_of(pa.array([f"c{number}" for number in range(10_000)])).max() == PARTS - 1


@pytest.mark.parametrize("n_customers", [10_000])
def test_parts_are_of_about_one_size(n_customers: int) -> None:
    sizes = np.bincount(
        part_of(pa.array([f"c{number}" for number in range(n_customers)])), minlength=PARTS
    )
    assert sizes.min() > 0.7 * n_customers / PARTS
    assert sizes.max() < 1.3 * n_customers / PARTS
