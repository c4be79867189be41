"""What the coordinator makes of the regions' changes, against each optimiser written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FormatError, InputError
from common.parameters import check_arrays
from common.plan import RunPlan
from common.strategies import change_of
from server.aggregation import Model, first_model
from server.parameter_step import ADAPTIVITY, SECOND_MOMENTUM, model_after, parameter_step
from server.round_total import WholeTotal
from tests.support.local_plan import local_plan

MEAN, FEDAVGM, FEDADAM = "mean", "fedavgm", "fedadam"
PLAN = local_plan("matrix-factorisation")
POPULARITY = np.linspace(40.0, -2.0, PLAN.n_items)


def changes_of(seed: int, n_regions: int = 3) -> list[Model]:
    generator = np.random.default_rng(seed)
    name = change_of("item_factors")
    return [{name: generator.normal(0, 0.1, (20, 4)).astype(np.float32)} for _ in range(n_regions)]


def total_of(*releases: Model) -> WholeTotal:
    return WholeTotal.of(releases)


def start() -> Model:
    model, state = model_after(1, {}, total_of({"popularity": POPULARITY}), PLAN, {})
    assert state == {}
    return model


def test_after_popularity_the_model_has_what_its_strategy_trains() -> None:
    for plan in (PLAN, local_plan("tied-autoencoder")):
        model, _ = model_after(1, {}, total_of({"popularity": POPULARITY}), plan, {})
        check_arrays(model, plan.model_arrays(2), grid=None)
        again, _ = model_after(1, {}, total_of({"popularity": POPULARITY}), plan, {})
        assert all(np.array_equal(model[name], again[name]) for name in model)
        assert len(np.unique(model["item_factors"])) == model["item_factors"].size


def test_an_items_bias_starts_from_its_released_popularity_kept_above_the_noise() -> None:
    plan = local_plan("tied-autoencoder")
    model, _ = model_after(1, {}, total_of({"popularity": POPULARITY}), plan, {})
    bias = model["item_bias"].astype(np.float64)
    released = np.maximum(POPULARITY[model["vocabulary"].astype(int)], 2.0)
    assert np.allclose(np.exp(bias) / np.exp(bias).mean(), released / released.mean(), atol=1e-5)
    assert bias.argmax() == 0


def test_the_factors_strategy_goes_on_as_ever() -> None:
    plan = local_plan("matrix-factorisation")
    with_parameters, _ = model_after(1, {}, total_of({"popularity": POPULARITY}), plan, {})
    alone = first_model(POPULARITY, plan)
    for name in ("popularity", "vocabulary", "item_weights"):
        assert np.array_equal(with_parameters[name], alone[name])


@given(seed=st.integers(0, 1000), rate=st.sampled_from(["0.5", "1", "2"]))
def test_mean_adds_what_the_regions_moved_on_average(seed: int, rate: str) -> None:
    plan = local_plan("matrix-factorisation", training={"server_learning_rate": rate})
    model, changes = start(), changes_of(seed)
    following, state = parameter_step(2, model, total_of(*changes), plan, {})
    mean = np.mean([each[change_of("item_factors")] for each in changes], axis=0, dtype=np.float64)
    expected = model["item_factors"] + float(rate) * mean
    assert state == {}
    assert np.allclose(following["item_factors"], expected, rtol=1e-6, atol=1e-7)
    assert all(np.array_equal(following[name], model[name]) for name in _untrained(model))


def test_fedavgm_keeps_a_share_of_earlier_changes() -> None:
    plan = local_plan(
        "matrix-factorisation",
        training={"server_optimizer": FEDAVGM, "server_momentum": "0.9"},
    )
    model: Model = start()
    state: Model = {}
    expected, velocity = model["item_factors"].astype(np.float64), np.zeros((20, 4))
    for seed in range(4):
        changes = changes_of(seed)
        model, state = parameter_step(2, model, total_of(*changes), plan, state)
        mean = np.mean([each[change_of("item_factors")] for each in changes], axis=0)
        velocity = 0.9 * velocity + mean
        expected = expected + velocity
    assert np.allclose(model["item_factors"], expected, atol=1e-5)


def test_fedadam_is_as_published() -> None:
    plan = local_plan(
        "matrix-factorisation",
        training={
            "server_optimizer": FEDADAM,
            "server_momentum": "0.9",
            "server_learning_rate": "0.01",
        },
    )
    model: Model = start()
    state: Model = {}
    expected = model["item_factors"].astype(np.float64)
    first, second = np.zeros((20, 4)), np.zeros((20, 4))
    for seed in range(4):
        changes = changes_of(seed)
        model, state = parameter_step(2, model, total_of(*changes), plan, state)
        mean = np.mean([each[change_of("item_factors")] for each in changes], axis=0)
        first = 0.9 * first + 0.1 * mean
        second = SECOND_MOMENTUM * second + (1 - SECOND_MOMENTUM) * mean**2
        expected = expected + 0.01 * first / (np.sqrt(second) + ADAPTIVITY)
    assert np.allclose(model["item_factors"], expected, atol=1e-6)


def test_a_state_of_another_model_is_refused() -> None:
    plan = local_plan("matrix-factorisation", training={"server_optimizer": FEDAVGM})
    state: Model = {"first/item_factors": np.zeros((3, 4), np.float32)}
    with pytest.raises(FormatError, match="optimiser's state"):
        parameter_step(2, start(), total_of(*changes_of(1)), plan, state)


def test_parameters_that_would_not_be_finite_are_refused() -> None:
    model = start()
    model["item_factors"] = np.full((20, 4), 3e38, np.float32)
    change: Model = {change_of("item_factors"): np.full((20, 4), 3e38, np.float32)}
    with pytest.raises(InputError, match="not finite"):
        parameter_step(2, model, total_of(change), PLAN, {})


def _untrained(model: Model) -> set[str]:
    return set(model) - {"item_factors"}


def test_the_coordinators_learning_rate_follows_the_plans_schedule() -> None:
    schedule = {"server_learning_rate": "2", "server_learning_rate_decay": "0.5"}
    plan = local_plan("matrix-factorisation", training=schedule)
    model, changes = start(), changes_of(5)
    mean = np.mean([each[change_of("item_factors")] for each in changes], axis=0, dtype=np.float64)
    for number, rate in ((2, 2.0), (3, 1.0), (5, 0.25)):
        following, _ = model_after(number, model, total_of(*changes), plan_of_rounds(plan), {})
        expected = model["item_factors"] + rate * mean
        assert np.allclose(following["item_factors"], expected, rtol=1e-6, atol=1e-6)


def plan_of_rounds(plan: RunPlan) -> RunPlan:
    """The same with training in rounds 2 to 5."""
    record: dict[str, Any] = plan.to_record()
    record |= {"training_rounds": 4, "epsilon": "100"}
    record["mechanisms"][1] |= {"rounds": [2, 3, 4, 5]}
    return RunPlan.from_record(record)
