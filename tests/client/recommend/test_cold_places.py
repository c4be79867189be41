"""Cold items by place: the few that can be in a short list, and their scores to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.recommend.cold import ColdScores
from client.recommend.cold_places import ColdLifts, ColdPlaces
from common.catalogue import Catalogue
from common.model_state import ModelState
from common.ranking import ItemSets

N_ITEMS, SIZE = 90, 8
CATALOGUE = Catalogue.of(
    [f"i{number}" for number in range(N_ITEMS)],
    category=[f"c{number % 5}" for number in range(N_ITEMS)],
    product_type=[f"t{number % 10}" for number in range(N_ITEMS)],
    brand=[f"b{number % 3}" for number in range(N_ITEMS)],
)
MODEL = ModelState.from_arrays(
    {
        "popularity": (90 / np.arange(1, N_ITEMS + 1)).astype(np.float32),
        "vocabulary": np.arange(0, 5 * SIZE, 5),
        "item_weights": np.ones(SIZE, dtype=np.float32),
        "item_factors": np.random.default_rng(1).normal(size=(SIZE, 3)).astype(np.float32),
    }
)
COLD = ColdScores.of(CATALOGUE, MODEL, popularity_noise_stddev=0.5)
FACTOR = np.random.default_rng(2).uniform(0.5, 2.0, N_ITEMS)
PLACES = ColdPlaces.of(COLD, FACTOR)


def own_of(items: set[int]) -> ItemSets:
    held = np.array(sorted(items), dtype=np.int64)
    return ItemSets(np.array([0, len(held)], dtype=np.int64), held, N_ITEMS)


def test_every_cold_item_is_in_the_place_of_its_groups() -> None:
    assert sorted(PLACES.items.tolist()) == COLD.items.tolist()
    for place, (start, stop) in enumerate(zip(PLACES.bounds[:-1], PLACES.bounds[1:], strict=True)):
        items = PLACES.items[start:stop]
        for level, codes in zip(COLD.levels, PLACES.codes, strict=True):
            assert set(level.codes[items].tolist()) == {int(codes[place])}
        assert PLACES.best[place] == (COLD.base * FACTOR)[items].max()
    paths = set(zip(*(codes.tolist() for codes in PLACES.codes), strict=True))
    assert len(paths) == len(PLACES.best)


@given(
    st.sets(st.integers(0, N_ITEMS - 1)),
    st.lists(st.floats(-1.0, 3.0), min_size=SIZE, max_size=SIZE),
    st.integers(1, 40),
    st.lists(st.floats(0.1, 5.0), min_size=5, max_size=5),
)
def test_the_leading_items_hold_the_best(
    items: set[int], shared: list[float], most: int, factors: list[float]
) -> None:
    own, row, scene = own_of(items), np.array(shared), np.array(factors)
    expected = COLD.scores(own, row[None, :])[0].astype(np.float64)
    lifts = ColdLifts.of(PLACES, own, row)
    # To the last bit: a list is the same however many items it is made of.
    assert np.array_equal(lifts.scores(COLD.items), expected)
    values = expected * FACTOR[COLD.items] * scene[CATALOGUE.category[COLD.items]]
    order = np.lexsort((COLD.items, -values))[:most]
    assert set(COLD.items[order].tolist()) <= set(lifts.leading(most, scene).tolist())


def test_without_cold_items_there_is_no_place() -> None:
    whole = ModelState.from_arrays(
        {
            "popularity": np.ones(N_ITEMS, dtype=np.float32),
            "vocabulary": np.arange(N_ITEMS),
            "item_weights": np.ones(N_ITEMS, dtype=np.float32),
            "item_factors": np.ones((N_ITEMS, 1), dtype=np.float32),
        }
    )
    cold = ColdScores.of(CATALOGUE, whole, popularity_noise_stddev=0.5)
    places = ColdPlaces.of(cold, FACTOR)
    lifts = ColdLifts.of(places, own_of({1}), np.ones(N_ITEMS))
    assert lifts.leading(5).tolist() == []


@pytest.mark.parametrize("most", [1, 5])
def test_few_items_lead(most: int) -> None:
    lifts = ColdLifts.of(PLACES, own_of({3, 13, 23}), np.ones(SIZE))
    assert len(lifts.leading(most)) < len(COLD.items) / 2
