"""How good answers are at a small ε: top lists, scenes and cuts, beside the truth.

``python -m simulations.analytics_study`` prints it. One budget of ε = 1 pays for all six questions
of `client.analytics.asking`; customers' rows are made and summed by the code that regions run,
noise is drawn anew many times. As `simulations.evaluation_data`, for simulations only: a deployment
has no truth to compare with.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from client.analytics.askable import statistics
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
from client.recommend.local_statistics import Clock
from client.training.bounded_sums import bounded_sum
from client.training.bounded_units import unit_sum
from client.training.exact_bernoulli import WordSource
from client.training.noise import NoiseSource, SeededNoise
from client.training.shared_sums import ring_release
from common.analytics.cuts import Cuts
from common.analytics.estimates import Estimates
from common.analytics.funnels import Funnel
from common.analytics.groups import Groups
from common.analytics.purchase_questions import (
    CATEGORIES,
    CATEGORY_TREND,
    FREQUENCY,
    RECENCY,
    REPEATS,
    SCENES,
)
from common.analytics.shares import Shares
from common.analytics.trends import Trend
from common.calibration import calibrate_noise_multiplier
from common.catalogue import Catalogue
from common.discrete_gaussian import calibrate_share, sensitivity_of
from common.errors import InputError
from common.secure_aggregation import Quantiser
from simulations.made_up_purchases import END_MS, made_up, made_up_catalogue
from simulations.scenarios import find_scenario

FloatArray = npt.NDArray[np.float64]
#: Standard deviation of the noise in each value of a question's answer, by its name.
StddevOf: TypeAlias = Callable[[str], float]

#: The questions that purchases answer; one ε pays for all.
ASKED = (CATEGORIES, CATEGORY_TREND, SCENES, RECENCY, FREQUENCY, REPEATS)
EPSILON, DELTA = 1.0, 1e-6
TOP = 20
#: Of rows and noise in a sum of regions.
GRID_EXPONENT = -10
#: How often noise is drawn.
DRAWS = 400
CUSTOMERS = 5_000
_DAY_MS = 86_400_000
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
        epsilon=EPSILON, delta=DELTA, sampling_probability=1.0, steps=len(ASKED)
    )


def equal_parts(question: str) -> float:
    """The noise of `noise_of_a_plan`, whatever is asked."""
    del question
    return noise_of_a_plan()


@dataclass(frozen=True, eq=False)
class Window:
    """A window of purchases, milliseconds since the epoch: its begin, and its end, exclusive."""

    start_ms: int
    end_ms: int

    @property
    def days(self) -> int:
        """How many days it has, rounded up."""
        return -(-(self.end_ms - self.start_ms) // _DAY_MS)


class Answers(Protocol):
    """Answers to a question: the truth, many noisy ones, and their noise's standard deviation."""

    def __call__(self, statistic: PurchaseStatistic) -> tuple[FloatArray, FloatArray, float]:
        """float64[size], float64[draws, size], and the deviation."""
        ...


def of_one_region(
    parts: Sequence[Purchases],
    window: Window,
    noise: NoiseSource,
    draws: int,
    stddev_of: StddevOf = equal_parts,
) -> Answers:
    """What one region answers, with noise of its own in full."""

    def answers(statistic: PurchaseStatistic) -> tuple[FloatArray, FloatArray, float]:
        total, stddev = _true_sum(parts, statistic, window), stddev_of(statistic.name)
        return total, total + noise.gaussian((draws, len(total)), stddev), stddev

    return answers


def of_a_sum(
    regions: Sequence[Sequence[Purchases]],
    window: Window,
    noise: WordSource,
    draws: int,
    stddev_of: StddevOf = equal_parts,
) -> Answers:
    """What regions answer together: rows on the grid, a share of noise each, added in the ring."""
    quantiser = Quantiser(GRID_EXPONENT, len(regions))

    def answers(statistic: PurchaseStatistic) -> tuple[FloatArray, FloatArray, float]:
        size = statistic.question.size
        share = calibrate_share(
            stddev_of(statistic.name),
            shares=len(regions),
            sensitivity=sensitivity_of(1.0, GRID_EXPONENT),
            coordinates=size,
        )
        ring, total = np.zeros((draws, size), dtype=np.uint32), np.zeros(size)
        for parts in regions:
            units = unit_sum(
                parts,
                statistic,
                start_ms=window.start_ms,
                end_ms=window.end_ms,
                clipping_norm=1.0,
                grid_exponent=GRID_EXPONENT,
            )
            # Wraps around, as the ring does.
            ring += ring_release(np.tile(units, (draws, 1)), share, quantiser, noise).view(
                np.uint32
            )
            total += _true_sum(parts, statistic, window)
        values = np.ldexp(ring.view(np.int32).astype(np.float64), GRID_EXPONENT)
        return total, values, math.ldexp(math.sqrt(share.variance), GRID_EXPONENT)

    return answers


def measured(
    answers: Answers, parts: Sequence[Purchases], catalogue: Catalogue, window: Window
) -> Quality:
    """How good answers about some customers are.

    Args:
        answers: Gives them.
        parts: The customers' purchases, of all regions that are summed.
        catalogue: The catalogue that items are numbers of.
        window: The window of purchases.
    """
    most = _purchases(parts, catalogue, window)
    precision, stated = _top(category_customers(catalogue), answers, most)
    cuts = [recency_cuts(window_days=window.days, end_ms=window.end_ms), frequency_cuts()]
    return Quality(
        top_precision=precision,
        top_stated=stated,
        share_points=_share_points(answers),
        cut_percentiles=max(_cut_percentiles(each, answers) for each in cuts),
    )


def coverage(
    customers: int,
    seed: int,
    *,
    draws: int,
    stddev_of: StddevOf = equal_parts,
    names: Sequence[str] = ASKED,
) -> dict[str, float]:
    """How often 95% intervals cover the truth in a made-up region: by question, over its values.

    Args:
        customers: How many customers.
        seed: The same seed gives the same purchases and noise.
        draws: How often noise is drawn; all draws are read in one call.
        stddev_of: How much noise each answer has.
        names: What is asked, of `ASKED`.
    """
    parts, window, found = [made_up(customers, seed)], Window(0, END_MS), {}
    noise = SeededNoise(f"coverage/{customers}/{seed}")
    answers = of_one_region(parts, window, noise, draws, stddev_of)
    for statistic in statistics(
        names, made_up_catalogue(), CLOCK, start_ms=window.start_ms, end_ms=window.end_ms
    ):
        total, noisy, stddev = answers(statistic)
        true, values = (
            _answer(statistic, *each) for each in ((total[None, :], _NO_NOISE), (noisy, stddev))
        )
        # Of what noise leaves nothing to say of, no interval is stated.
        covered = values.covers(true.value[0])[values.known]
        found[statistic.name] = float(covered.mean())
    return found


def retail(*, draws: int = DRAWS, stddev_of: StddevOf = equal_parts) -> Quality:
    """All regions of Complete Journey in one sum with distributed noise."""
    regions, catalogue, window = retail_purchases()
    answers = of_a_sum(regions, window, SeededNoise("analytics/retail"), draws, stddev_of)
    return measured(answers, [part for parts in regions for part in parts], catalogue, window)


def retail_purchases() -> tuple[list[list[Purchases]], Catalogue, Window]:
    """The purchases of Complete Journey by region, its catalogue, and the window of training."""
    scenario = find_scenario("retail-5")
    with tempfile.TemporaryDirectory(prefix="fedpref-analytics-") as folder:
        prepared = scenario.prepare(Path(folder), seed=1)
        catalogue = Catalogue.load(prepared.catalogue)
        regions = [
            [
                *quality_gate(
                    all_batches(load_source_config(region.source)), catalogue, region=region.name
                ).parts()
            ]
            for region in prepared.regions
        ]
    window = Window(scenario.windows.train_from_ms, scenario.windows.train_until_ms)
    return regions, catalogue, window


def one_region(
    customers: int, seed: int, *, draws: int = DRAWS, stddev_of: StddevOf = equal_parts
) -> Quality:
    """A made-up region by itself, with noise of its own in full.

    Args:
        customers: How many customers.
        seed: The same seed gives the same purchases and noise.
        draws: How often noise is drawn.
        stddev_of: How much noise each answer has.

    Raises:
        InputError: There are no customers.
    """
    parts, window = [made_up(customers, seed)], Window(0, END_MS)
    noise = SeededNoise(f"analytics/{customers}/{seed}")
    answers = of_one_region(parts, window, noise, draws, stddev_of)
    return measured(answers, parts, made_up_catalogue(), window)


def _answer(statistic: PurchaseStatistic, released: FloatArray, stddev: float) -> Estimates:
    question = statistic.question
    if not isinstance(question, Groups | Trend | Shares | Cuts | Funnel):
        raise InputError(f"{question.name} is not asked of purchases.")
    return question.read(released, stddev)


def _true_sum(
    parts: Sequence[Purchases], statistic: PurchaseStatistic, window: Window
) -> FloatArray:
    return bounded_sum(
        parts, statistic, start_ms=window.start_ms, end_ms=window.end_ms, clipping_norm=1.0
    )


def _purchases(parts: Sequence[Purchases], catalogue: Catalogue, window: Window) -> FloatArray:
    """float64[categories]: the true number of purchases, unbounded."""
    total = np.zeros(len(catalogue.category_names))
    for part in parts:
        inside = (part.time_ms >= window.start_ms) & (part.time_ms < window.end_ms)
        total += np.bincount(catalogue.category[part.item[inside]], minlength=len(total))
    return total


def _top(statistic: PurchaseStatistic, answers: Answers, true: FloatArray) -> tuple[float, float]:
    question, (_, noisy, stddev) = statistic.question, answers(statistic)
    if not isinstance(question, Groups):
        raise InputError("The largest are of groups.")
    wanted = np.argsort(-true, kind="stable")[:TOP]
    found = [question.top(each, stddev, TOP) for each in noisy]
    right = [float(np.isin(each.places, wanted).mean()) for each in found]
    return float(np.mean(right)), float(np.mean([each.precision for each in found]))


def _share_points(answers: Answers) -> float:
    statistic = purchase_scenes(CLOCK)
    total, noisy, stddev = answers(statistic)
    off = 100 * np.abs(_answer(statistic, noisy, stddev).value - total / total.sum())
    return float(np.quantile(off.max(axis=1), 0.95))


def _cut_percentiles(statistic: PurchaseStatistic, answers: Answers) -> float:
    question, (total, noisy, stddev) = statistic.question, answers(statistic)
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
