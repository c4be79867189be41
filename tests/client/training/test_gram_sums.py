from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from client.data.dataset import PreferenceDataset
from client.training.dp_sgd import gram_release, gram_sum, popularity_sum
from client.training.gram_sums import clip_factors, clipped_gram, clipped_pairs
from client.training.noise import SeededNoise, SystemNoise
from client.training.rows import factor_rows
from client.training.shared_sums import gram_units, shared_round
from common.errors import FedprefError, InputError
from common.item_pairs import n_pairs, upper_triangle
from common.model_state import ModelState
from common.parameters import check_arrays, snap_to_grid
from common.plan import Mechanism, RunPlan
from common.release_bounds import release_grid
from server.aggregation import first_model
from tests.support.preference_data import dataset_of, plan_of, random_customers, random_dataset
from tests.support.privacy_gates import noise_has_stddev, noise_is_fresh
from tests.support.shared_plan import shared_plan

N_ITEMS = 60
PLAN = plan_of(n_items=N_ITEMS, strategy="gram")
GRAM = PLAN.mechanisms[1]
SHARED = shared_plan(n_items=N_ITEMS, strategy="gram")
SHARED_GRAM = SHARED.mechanisms[1]
CLIPPING_NORMS = ("0.7071068", "0.3")


def model_for(dataset: PreferenceDataset, plan: RunPlan = PLAN) -> dict[str, Any]:
    return first_model(popularity_sum(dataset, clipping_norm=1.0), plan)


def state_for(dataset: PreferenceDataset, plan: RunPlan = PLAN) -> ModelState:
    return ModelState.from_arrays(model_for(dataset, plan))


def with_norm(mechanism: Mechanism, clipping_norm: str) -> Mechanism:
    return mechanism.model_copy(update={"clipping_norm": clipping_norm})


def contributions(rows: np.ndarray, clipping_norm: float) -> np.ndarray:
    """What each customer adds, by its definition."""
    own = np.array([upper_triangle(np.outer(row, row)) for row in rows])
    norms = np.linalg.norm(own, axis=1, keepdims=True)
    return own * np.minimum(1.0, clipping_norm / np.maximum(norms, 1e-300))


@pytest.mark.parametrize("clipping_norm", [0.7071068, 0.3, 1e-6])
def test_the_sum_is_that_of_each_customers_clipped_pairs(clipping_norm: float) -> None:
    dataset = random_dataset(50, N_ITEMS)
    state = state_for(dataset)
    rows = np.concatenate(list(factor_rows(dataset, state)))
    expected = contributions(rows, clipping_norm).sum(axis=0)
    found = gram_sum(dataset, state, clipping_norm=clipping_norm)
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-9 * clipping_norm)


def test_without_a_clip_that_bites_it_is_the_gram_matrix_above_its_diagonal() -> None:
    dataset = random_dataset(50, N_ITEMS)
    state = state_for(dataset)
    rows = np.concatenate(list(factor_rows(dataset, state)))
    found = gram_sum(dataset, state, clipping_norm=float(GRAM.clipping_norm))
    assert found == pytest.approx(upper_triangle(rows.T @ rows), rel=1e-9, abs=1e-12)


@settings(max_examples=40)
@given(
    size=st.integers(1, 12),
    clipping_norm=st.sampled_from([1e-9, 1e-3, 0.3, 0.7071068, 10.0]),
    scale=st.sampled_from([1e-12, 1.0, 1e12]),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_row_adds_more_than_the_clipping_norm(
    size: int, clipping_norm: float, scale: float, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    # Wide ranges within a row: there the closed form's difference cancels most.
    row = scale * 10.0 ** generator.uniform(-12, 0, size) * (generator.random(size) < 0.7)
    own = clipped_gram([csr_matrix(row[None])], size, clipping_norm=clipping_norm)
    assert np.linalg.norm(own) <= clipping_norm


def test_a_norm_that_cancels_in_floats_is_clipped_all_the_same() -> None:
    # (1 + δ²)² − (1 + δ⁴) is 0 in floats, though the pair is as large as δ.
    row = np.array([[1.0, 1e-9]])
    own = clipped_gram([csr_matrix(row)], 2, clipping_norm=1e-10)
    assert 0 < np.linalg.norm(own) <= 1e-10


@pytest.mark.parametrize("clipping_norm", CLIPPING_NORMS)
def test_adding_any_one_customer_changes_the_sum_by_at_most_the_clipping_norm(
    clipping_norm: str,
) -> None:
    customers = random_customers(20, N_ITEMS)
    # One who bought everything many times, one who bought one thing once, one who bought nothing.
    customers["z1"] = {item: [0.0] * 50 for item in range(N_ITEMS)}
    customers["z2"] = {7: [0.0]}
    customers["z3"] = {}
    everyone = dataset_of(customers, N_ITEMS)
    model = model_for(everyone)
    # The worst that a model can do: one item outweighs all others.
    model["item_weights"][0] = np.float32(1e30)
    state, norm = ModelState.from_arrays(model), float(clipping_norm)
    whole = gram_sum(everyone, state, clipping_norm=norm)
    units = gram_units(everyone, state, with_norm(SHARED_GRAM, clipping_norm))
    for left_out in customers:
        fewer = dataset_of({sid: customers[sid] for sid in customers if sid != left_out}, N_ITEMS)
        assert np.linalg.norm(whole - gram_sum(fewer, state, clipping_norm=norm)) <= norm
        moved = units - gram_units(fewer, state, with_norm(SHARED_GRAM, clipping_norm))
        # In whole numbers: nothing is rounded on either side.
        squares = sum(int(value) ** 2 for value in moved)
        assert squares <= math.ldexp(norm, -SHARED_GRAM.grid_exponent) ** 2


def test_the_neighbour_test_catches_a_sum_without_clipping() -> None:
    row = np.full((1, 30), 30**-0.5)
    own = clipped_gram([csr_matrix(row)], 30, clipping_norm=100.0)
    assert np.linalg.norm(own) > 0.3
    assert clip_factors(csr_matrix(row), 0.3)[0] < 0.5


def test_pairs_one_by_one_come_to_the_same_sum() -> None:
    dataset = random_dataset(50, N_ITEMS)
    state = state_for(dataset)
    rows = csr_matrix(np.concatenate(list(factor_rows(dataset, state))))
    total = np.zeros(n_pairs(N_ITEMS))
    for places, values in clipped_pairs([rows[:20], rows[20:]], N_ITEMS, clipping_norm=0.3):
        np.add.at(total, places, values)
    assert total == pytest.approx(clipped_gram([rows], N_ITEMS, clipping_norm=0.3), abs=1e-12)


def test_units_are_the_sum_but_for_truncation_in_whatever_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = random_dataset(150, N_ITEMS)
    state = state_for(dataset, SHARED)
    units = gram_units(dataset, state, SHARED_GRAM)
    exact = gram_sum(dataset, state, clipping_norm=float(SHARED_GRAM.clipping_norm))
    lost = exact - np.ldexp(units.astype(np.float64), SHARED_GRAM.grid_exponent)
    assert (lost >= -1e-9).all()
    assert lost.max() <= 150 * 2.0**SHARED_GRAM.grid_exponent
    monkeypatch.setattr("client.training.shared_sums._CHUNK_PRODUCTS", 1)
    assert np.array_equal(units, gram_units(dataset, state, SHARED_GRAM))


def test_a_release_is_the_sum_plus_fresh_noise_of_the_stated_size() -> None:
    dataset = random_dataset(50, N_ITEMS)
    model = model_for(dataset)
    exact = gram_sum(
        dataset, ModelState.from_arrays(model), clipping_norm=float(GRAM.clipping_norm)
    )
    noise = SystemNoise()
    drawn = np.stack([gram_release(dataset, GRAM, model, noise=noise) - exact for _ in range(30)])
    assert noise_has_stddev(drawn, GRAM.noise_stddev)
    assert not noise_has_stddev(drawn, GRAM.noise_stddev * 0.9)
    assert noise_is_fresh(drawn[:-1], drawn[1:])


def test_a_release_is_what_the_plan_says_and_nobody_leaves_pure_noise() -> None:
    model = model_for(random_dataset(20, N_ITEMS))
    empty = dataset_of({}, N_ITEMS)
    released = gram_release(empty, GRAM, model, noise=SeededNoise("empty"))
    specs = PLAN.released_arrays("gram")
    check_arrays({"item_gram": released}, specs, grid=release_grid(PLAN, GRAM))
    pure = SeededNoise("empty").gaussian(released.shape, GRAM.noise_stddev)
    assert np.array_equal(released, snap_to_grid(pure, GRAM.grid_exponent))
    assert not gram_units(empty, ModelState.from_arrays(model), SHARED_GRAM).any()


def test_a_shared_round_releases_what_the_plan_names() -> None:
    dataset = random_dataset(100, N_ITEMS)
    model = model_for(dataset, SHARED)
    noise = SystemNoise()
    released = shared_round(dataset, model, plan=SHARED, server_round=2, noise=noise)
    check_arrays(released, SHARED.released_arrays("gram"), grid=None)
    assert (released["item_gram"] != 0).mean() > 0.99


def test_what_is_not_finite_is_never_released() -> None:
    with pytest.raises(InputError, match="row is not finite"):
        clipped_gram([csr_matrix(np.array([[np.nan, 1.0]]))], 2, clipping_norm=1.0)
    model = model_for(random_dataset(5, N_ITEMS))
    model["item_weights"][0] = np.nan
    with pytest.raises(FedprefError):
        gram_release(random_dataset(5, N_ITEMS), GRAM, model, noise=SystemNoise())
