"""A seal is whole or absent, comes back as it was, and an altered one is never used."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from client.engine.seal import Seal, SealStore
from common import failpoints
from common.errors import StorageError
from common.failpoints import Point

SEAL = Seal(
    model_in="0" * 64,
    round_entry=b'{"round":1}',
    release_entry=b'{"release":1}',
    log_size=17,
    arrays={"popularity": np.arange(6, dtype=np.float32)},
)


def test_a_seal_comes_back_as_it_was(tmp_path: Path) -> None:
    store = SealStore(tmp_path / "seals")
    assert store.read("run-1", 1) is None
    store.write("run-1", 1, SEAL)
    back = store.read("run-1", 1)
    assert back is not None
    assert (back.model_in, back.round_entry, back.release_entry, back.log_size) == (
        SEAL.model_in,
        SEAL.round_entry,
        SEAL.release_entry,
        SEAL.log_size,
    )
    np.testing.assert_array_equal(back.arrays["popularity"], SEAL.arrays["popularity"])
    assert store.read("run-1", 2) is None
    assert store.read("run-2", 1) is None


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    store = SealStore(tmp_path / "seals")
    store.write("run-1", 1, SEAL)
    (path,) = (tmp_path / "seals").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_every_altered_byte_is_noticed(tmp_path: Path) -> None:
    store = SealStore(tmp_path / "seals")
    store.write("run-1", 1, SEAL)
    (path,) = (tmp_path / "seals").iterdir()
    data = path.read_bytes()
    for index in range(len(data)):
        altered = bytearray(data)
        altered[index] ^= 0x01
        path.write_bytes(bytes(altered))
        with pytest.raises(StorageError, match="is damaged"):
            store.read("run-1", 1)


@pytest.mark.parametrize("size", [0, 3, 32, 40])
def test_a_torn_seal_is_refused_not_replaced(tmp_path: Path, size: int) -> None:
    store = SealStore(tmp_path / "seals")
    store.write("run-1", 1, SEAL)
    (path,) = (tmp_path / "seals").iterdir()
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(StorageError, match="is damaged"):
        store.read("run-1", 1)


def test_what_a_crash_left_half_written_is_removed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SealStore(tmp_path / "seals")
    store.remove_leftovers()
    store.write("run-1", 1, SEAL)

    def crash(point: Point) -> None:
        if point == Point.FILE_SYNCED:
            # As after a kill: nothing is tidied up.
            monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(failpoints, "hook", crash)
        with pytest.raises(KeyboardInterrupt):
            store.write("run-1", 2, SEAL)
    monkeypatch.undo()
    assert len(list((tmp_path / "seals").iterdir())) == 2
    store.remove_leftovers()
    assert [path.name for path in (tmp_path / "seals").iterdir()] == ["run-1-0001.seal"]


def test_a_full_disk_leaves_no_seal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SealStore(tmp_path / "seals")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        store.write("run-1", 1, SEAL)
    monkeypatch.undo()
    assert store.read("run-1", 1) is None
    assert list((tmp_path / "seals").iterdir()) == []
