"""How good answers are at a small ε: top lists, scenes and cuts, beside the truth.

``python -m simulations.analytics_study`` prints it. One budget of ε = 1 pays for all six questions
of `client.analytics.asking`; customers' rows are made and summed by the code that regions run,
noise is drawn anew many times. As `simulations.evaluation_data`, for simulations only: a deployment
has no truth to compare with.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from client.analytics.asking import ASKABLE, statistics
from client.analytics.purchases import (
    PurchaseStatistic,
    category_customers,
    frequency_cuts,
    purchase_scenes,
    recency_cuts,
)
from client.data.quality import quality_gate
from client.data.sources import all_batches, load_source_config
from client.data.transactions import Purchases
from client.recommend.local_statistics import WEEKDAYS, Clock
from client.training.bounded_sums import bounded_sum
from client.training.noise import NoiseSource, SeededNoise
from common.analytics.cuts import Cuts
from common.analytics.estimates import Estimates
from common.analytics.funnels import Funnel
from common.analytics.groups import Groups
from common.analytics.shares import Shares
from common.analytics.trends import Trend
from common.calibration import calibrate_noise_multiplier
from common.catalogue import Catalogue
from common.errors import InputError
from simulations.regions import EvaluationWindows
from simulations.scenarios import find_scenario

FloatArray = npt.NDArray[np.float64]

EPSILON, DELTA = 1.0, 1e-6
TOP = 20
#: How often noise is drawn.
DRAWS = 400
CUSTOMERS = 5_000
_CATEGORIES = 300
_DAYS = 365
_DAY_MS, _HOUR_MS = 86_400_000, 3_600_000
_END_MS = _DAYS * _DAY_MS
# The truth is read as an answer with next to no noise.
_NO_NOISE = 1e-9
#: Parts of the day that cover it; the recommender's own leave the night out.
CLOCK = Clock({"morning": (5, 11), "noon": (11, 15), "evening": (15, 22), "night": (22, 5)}, "UTC")


@dataclass(frozen=True)
class Quality:
    """How good answers are.

    Attributes:
        top_precision: Which share of the `TOP` categories named is among those with most purchases
            in truth; the mean over draws of noise.
        top_stated: Which share the answers themselves expect; likewise.
        share_points: By how much a share of part of the day × weekday is off, in points of a
            hundred: the worst cell, in 95 of 100 draws at most.
        cut_percentiles: By how much a cut of recency or frequency is off, in percentiles: the worst
            cut, in 95 of 100 draws at most.
    """

    top_precision: float
    top_stated: float
    share_points: float
    cut_percentiles: float


def noise_of_a_plan() -> float:
    """Standard deviation of the noise in each value, where one ε pays for all questions."""
    return calibrate_noise_multiplier(
        epsilon=EPSILON, delta=DELTA, sampling_probability=1.0, steps=len(ASKABLE)
    )


def measured(
    parts: Sequence[Purchases],
    catalogue: Catalogue,
    *,
    start_ms: int,
    end_ms: int,
    noise: NoiseSource,
    draws: int = DRAWS,
) -> Quality:
    """Answers about some customers, with the noise of one region, or of a sum with shares of it.

    Args:
        parts: The customers' purchases: of one region, or of all that are summed.
        catalogue: The catalogue that items are numbers of.
        start_ms: Begin of the window, milliseconds since the epoch, inclusive.
        end_ms: End of the window, exclusive.
        noise: Where noise is drawn from. Shares of discrete noise add up to a Gaussian of the same
            variance (`common.discrete_gaussian`), which is what is drawn.
        draws: How often.
    """
    stddev = noise_of_a_plan()

    def answers(statistic: PurchaseStatistic) -> tuple[FloatArray, FloatArray]:
        total = bounded_sum(parts, statistic, start_ms=start_ms, end_ms=end_ms, clipping_norm=1.0)
        return total, total + noise.gaussian((draws, len(total)), stddev)

    categories = category_customers(catalogue)
    precision, stated = _top(
        categories,
        answers(categories)[1],
        _purchases(parts, catalogue, start_ms=start_ms, end_ms=end_ms),
        stddev,
    )
    cuts = [recency_cuts(window_days=_days(start_ms, end_ms), end_ms=end_ms), frequency_cuts()]
    return Quality(
        top_precision=precision,
        top_stated=stated,
        share_points=_share_points(*answers(purchase_scenes(CLOCK)), stddev),
        cut_percentiles=max(_cut_percentiles(each, *answers(each), stddev) for each in cuts),
    )


def coverage(customers: int, seed: int, *, draws: int) -> dict[str, float]:
    """How often 95% intervals cover the truth in a made-up region: by question, over its values.

    Args:
        customers: How many customers.
        seed: The same seed gives the same purchases and noise.
        draws: How often noise is drawn; all draws are read in one call.
    """
    catalogue, stddev = _made_up_catalogue(), noise_of_a_plan()
    noise, window = SeededNoise(f"coverage/{customers}/{seed}"), {"start_ms": 0, "end_ms": _END_MS}
    parts, found = [made_up(customers, seed)], {}
    for statistic in statistics(ASKABLE, catalogue, CLOCK, **window):
        total = bounded_sum(parts, statistic, **window, clipping_norm=1.0)
        question, true = statistic.question, _answer(statistic, total[None, :], _NO_NOISE).value
        values = _answer(statistic, total + noise.gaussian((draws, len(total)), stddev), stddev)
        covered = values.covers(true[0])
        # Of what noise leaves nothing to say of, no interval is stated.
        found[question.name] = float(covered[values.known].mean())
    return found


def retail(*, draws: int = DRAWS) -> Quality:
    """All regions of Complete Journey in one sum with distributed noise."""
    scenario = find_scenario("retail-5")
    with tempfile.TemporaryDirectory(prefix="fedpref-analytics-") as folder:
        prepared = scenario.prepare(Path(folder), seed=1)
        catalogue = Catalogue.load(prepared.catalogue)
        parts = [
            part
            for region in prepared.regions
            for part in quality_gate(
                all_batches(load_source_config(region.source)), catalogue, region=region.name
            ).parts()
        ]
    windows: EvaluationWindows = scenario.windows
    return measured(
        parts,
        catalogue,
        start_ms=windows.train_from_ms,
        end_ms=windows.train_until_ms,
        noise=SeededNoise("analytics/retail"),
        draws=draws,
    )


def one_region(customers: int, seed: int, *, draws: int = DRAWS) -> Quality:
    """A made-up region by itself, with noise of its own in full.

    Args:
        customers: How many customers.
        seed: The same seed gives the same purchases and noise.
        draws: How often noise is drawn.

    Raises:
        InputError: There are no customers.
    """
    return measured(
        [made_up(customers, seed)],
        _made_up_catalogue(),
        start_ms=0,
        end_ms=_END_MS,
        noise=SeededNoise(f"analytics/{customers}/{seed}"),
        draws=draws,
    )


def made_up(customers: int, seed: int) -> Purchases:
    """A year of made-up purchases: Zipf's law of categories, tastes, habits of days and hours."""
    if customers < 1:
        raise InputError("A made-up region has one customer at least.")
    generator = np.random.default_rng(seed)
    visits = 1 + generator.negative_binomial(1.2, 1.2 / (1.2 + 24), customers)
    last_day = np.minimum(generator.exponential(45.0, customers), _DAYS - 1).astype(int)
    visitor = np.repeat(np.arange(customers), visits)
    day = (_DAYS - 1 - last_day[visitor]) * (1 - generator.beta(1, 2, len(visitor)))
    # Some weekdays and hours are busier; each customer has a weekday of her own.
    own = generator.integers(0, WEEKDAYS, customers)
    moved = (own[visitor] - day.astype(int)) % WEEKDAYS
    day = np.maximum(day.astype(int) - moved * (generator.random(len(visitor)) < 0.4), 0)
    hour = generator.choice(24, len(visitor), p=_hours_of_day())
    items = generator.integers(1, 8, len(visitor))
    taste = generator.gumbel(size=(customers, _CATEGORIES)) * 0.6
    weight = np.exp(taste) / (1 + np.arange(_CATEGORIES))[None, :] ** 0.9
    below = np.cumsum(weight / weight.sum(axis=1, keepdims=True), axis=1)
    owner = np.repeat(visitor, items)
    drawn = generator.random(len(owner))
    item = np.empty(len(owner), dtype=np.int32)
    edges = np.searchsorted(owner, np.arange(customers + 1))
    for number in range(customers):
        own_rows = slice(edges[number], edges[number + 1])
        item[own_rows] = np.searchsorted(below[number], drawn[own_rows])
    return Purchases(
        tuple(f"customer-{n}" for n in range(customers)),
        owner.astype(np.int32),
        np.minimum(item, _CATEGORIES - 1).astype(np.int32),
        np.repeat(day * _DAY_MS + hour * _HOUR_MS, items).astype(np.int64),
    )


def _made_up_catalogue() -> Catalogue:
    return Catalogue.of(
        [f"item-{n:03d}" for n in range(_CATEGORIES)],
        category=[f"category-{n:03d}" for n in range(_CATEGORIES)],
    )


def _answer(statistic: PurchaseStatistic, released: FloatArray, stddev: float) -> Estimates:
    question = statistic.question
    if not isinstance(question, Groups | Trend | Shares | Cuts | Funnel):
        raise InputError(f"{question.name} is not asked of purchases.")
    return question.read(released, stddev)


def _hours_of_day() -> FloatArray:
    weight = np.exp(-(((np.arange(24) - 13) / 5.0) ** 2)) + 0.01
    share: FloatArray = weight / weight.sum()
    return share


def _days(start_ms: int, end_ms: int) -> int:
    return -(-(end_ms - start_ms) // _DAY_MS)


def _purchases(
    parts: Sequence[Purchases], catalogue: Catalogue, *, start_ms: int, end_ms: int
) -> FloatArray:
    """float64[categories]: the true number of purchases, unbounded."""
    total = np.zeros(len(catalogue.category_names))
    for part in parts:
        inside = (part.time_ms >= start_ms) & (part.time_ms < end_ms)
        total += np.bincount(catalogue.category[part.item[inside]], minlength=len(total))
    return total


def _top(
    statistic: PurchaseStatistic, noisy: FloatArray, true: FloatArray, stddev: float
) -> tuple[float, float]:
    question = statistic.question
    if not isinstance(question, Groups):
        raise InputError("The largest are of groups.")
    wanted = np.argsort(-true, kind="stable")[:TOP]
    found = [question.top(each, stddev, TOP) for each in noisy]
    right = [float(np.isin(each.places, wanted).mean()) for each in found]
    return float(np.mean(right)), float(np.mean([each.precision for each in found]))


def _share_points(total: FloatArray, noisy: FloatArray, stddev: float) -> float:
    question = purchase_scenes(CLOCK).question
    if not isinstance(question, Shares):
        raise InputError("Scenes are shares.")
    off = 100 * np.abs(question.read(noisy, stddev).value - total / total.sum())
    return float(np.quantile(off.max(axis=1), 0.95))


def _cut_percentiles(
    statistic: PurchaseStatistic, total: FloatArray, noisy: FloatArray, stddev: float
) -> float:
    question = statistic.question
    if not isinstance(question, Cuts):
        raise InputError("Percentiles are of cuts.")
    cells = question.tree.solution() @ total
    below = np.concatenate([[0.0], np.cumsum(cells)]) / cells.sum()
    reached = np.interp(question.read(noisy, stddev).value, np.array(question.edges), below)
    off = 100 * np.abs(reached - np.array(question.probabilities))
    return float(np.quantile(off.max(axis=1), 0.95))


def main() -> int:
    """Prints what is measured."""
    sys.stdout.write(f"six questions, ε = {EPSILON:g}, δ = {DELTA:g}, {DRAWS} draws of noise\n")
    rows = [("retail-5, all regions, distributed noise", retail())]
    for customers in (1_000, 2_000, CUSTOMERS, 4 * CUSTOMERS):
        rows.append((f"a made-up region of {customers:,} by itself", one_region(customers, 1)))
    for name, found in rows:
        sys.stdout.write(
            f"{name}: top-{TOP} precision {found.top_precision:.3f} (stated "
            f"{found.top_stated:.3f}), shares off by {found.share_points:.2f} points, cuts by "
            f"{found.cut_percentiles:.2f} percentiles\n"
        )
    for name, share in coverage(CUSTOMERS, 1, draws=5_000).items():
        sys.stdout.write(f"{name}: {share:.2%} of 95% intervals cover the truth\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
