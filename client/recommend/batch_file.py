"""The Parquet file of a batch: its columns, and how it comes to be there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common.durable_file import sync_folder
from common.errors import InputError
from common.ranking import NO_ITEM

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

#: What the file's metadata call it.
VERSION = "fedpref-batch/1"
COLUMNS = pa.schema(
    [
        # As the store refers to her; null in the one row that is for everybody else.
        pa.field("customer", pa.string()),
        pa.field("personal", pa.bool_(), nullable=False),
        pa.field("items", pa.list_(pa.string()), nullable=False),
        pa.field("scores", pa.list_(pa.float64()), nullable=False),
    ]
)
# Readable by its owner alone: it says what each customer is likely to buy.
_MODE = 0o600


class BatchFile:
    """Rows for a batch's file.

    Args:
        writer: Writes `COLUMNS`.
        catalogue: The items' references, in the order of their numbers.
    """

    def __init__(self, writer: pq.ParquetWriter, catalogue: Sequence[str]) -> None:
        self._writer = writer
        self._references = pa.array(catalogue, pa.string())

    def add(
        self,
        customers: Sequence[str | None],
        numbers: IntArray,
        scores: FloatArray,
        *,
        personal: bool,
    ) -> None:
        """Writes lists.

        Args:
            customers: Whose they are; None for everybody else.
            numbers: int64[n, k], `NO_ITEM` behind the last of each.
            scores: float64[n, k].
            personal: Whether they are their own.
        """
        there = numbers != NO_ITEM
        bounds = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32)
        items = self._references.take(pa.array(numbers[there]))
        columns = [
            pa.array(customers, pa.string()),
            pa.array(np.full(len(numbers), personal)),
            pa.ListArray.from_arrays(pa.array(bounds), items),
            pa.ListArray.from_arrays(pa.array(bounds), pa.array(scores[there])),
        ]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._writer.schema))


@contextmanager
def drafted(out: Path) -> Iterator[Path]:
    """A path beside the file to be made, for a draft of it; nothing is left of it afterwards.

    Raises:
        InputError: The file cannot be made there.
    """
    if out.is_dir() or not out.parent.is_dir():
        raise InputError(
            f"{out} is a folder, or in none: no batch can be written there.",
            remedy="Name a file in a folder that exists.",
        )
    draft = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def opened(draft: Path, metadata: Mapping[str, str]) -> Iterator[pq.ParquetWriter]:
    """Opens a draft for writing, in place of what it was; whole and on the disk afterwards.

    Args:
        draft: Its path.
        metadata: What the file says of itself.

    Raises:
        OSError: As the operating system says.
    """
    schema = COLUMNS.with_metadata({"version": VERSION, **metadata})
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _MODE)
    with os.fdopen(descriptor, "wb") as file:
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            yield writer
        file.flush()
        os.fsync(file.fileno())


def leave_out(draft: Path, customers: Collection[str], metadata: Mapping[str, str]) -> None:
    """Writes a draft anew without some customers' rows, a group of rows at a time.

    Args:
        draft: Its path.
        customers: Whose rows are left out.
        metadata: What the new file says of itself.
    """
    other = draft.with_name(f"{draft.name}.new")
    gone = pa.array(sorted(customers), pa.string())
    try:
        with pq.ParquetFile(draft) as before, opened(other, metadata) as writer:
            for group in range(before.num_row_groups):
                table = before.read_row_group(group)
                # The row for everybody else has no customer, who is not among them.
                kept = table.filter(pc.invert(pc.is_in(table["customer"], value_set=gone)))
                writer.write_table(kept.replace_schema_metadata(writer.schema.metadata))
        other.replace(draft)
    finally:
        other.unlink(missing_ok=True)


def publish(draft: Path, out: Path) -> int:
    """Puts a draft in the file's place; gives its size in bytes."""
    size = draft.stat().st_size
    draft.replace(out)
    sync_folder(out.parent)
    return size
