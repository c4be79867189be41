from __future__ import annotations

import pytest
from markupsafe import Markup

from simulations import report_numbers as numbers


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (999, "999"), (2469, "2,469"), (-1234, "−1,234")]
)
def test_integer_groups_thousands_and_has_a_true_minus(value, text):
    assert numbers.integer(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "no"), (1, "one"), (12, "twelve"), (13, "13"), (-1, "−1")]
)
def test_word(value, text):
    assert numbers.word(value) == text


def test_plural():
    assert numbers.plural(1, "region") == "1 region"
    assert numbers.plural(5, "region") == "5 regions"
    assert numbers.plural(2, "entry", "entries") == "2 entries"


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (1, 3, "33.3%"),
        (0, 3, "0.0%"),
        (3, 3, "100.0%"),
        (99_999, 100_000, ">99.9%"),
        (1, 100_000, "<0.1%"),
        (0, 0, "–"),
    ],
)
def test_share_is_never_rounded_to_all_or_nothing(part, whole, text):
    assert numbers.share(part, whole) == text


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (36_900, "36.9 kB"),
        (365_672, "366 kB"),
        (999_999, "1000 kB"),
        (1_483_210_752, "1.48 GB"),
    ],
)
def test_size(n_bytes, text):
    assert numbers.size(n_bytes) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [("7.999214", "7.9993"), ("8", "8.0000"), ("0.00001", "0.0001"), ("0", "0.0000")],
)
def test_epsilon_never_understates(value, text):
    assert numbers.epsilon(value) == text
    assert float(numbers.epsilon(value, decimals=2)) >= float(value)


@pytest.mark.parametrize(
    ("spent", "cap", "text"),
    [("7.999214", "8", "0.0007"), ("8", "8", "0.0000"), ("8.1", "8", "0.0000")],
)
def test_epsilon_left_never_overstates(spent, cap, text):
    assert numbers.epsilon_left(spent, cap) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0.000001", "10<sup>−6</sup>"),
        ("1e-8", "10<sup>−8</sup>"),
        ("0.0000100", "10<sup>−5</sup>"),
        ("0.000002", "0.000002"),
        ("0.000011", "0.000011"),
    ],
)
def test_delta_is_a_power_of_ten_where_it_is_one(value, text):
    assert numbers.delta(value) == Markup(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (96.27, "1 min 36 s"), (120, "2 min 00 s")],
)
def test_seconds(value, text):
    assert numbers.seconds(value) == text


def test_times_and_digests():
    assert numbers.clock("2026-11-03T14:05:24.120Z") == "14:05:24"
    assert numbers.moment("2026-11-03T14:05:24.120Z") == "2026-11-03 14:05:24 UTC"
    assert numbers.hash_lines("ab" * 32) == ["ab" * 16, "ab" * 16]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([2, 3, 4, 5], "2–5"),
        ([1], "1"),
        ([1, 3, 4, 7], "1, 3–4, 7"),
        ([], ""),
        ([5, 2, 1], "1–2, 5"),
    ],
)
def test_ranges(values, text):
    assert numbers.ranges(values) == text


def test_array_words():
    assert numbers.data_type("<f4") == "32-bit float"
    assert numbers.data_type("<i8") == "64-bit integer"
    assert numbers.data_type("odd") == "odd"
    assert numbers.shape([200, 8]) == "200 × 8"
    assert numbers.decimal("1.706131") == "1.706"
    assert numbers.decimal(0.00001234, 2) == "0.000012"
    assert numbers.decimal(98.0) == "98"
