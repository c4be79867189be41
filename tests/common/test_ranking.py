from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.errors import InputError
from common.ranking import (
    NO_ITEM,
    ItemSets,
    by_score,
    fill,
    ranked_pairs,
    top_k,
    top_k_entries,
)


def sets_of(*customers: list[int], n_items: int = 10) -> ItemSets:
    bounds = np.concatenate([[0], np.cumsum([len(items) for items in customers])])
    items = [item for customer in customers for item in sorted(customer)]
    return ItemSets(bounds.astype(np.int64), np.array(items, dtype=np.int64), n_items)


def plain(sets: ItemSets) -> list[list[int]]:
    return [
        sets.items[start:stop].tolist()
        for start, stop in zip(sets.indptr[:-1], sets.indptr[1:], strict=True)
    ]


SETS = sets_of([1, 5, 9], [], [0, 5])


def naive_top_k(scores: list[float], items: list[int], k: int) -> list[int]:
    pairs = zip(scores, items, strict=True)
    ranked = [item for _, item in sorted((-score, item) for score, item in pairs)]
    return (ranked + [NO_ITEM] * k)[:k]


def test_membership() -> None:
    customers, items = np.array([0, 0, 1, 2, 2, 0]), np.array([5, 0, 5, 0, 9, -1])
    assert SETS.contains(customers, items).tolist() == [True, False, False, True, False, False]
    assert not sets_of([], []).contains(np.array([0]), np.array([3])).any()
    assert SETS.table(np.array([5, 0])).tolist() == [[True, False], [False, False], [True, True]]


def test_narrowing() -> None:
    assert plain(SETS.without(sets_of([5], [1], [0, 5]))) == [[1, 9], [], []]
    universe = np.zeros(10, dtype=bool)
    universe[[0, 9]] = True
    assert plain(SETS.within(universe)) == [[9], [], [0]]
    assert plain(ItemSets.concatenated([SETS, sets_of([3])])) == [[1, 5, 9], [], [0, 5], [3]]


@given(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 4), st.integers(1, 9)),
        # Few values, so that ties are frequent.
        elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0]),
    ),
    st.integers(1, 12),
    st.data(),
)
def test_top_k_is_a_full_sort_with_ties_to_the_smaller_number(
    scores: np.ndarray, k: int, data: st.DataObject
) -> None:
    n_candidates = scores.shape[1]
    items = np.array(data.draw(st.permutations(range(20)))[:n_candidates])
    allowed = data.draw(hnp.arrays(bool, scores.shape))
    ranked = top_k(scores, items, k, allowed=allowed)
    for row in range(len(scores)):
        kept = allowed[row]
        expected = naive_top_k(scores[row][kept].tolist(), items[kept].tolist(), k)
        assert ranked[row].tolist() == expected
    assert np.array_equal(top_k(scores, items, k), top_k(scores, items, k, allowed=scores < 9))


@given(
    st.lists(st.dictionaries(st.integers(0, 9), st.sampled_from([0.0, 1.0, 2.5]))),
    st.integers(1, 5),
)
def test_top_k_of_own_candidates_is_a_full_sort(rows: list[dict[int, float]], k: int) -> None:
    candidates = sets_of(*[list(row) for row in rows])
    scores = np.array([row[item] for row in rows for item in sorted(row)])
    ranked = top_k_entries(candidates, scores, k)
    for row, found in zip(rows, ranked.tolist(), strict=True):
        assert found == naive_top_k(list(row.values()), list(row), k)


def test_a_score_that_is_not_finite_is_refused() -> None:
    for value in (np.nan, np.inf):
        with pytest.raises(InputError):
            top_k(np.array([[1.0, value]]), np.array([0, 1]), 1)
        with pytest.raises(InputError):
            top_k_entries(sets_of([3]), np.array([value]), 1)


def test_order_by_score() -> None:
    scores = np.array([1.0, 3.0, 3.0, -2.0], dtype=np.float32)
    assert by_score(scores).tolist() == [1, 2, 0, 3]
    assert by_score(scores, np.array([True, False, True, True])).tolist() == [2, 0, 3]


@given(
    # Few values, so that ties are frequent.
    st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=12),
    st.integers(0, 14),
    st.data(),
)
def test_the_first_by_score_are_those_of_the_whole_order(
    scores: list[float], most: int, data: st.DataObject
) -> None:
    values = np.array(scores)
    universe = data.draw(st.none() | hnp.arrays(bool, len(values)))
    whole = by_score(values, universe)
    assert by_score(values, universe, most=most).tolist() == whole[:most].tolist()
    named = range(len(values)) if universe is None else np.flatnonzero(universe).tolist()
    assert whole.tolist() == sorted(named, key=lambda item: (-values[item], item))


def test_pairs_are_ranked_customer_by_customer() -> None:
    customers, items = np.array([2, 0, 2, 0, 2]), np.array([7, 3, 1, 2, 4])
    scores = np.array([1.0, 5.0, 1.0, 5.0, -3.0])
    assert ranked_pairs(customers, items, scores, 3, 2).tolist() == [
        [2, 3],
        [NO_ITEM, NO_ITEM],
        [1, 7],
    ]


@given(
    st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=8, max_size=8),
    st.lists(st.sets(st.integers(0, 7)), min_size=1, max_size=3),
    st.sets(st.integers(0, 7)),
    st.integers(1, 5),
)
def test_filling_gives_the_best_that_is_left(
    scores: list[float], excluded: list[set[int]], part: set[int], width: int
) -> None:
    values, within = np.array(scores), np.isin(np.arange(8), sorted(part))
    # One item is ranked already, for whoever may have it.
    first = [0 if 0 not in own else NO_ITEM for own in excluded]
    ranked = np.full((len(excluded), width), NO_ITEM)
    ranked[:, 0] = first
    sets = sets_of(*(sorted(own) for own in excluded), n_items=8)
    found = fill(ranked, values, excluded=sets, universe=within)
    for row, (own, one) in enumerate(zip(excluded, first, strict=True)):
        order = sorted(part - own - {one}, key=lambda item: (-values[item], item))
        given = [one] if one != NO_ITEM else []
        assert found[row].tolist() == [*given, *order, *[NO_ITEM] * width][:width]


def test_free_places_are_filled_once_and_without_what_is_excluded() -> None:
    ranked = np.array([[4, NO_ITEM, NO_ITEM], [7, 8, 9], [NO_ITEM] * 3])
    scores = np.arange(10.0)
    filled = fill(ranked, scores, excluded=sets_of([9], [9], [8, 6]))
    assert filled.tolist() == [[4, 8, 7], [7, 8, 9], [9, 7, 5]]
    universe = np.zeros(10, dtype=bool)
    universe[[1, 4]] = True
    assert fill(ranked, scores, universe=universe).tolist() == [
        [4, 1, NO_ITEM],
        [7, 8, 9],
        [4, 1, NO_ITEM],
    ]
    assert ranked[0].tolist() == [4, NO_ITEM, NO_ITEM]
