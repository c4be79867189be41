from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from common.metrics import (
    coverage_at_k,
    gini_at_k,
    hit_rate_at_k,
    hits,
    long_tail,
    ndcg_at_k,
    novelty_at_k,
    recall_at_k,
    tail_share_at_k,
)
from common.ranking import NO_ITEM, ItemSets


def sets_of(customers: list[set[int]], n_items: int = 30) -> ItemSets:
    bounds = np.concatenate([[0], np.cumsum([len(items) for items in customers])])
    items = [item for customer in customers for item in sorted(customer)]
    return ItemSets(bounds.astype(np.int64), np.array(items, dtype=np.int64), n_items)


def naive_ndcg(ranked: list[int], relevant: set[int], k: int) -> float:
    if not relevant:
        return math.nan
    gain = sum(1 / math.log2(p + 2) for p, item in enumerate(ranked[:k]) if item in relevant)
    return gain / sum(1 / math.log2(p + 2) for p in range(min(k, len(relevant))))


CASES = st.lists(
    st.tuples(st.permutations(range(30)), st.sets(st.integers(0, 29), max_size=15)),
    min_size=1,
    max_size=5,
)


@given(CASES, st.integers(1, 25))
def test_metrics_are_those_of_a_naive_implementation(
    cases: list[tuple[list[int], set[int]]], k: int
) -> None:
    ranked = np.array([order[:25] for order, _ in cases])
    relevant = sets_of([items for _, items in cases])
    for row, (order, items) in enumerate(cases):
        found = [item for item in order[:k] if item in items]
        recall = len(found) / len(items) if items else math.nan
        hit = float(bool(found)) if items else math.nan
        expected = naive_ndcg(order, items, k)
        assert ndcg_at_k(ranked, relevant, k)[row] == pytest.approx(expected, nan_ok=True)
        assert recall_at_k(ranked, relevant, k)[row] == pytest.approx(recall, nan_ok=True)
        assert hit_rate_at_k(ranked, relevant, k)[row] == pytest.approx(hit, nan_ok=True)


def test_known_values() -> None:
    ranked = np.array([[3, 1, 2], [3, 1, 2], [3, 1, 2], [3, NO_ITEM, NO_ITEM]])
    relevant = sets_of([{3, 1}, {2, 9}, {7}, {3, 4}])
    ideal = 1 + 1 / math.log2(3)
    assert ndcg_at_k(ranked, relevant, 3) == pytest.approx([1.0, 0.5 / ideal, 0.0, 1 / ideal])
    assert recall_at_k(ranked, relevant, 3) == pytest.approx([1.0, 0.5, 0.0, 0.5])
    assert hit_rate_at_k(ranked, relevant, 3) == pytest.approx([1.0, 1.0, 0.0, 1.0])
    assert hits(ranked, relevant)[3].tolist() == [True, False, False]
    assert coverage_at_k(ranked, 30, 2) == pytest.approx(2 / 30)


def test_a_free_place_is_no_hit_even_if_nothing_else_is_there() -> None:
    ranked = np.full((1, 3), NO_ITEM)
    assert ndcg_at_k(ranked, sets_of([{0}]), 3).tolist() == [0.0]
    assert coverage_at_k(ranked, 30, 3) == 0.0


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="customers"):
        hits(np.zeros((2, 3), dtype=np.int64), sets_of([{1}]))
    with pytest.raises(InputError, match="no first 4"):
        ndcg_at_k(np.zeros((1, 3), dtype=np.int64), sets_of([{1}]), 4)


def test_equal_exposure_has_no_inequality_and_one_item_alone_has_most() -> None:
    rows = np.array([[0, 1], [2, 3]])
    assert gini_at_k(rows, 4, 2) == pytest.approx(0.0)
    assert gini_at_k(np.array([[0], [0]]), 4, 1) == pytest.approx(1 - 1 / 4)
    assert gini_at_k(np.full((3, 2), NO_ITEM), 4, 2) == 0.0


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40))
def test_inequality_is_half_the_relative_mean_difference(shown: list[int]) -> None:
    counts = np.bincount(shown, minlength=10).astype(float)
    apart = np.abs(counts[:, None] - counts[None, :]).mean() / (2 * counts.mean())
    assert gini_at_k(np.array(shown)[:, None], 10, 1) == pytest.approx(apart)


def test_novelty_is_how_rare_the_shown_items_are() -> None:
    popularity = np.array([8.0, 2.0, 0.0])
    ranked = np.array([[0, 1], [1, NO_ITEM], [NO_ITEM, NO_ITEM], [2, 2]])
    found = novelty_at_k(ranked, popularity, 8, 2)
    assert found == pytest.approx([(0 + 2) / 2, 2.0, np.nan, 4.0], nan_ok=True)


def test_the_head_is_the_fewest_items_that_have_most_of_what_was_bought() -> None:
    popularity = np.array([1.0, 50.0, 30.0, 19.0, 0.0])
    assert long_tail(popularity).tolist() == [True, False, False, True, True]
    assert long_tail(popularity, head_share=0.81).tolist() == [True, False, False, False, True]
    shares = tail_share_at_k(
        np.array([[1, 0], [0, 4], [NO_ITEM, NO_ITEM]]), long_tail(popularity), 2
    )
    assert shares == pytest.approx([0.5, 1.0, np.nan], nan_ok=True)
