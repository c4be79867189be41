"""The verifier's compact table of keys against a dict."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.audit.verify.numbered_keys import NumberedKeys


@given(st.lists(st.binary(min_size=3, max_size=3)))
def test_it_numbers_as_a_dict_would(keys: list[bytes]) -> None:
    table, numbers = NumberedKeys(3), dict[bytes, int]()
    for key in keys:
        assert table.find(key) == numbers.get(key)
        if key not in numbers:
            numbers[key] = len(numbers)
            assert table.add(key) == numbers[key]
    assert len(table) == len(numbers)
    for key, number in numbers.items():
        assert table[number] == key
        assert table.find(key) == number


def test_it_grows_and_forgets_nothing() -> None:
    table = NumberedKeys(4)
    for number in range(20_000):
        assert table.add(number.to_bytes(4, "big")) == number
    assert all(table.find(number.to_bytes(4, "big")) == number for number in range(20_000))
    assert table.find((20_000).to_bytes(4, "big")) is None
