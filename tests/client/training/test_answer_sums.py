"""What a round of questions lets out: bounded, noised as planned, and which faults show."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from client.analytics.planned import planned_statistic
from client.analytics.purchases import PurchaseStatistic
from client.data.transactions import Purchases
from client.training import answer_sums
from client.training.answer_sums import answer_release
from client.training.bounded_sums import Contributions, bounded_sum
from client.training.noise import NoiseSource, SeededNoise, SystemNoise
from common.analytics.purchase_questions import CATEGORIES, RECENCY, SCENES
from common.errors import InputError
from common.noise_of_answers import answer_noise_stddev
from common.plan import RunPlan
from tests.support.asked_federation import CATALOGUE, WINDOW_MS, asked_plan, secure_plan
from tests.support.privacy_gates import noise_has_stddev, noise_is_fresh

FloatArray = npt.NDArray[np.float64]
Release = Callable[[RunPlan, list[Purchases], NoiseSource], FloatArray]

NAMES = (CATEGORIES, SCENES, RECENCY)
LOCAL = asked_plan(NAMES, epsilon="2")
SHARED = secure_plan("distributed", NAMES, epsilon="2")
PLANS = {"local": LOCAL, "distributed": SHARED}
# So many releases of the largest answer have noise enough to see a tenth missing.
RELEASES = 80


def purchases(customers: int, seed: int = 5) -> Purchases:
    generator = np.random.default_rng(seed)
    counts = generator.integers(1, 60, customers)
    owner = np.repeat(np.arange(customers), counts)
    return Purchases(
        tuple(f"{n:064x}" for n in range(customers)),
        owner.astype(np.int32),
        generator.integers(0, 40, len(owner)).astype(np.int32),
        generator.integers(*WINDOW_MS, len(owner)),
    )


def without(whole: Purchases, customer: int) -> Purchases:
    kept = whole.owner != customer
    owner = whole.owner[kept]
    names = tuple(name for n, name in enumerate(whole.owners) if n != customer)
    moved = np.where(owner > customer, owner - 1, owner).astype(np.int32)
    return Purchases(names, moved, whole.item[kept], whole.time_ms[kept])


def statistic(plan: RunPlan, name: str) -> PurchaseStatistic:
    return planned_statistic(plan, name, CATALOGUE, time_zone="Europe/Berlin")


def released(
    plan: RunPlan, parts: list[Purchases], noise: NoiseSource, name: str = RECENCY
) -> FloatArray:
    """One release, in the question's own units."""
    mechanism = plan.mechanism_named(name)
    (values,) = answer_release(
        parts, statistic(plan, name), plan=plan, mechanism=mechanism, noise=noise
    ).values()
    if plan.mode == "distributed":
        return np.ldexp(values.astype(np.float64), mechanism.grid_exponent)
    return values.astype(np.float64)


class NoNoise(SystemNoise):
    """For looking at what customers contribute."""

    def gaussian(self, shape: tuple[int, ...], stddev: float) -> FloatArray:
        del stddev
        return np.zeros(shape)


@pytest.mark.parametrize("name", NAMES)
def test_without_noise_it_is_the_sum_of_the_bounded_rows(name: str) -> None:
    parts = [purchases(30)]
    truth = bounded_sum(
        parts,
        statistic(LOCAL, name),
        start_ms=WINDOW_MS[0],
        end_ms=WINDOW_MS[1],
        clipping_norm=1.0,
    )
    np.testing.assert_allclose(released(LOCAL, parts, NoNoise(), name), truth, atol=2.0**-10)


@pytest.mark.parametrize("name", NAMES)
def test_a_customer_moves_it_by_no_more_than_the_clipping_norm(name: str) -> None:
    whole = purchases(12)
    seen = released(LOCAL, [whole], NoNoise(), name)
    size = LOCAL.question(name).asked.size
    for customer in range(12):
        moved = seen - released(LOCAL, [without(whole, customer)], NoNoise(), name)
        assert np.linalg.norm(moved) <= 1 + 2.0**-10 * math.sqrt(size)


def test_what_it_releases_is_what_the_plan_says_leaves() -> None:
    for plan in PLANS.values():
        mechanism = plan.mechanism_named(SCENES)
        given = answer_release(
            [purchases(5)],
            statistic(plan, SCENES),
            plan=plan,
            mechanism=mechanism,
            noise=SystemNoise(),
        )
        (spec,) = plan.released_arrays(SCENES)
        assert {name: (each.dtype.str, each.shape) for name, each in given.items()} == {
            spec.name: (spec.dtype, spec.shape)
        }


# -- gates and planted faults ----------------------------------------------------------------------


def drawn(plan: RunPlan, release: Release = released) -> FloatArray:
    """Noise: releases of regions without customers, one after the other from one source."""
    noise = SystemNoise()
    return np.array([release(plan, [], noise) for _ in range(RELEASES)])


def claimed(plan: RunPlan) -> float:
    return answer_noise_stddev(plan, plan.mechanism_named(RECENCY), 1)


@pytest.mark.parametrize("mode", PLANS)
def test_the_noise_is_what_the_answer_is_read_with(mode: str) -> None:
    values = drawn(PLANS[mode])
    assert noise_has_stddev(values, claimed(PLANS[mode]))
    assert noise_is_fresh(values[:-1], values[1:])


def halved(plan: RunPlan, parts: list[Purchases], noise: NoiseSource) -> FloatArray:
    return released(plan, parts, noise) / 2


def tenth_less(plan: RunPlan, parts: list[Purchases], noise: NoiseSource) -> FloatArray:
    return released(plan, parts, noise) * 0.9


def none_at_all(plan: RunPlan, parts: list[Purchases], noise: NoiseSource) -> FloatArray:
    del noise
    return released(plan, parts, NoNoise())


@pytest.mark.parametrize("fault", [halved, tenth_less, none_at_all])
def test_less_noise_than_claimed_shows(fault: Release) -> None:
    assert not noise_has_stddev(drawn(LOCAL, fault), claimed(LOCAL))


def test_the_same_noise_twice_shows() -> None:
    def repeated(plan: RunPlan, parts: list[Purchases], noise: NoiseSource) -> FloatArray:
        del noise
        return released(plan, parts, SeededNoise("3"))

    values = drawn(LOCAL, repeated)
    assert not noise_is_fresh(values[:-1], values[1:])


def test_rows_that_nothing_bounds_would_move_it_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan's clipping norm is what holds: a fault in the rows themselves is cut by it."""
    twice = statistic(LOCAL, CATEGORIES)

    def doubled(part: Purchases) -> Contributions:
        rows = twice.contributions(part)
        return Contributions(rows.owner, rows.place, 2 * rows.value)

    wrong = PurchaseStatistic(twice.question, doubled)
    mechanism = LOCAL.mechanism_named(CATEGORIES)
    one = [purchases(1)]

    def moved() -> float:
        (values,) = answer_release(
            one, wrong, plan=LOCAL, mechanism=mechanism, noise=NoNoise()
        ).values()
        return float(np.linalg.norm(values))

    assert moved() <= 1 + 2.0**-9
    whole = answer_sums.noisy_sum
    monkeypatch.setattr(
        answer_sums, "noisy_sum", lambda *a, **k: whole(*a, **k | {"clipping_norm": 8.0})
    )
    assert moved() > 1.5


def test_shares_of_all_honest_regions_come_to_the_noise_that_is_accounted_for() -> None:
    mechanism = SHARED.mechanism_named(RECENCY)
    least = SHARED.aggregation.honest_survivors_min
    noise = SystemNoise()
    totals = np.array(
        [sum(released(SHARED, [], noise) for _ in range(least)) for _ in range(RELEASES // 2)]
    )
    # Seven digits of a share, and the variance that rounding costs.
    upper = float(stats.chi2.isf(1e-7, totals.size)) / totals.size
    lower = float(stats.chi2.ppf(1e-7, totals.size)) / totals.size
    ratio = float((totals**2).mean()) / mechanism.noise_stddev**2
    assert lower <= ratio <= upper * 1.01
    assert float((totals**2).mean()) * (least - 1) / least < mechanism.noise_stddev**2


def test_distributed_noise_needs_a_source_of_words() -> None:
    class Floats:
        def gaussian(self, shape: tuple[int, ...], stddev: float) -> FloatArray:
            return np.zeros(shape) * stddev

        def bernoulli(self, n: int, probability: float) -> npt.NDArray[np.bool_]:
            return np.zeros(n, dtype=bool)

    with pytest.raises(InputError, match="cannot be drawn"):
        released(SHARED, [], Floats())  # type: ignore[arg-type]
