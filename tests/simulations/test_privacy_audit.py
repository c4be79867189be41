"""Attacks on whole runs: what they find stays within ε, and they do find what has no noise."""

from __future__ import annotations

import json
from functools import lru_cache, partial

import numpy as np
import pytest

from client.training.noise import SeededNoise
from common.errors import InputError
from common.plan import RunPlan
from common.strategies import SUMS, StrategyName
from simulations.canary_audit import canary_audit
from simulations.privacy_audit import Silence, audit_run
from simulations.quality_methods import RegionSplit
from tests.support.local_plan import local_plan
from tests.support.preference_data import dataset_of, plan_of, random_customers

N_ITEMS = 60


@lru_cache(maxsize=1)
def splits() -> list[RegionSplit]:
    found = []
    for number, region in enumerate(plan_of().regions):
        customers = random_customers(120, N_ITEMS, seed=number, prefix=f"{region}-")
        dataset = dataset_of(customers, N_ITEMS)
        found.append(RegionSplit(region, dataset, dataset))
    return found


class Quarter(SeededNoise):
    """A planted fault: a quarter of the noise that is stated."""

    def gaussian(self, shape: tuple[int, ...], stddev: float) -> np.ndarray:
        return super().gaussian(shape, stddev / 4)


def large_plan(epsilon: str, strategy: StrategyName = "factors") -> RunPlan:
    return plan_of(n_items=2000, planned_customers=10**6, epsilon=epsilon, strategy=strategy)


@pytest.mark.parametrize("epsilon", ["1", "3", "8"])
def test_canaries_prove_a_part_of_epsilon_and_never_more(epsilon: str) -> None:
    found = canary_audit(large_plan(epsilon), runs=12, seed=1)
    assert 0.05 * float(epsilon) < found["epsilon_at_least"] <= float(epsilon)
    assert found["canaries"] > 200


def test_canaries_of_gram_buy_a_few_items_each() -> None:
    found = canary_audit(large_plan("3", "gram"), runs=12, seed=1)
    assert 0.05 * 3 < found["epsilon_at_least"] <= 3
    assert found["canaries"] == 250


@pytest.mark.parametrize("strategy", SUMS)
@pytest.mark.parametrize("noise", [Quarter, Silence])
def test_canaries_catch_a_run_with_less_noise_than_it_states(
    noise: type[SeededNoise], strategy: StrategyName
) -> None:
    found = canary_audit(large_plan("1", strategy), runs=12, seed=1, noise_of=noise)
    assert found["epsilon_at_least"] > 1.5


def test_membership_inference_works_without_noise_and_not_with_it() -> None:
    found = audit_run(splits(), plan_of(epsilon="1"), n_models=12)
    json.dumps(found, allow_nan=False)
    protected, plain = found["membership"]["with_noise"], found["membership"]["without_noise"]
    assert plain["auc_low"] > 0.52
    assert protected["auc_high"] < plain["auc_low"]
    assert protected["auc"] < 0.53
    assert protected["auc_low"] <= found["allowed"]["auc"] < 0.75
    assert found["within"]
    assert (found["models"], found["customers"]) == (12, 360)
    assert 0 < found["canaries"]["epsilon_at_least"] <= 1


def test_a_model_trained_by_steps_is_attacked_too_without_canaries() -> None:
    found = audit_run(splits(), local_plan(), n_models=4)
    assert found["canaries"] is None
    assert found["within"]


def test_more_found_than_epsilon_allows_is_not_within(monkeypatch: pytest.MonkeyPatch) -> None:
    unprotected = partial(canary_audit, noise_of=Silence)
    monkeypatch.setattr("simulations.privacy_audit.canary_audit", unprotected)
    assert not audit_run(splits(), plan_of(epsilon="1"), n_models=4)["within"]


def test_an_audit_of_other_regions_or_with_few_models_is_refused() -> None:
    with pytest.raises(InputError, match="3 models tells nothing"):
        audit_run(splits(), plan_of(), n_models=3)
    with pytest.raises(InputError, match="not those of the run plan"):
        audit_run(splits()[:2], plan_of(), n_models=4)
    with pytest.raises(InputError, match="planted in runs of factors"):
        canary_audit(local_plan(), runs=1, seed=1)
