"""A table as a whole: what takes all its rows to judge."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from client.data.dataset import MAX_ROWS_PER_CUSTOMER
from client.data.row_checks import digests_of
from client.data.tables.rows import TIME, TableCounts, arrow_schema
from client.data.tables.schema import TableSchema

LongArray = npt.NDArray[np.int64]
DigestArray = npt.NDArray[np.uint64]

BEYOND_CAP, REPEATED = "customer-beyond-cap", "row-repeated"


@dataclass(frozen=True, eq=False)
class TableRead:
    """A table as it was read.

    Attributes:
        rows: The columns of its schema: text as dictionary<int32, string>, moments as
            timestamp[ms, UTC], numbers as float64. In no order that means anything.
        counts: What was read, and what was left out and why.
        problems: Why the region's data standards let nobody use it; empty if they do.
    """

    rows: pa.Table = field(repr=False)
    counts: TableCounts
    problems: tuple[str, ...] = ()


def finished(schema: TableSchema, tables: list[pa.Table], counts: TableCounts) -> TableRead:
    """All batches of a table as one, judged by what takes all rows.

    Rows that are alike in every column are one. Where a value has one row (a member, a product),
    several are merged: what they agree in or only one says is kept, what they contradict each other
    in becomes null. Of a customer with more than `MAX_ROWS_PER_CUSTOMER` rows the latest are kept.
    None of it depends on the order of files or rows.

    Args:
        schema: The table.
        tables: Its batches.
        counts: What was read so far.
    """
    rows = pa.concat_tables([arrow_schema(schema).empty_table(), *tables])
    rows = rows.unify_dictionaries().combine_chunks()
    digests = row_digests(rows)
    _, first = np.unique(digests, return_index=True)
    counts = counts.without(REPEATED, len(digests) - len(first))
    first.sort()
    rows, digests = rows.take(pa.array(first)), digests[first]
    if schema.once is not None:
        return _merged(rows, schema.once, counts)
    if schema.of_customers and len(rows):
        kept = _latest_of_each(rows, digests)
        counts = counts.without(BEYOND_CAP, len(rows) - len(kept))
        rows = rows.take(pa.array(kept))
    return TableRead(rows, counts)


def row_digests(rows: pa.Table) -> DigestArray:
    """uint64[n]: a digest of all values of each row; the same for the same values at any time.

    Two different rows of 20 million have the same one with a probability of 10⁻⁵.
    """
    columns = (_hashable(rows.column(name)) for name in rows.column_names)
    return digests_of(columns, rows.num_rows)


def _hashable(column: pa.ChunkedArray) -> pd.Series[Any]:
    if column.type == TIME:
        # Milliseconds since the epoch are whole numbers that a float holds.
        return pd.Series(column.cast(pa.int64()).cast(pa.float64()).to_numpy(zero_copy_only=False))
    if pa.types.is_dictionary(column.type):
        array = column.unify_dictionaries().combine_chunks()
        array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
        codes = array.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        names = pd.Index(array.dictionary.to_pylist(), dtype="str")
        return pd.Series(pd.Categorical.from_codes(codes, categories=names))
    return pd.Series(column.to_numpy(zero_copy_only=False))


def _latest_of_each(rows: pa.Table, digests: DigestArray) -> LongArray:
    """int64[m], ascending: the rows of which each customer has the latest and no more than many."""
    customer = rows.column("customer").combine_chunks().indices.to_numpy(zero_copy_only=False)
    count = np.bincount(customer)
    if int(count.max(initial=0)) <= MAX_ROWS_PER_CUSTOMER:
        return np.arange(len(rows))
    many = np.flatnonzero(count[customer] > MAX_ROWS_PER_CUSTOMER)
    time = rows.column("time").cast(pa.int64()).to_numpy()[many]
    order = many[np.lexsort((digests[many], -time, customer[many]))]
    whose = customer[order]
    rank = np.arange(len(order)) - np.searchsorted(whose, whose, side="left")
    kept = np.ones(len(rows), dtype=bool)
    kept[order[rank >= MAX_ROWS_PER_CUSTOMER]] = False
    return np.flatnonzero(kept)


def _merged(rows: pa.Table, once: str, counts: TableCounts) -> TableRead:
    """One row for each value of a column."""
    values = rows.column(once).combine_chunks().indices.to_numpy(zero_copy_only=False)
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    begins = np.flatnonzero(np.diff(ordered, prepend=-1))
    if len(begins) == len(rows):
        return TableRead(rows, counts)
    sorted_rows = rows.take(pa.array(order))
    group = np.cumsum(np.diff(ordered, prepend=-1) != 0) - 1
    columns, conflicts = [], 0
    for name in rows.column_names:
        column = sorted_rows.column(name).combine_chunks()
        place, contradicting = _agreed(column, group, len(begins))
        conflicts += contradicting
        columns.append(column.take(pa.array(place, mask=place < 0)))
    merged = pa.table(columns, schema=rows.schema)
    left_out = counts.without(f"{once}-repeated", len(rows) - len(merged))
    if conflicts:
        # Values that were given up, not rows: told beside them, under a name of its own.
        left_out += TableCounts(reasons={f"{once}-values-contradict": conflicts})
    return TableRead(merged, left_out)


def _agreed(column: pa.Array, group: LongArray, n_groups: int) -> tuple[LongArray, int]:
    """For each group the place of the value that its rows agree in, −1 without one; conflicts."""
    valid = np.asarray(pc.is_valid(column))
    coded = column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column)
    codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    place = np.full(n_groups, -1, dtype=np.int64)
    # Backwards, so that the first value stays; which of equal ones does not matter.
    rows = np.flatnonzero(valid)[::-1]
    place[group[rows]] = rows
    differs = valid & (codes != codes[place[group]])
    contradicting = np.unique(group[differs])
    place[contradicting] = -1
    return place, len(contradicting)
