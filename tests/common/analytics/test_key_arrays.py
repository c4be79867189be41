"""Keys as arrays of a public size: one form for each text, and nothing but such texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.analytics.key_arrays import (
    MOST_TYPED,
    check_keys,
    key_specs,
    normalised_key,
    packed_keys,
    unpacked_keys,
)
from common.analytics.key_union import KeyUnion
from common.errors import FormatError

QUESTION = KeyUnion("terms", 4, 1e-8, keys=6, key_bytes=16)
SIGMA, GRID = 2.0, -10
LEAST = QUESTION.least_released(SIGMA, GRID)
Arrays = dict[str, Any]


def packed(**values: float) -> Arrays:
    given_values = np.array([*values.values()], dtype=np.float32)
    return {
        name: np.array(each)
        for name, each in packed_keys(QUESTION, [*values], given_values).items()
    }


def check(arrays: Arrays, max_norm: float | None = None) -> None:
    check_keys(arrays, QUESTION, noise_stddev=SIGMA, grid_exponent=GRID, max_norm=max_norm)


@given(st.dictionaries(st.text(max_size=20), st.integers(1, 999), max_size=6))
def test_keys_come_back_in_the_order_of_their_bytes(texts: dict[str, int]) -> None:
    keys = {key: float(n) for text, n in texts.items() if (key := normalised_key(text, 16))}
    arrays = packed(**keys)
    found, values = unpacked_keys(QUESTION, arrays)
    assert dict(zip(found, values.tolist(), strict=True)) == keys
    assert [each.encode() for each in found] == sorted(each.encode() for each in keys)
    for spec in key_specs(QUESTION):
        assert (arrays[spec.name].dtype.str, arrays[spec.name].shape) == (spec.dtype, spec.shape)


@given(st.text(max_size=40))
def test_a_key_has_one_form_and_it_is_its_own(text: str) -> None:
    key = normalised_key(text, 64)
    if key is not None:
        assert normalised_key(key, 64) == key
        assert len(key.encode()) <= 64
        assert key.isprintable()


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("  Coffee\t\n beans ", "coffee beans"),
        ("\uff23\uff4f\uff46\uff46ee", "coffee"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("cof\u200bfee", "coffee"),
        ("\u202ecoffee", "coffee"),
        ("咖啡\u3000豆", "咖啡 豆"),
        ("", None),
        (" \u00a0\u200b ", None),
        ("a\x00b", None),
        ("\ud800", None),
        ("\ue000", None),
        ("x" * 16, "x" * 16),
        ("x" * 17, None),
        ("咖" * 6, None),
    ],
)
def test_what_people_write_in_several_ways_is_one_key(text: str, key: str | None) -> None:
    assert normalised_key(text, 16) == key


@pytest.mark.parametrize("unseen", ["\u200d", "\u00ad", "\u2060"])
def test_what_nobody_sees_parts_no_letter_from_its_accent(unseen: str) -> None:
    assert normalised_key(f"cafe{unseen}\u0301", 64) == normalised_key("café", 64) == "café"


def test_what_nobody_types_is_no_key_however_much_of_it_is_seen() -> None:
    """Putting marks in order takes time that grows with the square of their number."""
    assert normalised_key("tea" + " " * (64 * MOST_TYPED - 3), 64) == "tea"
    assert normalised_key("tea" + " " * (64 * MOST_TYPED - 2), 64) is None
    assert normalised_key("a" + "\u0301\u0316" * 1_000_000, 64) is None


def test_what_only_a_newer_unicode_knows_is_taken_in_but_made_by_nobody() -> None:
    """Else one region's newer Python would cost it an answer that it has paid for."""
    unassigned = "\u0378"
    check(packed(**{unassigned: LEAST}))
    assert normalised_key(f"tea {unassigned}", 64) is None


@pytest.mark.parametrize("key", ["Tea", "e\u0301", "\uff54ea", "stra\u00dfe"])
def test_a_key_in_another_form_is_refused(key: str) -> None:
    with pytest.raises(FormatError, match="its one form"):
        check(packed(**{key: LEAST}))


def test_what_is_as_it_must_be_passes() -> None:
    check(packed())
    check(packed(milk=LEAST, bread=400.0), max_norm=500)
    check(packed(**{f"k{n}": 100.0 for n in range(6)}))


def text_of(arrays: Arrays, row: int, text: bytes) -> None:
    numbers = np.zeros(16, dtype=np.uint8)
    numbers[: len(text)] = np.frombuffer(text, dtype=np.uint8)
    arrays["terms_keys"][row] = numbers.view("<i4")


def swapped(arrays: Arrays) -> None:
    arrays["terms_keys"][[0, 1]] = arrays["terms_keys"][[1, 0]]


WRONG: dict[str, tuple[Callable[[Arrays], object], str]] = {
    "below the threshold": (
        lambda a: a["terms"].__setitem__(0, LEAST - 2.0**GRID),
        "below the threshold",
    ),
    "a negative value": (lambda a: a["terms"].__setitem__(0, -LEAST), "below the threshold"),
    "off the grid": (lambda a: a["terms"].__setitem__(0, LEAST + 2.0**-12), "off the grid"),
    "not finite": (lambda a: a["terms"].__setitem__(0, np.inf), "not finite"),
    "no number": (lambda a: a["terms"].__setitem__(0, np.nan), "not finite"),
    "a value without a key": (lambda a: a["terms"].__setitem__(2, 100.0), "one form"),
    "a key without a value": (lambda a: text_of(a, 3, b"hidden"), "unused"),
    "a gap": (lambda a: a["terms"].__setitem__(0, 0.0), "unused"),
    "a zero with a sign": (lambda a: a["terms"].__setitem__(5, -0.0), "unused"),
    "another order": (swapped, "order"),
    "twice": (lambda a: text_of(a, 0, b"milk"), "order"),
    "no UTF-8": (lambda a: text_of(a, 0, b"\xff\xfe"), "no text"),
    "a zero within": (lambda a: text_of(a, 0, b"a\0b"), "one form"),
    "a control character": (lambda a: text_of(a, 0, b"a\nb"), "one form"),
    "space around it": (lambda a: text_of(a, 0, b" bread"), "one form"),
    "a direction": (lambda a: text_of(a, 0, "\u202ebread".encode()), "one form"),
    "beyond the norm": (lambda a: a["terms"].__setitem__(0, 600.0), "norm"),
    "one more array": (lambda a: a.update(raw=np.ones(2, np.float32)), "expected were"),
    "a longer one": (lambda a: a.update(terms=np.zeros(7, np.float32)), "expected was"),
    "another type": (lambda a: a.update(terms_keys=a["terms_keys"].astype("<i8")), "expected was"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_otherwise_is_refused(what: str) -> None:
    alter, words = WRONG[what]
    arrays = packed(bread=LEAST + 50, milk=LEAST + 60)
    check(arrays, max_norm=500)
    alter(arrays)
    with pytest.raises(FormatError, match=words):
        check(arrays, max_norm=500)
