from __future__ import annotations

import numpy as np
import pytest

from client.training.dp_sgd import factor_sum
from client.training.personalisation import bought
from common.errors import InputError
from common.ranking import NO_ITEM
from server.aggregation import power_step
from simulations.baselines import (
    NO_PRIVACY_SIZES,
    ModelSizes,
    pool,
    popularity,
    rank_by_history,
    rank_by_popularity,
    train_without_privacy,
)
from simulations.ease import EASE_L2, Ease, binary_rows
from tests.support.preference_data import dataset_of, plan_of, random_customers, random_dataset

N_ITEMS = 60
PLAN = plan_of(n_items=N_ITEMS)
REGIONS = [
    dataset_of(random_customers(40, N_ITEMS, seed=number, prefix=f"r{number}-"), N_ITEMS)
    for number in range(3)
]


def test_pooling_keeps_every_customer_and_purchase() -> None:
    pooled = pool(REGIONS)
    assert pooled.n_customers == 120
    assert pooled.sids[40:80] == REGIONS[1].sids
    start, stop = pooled.indptr[40], pooled.indptr[80]
    assert np.array_equal(pooled.indices[start:stop], REGIONS[1].indices)
    assert np.array_equal(pooled.history().values[start:stop], REGIONS[1].history().values)
    with pytest.raises(InputError):
        pool([REGIONS[0], random_dataset(3, N_ITEMS + 1)])


def test_popularity_counts_customers_and_ranks_what_is_left() -> None:
    dataset = dataset_of({"a": {0: [1.0] * 9}, "b": {0: [1.0], 2: [1.0]}, "c": {1: [1.0]}}, 4)
    counted = popularity(dataset)
    assert counted.tolist() == [2.0, 1.0, 1.0, 0.0]
    ranked = rank_by_popularity(counted, 3, excluded=bought(dataset))
    assert ranked[:, :4].tolist() == [
        [1, 2, 3, NO_ITEM],
        [1, 3, NO_ITEM, NO_ITEM],
        [0, 2, 3, NO_ITEM],
    ]
    universe = np.array([True, False, True, True])
    assert rank_by_popularity(counted, 1, universe=universe)[0, :4].tolist() == [0, 2, 3, NO_ITEM]


def test_popularity_goes_on_beyond_the_usual_candidates() -> None:
    eager = dataset_of({"a": {item: [1.0] for item in range(450)}}, 500)
    scores = -np.arange(500.0)
    ranked = rank_by_popularity(scores, 1, excluded=bought(eager))
    assert ranked[0].tolist() == list(range(450, 470))


def test_own_history_ranks_by_value_then_popularity() -> None:
    dataset = dataset_of({"a": {0: [1.0], 2: [1.0, 2.0], 3: [40.0]}, "b": {}}, 5)
    fallback = np.array([1.0, 9.0, 1.0, 5.0, 7.0])
    by_count = rank_by_history(dataset, dataset.counts.values, fallback)
    assert by_count[:, :5].tolist() == [[2, 3, 0, 1, 4], [1, 4, 3, 0, 2]]
    by_recency = rank_by_history(dataset, dataset.history().values, fallback)
    assert by_recency[0, :5].tolist() == [2, 0, 3, 1, 4]


def test_federation_without_privacy_is_centralised_training() -> None:
    federated = train_without_privacy(REGIONS, PLAN)
    centralised = train_without_privacy([pool(REGIONS)], PLAN)
    assert np.array_equal(federated.vocabulary, centralised.vocabulary)
    assert federated.item_factors == pytest.approx(centralised.item_factors, abs=1e-5)


def test_training_without_privacy_is_the_private_round_without_noise_and_clipping() -> None:
    start = train_without_privacy(REGIONS, PLAN, ModelSizes(20, 4, 0))
    parts = [factor_sum(region, start, clipping_norm=100.0) for region in REGIONS]
    gradient = np.sum(parts, axis=0)
    after = train_without_privacy(REGIONS, PLAN, ModelSizes(20, 4, 1))
    assert after.item_factors == pytest.approx(power_step(gradient, noise_stddev=0.0), abs=1e-5)


def test_sizes_without_privacy_are_their_own_and_end_with_the_catalogue() -> None:
    plain = train_without_privacy(REGIONS, PLAN)
    assert plain.item_factors.shape == (PLAN.vocabulary_size, PLAN.rank)
    assert train_without_privacy(REGIONS, PLAN, ModelSizes(30, 7, 2)).item_factors.shape == (30, 7)
    large = train_without_privacy(REGIONS, PLAN, NO_PRIVACY_SIZES)
    assert large.item_factors.shape == (N_ITEMS, NO_PRIVACY_SIZES.rank)


def test_a_region_without_customers_adds_nothing() -> None:
    empty = dataset_of({}, N_ITEMS)
    alone = train_without_privacy(REGIONS, PLAN)
    with_empty = train_without_privacy([*REGIONS, empty], PLAN)
    assert np.array_equal(alone.item_factors, with_empty.item_factors)


def test_training_without_privacy_finds_the_leading_directions() -> None:
    pooled = pool(REGIONS)
    state = train_without_privacy([pooled], PLAN)
    column = np.full(N_ITEMS, -1)
    column[state.vocabulary] = np.arange(len(state.vocabulary))
    rows = np.zeros((pooled.n_customers, len(state.vocabulary)))
    owners = np.repeat(np.arange(pooled.n_customers), np.diff(pooled.indptr))
    ages = (pooled.end_ms - pooled.last_ms) / (7 * 24 * 3600 * 1000)
    rows[owners, column[pooled.indices]] = 0.5 ** (ages / 12)
    rows *= state.item_weights
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    basis = np.linalg.svd(rows, full_matrices=False)[2]
    # Four rounds find the strongest direction, and the first three's span nearly.
    assert abs(basis[0] @ state.directions[:, 0]) > 0.999
    span = np.linalg.norm(basis[:3] @ state.directions, axis=1)
    assert (span > 0.97).all()


@pytest.mark.parametrize("by_items", [False, True])
def test_ease_is_its_closed_form(by_items: bool) -> None:
    items = np.arange(0, N_ITEMS, 2 if by_items else 1)
    train = pool(REGIONS) if by_items else REGIONS[0]
    model = Ease.fit(train, items)
    assert (model.rows is None) == by_items
    dense = np.zeros((train.n_customers, N_ITEMS))
    dense[np.repeat(np.arange(train.n_customers), np.diff(train.indptr)), train.indices] = 1.0
    x = dense[:, items]
    inverse = np.linalg.inv(x.T @ x + EASE_L2 * np.eye(len(items)))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    own = binary_rows(REGIONS[1], items)
    assert model.scores(own) == pytest.approx(own.toarray() @ weights, abs=1e-4)


def test_ease_ranks_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Ease.fit(REGIONS[0], np.arange(N_ITEMS))
    monkeypatch.setattr("simulations.ease._RANKED_CUSTOMERS", 7)
    ranked = model.rank(REGIONS[1], 12, excluded=bought(REGIONS[1]))
    assert (
        not bought(REGIONS[1])
        .contains(np.broadcast_to(np.arange(40)[:, None], ranked.shape), ranked)
        .any()
    )
    monkeypatch.undo()
    assert np.array_equal(model.rank(REGIONS[1], 12, excluded=bought(REGIONS[1])), ranked)


def test_ease_needs_a_penalty() -> None:
    with pytest.raises(InputError, match="above 0"):
        Ease.fit(REGIONS[0], np.arange(5), l2=0.0)
