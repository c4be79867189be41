from __future__ import annotations

import tracemalloc
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule
from scipy.sparse import csr_matrix
from torch import nn

from client.data.dataset import PreferenceDataset
from client.training.dp_sgd import (
    Gradients,
    factor_release,
    factor_sum,
    popularity_release,
    popularity_sum,
)
from client.training.models.power_factors import clipped_sum
from client.training.noise import SeededNoise, SystemNoise
from client.training.opacus_reference import clipped_gradient
from client.training.rows import factor_rows, popularity_values
from common.errors import FedprefError, InputError
from common.model import PreferenceModel
from common.model_state import ModelState
from common.parameters import check_arrays, snap_to_grid
from common.plan import RunPlan
from common.release_bounds import release_grid
from server.aggregation import first_model
from tests.support.preference_data import dataset_of, plan_of, random_customers, random_dataset
from tests.support.privacy_gates import noise_has_stddev, noise_is_fresh

N_ITEMS = 60
PLAN = plan_of(n_items=N_ITEMS)
POPULARITY, FACTORS = PLAN.mechanisms
Arrays = dict[str, Any]


class Silence:
    """A noise source without noise, to look at sums; it notes what was asked of it."""

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[int, ...], float]] = []

    def gaussian(self, shape: tuple[int, ...], stddev: float) -> np.ndarray:
        self.asked.append((shape, stddev))
        return np.zeros(shape)


def model_for(dataset: PreferenceDataset, plan: RunPlan = PLAN) -> Arrays:
    return first_model(popularity_sum(dataset, clipping_norm=1.0), plan)


def gradient_sum(dataset: PreferenceDataset, model: Arrays, clipping_norm: float) -> np.ndarray:
    state = ModelState.from_arrays(model)
    return factor_sum(dataset, state, clipping_norm=clipping_norm)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(2, 12),
    st.integers(1, 4),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_per_sample_gradients_are_those_of_autograd(
    n_rows: int, size: int, rank: int, seed: int, in_float32: bool
) -> None:
    generator = np.random.default_rng(seed)
    rows = torch.from_numpy(generator.standard_normal((n_rows, size)))
    directions = torch.from_numpy(generator.standard_normal((size, rank)))
    module = GradSampleModule(PreferenceModel(directions), loss_reduction="sum")
    used = rows
    if in_float32:
        module, used = module.float(), rows.float()
    PreferenceModel.loss(module(used.clone().requires_grad_())).backward()
    (parameter,) = module.parameters()
    for row, per_sample in zip(rows, parameter.grad_sample, strict=True):
        weights = directions.clone().requires_grad_()
        loss = -0.5 * (weights.T @ row).square().sum()
        (expected,) = torch.autograd.grad(loss, weights)
        error = (per_sample.T.double() - expected).norm() / expected.norm()
        assert error <= 1e-5


def test_the_gradient_is_power_iteration_when_nothing_is_clipped() -> None:
    dataset = random_dataset(50, N_ITEMS)
    model = model_for(dataset)
    state = ModelState.from_arrays(model)
    rows = np.concatenate(list(factor_rows(dataset, state)))
    expected = -(rows.T @ (rows @ state.directions))
    assert gradient_sum(dataset, model, 100.0) == pytest.approx(expected, abs=1e-12)


def test_each_customer_is_clipped_by_itself() -> None:
    dataset = random_dataset(50, N_ITEMS)
    model = model_for(dataset)
    state = ModelState.from_arrays(model)
    expected = np.zeros(state.item_factors.shape)
    for row in np.concatenate(list(factor_rows(dataset, state))):
        own = -np.outer(row, row @ state.directions)
        expected += own * min(1.0, 0.2 / np.linalg.norm(own))
    assert gradient_sum(dataset, model, 0.2) == pytest.approx(expected, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("hostile_scale", [1.0, 1e6], ids=["honest model", "hostile model"])
def test_adding_any_one_customer_changes_the_sums_by_at_most_the_clipping_norm(
    hostile_scale: float,
) -> None:
    customers = random_customers(25, N_ITEMS)
    # One who bought everything many times, one who bought one thing once, one who bought nothing.
    customers["z1"] = {item: [0.0] * 50 for item in range(N_ITEMS)}
    customers["z2"] = {7: [0.0]}
    customers["z3"] = {}
    everyone = dataset_of(customers, N_ITEMS)
    model = model_for(everyone)
    model["item_factors"] = model["item_factors"] * np.float32(hostile_scale)
    # All factors alike: the worst that a model can do to a gradient's norm.
    model["item_factors"][:, 1:] = model["item_factors"][:, :1]
    with_all = popularity_sum(everyone, clipping_norm=1.0), gradient_sum(everyone, model, 0.2)
    for left_out in customers:
        fewer = dataset_of({sid: customers[sid] for sid in customers if sid != left_out}, N_ITEMS)
        assert np.linalg.norm(with_all[0] - popularity_sum(fewer, clipping_norm=1.0)) <= 1.0
        assert np.linalg.norm(with_all[1] - gradient_sum(fewer, model, 0.2)) <= 0.2


def test_the_neighbour_test_catches_a_sum_without_clipping() -> None:
    customers = random_customers(5, N_ITEMS)
    everyone = dataset_of(customers, N_ITEMS)
    model = model_for(everyone)
    alone = dataset_of({"c00000": customers["c00000"]}, N_ITEMS)
    assert np.linalg.norm(gradient_sum(alone, model, 100.0)) > 0.2


def test_rows_are_customers_not_purchases() -> None:
    once = dataset_of({"a": {1: [3.0], 4: [5.0]}}, N_ITEMS)
    often = dataset_of({"a": {1: [3.0] * 9, 4: [5.0] * 9}}, N_ITEMS)
    model = model_for(once)
    assert popularity_sum(often, clipping_norm=1.0) == pytest.approx(
        popularity_sum(once, clipping_norm=1.0)
    )
    assert gradient_sum(often, model, 0.2) == pytest.approx(gradient_sum(once, model, 0.2))


def test_popularity_in_closed_form_is_what_opacus_computes() -> None:
    dataset = random_dataset(30, N_ITEMS)
    rows = np.zeros((30, N_ITEMS))
    owners = np.repeat(np.arange(30), np.diff(dataset.indptr))
    rows[owners, dataset.indices] = popularity_values(dataset)
    linear = GradSampleModule(
        nn.Linear(N_ITEMS, 1, bias=False, dtype=torch.float64), loss_reduction="sum"
    )
    (-linear(torch.from_numpy(rows).requires_grad_()).sum()).backward()
    (weight,) = linear.parameters()
    per_sample = weight.grad_sample[:, 0]
    for clipping_norm in (1.0, 0.3):
        clipped = per_sample * (clipping_norm / per_sample.norm(dim=1, keepdim=True)).clamp(max=1.0)
        closed_form = popularity_sum(dataset, clipping_norm=clipping_norm)
        assert closed_form == pytest.approx(-clipped.sum(dim=0).numpy(), rel=2e-6, abs=1e-12)


def test_the_noise_scale_does_not_depend_on_the_number_of_customers() -> None:
    asked = []
    for n_customers in (0, 1, 50, 51):
        silence = Silence()
        dataset = random_dataset(n_customers, N_ITEMS)
        model = model_for(random_dataset(50, N_ITEMS))
        popularity_release(dataset, POPULARITY, noise=silence)
        factor_release(dataset, FACTORS, model, noise=silence)
        asked.append(silence.asked)
    assert all(each == asked[0] for each in asked)
    # Once per release: noise is never drawn again for the same mechanism.
    assert [stddev for _, stddev in asked[0]] == pytest.approx(
        [POPULARITY.noise_stddev, FACTORS.noise_stddev]
    )


def test_a_release_is_the_sum_plus_noise_of_the_stated_size() -> None:
    dataset = random_dataset(50, N_ITEMS)
    model = model_for(dataset)
    drawn: dict[str, list[np.ndarray]] = {"popularity": [], "factors": []}
    noise = SystemNoise()
    for _ in range(60):
        released = popularity_release(dataset, POPULARITY, noise=noise)
        drawn["popularity"].append(released - popularity_sum(dataset, clipping_norm=1.0))
        released = factor_release(dataset, FACTORS, model, noise=noise)
        drawn["factors"].append(released - gradient_sum(dataset, model, 0.2))
    for mechanism in (POPULARITY, FACTORS):
        values = np.stack(drawn[mechanism.name])
        assert noise_has_stddev(values, mechanism.noise_stddev)
        assert not noise_has_stddev(values, mechanism.noise_stddev * 0.9)
        assert noise_is_fresh(values[:-1], values[1:])


def test_a_release_is_what_the_plan_says_and_has_noise_everywhere() -> None:
    dataset = random_dataset(3, N_ITEMS)
    noise = SystemNoise()
    released = popularity_release(dataset, POPULARITY, noise=noise)
    specs = PLAN.released_arrays("popularity")
    check_arrays({"popularity": released}, specs, grid=release_grid(PLAN, POPULARITY))
    released = factor_release(dataset, FACTORS, model_for(dataset), noise=noise)
    specs = PLAN.released_arrays("factors")
    check_arrays({"factor_gradient": released}, specs, grid=release_grid(PLAN, FACTORS))
    assert released.any(axis=1).all()


def test_an_empty_data_set_releases_pure_noise() -> None:
    empty = dataset_of({}, N_ITEMS)
    model = model_for(random_dataset(20, N_ITEMS))
    noise = SeededNoise("empty")
    popularity = popularity_release(empty, POPULARITY, noise=noise)
    factors = factor_release(empty, FACTORS, model, noise=noise)
    again = SeededNoise("empty")
    for released, mechanism in ((popularity, POPULARITY), (factors, FACTORS)):
        pure = again.gaussian(released.shape[::-1], mechanism.noise_stddev).T
        assert np.array_equal(released, snap_to_grid(pure, -12))


def test_customers_without_anything_of_the_vocabulary_add_nothing() -> None:
    plan = plan_of(n_items=200)
    model = model_for(random_dataset(20, N_ITEMS), plan_of(n_items=N_ITEMS))
    assert not gradient_sum(dataset_of({"a": {}}, N_ITEMS), model, 0.2).any()
    assert plan.vocabulary_size == 100


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_never_released(value: float) -> None:
    dataset = random_dataset(5, N_ITEMS)
    model = model_for(dataset)
    dataset.counts.values[3] = value
    with pytest.raises(InputError):
        popularity_release(dataset, POPULARITY, noise=SystemNoise())
    for name in ("item_factors", "item_weights", "popularity"):
        broken = {key: array.copy() for key, array in model.items()}
        broken[name].flat[0] = value
        with pytest.raises(FedprefError):
            factor_release(random_dataset(5, N_ITEMS), FACTORS, broken, noise=SystemNoise())


def test_rows_that_are_not_finite_are_refused() -> None:
    row = np.array([[np.nan, 1.0]])
    with pytest.raises(InputError, match="row is not finite"):
        clipped_gradient([row], np.eye(2), clipping_norm=1.0)
    with pytest.raises(InputError, match="row is not finite"):
        clipped_sum([csr_matrix(row)], np.eye(2), clipping_norm=1.0)


@settings(max_examples=25)
@given(
    n_rows=st.integers(0, 6),
    size=st.integers(1, 12),
    rank=st.integers(1, 4),
    clipping_norm=st.sampled_from([1e-6, 0.1, 0.7, 10.0]),
    scale=st.sampled_from([0.0, 1e-30, 1.0, 1e15]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_closed_form_is_the_sum_of_autograd_clipped_customer_by_customer(
    n_rows: int, size: int, rank: int, clipping_norm: float, scale: float, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    rows = generator.random((n_rows, size)) * (generator.random((n_rows, size)) < 0.5)
    directions = generator.standard_normal((size, rank)) * scale
    expected = np.zeros((size, rank))
    for row in torch.from_numpy(rows):
        weights = torch.from_numpy(directions).requires_grad_()
        loss = -0.5 * (weights.T @ row).square().sum()
        (own,) = torch.autograd.grad(loss, weights)
        norm = float(own.norm())
        expected += own.numpy() * (min(1.0, clipping_norm / norm) if norm > 0 else 1.0)
    found = clipped_sum([csr_matrix(rows)], directions, clipping_norm=clipping_norm)
    error = np.linalg.norm(found - expected)
    assert error <= 1e-5 * np.linalg.norm(expected)
    for row in rows:
        alone = clipped_sum([csr_matrix(row[None])], directions, clipping_norm=clipping_norm)
        assert np.linalg.norm(alone) <= clipping_norm


@pytest.mark.parametrize("clipping_norm", [0.05, 0.2, 100.0])
def test_the_closed_form_is_what_opacus_gives(clipping_norm: float) -> None:
    dataset = random_dataset(300, N_ITEMS)
    state = ModelState.from_arrays(model_for(dataset))
    ours, reference = (
        factor_sum(dataset, state, clipping_norm=clipping_norm, gradients=gradients)
        for gradients in get_args(Gradients)
    )
    assert ours == pytest.approx(reference, rel=1e-12, abs=1e-12)


def test_a_release_by_opacus_is_the_same_release() -> None:
    dataset = random_dataset(50, N_ITEMS)
    model = model_for(dataset)
    ours, reference = (
        factor_release(dataset, FACTORS, model, noise=SeededNoise("same"), gradients=gradients)
        for gradients in get_args(Gradients)
    )
    # Equal but for a value that rounds to the other side of a grid point.
    assert np.abs(ours - reference).max() <= 2.0**-12
    assert (ours != reference).mean() <= 0.01


def test_nothing_of_customers_times_items_is_made() -> None:
    dataset = random_dataset(3000, 2000)
    state = ModelState.from_arrays(model_for(dataset, plan_of(n_items=2000)))
    factor_sum(dataset, state, clipping_norm=0.2)
    tracemalloc.start()
    factor_sum(dataset, state, clipping_norm=0.2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3000 * len(state.vocabulary) * 8
