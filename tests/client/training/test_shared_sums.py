from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.dataset import PreferenceDataset
from client.training.discrete_noise import discrete_gaussian
from client.training.dp_sgd import factor_sum, popularity_sum
from client.training.noise import SeededNoise, SystemNoise
from client.training.shared_sums import (
    factor_units,
    popularity_units,
    shared_release,
    shared_round,
)
from common.errors import InputError
from common.model_state import ModelState
from common.plan import RunPlan
from common.secure_aggregation import Quantiser
from server.aggregation import first_model
from tests.support.preference_data import dataset_of, random_customers, random_dataset
from tests.support.privacy_gates import noise_has_stddev, noise_is_normal
from tests.support.shared_plan import shared_plan

N_ITEMS = 60
PLAN = shared_plan(n_items=N_ITEMS)
POPULARITY, FACTORS = PLAN.mechanisms


def model_for(dataset: PreferenceDataset, plan: RunPlan = PLAN) -> dict[str, Any]:
    return first_model(popularity_sum(dataset, clipping_norm=1.0), plan)


def state_for(dataset: PreferenceDataset) -> ModelState:
    return ModelState.from_arrays(model_for(dataset))


def in_values(units: np.ndarray, exponent: int) -> np.ndarray:
    return np.ldexp(units.astype(np.float64), exponent)


def test_sums_are_those_of_floats_but_for_truncation() -> None:
    dataset = random_dataset(200, N_ITEMS)
    gamma = 2.0**POPULARITY.grid_exponent
    popularity = in_values(popularity_units(dataset, POPULARITY), POPULARITY.grid_exponent)
    exact = popularity_sum(dataset, clipping_norm=1.0)
    assert ((exact - popularity >= 0) & (exact - popularity <= 200 * gamma)).all()
    state = state_for(dataset)
    norm = float(FACTORS.clipping_norm)
    gradient = in_values(factor_units(dataset, state, FACTORS), FACTORS.grid_exponent)
    exact = factor_sum(dataset, state, clipping_norm=norm)
    assert np.abs(exact - gradient).max() <= 200 * 2.0**FACTORS.grid_exponent
    assert np.linalg.norm(exact - gradient) <= 0.01 * np.linalg.norm(exact)


def test_the_order_of_customers_and_chunks_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    customers = random_customers(120, N_ITEMS)
    dataset = dataset_of(customers, N_ITEMS)
    renamed = {f"z{999 - number}": bought for number, bought in enumerate(customers.values())}
    state = state_for(dataset)
    whole = factor_units(dataset, state, FACTORS)
    assert np.array_equal(whole, factor_units(dataset_of(renamed, N_ITEMS), state, FACTORS))
    monkeypatch.setattr("client.training.shared_sums._CHUNK_PRODUCTS", 1)
    assert np.array_equal(whole, factor_units(dataset, state, FACTORS))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 40), st.sampled_from(["model", "hostile"]))
def test_one_customer_moves_the_sums_by_at_most_c(seed: int, others: int, kind: str) -> None:
    customers = random_customers(others + 1, N_ITEMS, seed=seed)
    first = next(iter(customers))
    fewer = {name: bought for name, bought in customers.items() if name != first}
    more, less = dataset_of(customers, N_ITEMS), dataset_of(fewer, N_ITEMS)
    model = model_for(dataset_of(random_customers(50, N_ITEMS), N_ITEMS))
    if kind == "hostile":
        model["item_factors"] = (model["item_factors"] * 1e6).astype(np.float32)
    state = ModelState.from_arrays(model)
    for mechanism, sums in (
        (POPULARITY, lambda each: popularity_units(each, POPULARITY)),
        (FACTORS, lambda each: factor_units(each, state, FACTORS)),
    ):
        moved = sums(more) - sums(less)
        limit = float(mechanism.clipping_norm)
        # In whole numbers: nothing is rounded on either side.
        squares = sum(int(value) ** 2 for value in moved.ravel())
        assert squares <= math.ldexp(limit, -mechanism.grid_exponent) ** 2


def test_a_share_of_noise_has_the_size_that_is_accounted_for() -> None:
    units = np.zeros(40_000, dtype=np.int64)
    share = PLAN.shared_noise(POPULARITY).share.value
    noise = shared_release(units, POPULARITY, PLAN, SystemNoise()).astype(np.float64)
    assert noise_has_stddev(noise, share)
    assert noise_is_normal(noise + np.random.default_rng(0).uniform(-0.5, 0.5, 40_000), share)
    assert not noise_has_stddev(noise, share * 0.9)
    total = PLAN.shared_noise(POPULARITY)
    # Three shares are the noise of a central mechanism of σ = C times the plan's multiplier.
    central = POPULARITY.noise_stddev / 2.0**POPULARITY.grid_exponent
    assert math.sqrt(total.variance) == pytest.approx(central, rel=1e-6)
    assert math.sqrt(total.variance) > central


def test_noise_is_on_every_coordinate_and_added_to_the_sum_as_it_is() -> None:
    dataset = random_dataset(100, N_ITEMS)
    released = shared_round(dataset, {}, plan=PLAN, server_round=1, noise=SeededNoise("n"))
    units = popularity_units(dataset, POPULARITY)
    drawn = discrete_gaussian(units.shape, PLAN.shared_noise(POPULARITY).share, SeededNoise("n"))
    assert released["popularity"].dtype == np.int32
    assert np.array_equal(released["popularity"], units + drawn)
    assert (drawn != 0).mean() > 0.99


def test_each_round_releases_what_the_plan_names() -> None:
    dataset = random_dataset(100, N_ITEMS)
    model = model_for(dataset)
    for server_round in (1, 2):
        released = shared_round(
            dataset,
            model if server_round > 1 else {},
            plan=PLAN,
            server_round=server_round,
            noise=SystemNoise(),
        )
        specs = PLAN.released_arrays(PLAN.mechanism_of(server_round).name)
        assert {(n, a.dtype.str, a.shape) for n, a in released.items()} == {
            (spec.name, spec.dtype, spec.shape) for spec in specs
        }


def test_no_customers_leave_pure_noise() -> None:
    nobody = dataset_of({}, N_ITEMS)
    state = state_for(random_dataset(50, N_ITEMS))
    assert not popularity_units(nobody, POPULARITY).any()
    assert not factor_units(nobody, state, FACTORS).any()


def test_sums_beyond_the_ring_are_limited_before_noise() -> None:
    units = np.full(1000, 2**30, dtype=np.int64)
    released = shared_release(units, POPULARITY, PLAN, SystemNoise()).astype(np.int64)
    room = Quantiser(POPULARITY.grid_exponent, len(PLAN.regions)).largest_steps
    assert (np.abs(released) <= room).all()
    # Four of them still add up within the ring.
    assert 4 * int(released.max()) < 2**31


def test_a_source_without_words_is_refused() -> None:
    class Gaussian:
        pass

    with pytest.raises(InputError, match="cannot be drawn"):
        shared_round(
            random_dataset(5, N_ITEMS),
            {},
            plan=PLAN,
            server_round=1,
            noise=Gaussian(),  # type: ignore[arg-type]
        )
