"""What each step of clusters lets out: bounded wherever its centres are, and noised anew."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.analytics.planned import planned_statistic
from client.data.transactions import Purchases
from client.training.answer_sums import answer_release
from client.training.noise import NoiseSource, SeededNoise, SystemNoise
from common.analytics.estimates import FloatArray
from common.analytics.purchase_questions import CLUSTERS
from common.cluster_steps import question_in_round
from common.noise_of_answers import answer_noise_stddev
from common.plan import RunPlan
from tests.client.training.test_answer_sums import NoNoise, purchases, without
from tests.support.asked_federation import CATALOGUE, asked_plan, secure_plan
from tests.support.privacy_gates import noise_has_stddev, noise_is_fresh

LOCAL = asked_plan((CLUSTERS,), scope="global", epsilon="2")
SHARED = secure_plan("distributed", (CLUSTERS,), epsilon="2")
PLANS = {"local": LOCAL, "distributed": SHARED}
# So many steps have noise enough to see a tenth missing in 3,600 values.
RELEASES = 600
Release = Callable[[RunPlan, list[Purchases], NoiseSource, int, FloatArray], FloatArray]


def released(
    plan: RunPlan, parts: list[Purchases], noise: NoiseSource, number: int, rows: FloatArray
) -> FloatArray:
    """One step's release after others' sums, in the question's own units."""
    mechanism = plan.mechanism_named(CLUSTERS)
    step = question_in_round(plan, number, {"purchase_clusters": rows})
    statistic = planned_statistic(plan, CLUSTERS, CATALOGUE, time_zone="Europe/Berlin", step=step)
    (values,) = answer_release(
        parts, statistic, plan=plan, mechanism=mechanism, noise=noise
    ).values()
    exponent = mechanism.grid_exponent if plan.mode == "distributed" else 0
    return np.ldexp(values.astype(np.float64), exponent)


states = st.lists(st.integers(-(2**20), 2**20), min_size=6, max_size=6).map(
    lambda row: np.ldexp(np.array([row], dtype=np.float64), -6)
)


@settings(max_examples=15)
@given(rows=states, customer=st.integers(0, 7))
def test_a_customer_moves_a_step_by_no_more_than_the_clipping_norm(
    rows: FloatArray, customer: int
) -> None:
    """Wherever a coordinator's sums put the centres."""
    whole = purchases(8)
    seen = released(LOCAL, [whole], NoNoise(), 2, rows)
    other = released(LOCAL, [without(whole, customer)], NoNoise(), 2, rows)
    assert np.linalg.norm(seen - other) <= 1 + 2.0**-10 * math.sqrt(6)


def steps(plan: RunPlan, release: Release = released) -> tuple[FloatArray, FloatArray]:
    """Noise of first and of second steps: of regions without customers, from one source."""
    noise, nothing = SystemNoise(), np.zeros((0, 6))
    first = [release(plan, [], noise, 1, nothing) for _ in range(RELEASES)]
    second = [release(plan, [], noise, 2, each[None, :]) for each in first]
    return np.array(first), np.array(second)


def shows(plan: RunPlan, release: Release) -> bool:
    """Whether a fault in how steps are noised is seen by what is claimed of them."""
    claimed = answer_noise_stddev(plan, plan.mechanism_named(CLUSTERS), 1)
    first, second = steps(plan, release)
    sound = all(noise_has_stddev(each, claimed) for each in (first, second))
    return not (sound and noise_is_fresh(first, second))


def test_every_step_has_noise_of_its_own() -> None:
    assert not shows(LOCAL, released)


@pytest.mark.slow
def test_every_step_has_a_share_of_its_own() -> None:
    assert not shows(SHARED, released)


def no_second(
    plan: RunPlan, parts: list[Purchases], noise: NoiseSource, number: int, rows: FloatArray
) -> FloatArray:
    """The first step alone is noised."""
    return released(plan, parts, NoNoise() if number == 2 else noise, number, rows)


def for_one(
    plan: RunPlan, parts: list[Purchases], noise: NoiseSource, number: int, rows: FloatArray
) -> FloatArray:
    """Each step has the noise of a question that has one."""
    return released(plan, parts, noise, number, rows) / math.sqrt(3)


def test_a_step_without_noise_or_with_that_of_a_single_one_shows() -> None:
    assert shows(LOCAL, no_second)
    assert shows(LOCAL, for_one)


def test_the_same_noise_in_two_steps_shows() -> None:
    """Their difference would be exact."""
    drawn: list[FloatArray] = []

    def again(
        plan: RunPlan, parts: list[Purchases], noise: NoiseSource, number: int, rows: FloatArray
    ) -> FloatArray:
        seed = f"{len(drawn)}" if number == 1 else f"{rows[0, 0]!r}"
        values = released(plan, parts, SeededNoise(seed), number, rows)
        if number == 2:
            return np.asarray(rows[0])
        drawn.append(values)
        return values

    assert shows(LOCAL, again)
