"""The releases that are one noisy sum a round, popularity and factors, audited with canaries.

What trains by local steps is audited in test_audit_gates.py, with the same bound.
"""

from __future__ import annotations

import numpy as np
import pytest

from client.training.audit_gates.canary_gate import lower_bound
from client.training.dp_sgd import factor_release, popularity_release
from client.training.noise import NoiseSource, SeededNoise
from common.model_state import ModelState
from common.plan import Mechanism
from common.privacy import GaussianEvent, epsilon
from tests.support.preference_data import Purchases, dataset_of, plan_of

N_CANARIES = 1000
RANK = 4
DELTA = 1e-6
PLAN = plan_of(n_items=N_CANARIES, epsilon="8", planned_customers=10**6)
# Clipped so low that every canary reaches the norm: the audit is then as sharp as it can be.
MECHANISMS = tuple(
    Mechanism(
        name=each.name,
        rounds=each.rounds,
        steps=1,
        noise_multiplier="1.5",
        clipping_norm="0.02",
        sampling_probability="1",
        grid_exponent=-12,
    )
    for each in PLAN.mechanisms
)


class Scaled:
    """A planted fault: noise of another size than stated."""

    def __init__(self, source: NoiseSource, factor: float) -> None:
        self._source, self._factor = source, factor

    def gaussian(self, shape: tuple[int, ...], stddev: float) -> np.ndarray:
        return self._source.gaussian(shape, stddev) * self._factor


def audit(mechanism: Mechanism, noise: NoiseSource, *, worth: int = 1) -> float:
    """Canary i buys item i and nothing else; `worth` customers stand for a missing clip."""
    included = np.random.default_rng(7).random(N_CANARIES) < 0.5
    customers: dict[str, Purchases] = {
        f"canary-{item:04d}-{number}": {item: [0.0]}
        for item in np.flatnonzero(included).tolist()
        for number in range(worth)
    }
    dataset = dataset_of(customers, N_CANARIES)
    if mechanism.name == "popularity":
        released = popularity_release(dataset, mechanism, noise=noise)
        return lower_bound(released.astype(np.float64), included, delta=DELTA, alarm=0.05)
    factors = np.random.default_rng(8).standard_normal((N_CANARIES, RANK)).astype(np.float32)
    arrays = {
        "popularity": np.ones(N_CANARIES, dtype=np.float32),
        "vocabulary": np.arange(N_CANARIES, dtype=np.int64),
        "item_weights": np.ones(N_CANARIES, dtype=np.float32),
        "item_factors": np.linalg.qr(factors)[0].astype(np.float32),
    }
    released = factor_release(dataset, mechanism, arrays, noise=noise)
    directions = ModelState.from_arrays(arrays).directions
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    scores = -(released * directions).sum(axis=1)
    return lower_bound(scores, included, delta=DELTA, alarm=0.05)


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=lambda each: str(each.name))
def test_canaries_bound_epsilon_from_below_within_the_claim(mechanism: Mechanism) -> None:
    claimed = epsilon([GaussianEvent(float(mechanism.noise_multiplier))], DELTA)
    assert 0 < audit(mechanism, SeededNoise("audit")) <= claimed


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=lambda each: str(each.name))
def test_the_audit_catches_missing_noise_and_customers_who_count_five_times(
    mechanism: Mechanism,
) -> None:
    claimed = epsilon([GaussianEvent(float(mechanism.noise_multiplier))], DELTA)
    assert audit(mechanism, Scaled(SeededNoise("audit"), 1e-3)) > claimed
    assert audit(mechanism, SeededNoise("audit"), worth=5) > claimed
