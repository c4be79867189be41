"""Histories in memory: a customer's own row, and never another's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.dataset import MS_PER_WEEK, PreferenceDataset
from client.recommend.histories import Histories, HistoryWindow, with_purchases
from client.recommend.settings import HistorySettings
from client.training.personalisation import bought
from client.training.rows import recency
from common.timestamps import parse_time
from tests.support.preference_data import dataset_of
from tests.support.served_region import model_plan

A, B, C = "0a" * 32, "0b" * 32, "ff" * 32
# Begins as A does, for eight bytes and for thirty-one.
A_TWIN, A_NEARLY = "0a" * 8 + "0b" * 24, "0a" * 31 + "0b"
HISTORY = {
    A: {3: [1.0, 2.5], 7: [10.0]},
    B: {0: [0.5]},
    A_TWIN: {1: [3.0]},
    A_NEARLY: {2: [4.0], 5: [4.0, 4.0, 1.0]},
}


def histories() -> tuple[PreferenceDataset, Histories]:
    dataset = dataset_of(HISTORY, 9)
    return dataset, Histories.of(dataset, consent_size=12)


def same(one: PreferenceDataset, other: PreferenceDataset) -> bool:
    return (
        one.sids == other.sids
        and all(
            np.array_equal(mine, its)
            for mine, its in (
                (one.indptr, other.indptr),
                (one.indices, other.indices),
                (one.counts.values, other.counts.values),
                (one.last_ms, other.last_ms),
                (one.ages_weeks, other.ages_weeks),
            )
        )
        and (one.start_ms, one.end_ms, one.n_items) == (other.start_ms, other.end_ms, other.n_items)
    )


@pytest.mark.parametrize("sid", HISTORY)
def test_a_customers_row_is_hers(sid: str) -> None:
    _, found = histories()
    assert same(found.row(sid), dataset_of({sid: HISTORY[sid]}, 9))


@pytest.mark.parametrize("sid", [C, "00" * 32, "0a" * 30 + "0b0b", "0a" * 8 + "0c" * 24])
def test_whoever_is_unknown_has_no_row(sid: str) -> None:
    _, found = histories()
    row = found.row(sid)
    assert (row.n_customers, len(row.indices), len(row.ages_weeks)) == (0, 0, 0)


def test_rows_of_several_in_the_order_given() -> None:
    dataset, found = histories()
    assert same(found.rows(dataset.sids), dataset)
    some = found.rows([B, C, A])
    assert some.sids == (B, C, A)
    assert np.diff(some.indptr).tolist() == [1, 0, 2]
    assert some.indices.tolist() == [0, 3, 7]
    assert found.rows([C]).n_customers == 1
    assert found.rows([]).n_customers == 0


def test_a_region_without_histories() -> None:
    none = Histories.none(HistoryWindow(0, 10), 9)
    assert (none.n_customers, none.first_sids(5)) == (0, [])
    assert none.row(A).n_customers == 0


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.binary(min_size=32, max_size=32).map(bytes.hex),
        st.dictionaries(st.integers(0, 8), st.lists(st.integers(1, 400), min_size=1), min_size=1),
        max_size=6,
    )
)
def test_every_row_is_the_data_sets(customers: dict[str, dict[int, list[int]]]) -> None:
    plain = {
        sid: {item: [week / 10 for week in weeks] for item, weeks in items.items()}
        for sid, items in customers.items()
    }
    dataset = dataset_of(plain, 9)
    found = Histories.of(dataset, consent_size=1)
    assert found.first_sids(10) == list(dataset.sids)
    for sid in customers:
        assert same(found.row(sid), dataset_of({sid: plain[sid]}, 9))


def test_purchases_of_this_moment_are_purchases() -> None:
    """As if the store had had them at the window's end."""
    _, found = histories()
    row = with_purchases(found.row(A), A, [7, 1, 7])
    expected = dataset_of({A: {3: [1.0, 2.5], 7: [10.0, 0.0, 0.0], 1: [0.0]}}, 9)
    assert same(row, expected)
    assert recency(row).max() == 1.0
    new = with_purchases(found.row(C), C, [4])
    assert same(new, dataset_of({C: {4: [0.0]}}, 9))
    assert bought(new).items.tolist() == [4]
    assert with_purchases(found.row(A), A, []) is not None
    assert same(with_purchases(found.row(A), A, []), found.row(A))


def test_the_window_ends_where_the_settings_say() -> None:
    plan, now = model_plan(), 1_800_000_000_000
    window = HistoryWindow.of(HistorySettings(), plan, now_ms=now)
    assert (window.start_ms, window.end_ms) == (now + 1 - 52 * MS_PER_WEEK, now + 1)
    model = HistoryWindow.of(HistorySettings(weeks=2, until="model"), plan, now_ms=now)
    assert model.end_ms == parse_time(plan.train_until)
    assert model.end_ms - model.start_ms == 2 * MS_PER_WEEK
    stated = HistorySettings(until="2020-01-01T00:00:00.000Z", weeks=1040)
    assert HistoryWindow.of(stated, plan, now_ms=now).end_ms == 1_577_836_800_000
    assert HistoryWindow.of(stated, plan, now_ms=now).start_ms > 0
