"""Rankings are the recommender's own lists, over all cold items, whatever is not computed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from client.data.dataset import PreferenceDataset
from client.recommend.cold import ColdScores
from client.recommend.filters import choose
from client.recommend.scoring import ScoringTables, score_customer
from client.training.evaluation import Protocol, keep_entries, select_customers
from client.training.personalisation import (
    bought,
    popularity_power,
    rank_fused,
    rank_shared,
    shared_scores,
    tilted_scores,
)
from common.catalogue import Catalogue
from common.model_state import ModelState
from common.ranking import BoolArray, ItemSets
from simulations import served_customers, served_rows
from simulations.served_customers import ServedCustomers
from simulations.served_rankings import ServedModel
from simulations.served_rows import ServedRows
from tests.support.preference_data import Purchases, dataset_of

N_ITEMS, CUSTOMERS, PLACES, NOISE, SIZE = 300, 40, 12, 2.0, 40
END_MS = 40 * 7 * 86_400_000
CATALOGUE = Catalogue.of(
    [f"item-{number}" for number in range(N_ITEMS)],
    category=[f"category-{number % 7}" for number in range(N_ITEMS)],
    product_type=[f"type-{number % 7}-{number % 3}" for number in range(N_ITEMS)],
    brand=[f"brand-{number % 5}" for number in range(N_ITEMS)],
)
UNIVERSES: dict[str, BoolArray | None] = {"all": None, "part": np.arange(N_ITEMS) % 4 > 0}
BOTH = [(protocol, universe) for protocol in Protocol for universe in UNIVERSES]


def made_up_model(
    seed: int, *, noise: float = NOISE, size: int = SIZE, known_by: float = 0.0
) -> ModelState:
    """A model whose scores are above 0 of some items and below of others.

    Args:
        seed: Of everything.
        noise: On popularity.
        size: Of the vocabulary.
        known_by: How much more popular the vocabulary is than it would be by chance.
    """
    generator = np.random.default_rng(seed)
    popularity = generator.gamma(0.5, 6.0, N_ITEMS)
    # Without noise, popularity is a number of customers, and many items have the same.
    popularity = popularity + generator.normal(0, noise, N_ITEMS) if noise else popularity.round()
    vocabulary = np.sort(generator.permutation(N_ITEMS)[:size]).astype(np.int64)
    popularity[vocabulary] += known_by
    return ModelState(
        popularity=popularity.astype(np.float32),
        vocabulary=vocabulary,
        item_weights=generator.uniform(0.5, 1.0, size).astype(np.float32),
        item_factors=generator.normal(size=(size, 3)).astype(np.float32),
    )


def made_up_customers(seed: int, *, n_customers: int = CUSTOMERS) -> PreferenceDataset:
    """Some bought much, some little; much of it on one day, so that it counts the same."""
    generator = np.random.default_rng([seed, 1])
    rows: dict[str, Purchases] = {}
    for number in range(n_customers):
        items = generator.permutation(N_ITEMS)[: int(generator.integers(1, 80))]
        days = [[1.0], [3.0], generator.uniform(0.1, 30, 2).tolist()]
        rows[f"{number:064x}"] = {int(item): days[int(generator.integers(3))] for item in items}
    return dataset_of(rows, N_ITEMS, start_ms=0, end_ms=END_MS)


def tilted_of(model: ModelState, history: PreferenceDataset) -> np.ndarray:
    return tilted_scores(shared_scores(history, model), history, model, CATALOGUE)


def random_scores(seed: int, size: int = SIZE) -> np.ndarray:
    """Some know much, some little: the catalogue decides about all places, about a few, or none."""
    generator = np.random.default_rng([seed, 2])
    middle = generator.choice([-2.0, 0.0, 3.0], (CUSTOMERS, 1))
    return generator.normal(middle, 1.0, (CUSTOMERS, size))


def served(model: ModelState, *, noise: float = NOISE) -> ServedModel:
    return ServedModel.of(
        model,
        CATALOGUE,
        popularity_noise_stddev=noise,
        floor_stddev=NOISE,
        universes=UNIVERSES,
        places=PLACES,
    )


def ranked(
    by: ServedModel, history: PreferenceDataset, tilted: np.ndarray, protocol: Protocol, part: str
) -> np.ndarray:
    rows = ServedRows.of(by, ServedCustomers.of(history, CATALOGUE), tilted)
    return rows.ranked(protocol, part)


def over_everything(
    model: ModelState,
    history: PreferenceDataset,
    tilted: np.ndarray,
    protocol: Protocol,
    universe: BoolArray | None,
    *,
    noise: float = NOISE,
) -> np.ndarray:
    """The rankings by the library functions that score every cold item for everybody."""
    cold = ColdScores.of(CATALOGUE, model, popularity_noise_stddev=noise)
    own, extended = bought(history), cold.extended(model)
    both = np.concatenate([cold.floored(own, tilted), cold.scores(own, tilted)], axis=1)
    if protocol is Protocol.NEW:
        both *= popularity_power(extended, popularity_noise_stddev=NOISE)[extended.vocabulary]
        return rank_shared(both, extended, PLACES, excluded=own, universe=universe)
    return rank_fused(
        both, history, extended, PLACES, popularity_noise_stddev=NOISE, universe=universe
    )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("noise", [NOISE, 0.0], ids=["noise", "no noise"])
def test_nothing_that_belongs_into_a_ranking_is_left_out(seed: int, noise: float) -> None:
    model, history = made_up_model(seed, noise=noise), made_up_customers(seed)
    scores = random_scores(seed)
    # Of whom the model has nothing to say: see below.
    scores[~(scores > 0).any(axis=1), 0] = 0.1
    by = served(model, noise=noise)
    for protocol, part in BOTH:
        universe = UNIVERSES[part]
        expected = over_everything(model, history, scores, protocol, universe, noise=noise)
        np.testing.assert_array_equal(ranked(by, history, scores, protocol, part), expected)


@pytest.mark.parametrize(
    "model",
    [
        made_up_model(1),
        made_up_model(2),
        made_up_model(3, size=PLACES - 2),
        # Of whom it knows nothing it would list its own items, whatever the others came to.
        made_up_model(4, known_by=900.0),
    ],
    ids=["one", "another", "of few items", "of popular items"],
)
def test_rankings_are_the_recommenders_lists(model: ModelState) -> None:
    history = with_strangers(made_up_customers(1), model)
    tilted, own = tilted_of(model, history), bought(history)
    assert (tilted > 0).any(axis=1).sum() >= 5
    assert (~(tilted > 0).any(axis=1)).sum() >= 5
    by = served(model)
    tables = ScoringTables.of(model, CATALOGUE, popularity_noise_stddev=NOISE)
    scored = [score_customer(tables, row_of(history, row)) for row in range(len(tilted))]
    for protocol, part in BOTH:
        found = ranked(by, history, tilted, protocol, part)
        for row, scores in enumerate(scored):
            universe = UNIVERSES[part]
            allowed = np.ones(N_ITEMS, dtype=bool) if universe is None else universe.copy()
            if protocol is Protocol.NEW:
                allowed[own.rows(row, row + 1).items] = False
            listed = choose(tables, scores, PLACES, allowed=allowed).items
            assert found[row].tolist() == listed.tolist()


def row_of(history: PreferenceDataset, row: int) -> PreferenceDataset:
    return select_customers(history, history.sids[row : row + 1])


def with_strangers(history: PreferenceDataset, model: ModelState) -> PreferenceDataset:
    """With customers who have bought nothing that the model has factors for."""
    known = np.isin(history.indices, model.vocabulary)
    strangers = keep_entries(history, ~known)
    rows = {}
    for sids, each in (
        (history.sids, history),
        ([f"{n:064x}" for n in range(900, 910)], strangers),
    ):
        ends = np.concatenate([[0], np.cumsum(each.counts.values)]).astype(np.int64)
        for row, sid in enumerate(sids):
            entries = range(int(each.indptr[row]), int(each.indptr[row + 1]))
            rows[sid] = {
                int(each.indices[entry]): each.ages_weeks[ends[entry] : ends[entry + 1]].tolist()
                for entry in entries
            }
    return dataset_of(rows, N_ITEMS, start_ms=0, end_ms=END_MS)


@pytest.mark.parametrize("seed", range(3))
def test_no_cold_score_is_above_what_is_taken_for_the_highest(seed: int) -> None:
    model, history = made_up_model(seed), made_up_customers(seed)
    by, scores = served(model), random_scores(seed)
    rows = ServedRows.of(by, ServedCustomers.of(history, CATALOGUE), scores)
    items = by.cold.items
    found = by.cold.scores(bought(history), scores).astype(np.float64)
    assert (rows.highest[:, None] * by.cold.base[items] >= found).all()
    assert (rows.highest * by.highest_part >= (found * by.power[items]).max(axis=1)).all()


def test_a_customers_ranking_is_hers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it depend on how many are ranked together."""
    model, history = made_up_model(7), made_up_customers(7)
    scores, by = random_scores(7), served(model)
    together = [ranked(by, history, scores, *each) for each in BOTH]
    monkeypatch.setattr(served_customers, "_CHUNK", 7)
    monkeypatch.setattr(served_rows, "_TOGETHER", 3)
    chunks = list(ServedCustomers.in_chunks(history, CATALOGUE))
    assert [each.n_customers for each in chunks] == [7, 7, 7, 7, 7, 5]
    for each, expected in zip(BOTH, together, strict=True):
        found = [
            ServedRows.of(by, chunk, scores[7 * number : 7 * number + 7]).ranked(*each)
            for number, chunk in enumerate(chunks)
        ]
        np.testing.assert_array_equal(np.concatenate(found), expected)


def test_most_customers_are_ranked_without_cold_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the model has something to say of more items than places, nobody waits for them."""
    model, history = made_up_model(3), made_up_customers(3)
    by, scores = served(model), np.abs(random_scores(3)) + 1.0
    monkeypatch.setattr(ServedRows, "_with_cold", None)
    for each in BOTH:
        assert (ranked(by, history, scores, *each) >= 0).all()


def test_nobody_is_nobody() -> None:
    nobody = made_up_customers(1, n_customers=0)
    by = served(made_up_model(1))
    assert [each.n_customers for each in ServedCustomers.in_chunks(nobody, CATALOGUE)] == [0]
    for each in BOTH:
        assert ranked(by, nobody, np.zeros((0, SIZE)), *each).shape == (0, PLACES)


def test_lifts_of_pairs_are_those_of_the_table_and_none_is_above_the_highest() -> None:
    history = made_up_customers(5)
    customers = ServedCustomers.of(history, CATALOGUE)
    cold = served(made_up_model(5)).cold
    sizes = customers.own.sizes
    for level, purchased in zip(cold.levels, customers.purchased, strict=True):
        table = level.lifts(customers.own)
        owners, groups = (each.ravel() for each in np.indices(table.shape))
        assert np.array_equal(purchased.lifts(level, sizes, owners, groups), table.ravel())
        some = np.flatnonzero(np.arange(table.shape[1]) % 2)
        assert np.array_equal(level.lifts(customers.own, some), table[:, some])
        assert (purchased.highest(level, sizes) >= table.max(axis=1) * (1 - 1e-12)).all()
        assert purchased.highest(level, sizes) == pytest.approx(table.max(axis=1))
        none = replace(purchased, cells=purchased.cells[:0], counts=purchased.counts[:0])
        nothing = ItemSets(np.zeros(2, dtype=np.int64), np.zeros(0, dtype=np.int64), N_ITEMS)
        assert np.array_equal(
            none.lifts(level, np.zeros(1, np.int64), 0 * groups[:1], groups[:1]),
            level.lifts(nothing)[0, groups[:1]],
        )
