"""What may be shown, the best of it, and how far a list is spread."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.recommend.filters import Chosen, allowed_items, choose, most_popular
from client.recommend.scoring import Scored, ScoringTables
from client.recommend.types import Query
from common.model_state import ModelState
from tests.support.served_region import CATALOGUE, N_ITEMS, model_arrays, model_plan

PLAN = model_plan()
TABLES = ScoringTables.of(
    ModelState.from_arrays(model_arrays(PLAN)),
    CATALOGUE,
    popularity_noise_stddev=PLAN.mechanisms[0].noise_stddev,
)
EVERYTHING = np.ones(N_ITEMS, dtype=bool)


def scored(scores: dict[int, float]) -> Scored:
    items = np.array(list(scores), dtype=np.int64)
    values = np.array(list(scores.values()), dtype=np.float64)
    nothing = np.zeros(len(items))
    return Scored(items, values, nothing, values, nothing, nothing)


def query(**fields: Any) -> Query:
    return Query(customer=None, **fields)


def names(*numbers: int) -> frozenset[str]:
    return frozenset(CATALOGUE.items[number] for number in numbers)


def test_exclusions_stock_and_novelty() -> None:
    assert allowed_items(TABLES, query()).all()
    out = allowed_items(TABLES, query(exclude=names(3, 4) | {"unheard-of"}))
    assert np.flatnonzero(~out).tolist() == [3, 4]
    stocked = allowed_items(TABLES, query(in_stock=names(1, 2, 9), exclude=names(2)))
    assert np.flatnonzero(stocked).tolist() == [1, 9]
    assert not allowed_items(TABLES, query(in_stock=frozenset())).any()
    assert not allowed_items(TABLES, query(in_stock=frozenset({"unheard-of"}))).any()
    bought = allowed_items(TABLES, query(new_only=True), bought=[5], left_out=[6])
    assert np.flatnonzero(~bought).tolist() == [5, 6]
    again = allowed_items(TABLES, query(), bought=[5], left_out=[6])
    assert np.flatnonzero(~again).tolist() == [6]


def test_scores_come_first_then_popularity() -> None:
    chosen = choose(TABLES, scored({7: 1.0, 9: 3.0, 8: 1.0, 2: 0.0}), 6, allowed=EVERYTHING)
    assert chosen.items[:3].tolist() == [9, 7, 8]
    rest = [item for item in TABLES.by_popularity.tolist() if item not in (7, 8, 9)]
    assert chosen.items[3:].tolist() == rest[:3]
    assert chosen.scores.tolist() == [3.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    assert chosen.places.tolist() == [1, 0, 2, -1, -1, -1]


@given(
    st.dictionaries(st.integers(0, N_ITEMS - 1), st.floats(0, 9), max_size=N_ITEMS),
    st.integers(1, N_ITEMS + 5),
    st.sets(st.integers(0, N_ITEMS - 1)),
    st.sampled_from([0.0, 0.3, 1.0]),
)
def test_a_list_has_what_may_be_shown_once_each(
    scores: dict[int, float], k: int, hidden: set[int], diversity: float
) -> None:
    allowed = EVERYTHING.copy()
    allowed[list(hidden)] = False
    chosen = choose(TABLES, scored(scores), k, allowed=allowed, diversity=diversity)
    items = chosen.items.tolist()
    assert len(items) == min(k, N_ITEMS - len(hidden)) == len(set(items))
    assert not hidden & set(items)
    if not diversity:
        best = sorted(
            (item for item in scores if scores[item] > 0 and item not in hidden),
            key=lambda item: (-scores[item], item),
        )
        assert items[: len(best)] == best[: len(items)]


def types_of(chosen: Chosen) -> list[int]:
    return [int(CATALOGUE.product_type[item]) for item in chosen.items]


def test_diversity_spreads_over_types_and_categories() -> None:
    # Items 0, 12, 24 … are of one product type, 6, 18 of one category with it.
    crowded = scored({0: 1.0, 12: 0.99, 24: 0.98, 6: 0.97, 1: 0.9, 2: 0.8})
    plain = choose(TABLES, crowded, 3, allowed=EVERYTHING)
    assert plain.items.tolist() == [0, 12, 24]
    wide = choose(TABLES, crowded, 3, allowed=EVERYTHING, diversity=0.5)
    assert wide.items.tolist() == [0, 1, 2]
    assert len(set(types_of(wide))) == 3
    # A little: the other type of the same category is less alike than the same type.
    little = choose(
        TABLES, scored({0: 1.0, 12: 0.9, 6: 0.85}), 2, allowed=EVERYTHING, diversity=0.2
    )
    assert little.items.tolist() == [0, 6]
    assert wide.scores.tolist() == [1.0, 0.9, 0.8]


def test_the_most_popular_leave_out_what_is_listed() -> None:
    first = TABLES.by_popularity[:4]
    assert most_popular(TABLES, 4, allowed=EVERYTHING).tolist() == first.tolist()
    assert most_popular(TABLES, 2, allowed=EVERYTHING, but=first[:2]).tolist() == first[2:].tolist()
    assert most_popular(TABLES, 0, allowed=EVERYTHING).tolist() == []
    assert most_popular(TABLES, 9, allowed=~EVERYTHING).tolist() == []
    assert len(most_popular(TABLES, 10 * N_ITEMS, allowed=EVERYTHING)) == N_ITEMS


def test_popularity_is_in_order() -> None:
    popularity = TABLES.popularity[TABLES.by_popularity]
    assert np.all(np.diff(popularity) <= 0)
    assert popularity[0] == pytest.approx(TABLES.popularity.max())
