"""The gates of training for every statistic of analytics: contribution, noise, ε, planted faults.

A gate sees a release as a black box. Each is shown to fail on the planted fault that it is for, for
each statistic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest
from dp_accounting import GaussianDpEvent
from dp_accounting.pld import PLDAccountant
from scipy import stats

from client.analytics.further import further_statistic
from client.analytics.points import purchase_clusters
from client.analytics.purchases import (
    PurchaseStatistic,
    category_customers,
    category_trend,
    frequency_cuts,
    purchase_scenes,
    recency_cuts,
    repeat_purchases,
)
from client.data.transactions import Purchases
from client.recommend.local_statistics import Clock
from client.training.bounded_sums import Contributions, noisy_sum
from client.training.noise import NoiseSource, SystemNoise
from common.analytics.further_questions import FURTHER
from common.analytics.purchase_questions import CLUSTERS
from common.calibration import calibrate_noise_multiplier
from common.catalogue import Catalogue
from common.privacy import GaussianEvent, epsilon
from tests.support.beside import NAMES, crowd, each_row_apart, only
from tests.support.made_clusters import made_clusters

FloatArray = npt.NDArray[np.float64]
Release = Callable[[PurchaseStatistic, list[Purchases], NoiseSource], FloatArray]

DAY_MS = 86_400_000
DAYS = 90
CUSTOMERS = 12
FALSE_ALARM = 1e-6
SIGMA = 3.0
# Noise is looked at in so many values, at least; a funnel has four only.
VALUES = 6000
CATALOGUE = Catalogue.of(
    [f"item-{n}" for n in range(60)], category=[f"category-{n % 12:02}" for n in range(60)]
)
CLOCK = Clock({"day": (6, 18), "night": (18, 6)}, "Europe/Berlin")
STATISTICS = [
    category_customers(CATALOGUE, most=4),
    category_trend(CATALOGUE, later_from_ms=45 * DAY_MS, most=4),
    purchase_scenes(CLOCK),
    recency_cuts(window_days=DAYS, end_ms=DAYS * DAY_MS),
    frequency_cuts(most_days=DAYS),
    repeat_purchases(),
    purchase_clusters(
        made_clusters(CLUSTERS, np.array([[-0.5, 0.0, -0.5], [0.5, 0.2, 0.1]])),
        CATALOGUE,
        CLOCK,
        end_ms=DAYS * DAY_MS,
    ),
]
FURTHER_ONES = [
    further_statistic(name, NAMES, CATALOGUE, CLOCK, end_ms=DAYS * DAY_MS) for name in FURTHER
]
ALL = [*STATISTICS, *FURTHER_ONES]


def released(
    statistic: PurchaseStatistic, parts: list[Purchases], noise: NoiseSource
) -> FloatArray:
    values = noisy_sum(
        parts,
        statistic,
        start_ms=0,
        end_ms=DAYS * DAY_MS,
        clipping_norm=1.0,
        noise_multiplier=SIGMA,
        grid_exponent=-10,
        noise=noise,
    )
    return values.astype(np.float64)


class NoNoise(SystemNoise):
    """For looking at what customers contribute."""

    def gaussian(self, shape: tuple[int, ...], stddev: float) -> FloatArray:
        return np.zeros(shape)


class Scaled(SystemNoise):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self._factor = factor

    def gaussian(self, shape: tuple[int, ...], stddev: float) -> FloatArray:
        return super().gaussian(shape, stddev) * self._factor


# -- gates -----------------------------------------------------------------------------------------


def many(statistic: PurchaseStatistic, release: Release) -> FloatArray:
    """Releases of nobody, one after the other from one source."""
    noise, rounds = SystemNoise(), math.ceil(VALUES / statistic.question.size)
    return np.array([release(statistic, [], noise) for _ in range(rounds)])


def noise_size(statistic: PurchaseStatistic, release: Release) -> float:
    """χ² of the noise where nobody contributes, as a share of what is allowed."""
    drawn = many(statistic, release) / SIGMA
    ratio = float((drawn**2).mean())
    low = float(stats.chi2.ppf(FALSE_ALARM / 2, drawn.size)) / drawn.size
    high = float(stats.chi2.isf(FALSE_ALARM / 2, drawn.size)) / drawn.size
    return (1 - ratio) / (1 - low) if ratio < 1 else (ratio - 1) / (high - 1)


def noise_reuse(statistic: PurchaseStatistic, release: Release) -> float:
    """Correlation of the noise of neighbouring releases, as a share of what is allowed."""
    drawn = many(statistic, release)
    first, second = drawn[:-1].ravel(), drawn[1:].ravel()
    norms = float(np.linalg.norm(first) * np.linalg.norm(second))
    score = abs(float(first @ second)) / norms * math.sqrt(first.size) if norms else 0.0
    return score / float(stats.norm.isf(FALSE_ALARM / 2))


def contribution(statistic: PurchaseStatistic, release: Release) -> float:
    """The most that leaving one customer out moves a release, in units of C."""
    whole = crowd(CUSTOMERS, seed=3, days=DAYS)
    seen = release(statistic, [whole], NoNoise())
    others = [only(whole, [n for n in range(CUSTOMERS) if n != left]) for left in range(CUSTOMERS)]
    moved = [seen - release(statistic, [each], NoNoise()) for each in others]
    # Each value of a release is rounded to the grid.
    rounding = 2.0**-10 * math.sqrt(statistic.question.size)
    return max(float(np.linalg.norm(each)) for each in moved) / (1.0 + rounding)


GATES = {"noise size": noise_size, "noise reuse": noise_reuse, "contribution": contribution}


# -- planted faults --------------------------------------------------------------------------------


def scaled(factor: float) -> Release:
    def release(
        statistic: PurchaseStatistic, parts: list[Purchases], noise: NoiseSource
    ) -> FloatArray:
        return released(statistic, parts, noise if isinstance(noise, NoNoise) else Scaled(factor))

    return release


def same_noise(
    statistic: PurchaseStatistic, parts: list[Purchases], noise: NoiseSource
) -> FloatArray:
    total = released(statistic, parts, NoNoise())
    drawn = np.random.default_rng(1).normal(0.0, SIGMA, total.shape)
    return total if isinstance(noise, NoNoise) else total + drawn


def row_by_row(
    statistic: PurchaseStatistic, parts: list[Purchases], noise: NoiseSource
) -> FloatArray:
    """Each row is taken for a customer."""
    return released(statistic, [each_row_apart(part) for part in parts], noise)


def unbounded(
    statistic: PurchaseStatistic, parts: list[Purchases], noise: NoiseSource
) -> FloatArray:
    """Rows count twice, and nothing cuts them."""

    def twice(part: Purchases) -> Contributions:
        rows = statistic.contributions(part)
        return Contributions(rows.owner, rows.place, 2 * rows.value)

    values = noisy_sum(
        parts,
        PurchaseStatistic(statistic.question, twice, tables=statistic.tables),
        start_ms=0,
        end_ms=DAYS * DAY_MS,
        clipping_norm=2.0,
        noise_multiplier=SIGMA / 2,
        grid_exponent=-10,
        noise=noise,
    )
    return values.astype(np.float64)


FAULTS: list[tuple[str, Release, str]] = [
    ("no noise", scaled(0.0), "noise size"),
    ("σ × 0.5", scaled(0.5), "noise size"),
    ("σ × 0.9", scaled(0.9), "noise size"),
    ("the same noise each time", same_noise, "noise reuse"),
    ("a row is a customer", row_by_row, "contribution"),
    ("no bound", unbounded, "contribution"),
]


def passing() -> Iterator[object]:
    """All gates of all statistics; those of noise, which no statistic has a hand in, are slow."""
    for statistic in ALL:
        for gate in GATES:
            quick = gate == "contribution" or statistic in STATISTICS
            marks = () if quick else (pytest.mark.slow,)
            yield pytest.param(statistic, gate, id=f"{statistic.name}: {gate}", marks=marks)


@pytest.mark.parametrize(("statistic", "gate"), [*passing()])
def test_every_statistic_passes_each_gate(statistic: PurchaseStatistic, gate: str) -> None:
    assert GATES[gate](statistic, released) <= 1.0


def cases() -> Iterator[object]:
    """Noise does not depend on the statistic: its faults are planted in those of purchases."""
    for statistic in ALL:
        for name, fault, gate in FAULTS:
            if gate == "contribution" or statistic in STATISTICS:
                yield pytest.param(statistic, fault, gate, id=f"{statistic.name}: {name}")


@pytest.mark.parametrize(("statistic", "fault", "gate"), [*cases()])
def test_each_planted_fault_is_caught(
    statistic: PurchaseStatistic, fault: Release, gate: str
) -> None:
    assert GATES[gate](statistic, fault) > 1.0


def test_the_noise_of_a_plan_of_queries_holds_by_another_accountant() -> None:
    steps = len(ALL)
    sigma = calibrate_noise_multiplier(
        epsilon=1.0, delta=1e-6, sampling_probability=1.0, steps=steps
    )
    accountant = PLDAccountant()
    accountant.compose(GaussianDpEvent(sigma), steps)
    assert accountant.get_epsilon(1e-6) <= 1.0 + 1e-9
    assert epsilon([GaussianEvent(sigma)] * steps, 1e-6) <= 1.0
