"""Whole rounds under a robust rule: what is logged, what is refused, and what is left then."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import FederationError
from common.parameters import arrays_digest
from common.plan import RunPlan
from server.aggregation import first_model
from server.checkpoint import CheckpointStore
from server.power_rounds import factors_after
from server.robust_noise import noise_gain
from tests.support.fake_federation import Arrays, FakeFederation, fake_plan, open_federation
from tests.support.given_total import GivenTotal

RULES = ("median", "trimmed-mean", "krum")
N_REGIONS = 6


def robust_plan(rule: str, *, quorum: int = 5) -> RunPlan:
    aggregation = {"rule": rule, "tolerated": 1, "honest_survivors_min": 0}
    record = fake_plan(N_REGIONS, quorum=quorum).to_record()
    return RunPlan.from_record({**record, "aggregation": aggregation})


def located(rule: str, values: np.ndarray) -> np.ndarray:
    """The location of float64[n_regions, ...] by the rule's definition, in another way."""
    if rule == "median":
        middle = np.sort(values, axis=0)[[(len(values) - 1) // 2, len(values) // 2]]
        return np.asarray(middle.mean(axis=0))
    if rule == "trimmed-mean":
        total = values.sum(axis=0) - values.max(axis=0) - values.min(axis=0)
        return np.asarray(total / (len(values) - 2))
    flat = values.reshape(len(values), -1)
    apart = np.linalg.norm(flat[:, None, :] - flat[None, :, :], axis=2) ** 2
    # Of each row, itself and the n − f − 2 nearest.
    scores = np.sort(apart, axis=1)[:, : len(values) - 2].sum(axis=1)
    return np.asarray(values[int(scores.argmin())])


def expected_model(federation: FakeFederation, rounds: int) -> Arrays:
    model: Arrays = {}
    state: Arrays = {}
    engines = [engine for _, engine in sorted(federation.engines.items())]
    gain = noise_gain(federation.plan.aggregation, len(engines))
    rule = federation.plan.aggregation.rule
    for number in range(1, rounds + 1):
        released = [each.release(number) for each in engines]
        (name,) = released[0]
        total = len(engines) * located(rule, np.stack([each[name] for each in released]) * 1.0)
        if number == 1:
            model = dict(first_model(total, federation.plan, noise_gain=gain))
        else:
            given = GivenTotal(len(engines), total, gain)
            model, state = factors_after(number, model, given, federation.plan, state)
    return model


@pytest.mark.parametrize("rule", RULES)
def test_a_run_under_a_robust_rule(rule: str, tmp_path: Path) -> None:
    with open_federation(tmp_path, robust_plan(rule)) as federation:
        federation.run()
        aggregates = federation.records("aggregate")
        assert {each["rule"] for each in aggregates} == {rule}
        assert all(len(each["regions"]) == N_REGIONS for each in aggregates)  # type: ignore[arg-type]
        found, expected = federation.model(), expected_model(federation, len(aggregates))
        for name, values in expected.items():
            assert np.allclose(found[name], values, rtol=1e-6, atol=1e-6), name


def enormous(arrays: Arrays) -> Arrays:
    """As large as validation lets pass: all of it on one item."""
    ((name, values),) = arrays.items()
    values = values.copy()
    values.flat[7] = 512.0
    return {name: values}


def popularity_of(tmp_path: Path, rule: str | None) -> float:
    plan = robust_plan(rule) if rule else fake_plan(N_REGIONS, quorum=5)
    with open_federation(tmp_path, plan) as federation:
        federation.run_config["last-round"] = 1
        federation.engines["region-3"].tamper_arrays = enormous
        federation.run()
        checkpoint = CheckpointStore(federation.home.checkpoint).read()
        assert checkpoint is not None
        return float(checkpoint.model["popularity"][7])


def test_a_hostile_region_moves_a_sum_and_no_robust_rule(tmp_path: Path) -> None:
    assert popularity_of(tmp_path / "sum", None) > 400
    for rule in RULES:
        assert abs(popularity_of(tmp_path / rule, rule)) < 40


def not_finite(arrays: Arrays) -> Arrays:
    return {name: np.full_like(values, np.nan) for name, values in arrays.items()}


def test_a_round_goes_on_with_as_many_as_the_rule_needs(tmp_path: Path) -> None:
    with open_federation(tmp_path, robust_plan("krum")) as federation:
        federation.engines["region-2"].tamper_arrays = not_finite
        federation.run()
        for each in federation.records("aggregate"):
            assert each["refused"] == [{"region": "region-2", "reason": "not-finite"}]
        assert (1, "region-2", "not-finite") in federation.incidents()


@pytest.mark.parametrize(("rule", "quorum", "refused"), [("krum", 5, 2), ("median", 3, 4)])
def test_with_fewer_nothing_is_published(
    rule: str, quorum: int, refused: int, tmp_path: Path
) -> None:
    with open_federation(tmp_path, robust_plan(rule, quorum=quorum)) as federation:
        for number in range(1, refused + 1):
            federation.engines[f"region-{number}"].tamper_arrays = not_finite
        with pytest.raises(FederationError, match=f"of the {quorum} regions"):
            federation.run()
        assert federation.records("aggregate") == []
        assert not federation.home.model.exists()


@pytest.mark.parametrize("rule", RULES)
def test_a_round_that_is_logged_and_lost_comes_out_the_same(
    rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_federation(tmp_path, robust_plan(rule)) as federation:
        with monkeypatch.context() as patch:
            patch.setattr(CheckpointStore, "write", crash)
            with pytest.raises(RuntimeError, match="crash"):
                federation.run()
        shutil.rmtree(federation.home.checkpoint)
        (logged,) = federation.records("aggregate")
        federation.run()
        assert federation.records("aggregate")[0] == logged
        last = federation.records("aggregate")[-1]
        assert arrays_digest(federation.model()) == last["model_out"]


def crash(*_: Any) -> None:
    raise RuntimeError("crash")


def test_a_robust_total_keeps_more_noise_than_a_sum() -> None:
    gains = {rule: noise_gain(robust_plan(rule).aggregation, N_REGIONS) for rule in RULES}
    assert math.sqrt(N_REGIONS) < gains["trimmed-mean"] < gains["median"] < gains["krum"]
