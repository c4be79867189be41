"""What the answers of one or several runs say together, and where too little is known to say it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeVar

import numpy as np

from common.analytics.answers import GLOBAL, ReleasedAnswer, ReleasedAnswers
from common.analytics.cuts import Cuts
from common.analytics.estimates import LEVEL, TOLD_DEVIATIONS, Estimates, deviations_of, fieller
from common.analytics.groups import Groups
from common.analytics.kano import Kano
from common.analytics.outlook import COARSE, Outlook
from common.analytics.purchase_questions import CATEGORIES, FREQUENCY, RECENCY, SCENES
from common.analytics.scores import Score
from common.analytics.trends import Trend
from common.analytics.uplift import Uplift
from common.errors import InputError
from common.validate import DECIMAL

Kind = TypeVar("Kind")

# Questions about parts of the customers: how many that are, only the answer itself says.
_BY_VALUE = (Kano, Score, Trend, Uplift)
# Counts of customers who are all among those whose number is told: they bought.
_OF_BUYERS = frozenset({CATEGORIES})


@dataclass(frozen=True)
class Customers:
    """How many customers an answer is of, as far as answers tell.

    Attributes:
        value: The number.
        stddev: Its standard deviation, by the noise.
    """

    value: float
    stddev: float

    @property
    def at_least(self) -> int:
        """The interval's lower end."""
        return max(0, math.floor(self.value - deviations_of(LEVEL) * self.stddev))


@dataclass(frozen=True, eq=False)
class Findings:
    """Answers of runs over the same federation.

    Attributes:
        runs: The runs, in the order in which they are named.
    """

    runs: tuple[ReleasedAnswers, ...]

    def __post_init__(self) -> None:
        federations = {run.federation for run in self.runs}
        if len(federations) != 1 or len({run.run for run in self.runs}) != len(self.runs):
            raise InputError(
                "A page of insights is about runs of one federation, each named once.",
                remedy="Name the folders of its finished runs of questions.",
            )
        if not all(_is_decimal(each) for run in self.runs for each in (run.epsilon, run.delta)):
            raise InputError("A run's ε or δ is no number.")
        if len({run.window for run in self.runs}) != 1:
            # Answers of one would be told as shares of the customers of another.
            raise InputError(
                "The runs ask about different windows of time; a page is about one.",
                remedy="Make a page for each window.",
            )
        if len({run.unit for run in self.runs}) != 1:
            raise InputError("The runs protect different units of privacy; they do not add up.")

    @property
    def regions(self) -> tuple[str, ...]:
        """All regions of the runs, in order."""
        return tuple(dict.fromkeys(region for run in self.runs for region in run.regions))

    @property
    def epsilon(self) -> str:
        """ε of all runs for one customer, a decimal string: the sum, which bounds it."""
        return f"{sum(Decimal(run.epsilon) for run in self.runs):f}"

    @property
    def delta(self) -> str:
        """δ that goes with it, likewise."""
        whole = sum((Decimal(run.delta) for run in self.runs), start=Decimal(0))
        return f"{whole.normalize():f}"

    def questions(self, kind: type[Kind]) -> list[Kind]:
        """All questions of one kind that were answered, each name once, in order."""
        found: dict[str, Kind] = {}
        for answer in self.all_answers():
            if isinstance(answer.question, kind):
                found.setdefault(answer.question.name, answer.question)
        return list(found.values())

    def all_answers(self) -> list[ReleasedAnswer]:
        """Every answer of every run."""
        return [answer for run in self.runs for answer in run.answers]

    def of(self, name: str, scope: str = GLOBAL) -> ReleasedAnswer | None:
        """The answer to a question for a scope; of several that of the least noise."""
        found = [
            each for each in self.all_answers() if (each.question.name, each.scope) == (name, scope)
        ]
        return min(found, key=lambda each: each.noise_stddev, default=None)

    def spent_on(self, answers: Sequence[ReleasedAnswer]) -> str:
        """ε of some answers to one question, a decimal string: of one run they cost it once."""
        of_run = {
            run.run: Decimal(answer.epsilon)
            for run in self.runs
            for answer in answers
            if any(answer is each for each in run.answers) and _is_decimal(answer.epsilon)
        }
        return f"{sum(of_run.values()):f}"

    def customers(self, scope: str) -> Customers | None:
        """How many customers of a scope bought anything; None if noise leaves nothing to say.

        Whoever bought has one number in the cuts of recency and of frequency; where neither was
        asked, shares that add up to 1 in the scenes. The least uncertain answer counts.
        """
        best: Customers | None = None
        for names in ((SCENES,), (RECENCY, FREQUENCY)):
            answers = [self.of(name, scope) for name in names]
            totals = [_total(answer) for answer in answers if answer is not None]
            best = min(totals, key=lambda each: each.stddev, default=best)
        if best is None or not best.value > TOLD_DEVIATIONS * best.stddev:
            return None
        return best

    def outlook(self, answer: ReleasedAnswer) -> Outlook:
        """What noise does to an answer, with as many customers as there are known to be."""
        told = self.customers(answer.scope)
        known = answer.customers_at_least
        number = known if told is None else max(known, told.at_least)
        return answer.question.outlook(number, answer.noise_stddev)

    def standing(self, answer: ReleasedAnswer) -> Standing:
        """Whether an answer is shown as a whole.

        Of kinds whose values are about parts of the customers, such as who answered, that depends
        on each value: its own interval says whether it is of use.
        """
        if isinstance(answer.question, _BY_VALUE):
            return Standing(shown=True, coarse=False)
        return Standing.of(self.outlook(answer))

    @staticmethod
    def are_of_buyers(groups: Groups) -> bool:
        """Whether everybody in some groups is among the customers whose number is told."""
        return groups.most is not None and groups.name in _OF_BUYERS

    def group_shares(
        self, groups: Groups, answer: ReleasedAnswer, *, level: float = LEVEL
    ) -> Estimates | None:
        """Which share of the customers each group has, [groups]; None if that is not told.

        Customers' number is that of those who bought: whoever looks, searches or complains need not
        be one of them, and of such counts no shares are told.

        Args:
            groups: The question, of counts.
            answer: The answer to it.
            level: How often an interval shall cover the truth.

        Formal guarantees:
            As `common.analytics.estimates.fieller`: the two answers' noise is independent.
        """
        customers = self.customers(answer.scope)
        if customers is None or not self.are_of_buyers(groups):
            return None
        counts = groups.bound * answer.released
        found = fieller(
            counts,
            np.full(counts.shape, customers.value),
            variance_over=(groups.bound * answer.noise_stddev) ** 2,
            variance_under=customers.stddev**2,
            covariance=0.0,
            level=level,
        )
        return found.within(0.0, 1.0)


@dataclass(frozen=True)
class Standing:
    """Whether an answer is shown.

    Attributes:
        shown: Whether noise leaves enough to show.
        coarse: Whether its intervals are wider than what is of use, though not by much.
        needed: How many customers it would take, if it is not shown.
    """

    shown: bool
    coarse: bool
    needed: int = field(default=0)

    @classmethod
    def of(cls, outlook: Outlook) -> Standing:
        """By what noise does to it. Written so that no number at all is not shown."""
        shown = outlook.half_width <= COARSE * outlook.wanted
        needed = math.ceil(outlook.customers_needed / COARSE) if not shown else 0
        return cls(shown, shown and outlook.swamped, needed)


def _is_decimal(text: str) -> bool:
    return DECIMAL.fullmatch(text) is not None


def _total(answer: ReleasedAnswer) -> Customers:
    question, sums = answer.question, answer.released
    if isinstance(question, Cuts):
        weights = question.tree.solution().sum(axis=0)
    else:
        weights = np.ones(len(sums))
    return Customers(float(sums @ weights), answer.noise_stddev * float(np.linalg.norm(weights)))


def gather(runs: Sequence[ReleasedAnswers]) -> Findings:
    """The findings of some runs.

    Raises:
        InputError: There is none, or they do not belong together.
    """
    if not runs:
        raise InputError("There is no run whose answers could be shown.")
    return Findings(tuple(runs))
