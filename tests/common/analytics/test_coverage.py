"""Intervals cover the truth as often as they say: 20,000 repetitions of the noise, each question.

The truth is a sum of rows as customers have them; only the noise is drawn anew, or for an
experiment the customers, too. All repetitions are read in one call.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from common.analytics.cuts import Cuts
from common.analytics.estimates import Estimates
from common.analytics.funnels import Funnel
from common.analytics.groups import Groups
from common.analytics.kano import Kano
from common.analytics.scores import Score
from common.analytics.shares import Shares
from common.analytics.trends import Trend
from common.analytics.uplift import Uplift
from tests.support.made_clusters import made_clusters

FloatArray = npt.NDArray[np.float64]

REPETITIONS = 20_000
# What one of ten questions gets of ε = 1 at δ = 1e-6, about.
STDDEV = 13.0
# The bar; chance moves a share of 20,000 by 0.15 points, so 6.5 deviations are in it.
LEAST, MOST = 0.94, 0.96

Read = Callable[[FloatArray], Estimates]


def noisy(truth: FloatArray, seed: int = 7) -> FloatArray:
    generator = np.random.default_rng(seed)
    return truth + generator.normal(0.0, STDDEV, (REPETITIONS, *truth.shape))


def coverage(estimates: Estimates, truth: FloatArray) -> FloatArray:
    return estimates.covers(truth).mean(axis=0)


GROUPS = Groups.counts("groups", tuple("abcdef"), most=4)
AMOUNTS = Groups("amounts", tuple("abc"), 250.0, unit="euros")
SCENES = Shares("scenes", (("morning", "evening"), ("mon", "tue", "wed"), ("big", "small")))
FUNNEL = Funnel("funnel", ("awareness", "interest", "decision", "purchase", "repeat"))
TREND = Trend("trend", tuple("abc"), most=2)
NPS, CSAT = Score.nps(), Score.csat()
CENTRES = made_clusters("clusters", np.array([[-0.5, 0.0], [0.5, 0.2]]))
KANO = Kano("kano", ("delivery", "receipts"), most=2)
PAIRS = np.array([[400.0, 250, 90, 160, 30, 10], [60.0, 190, 520, 210, 15, 40]])
COUNTS = np.array([4000.0, 2500.0, 900.0, 300.0, 120.0, 60.0])
SCENE_SUMS = np.array([900.0, 40, 300, 500, 700, 100, 640, 820, 60, 240, 400, 300])
LAST_STAGE = np.array([2000.0, 1400, 800, 500, 300])
EARLIER, LATER = np.array([800.0, 350.0, 300.0]), np.array([760.0, 920.0, 900.0])
ANSWERS = np.array([120.0, 200.0, 260.0])
CLUSTER_COUNTS = np.array([1800.0, 3200.0])
CLUSTER_SUMS = np.array([[-700.0, 100.0], [1500.0, 800.0]])


def cluster_truth() -> FloatArray:
    count, coordinate = CENTRES.scales
    columns = [CLUSTER_COUNTS[:, None] * count, CLUSTER_SUMS * coordinate]
    return np.concatenate(columns, axis=1).ravel()


REACHED = LAST_STAGE[::-1].cumsum()[::-1]
CASES: list[tuple[str, Read, FloatArray, FloatArray]] = [
    ("counts", lambda v: GROUPS.read(v, STDDEV), COUNTS / GROUPS.bound, COUNTS),
    ("sums", lambda v: AMOUNTS.read(v, STDDEV), COUNTS[:3] / 2.5, 100 * COUNTS[:3]),
    ("shares", lambda v: SCENES.read(v, STDDEV), SCENE_SUMS, SCENE_SUMS / SCENE_SUMS.sum()),
    (
        "shares along an axis",
        lambda v: SCENES.along(1, v, STDDEV),
        SCENE_SUMS,
        SCENE_SUMS.reshape(2, 3, 2).sum(axis=(0, 2)) / SCENE_SUMS.sum(),
    ),
    ("customers", lambda v: SCENES.customers(v, STDDEV), SCENE_SUMS, SCENE_SUMS.sum()[None]),
    ("funnel", lambda v: FUNNEL.read(v, STDDEV), LAST_STAGE, REACHED),
    ("conversion", lambda v: FUNNEL.conversions(v, STDDEV), LAST_STAGE, REACHED[1:] / REACHED[:-1]),
    (
        "trend",
        lambda v: TREND.read(v, STDDEV),
        np.concatenate([EARLIER, LATER]) / TREND.bound,
        LATER / EARLIER - 1,
    ),
    (
        "NPS",
        lambda v: NPS.read(v, STDDEV),
        ANSWERS,
        np.array([100 * (260.0 - 120.0) / 580.0]),
    ),
    ("CSAT", lambda v: CSAT.read(v, STDDEV), ANSWERS[:2], np.array([100 * 200.0 / 320.0])),
    ("answers", lambda v: NPS.answered(v, STDDEV), ANSWERS, np.array([580.0])),
    ("cluster counts", lambda v: CENTRES.counts(v, STDDEV), cluster_truth(), CLUSTER_COUNTS),
    (
        "cluster means",
        lambda v: CENTRES.read(v, STDDEV),
        cluster_truth(),
        (CLUSTER_SUMS / CLUSTER_COUNTS[:, None]).ravel(),
    ),
    (
        "cluster shares",
        lambda v: CENTRES.shares(v, STDDEV),
        cluster_truth(),
        CLUSTER_COUNTS / CLUSTER_COUNTS.sum(),
    ),
    (
        "means of all",
        lambda v: CENTRES.overall(v, STDDEV),
        cluster_truth(),
        CLUSTER_SUMS.sum(axis=0) / CLUSTER_COUNTS.sum(),
    ),
    (
        "what is usual",
        lambda v: CENTRES.numbers(v, STDDEV)[1],
        cluster_truth(),
        CENTRES.coordinates[1].number(CLUSTER_SUMS[:, 1] / CLUSTER_COUNTS),
    ),
    ("pairs", lambda v: KANO.read(v, STDDEV), PAIRS.ravel() / KANO.bound, PAIRS.ravel()),
    (
        "better",
        lambda v: KANO.better(v, STDDEV),
        PAIRS.ravel() / KANO.bound,
        PAIRS[:, :2].sum(axis=1) / PAIRS[:, :4].sum(axis=1),
    ),
    (
        "worse",
        lambda v: KANO.worse(v, STDDEV),
        PAIRS.ravel() / KANO.bound,
        PAIRS[:, 1:3].sum(axis=1) / PAIRS[:, :4].sum(axis=1),
    ),
]


@pytest.mark.parametrize(
    ("read", "sums", "truth"), [each[1:] for each in CASES], ids=[each[0] for each in CASES]
)
def test_intervals_cover_the_truth_as_often_as_they_say(
    read: Read, sums: FloatArray, truth: FloatArray
) -> None:
    found = coverage(read(noisy(sums)), truth)
    assert found.min() >= LEAST
    assert found.max() <= MOST


EDGES = tuple(float(each) for each in np.round(np.expm1(np.linspace(0, np.log(366), 65)), 6))
CUTS = Cuts("recency", EDGES)


def cell_counts(customers: int) -> FloatArray:
    generator = np.random.default_rng(3)
    days = np.minimum(generator.exponential(40.0, customers), 365.0)
    return np.bincount(CUTS.cell(days), minlength=64).astype(np.float64)


def tree_sums(cells: FloatArray) -> FloatArray:
    total = np.zeros(CUTS.size)
    for places in CUTS.tree.places():
        np.add.at(total, places, cells * CUTS.tree.scale)
    return total


def test_intervals_of_cuts_cover_the_truth() -> None:
    cells = cell_counts(5000)
    released = noisy(tree_sums(cells))[:5000]
    found = coverage(CUTS.read(released, STDDEV), CUTS.true_cuts(cells))
    # Chance moves a share of 5,000 by 0.3 points; where cells are small, intervals cover more.
    assert found.min() >= LEAST
    assert found.max() <= MOST + 0.01


def test_cuts_are_within_two_percentiles_at_five_thousand_customers() -> None:
    cells = cell_counts(5000)
    released = noisy(tree_sums(cells))[:1000]
    below = np.concatenate([[0.0], np.cumsum(cells)]) / cells.sum()
    cuts = CUTS.read(released, STDDEV).value
    reached = np.interp(cuts, np.array(EDGES), below)
    off = np.abs(reached - np.array(CUTS.probabilities))
    assert float(np.sqrt((off**2).mean(axis=0)).max()) <= 0.02


UPLIFT = Uplift("uplift")


def experiment(customers: int, rates: tuple[float, float], seed: int = 5) -> FloatArray:
    """Answers to an experiment that is repeated with other customers, and with other noise."""
    generator = np.random.default_rng(seed)
    arms = [generator.binomial(customers // 2, rate, REPETITIONS) for rate in rates]
    cells = [(customers // 2 - did, did) for did in arms]
    true = np.stack([each for arm in cells for each in arm], axis=-1)
    return true + generator.normal(0.0, STDDEV, true.shape)


@pytest.mark.parametrize("rates", [(0.2, 0.26), (0.05, 0.05), (0.5, 0.4)])
def test_uplift_covers_what_the_treatment_does_to_customers_like_these(
    rates: tuple[float, float],
) -> None:
    released = experiment(10_000, rates)
    found = coverage(UPLIFT.read(released, STDDEV), np.array([rates[1] - rates[0]]))
    assert LEAST <= found.min() <= found.max() <= MOST
    of_rates = coverage(UPLIFT.rates(released, STDDEV), np.array(rates))
    assert LEAST <= of_rates.min() <= of_rates.max() <= MOST


# -- what an interval must not leave out -----------------------------------------------------------


def test_without_the_customers_own_chance_uplift_would_be_too_sure() -> None:
    rates = (0.2, 0.26)
    released = experiment(10_000, rates)
    covered = UPLIFT.read(released, STDDEV)
    value = covered.value
    noise_only = 1.96 * STDDEV / 5000 * math.sqrt(2)
    share = float((np.abs(value - 0.06) <= noise_only).mean())
    assert share < 0.6


@pytest.mark.parametrize("wrong", [0.5, 0.9])
def test_noise_that_is_taken_for_less_than_it_is_shows(wrong: float) -> None:
    found = coverage(GROUPS.read(noisy(COUNTS / GROUPS.bound), wrong * STDDEV), COUNTS)
    assert found.max() < LEAST


@pytest.mark.parametrize("deviations", [0.5, 1.0, 2.0, 4.0, 8.0])
def test_what_is_stated_of_small_groups_is_not_wrong_more_often(deviations: float) -> None:
    # As many groups, as far above noise as that, and as far below twice as that.
    sizes = STDDEV * deviations * np.linspace(0.5, 2.0, 24)
    trend = Trend("trend", tuple(f"g{n}" for n in range(24)), most=1)
    truth = np.concatenate([sizes, 2 * sizes])
    found = trend.read(noisy(truth)[:5000], STDDEV)
    # Of all that can be said, and of what is shown, whose intervals chance made narrow enough.
    for stated in (found.known, trend.of_use(found).known):
        wrong = stated & ~found.covers(1.0)
        # Of all that is said of them, and of what is said at all.
        assert wrong.mean() <= 0.06
        if stated.mean() > 0.2:
            assert wrong.sum() / stated.sum() <= 0.06


def test_a_ratio_whose_denominator_is_not_told_from_zero_says_nothing() -> None:
    few = SCENE_SUMS / 400
    found = SCENES.read(noisy(few), STDDEV)
    unknown = ~found.known
    assert unknown.mean() > 0.5
    assert np.array_equal(found.low[unknown], np.zeros(int(unknown.sum())))
    assert np.array_equal(found.high[unknown], np.ones(int(unknown.sum())))
    # What is said of so few covers at least as often as it says.
    assert coverage(found, few / few.sum()).min() >= LEAST
