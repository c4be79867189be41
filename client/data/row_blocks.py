"""A store's rows as compact arrays: what the gate and training need of them, and nothing else.

A row costs 29 bytes and its share of the customer's reference. What tells repeated rows apart
besides customer and time (item, basket, or all mapped columns) is held as a 64-bit digest: two rows
of the same customer at the same microsecond are taken for one wrongly with probability 2⁻⁶⁴.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

#: Rows are parted by their customer's reference into so many parts, each judged by itself.
PARTS = 32
#: What a row states, as bits of `RowBlock.flags`: it passed the checks of single rows,
PASSED = 1
#: its customer's home store is the region's,
AT_HOME = 2
#: or it only says that this customer was seen at home in another region.
AWAY = 4
#: In the place of a customer or item that is missing or unknown.
NONE = -1

BoolArray = npt.NDArray[np.bool_]
ByteArray = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]
DigestArray = npt.NDArray[np.uint64]

_ARRAYS = ("customer", "item", "time_us", "rest", "unit", "flags")


@dataclass(frozen=True, eq=False)
class RowBlock:
    """Rows that a region examined.

    Attributes:
        customers: The distinct references of the customers in these rows, Arrow strings.
        customer: int32[n], each row's customer as a position in `customers`, or `NONE`.
        item: int32[n], the item's number in the public catalogue, or `NONE`.
        time_us: int64[n], microseconds since the epoch; the lowest int64 where there is no time.
        rest: uint64[n], a digest of what else tells repeated rows apart.
        unit: int32[n], the number of the part of the store that the row is from.
        flags: uint8[n], of `PASSED`, `AT_HOME` and `AWAY`.
    """

    customers: pa.Array = field(repr=False)
    customer: IntArray = field(repr=False)
    item: IntArray = field(repr=False)
    time_us: LongArray = field(repr=False)
    rest: DigestArray = field(repr=False)
    unit: IntArray = field(repr=False)
    flags: ByteArray = field(repr=False)

    def __len__(self) -> int:
        return len(self.customer)

    def take(self, kept: BoolArray) -> RowBlock:
        """The marked rows; customers without a row left are forgotten."""
        customers, customer = _present(self.customers, self.customer[kept])
        return RowBlock(
            customers,
            customer,
            self.item[kept],
            self.time_us[kept],
            self.rest[kept],
            self.unit[kept],
            self.flags[kept],
        )


def _present(customers: pa.Array, customer: IntArray) -> tuple[pa.Array, IntArray]:
    """Only the customers that rows name, and the rows' positions among them."""
    named = np.zeros(len(customers) + 1, dtype=bool)
    named[customer] = True  # `NONE` marks the last place, which no customer has
    named[-1] = False
    position = np.append(np.cumsum(named[:-1]) - 1, NONE).astype(np.int32)
    return customers.take(pa.array(np.flatnonzero(named))), position[customer]


def part_of(customers: pa.Array) -> ByteArray:
    """uint8[n]: the part that each customer's rows belong to, the same at any time."""
    references = np.array(customers.to_pylist(), dtype=object)
    digests = pd.util.hash_array(references, categorize=False)
    return (digests % np.uint64(PARTS)).astype(np.uint8)


def split(block: RowBlock) -> Iterator[tuple[int, RowBlock]]:
    """The rows by parts, parts without a row left out; rows without a customer are in part 0."""
    if not len(block):
        return
    part = part_of(block.customers)
    by_part = np.argsort(part, kind="stable")
    first = np.searchsorted(part[by_part], np.arange(PARTS + 1))
    rank = np.empty(len(part) + 1, dtype=np.int32)
    rank[by_part] = np.arange(len(part), dtype=np.int32)
    rank[-1] = NONE
    customers = block.customers.take(pa.array(by_part))
    part_of_row = np.append(part, np.uint8(0))[block.customer]
    rows = np.argsort(part_of_row, kind="stable")
    bounds = np.searchsorted(part_of_row[rows], np.arange(PARTS + 1))
    for number in range(PARTS):
        taken = rows[bounds[number] : bounds[number + 1]]
        if not len(taken):
            continue
        low, high = int(first[number]), int(first[number + 1])
        ranks = rank[block.customer[taken]]
        yield (
            number,
            RowBlock(
                customers.slice(low, high - low),
                np.where(ranks == NONE, NONE, ranks - low).astype(np.int32),
                block.item[taken],
                block.time_us[taken],
                block.rest[taken],
                block.unit[taken],
                block.flags[taken],
            ),
        )


def concatenate(blocks: Sequence[RowBlock]) -> RowBlock:
    """All rows in one block, each customer once."""
    if len(blocks) == 1:
        return blocks[0]
    if not blocks:
        return _NO_ROWS
    coded = pa.chunked_array([_coded(block) for block in blocks]).unify_dictionaries()
    indices = [chunk.indices.fill_null(NONE).to_numpy() for chunk in coded.chunks]
    arrays = {
        name: np.concatenate([getattr(block, name) for block in blocks]) for name in _ARRAYS[1:]
    }
    return RowBlock(coded.chunk(0).dictionary, np.concatenate(indices).astype(np.int32), **arrays)


def _coded(block: RowBlock) -> pa.DictionaryArray:
    codes = pa.array(block.customer, pa.int32(), mask=block.customer == NONE)
    return pa.DictionaryArray.from_arrays(codes, block.customers)


def encode(block: RowBlock) -> bytes:
    """A block as an Arrow stream, compressed; `decode` gives it back."""
    rows = pa.record_batch(
        [_coded(block), *(pa.array(getattr(block, name)) for name in _ARRAYS[1:])],
        names=list(_ARRAYS),
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(
        sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")
    ) as stream:
        stream.write_batch(rows)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def decode(data: bytes) -> RowBlock:
    """Reads what `encode` wrote."""
    with pa.ipc.open_stream(pa.py_buffer(data)) as stream:
        rows = stream.read_next_batch()
    customer = rows.column(0)
    return RowBlock(
        customer.dictionary,
        customer.indices.fill_null(NONE).to_numpy(),
        *(rows.column(place).to_numpy() for place in range(1, len(_ARRAYS))),
    )


_NO_ROWS = RowBlock(
    pa.array([], pa.string()),
    np.zeros(0, dtype=np.int32),
    np.zeros(0, dtype=np.int32),
    np.zeros(0, dtype=np.int64),
    np.zeros(0, dtype=np.uint64),
    np.zeros(0, dtype=np.int32),
    np.zeros(0, dtype=np.uint8),
)
