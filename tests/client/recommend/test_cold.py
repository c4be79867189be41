"""Cold items' scores: the documented formula, for one customer at a time, beside shared scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.recommend import cold as module
from client.recommend.catalogue_prior import expected_popularity
from client.recommend.cold import ColdScores
from client.training.personalisation import rank_fused, rank_shared
from common.catalogue import Catalogue
from common.errors import InputError
from common.model_state import ModelState
from common.ranking import ItemSets
from tests.support.preference_data import dataset_of

N_ITEMS, NEW = 60, 6
VOCABULARY = np.array([0, 7, 14, 21, 28, 35, 42, 49], dtype=np.int64)
NOISE = 2.0


def catalogue_of(n_items: int) -> Catalogue:
    numbers = np.arange(n_items)
    return Catalogue.of(
        [f"i{number}" for number in numbers],
        category=[f"category-{number % 4}" for number in numbers],
        product_type=[f"type-{number % 12}" for number in numbers],
        brand=[f"brand-{number % 5}" for number in numbers],
    )


CATALOGUE = catalogue_of(N_ITEMS + NEW)


def model_of(seed: int = 0) -> ModelState:
    generator = np.random.default_rng(seed)
    popularity = generator.gamma(0.6, 10.0, N_ITEMS).astype(np.float32)
    popularity[VOCABULARY] += 60.0
    factors, _ = np.linalg.qr(generator.normal(size=(len(VOCABULARY), 3)))
    return ModelState.from_arrays(
        {
            "popularity": popularity,
            "vocabulary": VOCABULARY,
            "item_weights": np.linspace(1.0, 0.5, len(VOCABULARY), dtype=np.float32),
            "item_factors": factors.astype(np.float32),
        }
    )


MODEL = model_of()
COLD = ColdScores.of(CATALOGUE, MODEL, popularity_noise_stddev=NOISE)


def sets_of(*customers: list[int], n_items: int = N_ITEMS + NEW) -> ItemSets:
    bounds = np.concatenate([[0], np.cumsum([len(set(own)) for own in customers])])
    items = [item for own in customers for item in sorted(set(own))]
    return ItemSets(bounds.astype(np.int64), np.array(items, dtype=np.int64), n_items)


histories = st.lists(st.integers(0, N_ITEMS + NEW - 1), max_size=25)
shared_rows = st.lists(st.floats(-1.0, 3.0), min_size=len(VOCABULARY), max_size=len(VOCABULARY))


def by_the_book(own: list[int], shared: list[float], item: int) -> float:
    """The module's formula, item by item, for one customer."""
    expected = expected_popularity(CATALOGUE, MODEL.popularity, noise_stddev=NOISE)
    positive = [max(score, 0.0) for score in shared]
    mean_row = expected[VOCABULARY] * MODEL.item_weights
    average = np.maximum(MODEL.scores((mean_row / np.linalg.norm(mean_row))[None, :])[0], 0.0)

    def lift(codes: np.ndarray, other: int, exponent: float) -> float:
        of_all = np.maximum(np.bincount(codes, weights=expected) / expected.sum(), 1e-5)
        overall = (of_all / of_all.sum())[codes[other]]
        count = sum(codes[each] == codes[other] for each in set(own))
        return float(((count + 20 * overall) / (len(set(own)) + 20) / overall) ** exponent)

    def shared_lift(other: int) -> float:
        group = [CATALOGUE.category[v] == CATALOGUE.category[other] for v in VOCABULARY]
        usual = average[group].sum() / average.sum()
        share = np.array(positive)[group].sum() / sum(positive) if sum(positive) else usual
        floor = 1 / len(VOCABULARY)
        return float(((share + floor) / (usual + floor)) ** module.SHARED_EXPONENT)

    def formula(other: int) -> float:
        return (
            float(expected[other] ** module.POPULARITY_EXPONENT)
            * lift(CATALOGUE.category, other, module.CATEGORY_EXPONENT)
            * lift(CATALOGUE.product_type, other, module.TYPE_EXPONENT)
            * lift(CATALOGUE.brand, other, module.BRAND_EXPONENT)
            * shared_lift(other)
        )

    warm = sum(formula(int(other)) for other in VOCABULARY)
    scale = sum(positive) / warm if sum(positive) > 0 else 1.0
    return module.COLD_WEIGHT * scale * formula(item)


@given(histories, shared_rows, st.integers(0, len(COLD.items) - 1))
def test_scores_are_those_of_the_formula(own: list[int], shared: list[float], place: int) -> None:
    found = COLD.scores(sets_of(own), np.array([shared]))[0, place]
    expected = by_the_book(own, shared, int(COLD.items[place]))
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-30)


@given(st.lists(st.tuples(histories, shared_rows), min_size=1, max_size=4))
def test_a_customers_scores_are_hers_alone(customers: list[tuple[list[int], list[float]]]) -> None:
    """Joint differential privacy rests on it: nobody else's history enters."""
    together = COLD.scores(
        sets_of(*(own for own, _ in customers)), np.array([shared for _, shared in customers])
    )
    for row, (own, shared) in zip(together, customers, strict=True):
        assert np.array_equal(row, COLD.scores(sets_of(own), np.array([shared]))[0])


@given(histories, shared_rows, st.floats(0.001, 1000.0))
def test_cold_scores_are_in_the_unit_of_the_shared_ones(
    own: list[int], shared: list[float], unit: float
) -> None:
    plain, scaled = (
        COLD.scores(sets_of(own), np.array([shared]) * factor)[0] for factor in (1.0, unit)
    )
    if sum(max(score, 0.0) for score in shared) > 1e-9:
        assert scaled == pytest.approx(plain * unit, rel=1e-4)


@given(histories, shared_rows)
def test_where_the_model_has_nothing_to_say_the_catalogue_does(
    own: list[int], shared: list[float]
) -> None:
    found = COLD.floored(sets_of(own), np.array([shared]))[0]
    for place, (item, score) in enumerate(zip(VOCABULARY, shared, strict=True)):
        expected = score if score > 0 else by_the_book(own, shared, int(item))
        assert found[place] == pytest.approx(expected, rel=1e-4, abs=1e-30)


def test_what_the_model_says_comes_before_what_the_catalogue_says() -> None:
    shared = np.array([[1.0, 0.5, 0.2, 0.1, -1.0, 0.0, -2.0, -3.0]])
    cold, warm = (
        COLD.scores(sets_of([1, 5, 9]), shared)[0],
        COLD.floored(sets_of([1, 5, 9]), shared),
    )
    assert cold.max() < 0.1
    assert warm[0, :4].tolist() == shared[0, :4].tolist()
    assert (warm[0, 4:] > 0).all()
    assert warm[0, 4:].max() < 0.1


def test_all_items_outside_the_vocabulary_are_cold_new_ones_too() -> None:
    assert COLD.items.tolist() == [
        number for number in range(N_ITEMS + NEW) if number not in set(VOCABULARY.tolist())
    ]
    assert (COLD.scores(sets_of([1, 2]), np.ones((1, 8))) > 0).all()


def test_of_one_place_the_most_popular_are_candidates() -> None:
    few = ColdScores.of(CATALOGUE, MODEL, popularity_noise_stddev=NOISE, per_place=1)
    place = {number: (number % 4, number % 12, number % 5) for number in range(N_ITEMS + NEW)}
    chosen = {place[number]: number for number in few.items.tolist()}
    assert len(chosen) == len(few.items)
    for number in COLD.items.tolist():
        best = chosen[place[number]]
        assert (COLD.popularity[best], -best) >= (COLD.popularity[number], -number)
    with pytest.raises(InputError, match="candidates of each place"):
        ColdScores.of(CATALOGUE, MODEL, popularity_noise_stddev=NOISE, per_place=0)


def test_a_new_customer_gets_what_is_expected_to_be_popular() -> None:
    (scores,) = COLD.whole(sets_of([]))
    order = np.argsort(-scores, kind="stable")
    assert order.tolist() == np.argsort(-COLD.popularity, kind="stable").tolist()


def test_whoever_buys_of_a_category_gets_more_of_it() -> None:
    fans = sets_of([1, 5, 9, 13, 17], [])
    scores = COLD.scores(fans, np.ones((2, 8)))
    category = CATALOGUE.category[COLD.items]
    raised = scores[0] / scores[1]
    assert raised[category == 1].min() > raised[category != 1].max()


def test_a_shared_model_that_likes_a_category_raises_its_cold_items() -> None:
    shared = np.ones((2, 8))
    # Of the vocabulary 21 and 49 are of category 1.
    shared[0, [3, 7]] = 9.0
    scores = COLD.scores(sets_of([], []), shared)
    category = CATALOGUE.category[COLD.items]
    raised = scores[0] / scores[1]
    assert raised[category == 1].min() > raised[category != 1].max()


def test_cold_items_are_ranked_among_the_others() -> None:
    history = dataset_of({"a": {1: [1.0], 5: [2.0], 9: [3.0]}, "b": {0: [1.0]}}, N_ITEMS + NEW)
    own = ItemSets(history.indptr, history.indices.astype(np.int64), N_ITEMS + NEW)
    shared = np.full((2, 8), 0.01)
    shared[1] = 100.0
    both = np.concatenate([shared, COLD.scores(own, shared) * [[1e6], [1e-9]]], axis=1)
    extended = COLD.extended(MODEL)
    new = rank_shared(both, extended, 8, excluded=own)
    assert not set(new[0].tolist()) & set(VOCABULARY.tolist())
    assert set(new[1].tolist()) == {*VOCABULARY.tolist()[1:], int(new[1][7])}
    fused = rank_fused(both, history, extended, 5, popularity_noise_stddev=NOISE)
    assert fused.shape == (2, 5)
    assert (fused >= 0).all()


def test_a_trained_models_average_is_its_popularity() -> None:
    from dataclasses import replace

    trained = replace(MODEL, strategy="tied-autoencoder", parameters={"item_bias": np.zeros(8)})
    found = ColdScores.of(CATALOGUE, trained, popularity_noise_stddev=NOISE)
    assert np.isfinite(found.scores(sets_of([1, 2, 3]), np.ones((1, 8)))).all()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="not of 1 customers and 8 items"):
        COLD.scores(sets_of([1]), np.ones((2, 8)))
    with pytest.raises(InputError, match="not over the 66"):
        COLD.scores(sets_of([1], n_items=60), np.ones((1, 8)))
    with pytest.raises(InputError, match="not a finite number"):
        COLD.scores(sets_of([1]), np.full((1, 8), np.nan))
    with pytest.raises(InputError, match="catalogue has 59"):
        ColdScores.of(catalogue_of(59), MODEL, popularity_noise_stddev=NOISE)
