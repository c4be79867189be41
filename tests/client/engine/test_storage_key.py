"""The storage key's change: whatever moment a crash comes at, one key opens the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from client.engine.storage_key import StorageKeyFile, make_storage_key
from common.errors import InputError, StorageError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    make_storage_key(tmp_path / "storage.key")
    return tmp_path / "storage.key"


def test_a_value_opens_only_in_its_context_and_under_its_key(path: Path) -> None:
    key = StorageKeyFile(path).find(lambda: None)
    sealed = key.seal(b"value", b"context")
    assert key.open(sealed, b"context") == b"value"
    assert key.seal(b"value", b"context") != sealed
    make_storage_key(path)
    other = StorageKeyFile(path).find(lambda: None)
    flipped = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for wrong_key, value, context in [
        (key, sealed, b"another context"),
        (key, flipped, b"context"),
        (key, b"", b"context"),
        (other, sealed, b"context"),
    ]:
        with pytest.raises(StorageError, match="does not decrypt"):
            wrong_key.open(value, context)


def test_a_table_under_another_key_is_refused(path: Path) -> None:
    fingerprint = StorageKeyFile(path).find(lambda: None).fingerprint
    assert StorageKeyFile(path).find(lambda: fingerprint).fingerprint == fingerprint
    make_storage_key(path)
    with pytest.raises(StorageError, match="another storage key"):
        StorageKeyFile(path).find(lambda: fingerprint)


@pytest.mark.parametrize("content", [None, b"", b"k" * 31, b"k" * 33])
def test_a_missing_or_malformed_key_is_named(path: Path, content: bytes | None) -> None:
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"storage\.key"):
        StorageKeyFile(path).find(lambda: None)


def drawn(file: StorageKeyFile) -> None:
    file.draw_next()


def half_overwritten(file: StorageKeyFile) -> None:
    file.draw_next()
    file._path.write_bytes(b"x" * 32)


@pytest.mark.parametrize("stop_after", [drawn, half_overwritten])
def test_a_change_that_the_table_has_made_is_finished(
    path: Path, stop_after: Callable[[StorageKeyFile], None]
) -> None:
    file = StorageKeyFile(path)
    old = path.read_bytes()
    stop_after(file)
    new = file._next.read_bytes()
    (path.parent / ".storage.key.next.77.tmp").write_bytes(b"left by a crash while writing")
    opened = StorageKeyFile(path)
    fingerprint = StorageKeyFile(file._next).find(lambda: None).fingerprint
    opened.find(lambda: fingerprint)
    assert opened.finished
    assert path.read_bytes() == new != old
    names = {each.name for each in path.parent.iterdir()}
    assert names == {"storage.key", "storage.key.lock"}
    assert (path.stat().st_mode & 0o777) == 0o600


def test_a_change_that_the_table_has_not_made_is_taken_back(path: Path) -> None:
    old = path.read_bytes()
    fingerprint = StorageKeyFile(path).find(lambda: None).fingerprint
    StorageKeyFile(path).draw_next()
    opened = StorageKeyFile(path)
    assert opened.find(lambda: fingerprint).fingerprint == fingerprint
    assert not opened.finished
    assert path.read_bytes() == old
    assert not path.with_name("storage.key.next").exists()


def test_the_old_key_is_overwritten_where_it_lay(path: Path, tmp_path: Path) -> None:
    old = path.read_bytes()
    # A second name of the same file shows what became of its bytes.
    (tmp_path / "same-file").hardlink_to(path)
    file = StorageKeyFile(path)
    file.draw_next()
    file.activate_next()
    assert (tmp_path / "same-file").read_bytes() != old


def test_a_fingerprint_that_changed_while_waiting_does_not_lose_the_new_key(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader waits for the lock while the table is committed under the next key."""
    file = StorageKeyFile(path)
    old = file.find(lambda: None).fingerprint
    drawn(file)
    new = file._next.read_bytes()
    said = [old]
    changing = StorageKeyFile.changing

    @contextmanager
    def committed_meanwhile(self: StorageKeyFile) -> Iterator[None]:
        said[0] = StorageKeyFile(file._next).find(lambda: None).fingerprint
        with changing(self):
            yield

    monkeypatch.setattr(StorageKeyFile, "changing", committed_meanwhile)
    assert StorageKeyFile(path).find(lambda: said[0]).fingerprint == said[0] != old
    assert path.read_bytes() == new
