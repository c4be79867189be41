from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from client.data.dataset import CustomerItemMatrix
from client.training.audit_gates.probe import ProbeModel
from client.training.local_steps import LocalSettings, train_locally
from client.training.models.protocol import CHUNK_CUSTOMERS
from client.training.noise import SeededNoise, SystemNoise
from client.training.schedules import Schedule
from common.errors import InputError
from common.privacy import GaussianEvent
from tests.support.privacy_gates import noise_has_stddev, noise_is_fresh, noise_is_normal

N_ITEMS = 40
SETTINGS = LocalSettings(
    noise_multiplier=1.5,
    clipping_norm=0.5,
    sampling_probability=0.5,
    steps=4,
    expected_batch_size=20.0,
    learning_rate=0.1,
)


def customers(n: int, *, seed: int = 0, n_items: int = N_ITEMS) -> CustomerItemMatrix:
    generator = np.random.default_rng(seed)
    sizes = generator.integers(0, 6, n)
    bounds = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    items = [np.sort(generator.choice(n_items, size, replace=False)) for size in sizes]
    return CustomerItemMatrix(
        bounds,
        np.concatenate([np.zeros(0), *items]).astype(np.int32),
        generator.uniform(0.1, 2, bounds[-1]).astype(np.float32),
        n_items,
    )


class Silent:
    """No noise, and everybody takes part: what is left can be computed by hand."""

    def gaussian(self, shape: tuple[int, ...], stddev: float) -> np.ndarray:
        return np.zeros(shape)

    def fill(self, out: np.ndarray, stddev: float) -> None:
        out[...] = 0

    def mask(self, n: int, probability: float) -> np.ndarray:
        return np.ones(n, dtype=bool)


def trained(
    settings: LocalSettings, noise: Any, n_customers: int = 30, seed: int = 0
) -> np.ndarray:
    model = ProbeModel(N_ITEMS)
    train_locally(model, customers(n_customers, seed=seed), settings, noise)
    return model.parameters["weights"].numpy().copy()


@given(n=st.integers(0, 700), seed=st.integers(0, 100), norm=st.sampled_from([0.01, 0.5, 99.0]))
def test_without_noise_the_change_is_that_of_clipped_means(n: int, seed: int, norm: float) -> None:
    settings = replace(SETTINGS, clipping_norm=norm, weight_decay=0.2)
    rows = customers(n, seed=seed)
    dense = np.zeros((n, N_ITEMS))
    dense[np.repeat(np.arange(n), np.diff(rows.indptr)), rows.indices] = rows.values
    norms = np.linalg.norm(dense, axis=1, keepdims=True)
    total = (dense * np.minimum(1, norm / np.where(norms > 0, norms, 1))).sum(0)
    weights = np.zeros(N_ITEMS)
    for _ in range(settings.steps):
        weights = weights * (1 - 0.1 * 0.2) + 0.1 * total / 20.0
    assert trained(settings, Silent(), n, seed) == pytest.approx(weights, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("n_customers", [0, 50])
def test_a_step_without_anybody_is_noise_of_the_stated_size(n_customers: int) -> None:
    # With empty rows whoever is drawn adds nothing; with no rows nobody is drawn.
    n_items = 30_000
    model = ProbeModel(n_items)
    nobody = CustomerItemMatrix(
        np.zeros(n_customers + 1, dtype=np.int64),
        np.zeros(0, dtype=np.int32),
        np.zeros(0, dtype=np.float32),
        n_items,
    )
    settings = replace(SETTINGS, steps=1)
    train_locally(model, nobody, settings, SystemNoise())
    first = model.parameters["weights"].numpy().astype(np.float64).copy()
    train_locally(model, nobody, settings, SystemNoise())
    second = model.parameters["weights"].numpy() - first
    stddev = 0.1 * 1.5 * 0.5 / 20.0
    for change in (first, second):
        assert noise_has_stddev(change, stddev)
        assert noise_is_normal(change, stddev)
        assert not noise_has_stddev(0.9 * change, stddev)
    assert noise_is_fresh(first, second)


def test_the_number_of_customers_enters_nowhere() -> None:
    """Customers without purchases change nothing but who is drawn, and so not one bit of noise."""

    class Counted(SeededNoise):
        def mask(self, n: int, probability: float) -> np.ndarray:
            return np.ones(n, dtype=bool)

    def weights(n: int) -> np.ndarray:
        model = ProbeModel(N_ITEMS)
        empty = CustomerItemMatrix(
            np.zeros(n + 1, dtype=np.int64),
            np.zeros(0, dtype=np.int32),
            np.zeros(0, dtype=np.float32),
            N_ITEMS,
        )
        train_locally(model, empty, SETTINGS, Counted("n"))
        return model.parameters["weights"].numpy()

    assert np.array_equal(weights(0), weights(1))
    assert np.array_equal(weights(0), weights(1000))


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_equal_seeds_give_equal_bits(optimizer: Any) -> None:
    settings = replace(SETTINGS, optimizer=optimizer)
    first = trained(settings, SeededNoise("a"))
    assert first.tobytes() == trained(settings, SeededNoise("a")).tobytes()
    assert first.tobytes() != trained(settings, SeededNoise("b")).tobytes()


def test_schedules_change_the_rate_and_the_clipping_norm_with_its_noise() -> None:
    halved = Schedule("linear", final_share=0.0, first_step=1, total_steps=2)
    one = replace(SETTINGS, steps=1, clipping_norm=0.01)
    # All customers are above so small a norm: half of it halves sum and noise alike.
    full = trained(one, SeededNoise("s"))
    for changed in ({"schedule": halved}, {"clipping_schedule": halved}):
        half = trained(replace(one, **changed), SeededNoise("s"))
        assert half == pytest.approx(full / 2, rel=1e-5)
    assert replace(one, clipping_schedule=halved).event == one.event


def test_a_model_may_add_something_at_the_end_of_each_step() -> None:
    class Late(ProbeModel):
        def finish(self, into: Mapping[str, torch.Tensor]) -> None:
            into["weights"] -= 1.0

    late, plain = Late(N_ITEMS), ProbeModel(N_ITEMS)
    for model in (late, plain):
        train_locally(model, customers(5), SETTINGS, Silent())
    difference = late.parameters["weights"] - plain.parameters["weights"]
    assert difference.numpy() == pytest.approx(4 * 0.1 / 20.0, rel=1e-5)


def test_a_model_prepares_once_before_the_chunks_of_each_step() -> None:
    calls: list[str] = []

    class Told(ProbeModel):
        def prepare(self) -> None:
            calls.append("prepare")

        def add_clipped_gradients(self, batch: CustomerItemMatrix, *rest: Any) -> None:
            calls.append("chunk")

    train_locally(
        Told(N_ITEMS), customers(2 * CHUNK_CUSTOMERS + 1), replace(SETTINGS, steps=2), Silent()
    )
    assert calls == ["prepare", "chunk", "chunk", "chunk"] * 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_data_that_are_not_finite_end_training(value: float) -> None:
    rows = customers(30)
    rows.values[7] = value
    with pytest.raises(InputError, match="not finite"):
        train_locally(ProbeModel(N_ITEMS), rows, SETTINGS, Silent())


def test_parameters_that_are_not_finite_end_training_before_it_begins() -> None:
    model = ProbeModel(N_ITEMS)
    model.parameters["weights"][3] = float("nan")
    with pytest.raises(InputError, match="weights is not finite before training"):
        train_locally(model, customers(5), SETTINGS, SystemNoise())


def test_training_that_diverges_ends() -> None:
    class Huge(SystemNoise):
        def fill(self, out: np.ndarray, stddev: float) -> None:
            out[...] = 2e36

    fast = replace(SETTINGS, expected_batch_size=1.0, learning_rate=1.5)
    with pytest.raises(InputError, match="weights is not finite after step 3"):
        trained(fast, Huge())


@pytest.mark.parametrize(
    "wrong",
    [
        {"noise_multiplier": 0.0},
        {"noise_multiplier": float("nan")},
        {"noise_multiplier": float("inf")},
        {"clipping_norm": 0.0},
        {"clipping_norm": -1.0},
        {"clipping_norm": float("nan")},
        {"clipping_norm": float("inf")},
        {"sampling_probability": 0.0},
        {"sampling_probability": 1.01},
        {"sampling_probability": float("nan")},
        {"steps": 0},
        {"steps": -1},
        {"expected_batch_size": 0.0},
        {"expected_batch_size": float("nan")},
        {"learning_rate": 0.0},
        {"learning_rate": float("inf")},
        {"weight_decay": -0.1},
        {"weight_decay": 11.0},
        {"clipping_schedule": Schedule("linear", first_step=9, total_steps=9)},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong)).split("_schedule")[0]):
        replace(SETTINGS, **{"steps": 2, **wrong})


def test_an_unknown_optimiser_is_refused() -> None:
    with pytest.raises(InputError, match="unknown"):
        trained(replace(SETTINGS, optimizer="lion"), Silent())  # type: ignore[arg-type]


def test_the_event_is_what_a_round_costs() -> None:
    assert SETTINGS.event == GaussianEvent(1.5, 0.5, 4)


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({}, "without parameters"),
        ({"w": torch.zeros(3, dtype=torch.float64)}, "w is not a contiguous array of float32"),
        ({"w": torch.zeros(3, 4).T}, "w is not a contiguous array of float32"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused(
    parameters: dict[str, torch.Tensor], problem: str
) -> None:
    model = ProbeModel(3)
    model.parameters = parameters
    with pytest.raises(InputError, match=problem):
        train_locally(model, customers(5, n_items=6), SETTINGS, Silent())


def test_one_array_under_two_names_is_refused() -> None:
    """Tied weights as two parameters: a customer would count once for each name."""
    model = ProbeModel(N_ITEMS)
    model.parameters["decoder"] = model.parameters["weights"].view(N_ITEMS, 1)
    with pytest.raises(InputError, match="same array under two names"):
        train_locally(model, customers(5), SETTINGS, Silent())
