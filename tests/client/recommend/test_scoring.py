"""One customer's scores are the fused score's, whatever way they are computed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.dataset import PreferenceDataset
from client.recommend.cold import ColdScores
from client.recommend.filters import choose, pool_size
from client.recommend.live_rules import Cause, LiveEffect
from client.recommend.scoring import (
    ScoresNotFiniteError,
    ScoringTables,
    score_customer,
    shared_scores,
)
from client.training import personalisation
from client.training.personalisation import (
    SHARED_WEIGHT,
    bought,
    rank_fused,
    tilted_scores,
)
from common.catalogue import Catalogue
from common.errors import InputError
from common.model_state import ModelState
from common.strategies import StrategyName
from server.aggregation import first_model
from server.parameter_step import with_initial_parameters
from tests.support.local_plan import local_plan
from tests.support.preference_data import Purchases, dataset_of, random_customers
from tests.support.served_region import CATALOGUE, N_ITEMS, model_arrays, model_plan

PLAN = model_plan()
MODEL = ModelState.from_arrays(model_arrays(PLAN))
STDDEV = PLAN.mechanisms[0].noise_stddev
EVERYTHING = np.ones(N_ITEMS, dtype=bool)
# Two items that are newer than the model; one is of a kind that is new, too.
LARGER = Catalogue.of(
    [*CATALOGUE.items, "new-phone", "new-book"],
    category=[*(CATALOGUE.category_names[code] for code in CATALOGUE.category), "phones", "books"],
    product_type=[
        *(CATALOGUE.product_type_names[code] for code in CATALOGUE.product_type),
        "phones 0",
        "books 0",
    ],
)


def tables(model: ModelState = MODEL, catalogue: Catalogue = CATALOGUE) -> ScoringTables:
    return ScoringTables.of(model, catalogue, popularity_noise_stddev=STDDEV)


def trained(strategy: StrategyName) -> ModelState:
    plan = local_plan(strategy)
    arrays = with_initial_parameters(first_model(np.linspace(60, 1, N_ITEMS), plan), plan)
    return ModelState.of_plan(arrays, plan)


def by_rank_fused(
    history: PreferenceDataset, model: ModelState, k: int, universe: np.ndarray | None = None
) -> np.ndarray:
    """The lists of the library functions that the quality study uses."""
    cold = ColdScores.of(CATALOGUE, model, popularity_noise_stddev=STDDEV)
    tilted = tilted_scores(personalisation.shared_scores(history, model), history, model, CATALOGUE)
    own = bought(history)
    scores = np.concatenate([cold.floored(own, tilted), cold.scores(own, tilted)], axis=1)
    return rank_fused(
        scores,
        history,
        cold.extended(model),
        k,
        popularity_noise_stddev=STDDEV,
        universe=universe,
    )


def by_serving(
    history: PreferenceDataset, made: ScoringTables, k: int, universe: np.ndarray = EVERYTHING
) -> list[list[int]]:
    lists = []
    for row in range(history.n_customers):
        scored = score_customer(made, _row(history, row))
        lists.append(choose(made, scored, k, allowed=universe).items.tolist())
    return lists


def _row(dataset: PreferenceDataset, row: int) -> PreferenceDataset:
    entries = slice(int(dataset.indptr[row]), int(dataset.indptr[row + 1]))
    ends = np.concatenate([[0], np.cumsum(dataset.counts.values)]).astype(np.int64)
    purchases = slice(int(ends[entries.start]), int(ends[entries.stop]))
    return replace(
        dataset,
        sids=dataset.sids[row : row + 1],
        counts=dataset.counts.rows(row, row + 1),
        last_ms=dataset.last_ms[entries],
        ages_weeks=dataset.ages_weeks[purchases],
    )


@pytest.mark.parametrize(
    "model",
    [
        MODEL,
        trained("tied-autoencoder"),
        trained("matrix-factorisation"),
        trained("sasrec"),
    ],
    ids=lambda model: model.strategy,
)
def test_lists_are_those_of_rank_fused(model: ModelState) -> None:
    history = dataset_of(random_customers(60, N_ITEMS, seed=3), N_ITEMS)
    made = tables(model)
    assert by_serving(history, made, 12) == by_rank_fused(history, model, 12).tolist()
    part = np.arange(N_ITEMS) % 3 > 0
    assert by_serving(history, made, 8, part) == by_rank_fused(history, model, 8, part).tolist()


customers = st.dictionaries(
    st.integers(0, N_ITEMS - 1),
    st.lists(st.integers(0, 470).map(lambda tenths: tenths / 10), min_size=1, max_size=3),
    min_size=1,
    max_size=12,
)


@settings(max_examples=40)
@given(customers)
def test_any_history_gives_the_list_of_rank_fused(history: Purchases) -> None:
    dataset = dataset_of({"a": history}, N_ITEMS)
    made = tables()
    if not (personalisation.shared_scores(dataset, MODEL) > 0).any():
        # Of such a customer the catalogue decides; see below.
        return
    scored = score_customer(made, dataset)
    positive = int((scored.scores > 0).sum())
    listed = choose(made, scored, N_ITEMS, allowed=EVERYTHING).items.tolist()
    expected = by_rank_fused(dataset, MODEL, N_ITEMS)[0].tolist()
    assert listed[:positive] == expected[:positive]
    assert sorted(listed) == sorted(expected)


def test_many_rows_are_the_rows_one_by_one() -> None:
    history = dataset_of(random_customers(20, N_ITEMS, seed=4), N_ITEMS)
    made = tables()
    together = shared_scores(made, history)
    for row in range(history.n_customers):
        alone = shared_scores(made, _row(history, row))
        assert together[row] == pytest.approx(alone[0], rel=1e-6)


def test_the_tables_keep_what_the_model_says() -> None:
    made = tables()
    assert made.numbers[: made.n_vocabulary].tolist() == MODEL.vocabulary.tolist()
    assert sorted(made.by_popularity.tolist()) == list(range(N_ITEMS))
    history = dataset_of({"a": {0: [1.0], 6: [2.0]}}, N_ITEMS)
    shared = shared_scores(made, history)[:, : made.n_vocabulary]
    tilted = tilted_scores(personalisation.shared_scores(history, MODEL), history, MODEL, CATALOGUE)
    # Where the model has nothing to say the catalogue does, far below.
    assert shared[tilted > 0] == pytest.approx(tilted[tilted > 0])
    assert (shared > 0).all()
    assert shared[tilted <= 0].max() < 0.01 * shared.max()


def test_whom_the_model_misses_the_catalogue_knows() -> None:
    """She bought rare tea only: nothing of the vocabulary, so nothing is like it."""
    row = dataset_of({"a": {52: [1.0], 58: [1.0, 2.0]}}, N_ITEMS)
    made = tables()
    scored = score_customer(made, row)
    listed = choose(made, scored, 12, allowed=EVERYTHING).items
    assert {52, 58} <= set(listed.tolist())
    tea = CATALOGUE.category_names.index("tea")
    share = (CATALOGUE.category[listed] == tea).mean()
    assert share > (CATALOGUE.category[made.by_popularity[:12]] == tea).mean()


def test_items_newer_than_the_model_can_be_listed() -> None:
    made = tables(MODEL, LARGER)
    assert made.n_released == N_ITEMS
    assert {N_ITEMS, N_ITEMS + 1} <= set(made.numbers.tolist())
    row = dataset_of({"a": {number: [1.0] for number in (3, 9, 15)}}, N_ITEMS + 2)
    scored = score_customer(made, row)
    value = dict(zip(scored.items.tolist(), scored.scores.tolist(), strict=True))
    # She buys phones: the new one is more to her than the new book.
    assert value[N_ITEMS] > value[N_ITEMS + 1] > 0


def effect(**fields: object) -> LiveEffect:
    plain = {
        "items": np.array([3, 59], dtype=np.int64),
        "boosts": np.array([0.5, 2.0]),
        "causes": (Cause("viewed", 3), Cause("viewed", 3)),
    }
    return LiveEffect(**{**plain, **fields})  # type: ignore[arg-type]


ROW = dataset_of({"a": {0: [1.0, 2.0], 6: [2.0], 50: [9.0]}}, N_ITEMS)


def test_a_live_event_adds_a_share_of_the_best_score() -> None:
    made = tables()
    before, after = score_customer(made, ROW), score_customer(made, ROW, effect=effect())
    first = before.items < made.n_vocabulary
    best = max(before.shared[first].max(), (before.own + before.shared)[before.own > 0].max())
    added = dict(zip(after.items.tolist(), after.live.tolist(), strict=True))
    assert {item: value for item, value in added.items() if value} == pytest.approx(
        {3: 0.5 * best, 59: 2.0 * best}
    )
    assert after.scores == pytest.approx((after.own + after.shared + after.live) * after.factor)
    # Who has no history has no best score; the events alone decide.
    nobody = score_customer(made, dataset_of({}, N_ITEMS), effect=effect())
    assert nobody.items[np.argmax(nobody.scores)] == 59


def test_the_usual_can_be_raised() -> None:
    made = tables()
    plain = score_customer(made, ROW)
    usual = score_customer(
        made,
        ROW,
        effect=effect(items=np.zeros(0, np.int64), boosts=np.zeros(0), causes=(), usual=0.5),
    )
    first = plain.items < made.n_vocabulary
    best = max(plain.shared[first].max(), (plain.own + plain.shared)[plain.own > 0].max())
    assert usual.live == pytest.approx(0.5 * best * plain.own / plain.own.max())


def test_a_scene_and_the_region_multiply() -> None:
    scene = np.ones(len(CATALOGUE.category_names))
    scene[CATALOGUE.category_names.index("wine")] = 3.0
    bias = np.ones(N_ITEMS, dtype=np.float32)
    bias[7] = 2.0
    plain, made = score_customer(tables(), ROW), tables()
    in_scene = score_customer(made, ROW, scene=scene)
    wine = CATALOGUE.category[plain.items] == CATALOGUE.category_names.index("wine")
    assert in_scene.scores[wine] == pytest.approx(3 * plain.scores[wine])
    assert in_scene.scores[~wine] == pytest.approx(plain.scores[~wine])
    regional = ScoringTables.of(MODEL, LARGER, popularity_noise_stddev=STDDEV, regional_bias=bias)
    assert regional.power[7] == pytest.approx(2 * tables(MODEL, LARGER).power[7])
    assert regional.popularity[7] == pytest.approx(2 * tables(MODEL, LARGER).popularity[7])


@pytest.mark.parametrize("value", [np.nan, 0.0, -1.0, np.inf])
def test_a_bias_that_is_none_is_refused(value: float) -> None:
    bias = np.ones(N_ITEMS)
    bias[3] = value
    with pytest.raises(InputError, match="regional bias"):
        ScoringTables.of(MODEL, CATALOGUE, popularity_noise_stddev=STDDEV, regional_bias=bias)
    with pytest.raises(InputError, match="regional bias"):
        ScoringTables.of(MODEL, CATALOGUE, popularity_noise_stddev=STDDEV, regional_bias=np.ones(3))


def test_numbers_that_are_none_are_told_of() -> None:
    made = tables()
    nan = replace(made, factors=np.full_like(made.factors, np.nan))
    with pytest.raises(ScoresNotFiniteError):
        score_customer(nan, ROW)
    with pytest.raises(ScoresNotFiniteError):
        score_customer(made, ROW, scene=np.full(len(CATALOGUE.category_names), np.nan))
    model = trained("tied-autoencoder")
    huge = {name: np.full_like(array, 3e38) for name, array in model.parameters.items()}
    with pytest.raises(ScoresNotFiniteError):
        score_customer(tables(replace(model, parameters=huge)), ROW)


def test_history_alone_leaves_the_shared_model_out() -> None:
    scored = score_customer(tables(), ROW, method="history")
    assert not scored.shared.any()
    kept = scored.items[scored.scores > 0].tolist()
    assert sorted(kept) == [0, 6, 50]
    assert SHARED_WEIGHT > 0


def test_one_customers_scores_do_not_depend_on_anothers_rows() -> None:
    """The tables have nothing of any customer's: only her row makes a difference."""
    made = tables()
    alone = score_customer(made, ROW)
    for seed in range(3):
        score_customer(made, dataset_of(random_customers(1, N_ITEMS, seed=seed), N_ITEMS))
    again = score_customer(made, ROW)
    assert np.array_equal(alone.scores, again.scores)


short = st.tuples(
    customers,
    st.integers(1, 15),
    st.sets(st.integers(0, N_ITEMS - 1), max_size=10),
    st.lists(st.floats(0.25, 4.0), min_size=6, max_size=6),
    st.sampled_from([0.0, 0.4]),
)


@settings(max_examples=40)
@given(short)
def test_a_short_list_needs_few_cold_items(
    case: tuple[Purchases, int, set[int], list[float], float],
) -> None:
    """Left out are such cold items only as cannot be in it, whatever is hidden and raised."""
    history, k, hidden, factors, diversity = case
    row, made = dataset_of({"a": history}, N_ITEMS), tables()
    allowed = EVERYTHING.copy()
    allowed[list(hidden)] = False
    scene = np.array(factors)
    most = pool_size(k, diversity) + len(hidden)
    lists = []
    for few in (None, most):
        scored = score_customer(made, row, effect=effect(), scene=scene, most=few)
        chosen = choose(made, scored, k, allowed=allowed, diversity=diversity)
        lists.append((chosen.items.tolist(), chosen.scores.tolist()))
    assert lists[0] == lists[1]


def test_a_short_list_leaves_most_cold_items_out() -> None:
    n_items, size = 5000, 50
    catalogue = Catalogue.of(
        [f"i{number}" for number in range(n_items)],
        category=[f"c{number % 40}" for number in range(n_items)],
        product_type=[f"t{number % 400}" for number in range(n_items)],
    )
    generator = np.random.default_rng(1)
    model = ModelState.from_arrays(
        {
            "popularity": (1000 / np.arange(1, n_items + 1)).astype(np.float32),
            "vocabulary": np.arange(size),
            "item_weights": np.ones(size, dtype=np.float32),
            "item_factors": generator.normal(size=(size, 4)).astype(np.float32),
        }
    )
    made = ScoringTables.of(model, catalogue, popularity_noise_stddev=2.0)
    row = dataset_of({"a": {3: [1.0], 7: [2.0], 4000: [1.0]}}, n_items)
    everything = np.ones(n_items, dtype=bool)
    full, few = score_customer(made, row), score_customer(made, row, most=10)
    assert len(few.items) < len(full.items) / 4
    assert 4000 in few.items.tolist()
    lists = [choose(made, scored, 10, allowed=everything) for scored in (full, few)]
    assert np.array_equal(lists[0].items, lists[1].items)
    assert np.array_equal(lists[0].scores, lists[1].scores)
    scores = dict(zip(full.items.tolist(), full.scores.tolist(), strict=True))
    assert all(
        scores[item] == value
        for item, value in zip(few.items.tolist(), few.scores.tolist(), strict=True)
    )
