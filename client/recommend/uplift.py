"""What an experiment's arms brought: purchases after the first list shown, arm against arm.

Customers are compared by the arm that they were drawn into, whatever they were shown later and
whatever they did with it (intention to treat). A customer is followed for the same number of days
from her first exposure; one whose days are not over yet is left out. Of each arm the mean is
compared with the first arm's by Welch's interval (1947), which needs neither equal variances nor
equal sizes.

Before any figure is believed, the arms' sizes must fit their shares: a mismatch (χ² test, p below
0.001) says that something else than chance decides who is counted (Fabijan et al., "Diagnosing
Sample Ratio Mismatch in Online Controlled Experiments", 2019).

The figures are exact numbers about the region's customers: for the region's own eyes. They are not
differentially private, so whatever of them is to leave the region has to be charged first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2, t

from client.data.transactions import ConsentedTransactions
from client.recommend.experiment import Assignment
from client.recommend.exposure import Exposure
from client.recommend.settings import ExperimentSettings
from common.canonical_json import JsonValue
from common.catalogue import Catalogue
from common.errors import InputError

MS_PER_DAY = 86_400_000
#: Below this probability the arms' sizes do not fit their shares.
MISMATCH_P = 0.001
CONFIDENCE = 0.95
#: What is counted of a customer in her days: purchases of anything, whether she bought anything,
#: and purchases of items that she had been shown before.
MEASURES = ("purchases", "buyers", "purchases_of_shown")

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """An arm's mean beside the first arm's.

    Attributes:
        mean: The arm's, per customer.
        difference: Minus the first arm's.
        low: The interval's lower end; −∞ where an arm has too few customers for one.
        high: Its upper end.
    """

    mean: float
    difference: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class ArmResult:
    """One arm.

    Attributes:
        arm: Its name.
        customers: How many were followed to the end.
        measures: By measure.
    """

    arm: str
    customers: int
    measures: Mapping[str, Difference]


@dataclass(frozen=True)
class ExperimentResult:
    """What an experiment brought so far.

    Attributes:
        experiment: Its name.
        days: For how many days each customer was followed.
        arms: The arms, the first one first.
        still_followed: Customers whose days are not over.
        mismatch_p: How probable sizes are that fit the shares as badly; 1 with fewer than two
            customers.
    """

    experiment: str
    days: int
    arms: tuple[ArmResult, ...]
    still_followed: int
    mismatch_p: float

    @property
    def believable(self) -> bool:
        """Whether the arms' sizes fit their shares."""
        return self.mismatch_p >= MISMATCH_P

    def to_record(self) -> dict[str, JsonValue]:
        """The result as canonical JSON values; numbers as decimal strings."""
        arms: list[JsonValue] = [_arm_record(arm) for arm in self.arms]
        return {
            "experiment": self.experiment,
            "days": self.days,
            "arms": arms,
            "still_followed": self.still_followed,
            "mismatch_p": f"{self.mismatch_p:.3g}",
            "believable": self.believable,
        }


@dataclass
class _Followed:
    """One customer: her arm, when she was first shown a list, what she was shown, what she did."""

    arm: str
    first_ms: int
    shown: dict[int, int] = field(default_factory=dict)
    purchases: int = 0
    purchases_of_shown: int = 0

    def counts(self) -> tuple[float, float, float]:
        """In the order of `MEASURES`."""
        return float(self.purchases), float(self.purchases > 0), float(self.purchases_of_shown)


def measure_uplift(
    assignment: Assignment,
    exposures: Iterable[Exposure],
    consented: ConsentedTransactions,
    catalogue: Catalogue,
    *,
    days: int,
    until_ms: int,
) -> ExperimentResult:
    """Measures an experiment.

    Args:
        assignment: The experiment's arms.
        exposures: Of the experiment, each customer's in the order of time.
        consented: The region's purchases, of those whose consent for recommendations stands.
        catalogue: The region's catalogue.
        days: For how many days after her first exposure a customer is followed.
        until_ms: Up to when the store's rows are known, milliseconds since the epoch.

    Raises:
        InputError: There is no day to follow.
    """
    if days < 1:
        raise InputError("Customers are followed for a day at least.")
    followed = _followed(exposures, catalogue)
    complete = {
        customer: each
        for customer, each in followed.items()
        if each.first_ms + days * MS_PER_DAY <= until_ms
    }
    for part in consented.parts():
        # One customer's pseudonym is computed once.
        names = [complete.get(assignment.pseudonym(sid)) for sid in part.owners]
        for owner, item, time_ms in zip(
            part.owner.tolist(), part.item.tolist(), part.time_ms.tolist(), strict=True
        ):
            customer = names[owner]
            if customer is not None:
                _count(customer, item, time_ms, days)
    return _result(assignment.settings, complete.values(), days, len(followed) - len(complete))


def _followed(exposures: Iterable[Exposure], catalogue: Catalogue) -> dict[bytes, _Followed]:
    followed: dict[bytes, _Followed] = {}
    for each in exposures:
        customer = followed.setdefault(each.customer, _Followed(each.arm, each.shown_at_ms))
        for item in each.items:
            number = catalogue.index_of.get(item)
            if number is not None:
                customer.shown.setdefault(number, each.shown_at_ms)
    return followed


def _count(customer: _Followed, item: int, time_ms: int, days: int) -> None:
    if not customer.first_ms <= time_ms < customer.first_ms + days * MS_PER_DAY:
        return
    customer.purchases += 1
    if customer.shown.get(item, time_ms + 1) <= time_ms:
        customer.purchases_of_shown += 1


def _result(
    settings: ExperimentSettings,
    followed: Iterable[_Followed],
    days: int,
    still_followed: int,
) -> ExperimentResult:
    counts: dict[str, list[tuple[float, float, float]]] = {arm.name: [] for arm in settings.arms}
    for each in followed:
        # An arm that the settings have no longer is none of this comparison.
        if each.arm in counts:
            counts[each.arm].append(each.counts())
    tables = [np.array(counts[arm.name], dtype=np.float64).reshape(-1, 3) for arm in settings.arms]
    first = settings.arms[0]
    arms = tuple(
        ArmResult(
            arm.name,
            len(table),
            {
                name: _difference(tables[0][:, column], table[:, column], itself=arm is first)
                for column, name in enumerate(MEASURES)
            },
        )
        for arm, table in zip(settings.arms, tables, strict=True)
    )
    sizes = np.array([len(table) for table in tables], dtype=np.float64)
    shares = np.array([arm.share for arm in settings.arms])
    return ExperimentResult(settings.name, days, arms, still_followed, _mismatch_p(sizes, shares))


def _mismatch_p(sizes: FloatArray, shares: FloatArray) -> float:
    total = float(sizes.sum())
    if total < 2:
        return 1.0
    expected = total * shares / shares.sum()
    statistic = float(((sizes - expected) ** 2 / expected).sum())
    return float(chi2.sf(statistic, len(sizes) - 1))


def _difference(control: FloatArray, treated: FloatArray, *, itself: bool) -> Difference:
    """Welch's interval of the difference of two means."""
    mean = float(treated.mean()) if len(treated) else 0.0
    base = float(control.mean()) if len(control) else 0.0
    difference = mean - base
    if itself:
        return Difference(mean, 0.0, 0.0, 0.0)
    if min(len(control), len(treated)) < 2:
        return Difference(mean, difference, -math.inf, math.inf)
    parts = [float(each.var(ddof=1)) / len(each) for each in (control, treated)]
    variance = sum(parts)
    if variance == 0:
        return Difference(mean, difference, difference, difference)
    freedom = variance**2 / sum(
        part**2 / (len(each) - 1) for part, each in zip(parts, (control, treated), strict=True)
    )
    half = float(t.ppf(0.5 + CONFIDENCE / 2, freedom)) * math.sqrt(variance)
    return Difference(mean, difference, difference - half, difference + half)


def _arm_record(arm: ArmResult) -> JsonValue:
    measures: dict[str, JsonValue] = {
        name: {
            "mean": f"{each.mean:.6g}",
            "difference": f"{each.difference:.6g}",
            "low": f"{each.low:.6g}",
            "high": f"{each.high:.6g}",
        }
        for name, each in arm.measures.items()
    }
    return {"arm": arm.arm, "customers": arm.customers, "measures": measures}
