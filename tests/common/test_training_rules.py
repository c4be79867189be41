"""What follows from public numbers for the strategies that train in the regions."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from common.errors import InputError
from common.plan import RunPlan, epsilon_bound
from common.plan_defaults import default_plan
from common.strategies import MATRIX_FACTORISATION, SASREC, TIED_AUTOENCODER, StrategyName
from common.training_rules import training_rule

STRATEGIES: tuple[StrategyName, ...] = (TIED_AUTOENCODER, MATRIX_FACTORISATION, SASREC)
SIZES = (500, 2_500, 25_000, 100_000, 1_000_000)


def plan_of(strategy: StrategyName, **changes: Any) -> RunPlan:
    arguments: dict[str, Any] = {
        "run_id": "rule",
        "federation": "rule",
        "scenario": "rule",
        "regions": ["a", "b", "c", "d", "e"],
        "quorum": 3,
        "catalogue": "0" * 64,
        "n_items": 5_000,
        "train_from": "2016-11-24T00:00:00.000Z",
        "train_until": "2017-10-26T00:00:00.000Z",
        "epsilon": "8",
        "planned_customers": 25_000,
        "strategy": strategy,
    }
    return default_plan(**{**arguments, **changes})


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_more_customers_never_mean_a_smaller_model_or_fewer_steps(strategy: str) -> None:
    rules = [
        training_rule(strategy, planned_customers=n, n_regions=5, n_items=10**6) for n in SIZES
    ]
    for smaller, larger in pairwise(rules):
        assert smaller.vocabulary_size <= larger.vocabulary_size
        assert smaller.rank <= larger.rank
        assert smaller.steps <= larger.steps
        assert float(smaller.sampling_probability) >= float(larger.sampling_probability)


# Each size's calibration takes seconds; the strategies share it.
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "planned_customers",
    [
        pytest.param(500, marks=pytest.mark.slow),
        25_000,
        pytest.param(1_000_000, marks=pytest.mark.slow),
    ],
)
def test_a_plan_of_each_size_is_sound_and_spends_what_it_states(
    strategy: StrategyName, planned_customers: int
) -> None:
    plan = plan_of(strategy, planned_customers=planned_customers)
    assert plan.strategy == strategy
    assert plan.local_training is not None
    training = plan.mechanisms[1]
    expected = float(training.sampling_probability) * planned_customers / 5
    assert float(plan.local_training.expected_batch_size) == pytest.approx(expected, abs=0.1)
    # The plan itself refuses to spend more; far less would be noise for nothing.
    assert 7.9 < epsilon_bound(plan.privacy_events(), 1e-6) <= 8


def test_regions_share_the_customers_and_a_small_catalogue_bounds_the_sizes() -> None:
    one, ten = (
        training_rule(TIED_AUTOENCODER, planned_customers=20_000, n_regions=n, n_items=10**6)
        for n in (1, 10)
    )
    assert (one.vocabulary_size, ten.vocabulary_size) == (1_000, 200)
    small = training_rule(TIED_AUTOENCODER, planned_customers=10**6, n_regions=1, n_items=20)
    assert (small.vocabulary_size, small.rank) == (20, 20)


def test_less_epsilon_means_more_noise_and_nothing_else() -> None:
    plans = [plan_of(MATRIX_FACTORISATION, epsilon=epsilon) for epsilon in ("8", "1")]
    noises = [float(plan.mechanisms[1].noise_multiplier) for plan in plans]
    assert noises[1] > 2 * noises[0]
    sizes = {(plan.vocabulary_size, plan.rank, plan.mechanisms[1].steps) for plan in plans}
    assert len(sizes) == 1


def test_factors_have_no_such_rule() -> None:
    with pytest.raises(InputError, match="does not train in the regions"):
        training_rule("factors", planned_customers=100, n_regions=1, n_items=100)
