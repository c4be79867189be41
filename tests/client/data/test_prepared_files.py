from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from client.data.prepared_files import (
    DamagedRowsError,
    SegmentFile,
    SegmentWriter,
    segment_path,
)
from client.data.row_blocks import PARTS, RowBlock
from client.engine.storage_key import StorageKey
from common.errors import StorageError

KEY = StorageKey(b"k" * 32)


def block(*customers: str) -> RowBlock:
    count = len(customers)
    return RowBlock(
        pa.array(customers, pa.string()),
        np.arange(count, dtype=np.int32),
        np.arange(count, dtype=np.int32),
        np.arange(count, dtype=np.int64),
        np.arange(count, dtype=np.uint64),
        np.ones(count, dtype=np.int32),
        np.ones(count, dtype=np.uint8),
    )


def customers(file: SegmentFile, part: int) -> list[str]:
    return [name for each in file.blocks(part) for name in each.customers.to_pylist()]


@pytest.fixture
def segment(tmp_path: Path) -> str:
    writer = SegmentWriter(tmp_path, KEY)
    writer.add(0, block("anna", "ben"))
    writer.add(PARTS - 1, block("confidential-reference"))
    writer.add(0, block("eve"))
    writer.finish()
    assert writer.rows == 4
    return writer.name


def test_parts_are_read_by_themselves(tmp_path: Path, segment: str) -> None:
    file = SegmentFile(tmp_path, segment, KEY)
    assert customers(file, 0) == ["anna", "ben", "eve"]
    assert customers(file, 1) == []
    assert customers(file, PARTS - 1) == ["confidential-reference"]


def test_nobody_else_can_read_them(tmp_path: Path, segment: str) -> None:
    path = segment_path(tmp_path, segment)
    assert path.stat().st_mode & 0o777 == 0o600
    data = path.read_bytes()
    assert b"anna" not in data
    assert b"confidential" not in data
    assert b"customer" not in data
    with pytest.raises(DamagedRowsError, match="does not decrypt"):
        SegmentFile(tmp_path, segment, StorageKey(b"x" * 32))


def test_a_segment_that_is_removed_can_be_read_by_who_has_it_open(
    tmp_path: Path, segment: str
) -> None:
    file = SegmentFile(tmp_path, segment, KEY)
    segment_path(tmp_path, segment).unlink()
    assert customers(file, 0) == ["anna", "ben", "eve"]
    with pytest.raises(DamagedRowsError, match="No such file"):
        SegmentFile(tmp_path, segment, KEY)


def test_every_byte_is_guarded(tmp_path: Path, segment: str) -> None:
    path = segment_path(tmp_path, segment)
    data = path.read_bytes()
    for at in range(0, len(data), max(len(data) // 200, 1)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(DamagedRowsError):
            _read_all(tmp_path, segment)
    for end in (0, 4, 8, 100, len(data) - 1):
        path.write_bytes(data[:end])
        with pytest.raises(DamagedRowsError):
            _read_all(tmp_path, segment)


def _read_all(folder: Path, name: str) -> None:
    file = SegmentFile(folder, name, KEY)
    for part in range(PARTS):
        customers(file, part)


def test_chunks_cannot_take_each_others_place(tmp_path: Path) -> None:
    """Sealed under the same key, and of the same length."""
    writers = [SegmentWriter(tmp_path, KEY) for _ in range(2)]
    for number, writer in enumerate(writers):
        writer.add(0, block(f"anna{number}"))
        writer.add(1, block(f"ben-{number}"))
        writer.finish()
    paths = [segment_path(tmp_path, writer.name) for writer in writers]
    first, second = (path.read_bytes() for path in paths)
    assert len(first) == len(second)
    # The other segment's whole content under this one's name; then its own chunks exchanged.
    paths[0].write_bytes(second)
    with pytest.raises(DamagedRowsError):
        SegmentFile(tmp_path, writers[0].name, KEY)
    ((at, length),) = SegmentFile(tmp_path, writers[1].name, KEY)._index[0]
    paths[1].write_bytes(second[length : 2 * length] + second[:length] + second[2 * length :])
    with pytest.raises(DamagedRowsError, match="does not decrypt"):
        _read_all(tmp_path, writers[1].name)
    assert at == 0


def test_what_is_discarded_leaves_nothing(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, KEY)
    writer.add(0, block("anna"))
    writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SegmentWriter(tmp_path, KEY)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"cannot be kept in .*: No space left on device"):
        writer.finish()
    with pytest.raises(StorageError, match=r"cannot be kept in .*: No such file or directory"):
        SegmentWriter(tmp_path / "nowhere", KEY)


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_descriptors_are_closed_with_their_segments(tmp_path: Path, segment: str) -> None:
    before = open_descriptors()
    files = [SegmentFile(tmp_path, segment, KEY) for _ in range(5)]
    assert open_descriptors() == before + 5
    files.clear()
    assert open_descriptors() == before
