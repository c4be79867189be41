"""The map of keys: who is who across channels, and what is left out where it does not say."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.customer_keys import CustomerKeys
from common.errors import InputError


def keys(*rows: tuple[str, str, str]) -> CustomerKeys:
    return CustomerKeys.of_rows(pd.DataFrame(rows, columns=["channel", "key", "customer"]))


def unified(found: CustomerKeys, channel: str, *references: str | None) -> list[str | None]:
    result = found.unify(channel, pd.Categorical(references))
    return [None if each != each else each for each in result.customers.tolist()]


def test_keys_of_a_channel_become_the_regions_own_references() -> None:
    found = keys(("web", "a", "1"), ("web", "b", "2"), ("app", "a", "3"), ("web", "a", "1"))
    assert unified(found, "web", "b", "a", None, "z", "a") == ["2", "1", None, None, "1"]
    assert unified(found, "app", "a") == ["3"]
    assert found.conflicts == 0


def test_a_key_of_two_customers_is_nobodys() -> None:
    found = keys(("web", "a", "1"), ("web", "a", "2"), ("web", "b", "2"))
    result = found.unify("web", pd.Categorical(["a", "b", "c", None]))
    assert found.conflicts == 1
    assert result.customers.isna().tolist() == [True, False, True, True]
    assert result.ambiguous.tolist() == [True, False, False, False]
    assert result.unmatched.tolist() == [False, False, True, False]


def test_a_channel_without_any_key_is_refused() -> None:
    with pytest.raises(InputError, match="it has web"):
        keys(("web", "a", "1")).unify("till", pd.Categorical(["a"]))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from("kl"), st.sampled_from("12")),
        min_size=1,
        max_size=12,
    ),
    st.lists(st.sampled_from(["k", "l", "m", None]), max_size=8),
)
def test_it_is_what_looking_each_key_up_gives(
    rows: list[tuple[str, str, str]], references: list[str | None]
) -> None:
    found, channel = keys(*rows), rows[0][0]
    result = found.unify(channel, pd.Categorical(references))
    for place, key in enumerate(references):
        owners = {row[2] for row in rows if row[:2] == (channel, key)}
        customer = result.customers[place]
        assert (owners == {customer}) if customer == customer else len(owners) != 1
        assert result.ambiguous[place] == (len(owners) > 1)
        assert result.unmatched[place] == (key is not None and not owners)
