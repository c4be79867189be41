"""Lists of whole blocks of customers against each customer's own, by the functions of a request."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.dataset import PreferenceDataset
from client.recommend import bulk_lists
from client.recommend.bulk_lists import BulkLists
from client.recommend.bulk_parts import row_range
from client.recommend.bulk_tables import BulkTables
from client.recommend.filters import choose
from client.recommend.scoring import ScoringTables, score_customer
from common.catalogue import Catalogue
from common.model_state import ModelState
from common.ranking import NO_ITEM
from tests.support.preference_data import dataset_of, random_customers

N_ITEMS, RANK = 240, 5


def catalogue_of(n_items: int = N_ITEMS) -> Catalogue:
    numbers = np.arange(n_items)
    return Catalogue.of(
        [f"i{number:03}" for number in numbers],
        category=[f"category-{number % 7}" for number in numbers],
        product_type=[f"type-{number % 21}" for number in numbers],
        brand=[f"brand-{number % 4}" for number in numbers],
    )


def tables_of(n_vocabulary: int, seed: int = 0, n_items: int = N_ITEMS) -> ScoringTables:
    """A model of a vocabulary; with all items in it there are no cold ones."""
    generator = np.random.default_rng(seed)
    popularity = generator.gamma(0.4, 20.0, n_items).astype(np.float32)
    # Many items of equal popularity, as those are that nobody has bought.
    popularity[generator.random(n_items) < 0.3] = 0.0
    factors, _ = np.linalg.qr(generator.normal(size=(n_vocabulary, RANK)))
    model = ModelState.from_arrays(
        {
            "popularity": popularity,
            "vocabulary": np.argsort(-popularity, kind="stable")[:n_vocabulary].astype(np.int64),
            "item_weights": np.linspace(1.0, 0.5, n_vocabulary, dtype=np.float32),
            "item_factors": factors.astype(np.float32),
        }
    )
    return ScoringTables.of(model, catalogue_of(n_items), popularity_noise_stddev=2.0)


def customers_of(n: int, seed: int = 0, n_items: int = N_ITEMS) -> PreferenceDataset:
    return dataset_of(random_customers(n, n_items, seed=seed), n_items)


def alone(
    tables: ScoringTables,
    row: PreferenceDataset,
    k: int,
    *,
    allowed: np.ndarray,
    new_only: bool = False,
    scene: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """What a request comes to: the functions that `answers.personal_items` calls."""
    allowed = allowed.copy()
    if new_only:
        allowed[row.indices] = False
    chosen = choose(tables, score_customer(tables, row, scene=scene), k, allowed=allowed)
    numbers, scores = np.full(k, NO_ITEM), np.zeros(k)
    numbers[: len(chosen.items)], scores[: len(chosen.items)] = chosen.items, chosen.scores
    return numbers, scores


@settings(max_examples=40)
@given(
    n_vocabulary=st.sampled_from([RANK, 30, 120, N_ITEMS]),
    k=st.sampled_from([1, 5, 10, 40]),
    seed=st.integers(0, 1000),
    new_only=st.booleans(),
    with_scene=st.booleans(),
    share_allowed=st.sampled_from([1.0, 0.5, 0.02]),
)
def test_lists_are_each_customers_own(
    n_vocabulary: int, k: int, seed: int, new_only: bool, with_scene: bool, share_allowed: float
) -> None:
    tables, rows = tables_of(n_vocabulary, seed), customers_of(12, seed)
    generator = np.random.default_rng(seed)
    allowed = generator.random(N_ITEMS) < share_allowed
    scene = generator.random(7).astype(np.float32) * 2 if with_scene else None
    bulk = BulkTables.of(tables, allowed=allowed, scene=scene)
    numbers, scores, finite = BulkLists(bulk, k, new_only=new_only).lists(rows)
    assert finite.all()
    for row in range(rows.n_customers):
        own = row_range(rows, row, row + 1)
        expected = alone(tables, own, k, allowed=allowed, new_only=new_only, scene=scene)
        assert numbers[row].tolist() == expected[0].tolist()
        assert scores[row] == pytest.approx(expected[1], rel=1e-5)


@pytest.mark.parametrize("n_vocabulary", [60, N_ITEMS])
def test_most_customers_are_not_scored_one_by_one(
    n_vocabulary: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    one_by_one = bulk_lists.score_customer

    def counting(*given: object, **named: object) -> object:
        counted.append(1)
        return one_by_one(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(bulk_lists, "score_customer", counting)
    tables, rows = tables_of(n_vocabulary), customers_of(150)
    bulk = BulkTables.of(tables, allowed=np.ones(N_ITEMS, dtype=bool))
    BulkLists(bulk, 10).lists(rows)
    assert len(counted) <= 30


@pytest.mark.parametrize("n_vocabulary", [60, N_ITEMS])
def test_a_customers_list_depends_on_no_other(n_vocabulary: int) -> None:
    tables, rows = tables_of(n_vocabulary), customers_of(70)
    lists = BulkLists(BulkTables.of(tables, allowed=np.ones(N_ITEMS, dtype=bool)), 10)
    whole, _, _ = lists.lists(rows)
    for row in (0, 33, 69):
        numbers, _, _ = lists.lists(row_range(rows, row, row + 1))
        assert numbers[0].tolist() == whole[row].tolist()


def test_customers_with_nothing_and_no_customers() -> None:
    tables = tables_of(60)
    lists = BulkLists(BulkTables.of(tables, allowed=np.ones(N_ITEMS, dtype=bool)), 4)
    numbers, scores, finite = lists.lists(dataset_of({}, N_ITEMS))
    assert numbers.shape == scores.shape == (0, 4)
    assert finite.shape == (0,)
    # One who bought nothing of the vocabulary: of her the catalogue alone tells.
    outside = [item for item in range(N_ITEMS) if not 0 <= tables.column[item] < 60]
    rows = dataset_of({"a": {outside[0]: [1.0]}, "b": {outside[5]: [2.0]}}, N_ITEMS)
    numbers, _, _ = lists.lists(rows)
    for row in range(2):
        expected = alone(tables, row_range(rows, row, row + 1), 4, allowed=np.ones(N_ITEMS, bool))
        assert numbers[row].tolist() == expected[0].tolist()


@pytest.mark.parametrize("n_vocabulary", [60, N_ITEMS])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_whose_scores_are_no_numbers_is_told(n_vocabulary: int, bad: float) -> None:
    tables, rows = tables_of(n_vocabulary), customers_of(20)
    weights = tables.weights.copy()
    # Whoever bought this item has a row that is no number; nobody else is touched.
    item = int(rows.indices[0])
    if not 0 <= tables.column[item] < n_vocabulary:
        item = next(int(i) for i in rows.indices if 0 <= tables.column[i] < n_vocabulary)
    weights[tables.column[item]] = bad
    broken = replace(tables, weights=weights)
    allowed = np.ones(N_ITEMS, dtype=bool)
    numbers, _, finite = BulkLists(BulkTables.of(broken, allowed=allowed), 5).lists(rows)
    whole, _, _ = BulkLists(BulkTables.of(tables, allowed=allowed), 5).lists(rows)
    for row in range(20):
        has_it = item in row_range(rows, row, row + 1).indices
        if has_it and not finite[row]:
            assert (numbers[row] == NO_ITEM).all()
        elif not has_it:
            assert finite[row]
            assert numbers[row].tolist() == whole[row].tolist()
    if not np.isfinite(bad):
        assert not finite.all()


def test_parts_of_a_data_set_are_its_customers() -> None:
    rows = customers_of(9)
    part = row_range(rows, 3, 7)
    assert part.sids == rows.sids[3:7]
    whole = rows.history()
    assert np.array_equal(part.history().values, whole.rows(3, 7).values)
    assert np.array_equal(part.last_ms, rows.last_ms[rows.indptr[3] : rows.indptr[7]])
