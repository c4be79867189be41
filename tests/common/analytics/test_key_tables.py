"""Released keys to be read: each region's, their union, and what is only known from below."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from common.analytics.key_arrays import packed_keys
from common.analytics.key_tables import MOST_SHOWN, KeyTable, key_lines, key_table
from common.analytics.key_union import KeyUnion
from common.errors import FormatError

QUESTION = KeyUnion("terms", 4, 1e-8, keys=4, key_bytes=16)
SIGMA = 2.0
REGIONS = ("north", "south")


def published(**regions: dict[str, float]) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    for region, values in regions.items():
        own = packed_keys(QUESTION, [*values], np.array([*values.values()], dtype=np.float32))
        arrays |= {f"{region}/{name}": each for name, each in own.items()}
    return arrays


def test_the_union_has_each_regions_values_and_says_where_they_are_from() -> None:
    arrays = published(north={"milk": 50.0, "tea": 20.0}, south={"milk": 30.0, "ale": 40.0})
    table = key_table(QUESTION, REGIONS, arrays)
    assert table.keys == ("ale", "milk", "tea")
    assert table.releasing == [1, 2, 1]
    np.testing.assert_array_equal(table.sums, [40.0, 80.0, 20.0])
    lines = {line.label: line for line in key_lines(QUESTION, table, SIGMA)}
    assert [*lines] == ["milk", "ale", "tea"]
    milk, ale = lines["milk"], lines["ale"]
    reach = 1.96 * SIGMA * 2 * math.sqrt(2)
    assert (milk.value, milk.high) == (160.0, pytest.approx(160 + reach, rel=1e-3))
    assert milk.low == pytest.approx(160 - reach, rel=1e-2)
    assert milk.note == "in 2 of 2 regions"
    # The other region may have it all the same.
    assert (ale.value, ale.high) == (80.0, None)
    assert ale.note == "at least: in 1 of 2 regions"
    assert ale.interval.endswith("…")


def test_of_one_region_nothing_is_said_of_others() -> None:
    arrays = published(north={"milk": 50.0})
    (line,) = key_lines(QUESTION, key_table(QUESTION, ("north",), arrays), SIGMA)
    assert (line.note, line.value) == ("", 100.0)
    assert line.high is not None


def test_that_nothing_is_released_is_said_and_that_there_was_no_room() -> None:
    (none,) = key_lines(QUESTION, key_table(QUESTION, ("north",), published(north={})), SIGMA)
    assert (none.value, none.note) == (None, "none that enough customers have")
    full = published(north=dict.fromkeys("abcd", 50.0))
    *_, last = key_lines(QUESTION, key_table(QUESTION, ("north",), full), SIGMA)
    assert last.note == "4 keys of a region: others may have passed, too"


def test_only_the_largest_are_shown() -> None:
    table = KeyTable(tuple(f"k{n:03d}" for n in range(90)), np.arange(100.0, 190.0).reshape(90, 1))
    lines = key_lines(KeyUnion("terms", 4, 1e-8), table, SIGMA)
    assert len(lines) == MOST_SHOWN
    assert lines[0].label == "k089"


def test_arrays_that_are_no_keys_are_refused() -> None:
    arrays = published(north={"milk": 50.0})
    with pytest.raises(KeyError):
        key_table(QUESTION, REGIONS, arrays)
    with pytest.raises(ValueError, match="another shape"):
        key_table(QUESTION, ("north",), arrays | {"north/terms": np.zeros(5, np.float32)})
    with pytest.raises(FormatError, match="unused"):
        key_table(QUESTION, ("north",), arrays | {"north/terms": np.zeros(4, np.float32)})
