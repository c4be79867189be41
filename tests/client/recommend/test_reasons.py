"""Reasons: what put an item into a list, the strongest first, and nobody else's."""

from __future__ import annotations

import numpy as np

from client.data.dataset import PreferenceDataset
from client.recommend.filters import choose
from client.recommend.histories import with_purchases
from client.recommend.live_rules import NO_EFFECT, Cause, LiveEffect
from client.recommend.reasons import Grounds, popular_reasons, reasons_of
from client.recommend.scoring import ScoringTables, score_customer
from client.recommend.types import Reason
from common.catalogue import Catalogue
from common.model_state import ModelState
from tests.support.preference_data import dataset_of
from tests.support.served_region import CATALOGUE, N_ITEMS, model_arrays, model_plan

MODEL = ModelState.from_arrays(model_arrays(model_plan()))
TABLES = ScoringTables.of(MODEL, CATALOGUE, popularity_noise_stddev=1.0)
ROW = dataset_of({"a": {0: [1.0, 2.0, 3.0], 6: [2.0], 12: [30.0], 55: [1.0]}}, N_ITEMS)
EVERYTHING = np.ones(N_ITEMS, dtype=bool)


def told(
    row: PreferenceDataset = ROW,
    *,
    effect: LiveEffect = NO_EFFECT,
    scene: np.ndarray | None = None,
    tables: ScoringTables = TABLES,
    regional: bool = False,
) -> dict[int, tuple[Reason, ...]]:
    """The reasons of the whole catalogue, by item."""
    scored = score_customer(tables, row, effect=effect, scene=scene)
    everything = np.ones(tables.n_items, dtype=bool)
    chosen = choose(tables, scored, tables.n_items, allowed=everything)
    grounds = Grounds(tables, row, scored, effect, scene, regional)
    return dict(zip(chosen.items.tolist(), reasons_of(grounds, chosen), strict=True))


def test_what_was_bought_and_what_is_like_it() -> None:
    found = told()
    assert found[0][0] == Reason("bought-before")
    assert found[55][0] == Reason("bought-before")
    # Item 18 is of the same factor as 0, 6 and 12; it is like the one that weighs most.
    weights = MODEL.item_weights
    products = {
        item: float(MODEL.item_factors[18] @ MODEL.item_factors[item] * weights[item] * fade)
        for item, fade in ((0, 2 ** (-1 / 12)), (6, 2 ** (-2 / 12)), (12, 2 ** (-30 / 12)))
    }
    nearest = max(products, key=products.__getitem__)
    assert Reason("like", CATALOGUE.items[nearest]) in found[18]
    assert all(reasons for reasons in found.values())
    own = {CATALOGUE.items[item] for item in ROW.indices}
    likes = {each.about for reasons in found.values() for each in reasons if each.code == "like"}
    assert likes <= own


def test_a_category_is_told_where_she_buys_more_of_it_than_others() -> None:
    found = told()
    bread = {each.about for each in found[18] if each.code == "category"}
    assert bread == {"bread"}
    cheese = {each.code for each in found[1]}
    assert "category" not in cheese


def test_live_events_are_told_by_their_cause() -> None:
    effect = LiveEffect(
        np.array([9, 58]),
        np.array([3.0, 3.0]),
        (Cause("viewed", 9), Cause("searched", None, "tea")),
    )
    found = told(effect=effect)
    assert found[9][0] == Reason("viewed", CATALOGUE.items[9])
    assert found[58][0] == Reason("searched", "tea")
    usual = told(effect=LiveEffect(np.zeros(0, np.int64), np.zeros(0), (), usual=0.9))
    assert usual[0].count(Reason("bought-before")) == 1


def test_what_was_just_bought_is_told_so() -> None:
    bought = LiveEffect(np.zeros(0, np.int64), np.zeros(0), (), bought=(7,))
    row = with_purchases(dataset_of({}, N_ITEMS), "a" * 64, [7])
    found = told(row, effect=bought)
    assert Reason("just-bought", CATALOGUE.items[7]) in found[1]


def test_scenes_the_region_and_new_items() -> None:
    scene = np.ones(len(CATALOGUE.category_names))
    scene[CATALOGUE.category_names.index("wine")] = 1.5
    found = told(scene=scene)
    assert Reason("scene", "wine") in found[5]
    assert Reason("scene", "bread") not in found[0]
    # Without anything else, popularity is the reason: the region's where it has the region's bias.
    nobody = told(dataset_of({}, N_ITEMS))
    assert set(nobody.values()) == {(Reason("popular"),)}
    assert set(told(dataset_of({}, N_ITEMS), regional=True).values()) == {
        (Reason("popular-in-region"),)
    }
    items = np.array([5, 0])
    assert popular_reasons(TABLES, items, scene=scene, regional=False) == [
        (Reason("scene", "wine"), Reason("popular")),
        (Reason("popular"),),
    ]
    larger = Catalogue.of(
        [*CATALOGUE.items, "new"],
        category=[*(CATALOGUE.category_names[code] for code in CATALOGUE.category), "wine"],
    )
    newer = ScoringTables.of(MODEL, larger, popularity_noise_stddev=1.0)
    row = dataset_of({"a": {5: [1.0]}}, N_ITEMS + 1)
    assert Reason("new-item", "wine") in told(row, tables=newer)[N_ITEMS]


def test_without_labels_no_category_is_told() -> None:
    plain = Catalogue.of(CATALOGUE.items)
    found = told(tables=ScoringTables.of(MODEL, plain, popularity_noise_stddev=1.0))
    codes = {each.code for reasons in found.values() for each in reasons}
    assert codes <= {"bought-before", "like", "popular"}
