"""How good a page of insights is at ε = 1 in total, by the plans of questions that are shipped.

``python -m simulations.insights_study`` prints it. Shares of the budget are those of
``docs/examples``; rows, sums and noise are made by the code that regions run
(`simulations.analytics_study`). What further tables answer is only held to its intervals: how many
customers answer a survey is no promise of ours.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.analytics.asked import Asking, asked
from common.analytics.estimates import Estimates
from common.analytics.funnels import Funnel
from common.analytics.kano import Kano
from common.analytics.question_records import Question
from common.analytics.scores import Score
from common.analytics.uplift import Uplift
from common.errors import InputError
from common.plan_defaults import calibrated_sigma
from common.questions_plan import QuestionsFile
from simulations import analytics_study
from simulations.analytics_study import ASKED, CUSTOMERS, DELTA, EPSILON, Quality, StddevOf
from simulations.made_up_purchases import END_MS, made_up_catalogue

FloatArray = npt.NDArray[np.float64]

_EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"
#: Of all regions together, only the sum of which is opened; and of each region by itself.
TOGETHER, BY_REGION = (_EXAMPLES / f"questions-{name}.toml" for name in ("purchases", "insights"))
# Of 100 customers so many are in each cell: at the last stage, in each class of a score.
_JOURNEY = (22.0, 26.0, 20.0, 14.0, 18.0)
_SCORES: Mapping[int, tuple[float, ...]] = {2: (4.0, 9.0), 3: (3.0, 4.0, 6.0)}
# Of those who answer about a feature, in each of Kano's classes; features in turn.
_KANO = (
    (0.46, 0.24, 0.08, 0.18, 0.03, 0.01),
    (0.07, 0.18, 0.58, 0.14, 0.02, 0.01),
    (0.12, 0.46, 0.26, 0.14, 0.01, 0.01),
    (0.10, 0.14, 0.08, 0.55, 0.10, 0.03),
)
_ANSWERING, _CLICK_RATES = 0.3, (0.18, 0.24)


def noise_of(plan: Path, *, epsilon: float = EPSILON, delta: float = DELTA) -> StddevOf:
    """The noise of a plan's answers: 1/σ² is parted by the shares, as the plan itself has it.

    Args:
        plan: The file of questions.
        epsilon: ε of all of them.
        delta: δ.

    Raises:
        InputError: It is no file of questions.
    """
    questions = QuestionsFile.read(plan).question
    sigma = calibrated_sigma(f"{epsilon:g}", f"{delta:f}")
    whole = math.fsum(float(each.share) for each in questions)
    stddev = {each.name: sigma * math.sqrt(whole / float(each.share)) for each in questions}

    def of(question: str) -> float:
        if question not in stddev:
            raise InputError(f"{plan.name} does not ask {question}.")
        return stddev[question]

    return of


def retail(*, draws: int = analytics_study.DRAWS) -> Quality:
    """All regions of Complete Journey in one sum with distributed noise, by the plan `TOGETHER`."""
    return analytics_study.retail(draws=draws, stddev_of=noise_of(TOGETHER))


def one_region(
    customers: int = CUSTOMERS, seed: int = 1, *, draws: int = analytics_study.DRAWS
) -> Quality:
    """A made-up region by itself, by the plan `BY_REGION`.

    Args:
        customers: How many customers.
        seed: The same seed gives the same purchases and noise.
        draws: How often noise is drawn.
    """
    return analytics_study.one_region(customers, seed, draws=draws, stddev_of=noise_of(BY_REGION))


def coverage(*, customers: int = CUSTOMERS, draws: int, seed: int = 1) -> dict[str, float]:
    """How often 95% intervals cover the truth, by question of the plan `BY_REGION`.

    Args:
        customers: How many customers the made-up region has.
        draws: How often noise is drawn.
        seed: The same seed gives the same figures.
    """
    questions = QuestionsFile.read(BY_REGION)
    stddev_of = noise_of(BY_REGION)
    wanted = [each.name for each in questions.question]
    of_purchases = analytics_study.coverage(
        customers,
        seed,
        draws=draws,
        stddev_of=stddev_of,
        names=[name for name in wanted if name in ASKED],
    )
    catalogue = made_up_catalogue()
    asking = Asking(tuple(catalogue.category_names), 0, END_MS, named=questions.names.named())
    generator = np.random.default_rng(seed)
    further = {
        name: _covered(asked(name, asking).question, customers, stddev_of(name), generator, draws)
        for name in wanted
        if name not in ASKED
    }
    return of_purchases | further


def sums_of(question: Question, customers: int) -> FloatArray:
    """The sum of so many customers' rows, for questions of further tables with known truths.

    Raises:
        InputError: It is none of those.
    """
    if isinstance(question, Funnel) and question.size == len(_JOURNEY):
        return customers * np.array(_JOURNEY) / 100
    if isinstance(question, Score):
        return customers * np.array(_SCORES[question.size]) / 100
    if isinstance(question, Kano):
        pairs = np.array([_KANO[n % len(_KANO)] for n in range(len(question.features))])
        return (customers * _ANSWERING * pairs).ravel() / question.bound
    raise InputError(f"{question.name}: no truth is made up for it.")


def _covered(
    question: Question, customers: int, stddev: float, generator: np.random.Generator, draws: int
) -> float:
    """The share of all values' intervals that cover the truth."""
    if isinstance(question, Uplift):
        # Its intervals are about customers like these, who are drawn anew each time.
        arm = customers // 2
        did = [generator.binomial(arm, rate, draws) for rate in _CLICK_RATES]
        cells = np.stack([each for one in did for each in (arm - one, one)], axis=-1)
        found = question.read(cells + generator.normal(0, stddev, cells.shape), stddev)
        truth = np.array([_CLICK_RATES[1] - _CLICK_RATES[0]])
        return _share(found, truth)
    sums = sums_of(question, customers)
    noisy = sums + generator.normal(0, stddev, (draws, len(sums)))
    # The truth is read as an answer with next to no noise.
    return _share(_read(question, noisy, stddev), _read(question, sums, 1e-9).value)


def _read(question: Question, released: FloatArray, stddev: float) -> Estimates:
    if isinstance(question, Kano):
        one, other = (read(released, stddev) for read in (question.better, question.worse))
        value, low, high = (
            np.concatenate(each, axis=-1)
            for each in ((one.value, other.value), (one.low, other.low), (one.high, other.high))
        )
        return Estimates(value, low, high, one.level)
    if isinstance(question, Funnel | Score):
        return question.read(released, stddev)
    raise InputError(f"{question.name}: it is not read here.")


def _share(found: Estimates, truth: FloatArray) -> float:
    # Of what noise leaves nothing to say of, no interval is stated.
    return float(found.covers(truth)[found.known].mean())


def main() -> int:
    """Prints what is measured."""
    sys.stdout.write(f"the shipped plans, ε = {EPSILON:g}, δ = {DELTA:g}\n")
    rows = [("retail-5, all regions, distributed noise", retail())]
    for customers in (2_000, CUSTOMERS, 2 * CUSTOMERS):
        rows.append((f"a made-up region of {customers:,} by itself", one_region(customers)))
    for name, found in rows:
        sys.stdout.write(
            f"{name}: top-{analytics_study.TOP} precision {found.top_precision:.3f}, shares off by "
            f"{found.share_points:.2f} points, cuts by {found.cut_percentiles:.2f} percentiles\n"
        )
    for name, share in coverage(draws=20_000).items():
        sys.stdout.write(f"{name}: {share:.2%} of 95% intervals cover the truth\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
