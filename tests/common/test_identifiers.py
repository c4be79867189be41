from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.consent import new_ulid, subject_id
from common.errors import FormatError
from common.identifiers import ULID, ulid_ms
from common.timestamps import now_ms

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def _number(ulid: str) -> int:
    return sum(ALPHABET.index(digit) << 5 * place for place, digit in enumerate(reversed(ulid)))


def test_a_ulid_holds_the_time_and_80_random_bits() -> None:
    before = now_ms()
    ulids = [new_ulid() for _ in range(2000)]
    after = now_ms()
    assert len(set(ulids)) == len(ulids)
    random_bits = 0
    for ulid in ulids:
        assert ULID.fullmatch(ulid)
        assert before <= _number(ulid) >> 80 <= after
        random_bits |= _number(ulid) & (1 << 80) - 1
    assert random_bits == (1 << 80) - 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "01ARZ3NDEKTSV4RRFFQ69G5FA",
        "01ARZ3NDEKTSV4RRFFQ69G5FAVX",
        "81ARZ3NDEKTSV4RRFFQ69G5FAV",  # more than 128 bits
        "01arz3ndektsv4rrffq69g5fav",
        "01ARZ3NDEKTSV4RRFFQ69G5FAI",
        "01ARZ3NDEKTSV4RRFFQ69G5FAL",
        "01ARZ3NDEKTSV4RRFFQ69G5FAO",
        "01ARZ3NDEKTSV4RRFFQ69G5FAU",
        "01ARZ3NDEKTSV4RRFFQ69G5FAV\n",
    ],
)
def test_other_spellings_are_no_ulid(text: str) -> None:
    assert ULID.fullmatch("01ARZ3NDEKTSV4RRFFQ69G5FAV")
    assert ULID.fullmatch("7ZZZZZZZZZZZZZZZZZZZZZZZZZ")
    assert ULID.fullmatch(text) is None


@given(st.binary(min_size=32, max_size=32), st.text(min_size=1).filter(str.isprintable))
def test_a_pseudonym_is_the_stated_hash(k_subject: bytes, customer_ref: str) -> None:
    expected = hashlib.sha256(b"fedpref-sid/1" + k_subject + customer_ref.encode()).hexdigest()
    assert subject_id(k_subject, customer_ref) == expected


def test_a_pseudonym_needs_the_customers_own_key() -> None:
    assert subject_id(bytes(32), "c1") != subject_id(bytes(31) + b"\x01", "c1")
    assert subject_id(bytes(32), "c1") != subject_id(bytes(32), "c2")


@pytest.mark.parametrize("k_subject", [b"", bytes(31), bytes(33)])
def test_a_key_of_another_length_is_refused(k_subject: bytes) -> None:
    # Otherwise a byte could move between key and reference without changing the pseudonym.
    with pytest.raises(FormatError, match="32 bytes"):
        subject_id(k_subject, "c1")


@pytest.mark.parametrize("customer_ref", ["", "\ud83d"])
def test_an_unusable_reference_is_refused(customer_ref: str) -> None:
    with pytest.raises(FormatError, match="reference"):
        subject_id(bytes(32), customer_ref)


@pytest.mark.parametrize("time_ms", [0, 1, 1_700_000_000_123, (1 << 48) - 1])
def test_a_ulid_says_when_it_was_made(time_ms: int) -> None:
    assert ulid_ms(new_ulid(time_ms)) == time_ms
    assert _number(new_ulid(time_ms)) >> 80 == time_ms


@pytest.mark.parametrize("text", ["", "8" + "0" * 25, "0" * 25, "0" * 27, "0" * 25 + "U"])
def test_what_is_no_ulid_says_nothing(text: str) -> None:
    with pytest.raises(FormatError):
        ulid_ms(text)
