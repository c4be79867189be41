"""Sealed columns: what was sealed comes out, and nothing that was altered does."""

from __future__ import annotations

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from client.governance import column_keys
from client.governance.column_keys import (
    SEAL_BYTES,
    key_context,
    new_data_key,
    open_chunks,
    seal_chunks,
)
from common.errors import StorageError

OF = ("members", "email", "f.column")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(column_keys, "CHUNK_BYTES", 16)


def sealed(data: bytes, secret: bytes, *of: str) -> bytes:
    return b"".join(seal_chunks(data, secret, *(of or OF)))


@given(data=st.binary(max_size=80))
@example(b"")
@example(b"x" * 16)
@example(b"x" * 17)
def test_what_was_sealed_comes_out(data: bytes) -> None:
    secret = new_data_key()
    closed = sealed(data, secret)
    assert open_chunks(closed, len(data), secret, *OF) == data
    chunks = max(1, -(-len(data) // 16))
    assert len(closed) == len(data) + chunks * SEAL_BYTES


@given(data=st.binary(min_size=1, max_size=80), at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_changed_bit_anywhere_is_refused(data: bytes, at: int, bit: int) -> None:
    secret = new_data_key()
    closed = bytearray(sealed(data, secret))
    closed[at % len(closed)] ^= 1 << bit
    with pytest.raises(StorageError):
        open_chunks(bytes(closed), len(data), secret, *OF)


CHUNK = 16 + SEAL_BYTES
DATA = bytes(range(48))


@pytest.mark.parametrize(
    ("change", "size"),
    [
        (lambda closed: closed[:-1], 48),
        (lambda closed: closed[:CHUNK], 16),
        (lambda closed: closed[CHUNK:], 32),
        (lambda closed: closed[CHUNK : 2 * CHUNK] + closed[:CHUNK] + closed[2 * CHUNK :], 48),
        (lambda closed: closed[:CHUNK] * 3, 48),
        (lambda closed: closed + closed[-CHUNK:], 64),
    ],
    ids=["a byte short", "first alone", "first gone", "swapped", "repeated", "one more"],
)
def test_chunks_cannot_be_left_out_moved_or_repeated(change: object, size: int) -> None:
    secret = new_data_key()
    with pytest.raises(StorageError):
        open_chunks(change(sealed(DATA, secret)), size, secret, *OF)  # type: ignore[operator]


@pytest.mark.parametrize(
    "of",
    [("others", "email", "f.column"), ("members", "phone", "f.column"), ("members", "email", "g")],
)
def test_a_column_cannot_take_anothers_place(of: tuple[str, str, str]) -> None:
    secret = new_data_key()
    with pytest.raises(StorageError):
        open_chunks(sealed(DATA, secret, *of), len(DATA), secret, *OF)


def test_a_wrapped_key_is_bound_to_all_that_its_column_is() -> None:
    own = ("members", "email", "high", "f.column")
    others = [(*own[:place], "x", *own[place + 1 :]) for place in range(len(own))]
    assert len({key_context(*each) for each in (own, *others)}) == 1 + len(own)
    # Where one name ends and the next begins is part of it.
    assert key_context("ab", "c", "high", "f") != key_context("a", "bc", "high", "f")


def test_another_key_opens_nothing() -> None:
    with pytest.raises(StorageError):
        open_chunks(sealed(DATA, new_data_key()), len(DATA), os.urandom(32), *OF)
