"""Bounds on releases: real ones are within them, and not far below."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest

from common.errors import FormatError, InputError
from common.plan import RunPlan
from common.plan_defaults import GRID_EXPONENT, default_plan
from common.release_bounds import (
    release_noise_stddev,
    release_norm_bound,
    release_value_bound,
)
from common.secure_aggregation import MAX_SUMMED, Quantiser
from common.strategies import StrategyName
from tests.support.local_plan import local_plan
from tests.support.preference_data import plan_of


def secure(n_regions: int = 3, planned: int = 600, **changes: Any) -> RunPlan:
    arguments: dict[str, Any] = {
        "run_id": "run-1",
        "federation": "f.example",
        "scenario": "s",
        "regions": [f"r{number}" for number in range(n_regions)],
        "quorum": 3,
        "catalogue": "c" * 64,
        "n_items": 2000,
        "train_from": "2017-01-01T00:00:00.000Z",
        "train_until": "2017-12-01T00:00:00.000Z",
        "epsilon": "8",
        "planned_customers": planned,
        "rule": "secure-sum",
    }
    return default_plan(**(arguments | changes))


@pytest.mark.parametrize("strategy", get_args(StrategyName))
@pytest.mark.parametrize(("planned", "n_regions"), [(60, 3), (2500, 5), (10**5, 8), (10**6, 16)])
def test_a_secure_sum_gets_grids_that_its_ring_has_room_for(
    strategy: str, planned: int, n_regions: int
) -> None:
    plan = secure(n_regions, planned, strategy=strategy)
    for mechanism in plan.mechanisms:
        largest = Quantiser(mechanism.grid_exponent, n_regions).largest_value
        assert release_value_bound(plan, mechanism) <= largest
        # No coarser than it must be, where it is coarser than others' at all.
        finer = Quantiser(mechanism.grid_exponent - 1, n_regions).largest_value
        assert mechanism.grid_exponent == GRID_EXPONENT or (
            release_value_bound(plan, mechanism) * 1.01 > finer
        )
        # What rounding adds to the noise's variance, relative: γ²/12 to σ².
        step = 2.0**mechanism.grid_exponent
        assert (step / release_noise_stddev(plan, mechanism)) ** 2 / 12 < 0.006


def test_rounding_adds_a_twelfth_of_the_grids_square_and_no_more() -> None:
    """What the plan's bound on coarse grids rests on, at the coarsest that it lets pass."""
    generator, sigma = np.random.default_rng(3), 1.0
    noise = generator.normal(scale=sigma, size=4_000_000)
    step = sigma / 4
    rounded = np.rint(noise / step) * step
    added = rounded.var() / noise.var() - 1
    assert added == pytest.approx(step**2 / 12, rel=0.15)
    assert added < 0.0062


def test_open_sums_keep_the_grids_they_had() -> None:
    assert [m.grid_exponent for m in secure(5, 10**6, rule="sum").mechanisms] == [-12, -12]


def with_grid(plan: RunPlan, exponent: int) -> dict[str, Any]:
    record = plan.to_record()
    mechanisms: Any = record["mechanisms"]
    return record | {"mechanisms": [{**each, "grid_exponent": exponent} for each in mechanisms]}


def test_a_grid_too_fine_for_the_ring_is_refused() -> None:
    plan = secure(16, 10**6)
    with pytest.raises(FormatError, match="too fine for a secure sum of 16 regions"):
        RunPlan.from_record(with_grid(plan, -12))
    openly = {"rule": "sum", "tolerated": 0, "honest_survivors_min": 0}
    RunPlan.from_record(with_grid(plan, -12) | {"aggregation": openly})


def test_a_grid_too_coarse_beside_the_noise_is_refused() -> None:
    for rule in ("secure-sum", "sum"):
        plan = secure(rule=rule)
        # The coarsest that goes with the noise of both mechanisms, and one beyond it.
        least = min(release_noise_stddev(plan, each) for each in plan.mechanisms)
        coarsest = math.floor(math.log2(least / 4))
        RunPlan.from_record(with_grid(plan, coarsest))
        with pytest.raises(FormatError, match="too coarse beside its noise"):
            RunPlan.from_record(with_grid(plan, coarsest + 1))
    with pytest.raises(InputError, match="too coarse beside its noise"):
        secure(50, 10**8)


def test_more_regions_than_a_log_entry_can_name_are_refused() -> None:
    assert len(secure(MAX_SUMMED).regions) == MAX_SUMMED
    with pytest.raises(InputError, match="at most 128 regions"):
        secure(MAX_SUMMED + 1)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_changes_by_steps_are_bounded_by_what_each_step_can_do(optimizer: str) -> None:
    """Every step: the largest sample, all of whom agree, and noise far out."""
    plan = local_plan(training={"optimizer": optimizer})
    local, mechanism = plan.local_training, plan.mechanisms[1]
    assert local is not None
    rate = local.learning_rate_of(2)
    noise = 12 * mechanism.noise_stddev
    all_planned = plan.planned_customers * float(mechanism.clipping_norm)
    gain = {"sgd": 1.0, "momentum": 9.0, "adam": 0.0}[optimizer]
    largest = rate * mechanism.steps * gain * (all_planned + noise)
    largest /= float(local.expected_batch_size)
    if optimizer == "adam":
        largest = rate * mechanism.steps * 0.1 / math.sqrt(0.001)
    assert largest <= release_value_bound(plan, mechanism) <= release_norm_bound(plan, mechanism)


def test_a_sample_is_smaller_than_its_bound() -> None:
    plan = plan_of(epsilon="8")
    popularity = plan.mechanisms[0]
    # Everyone takes part: ten times the planned size, with noise on top.
    least = 10 * plan.planned_customers * float(popularity.clipping_norm)
    assert least < release_value_bound(plan, popularity) < least + 20 * popularity.noise_stddev
