"""Priorities: importance × urgency × feasibility, with weights, as far as noise lets them be told.

Importance and urgency are read off released answers, each brought onto a scale from 0 to 1;
feasibility is stated by whoever plans, and has no noise. The score is the weighted geometric mean:
a factor of nothing leaves nothing, whatever the others, and a weight says how much a factor counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from common.analytics.estimates import LEVEL, Estimates, FloatArray
from common.errors import InputError

LongArray: TypeAlias = npt.NDArray[np.int64]
#: Importance and urgency, each [items], with intervals that cover the truth at a level.
ReadFactors: TypeAlias = Callable[[float], tuple[Estimates, Estimates]]

#: What the highest score is.
FULL_SCORE = 100.0
# Intervals of so many factors have to hold for that of a score.
_NOISY_FACTORS = 2


@dataclass(frozen=True)
class Weights:
    """How much each factor counts, beside the others.

    Attributes:
        importance: Of how much it matters.
        urgency: Of how soon.
        feasibility: Of how well it can be done.
    """

    importance: float = 1.0
    urgency: float = 1.0
    feasibility: float = 1.0

    def __post_init__(self) -> None:
        each = (self.importance, self.urgency, self.feasibility)
        if not (all(0 <= one < math.inf for one in each) and sum(each) > 0):
            raise InputError(
                f"Weights of {each[0]:g}, {each[1]:g} and {each[2]:g} rank nothing.",
                remedy="Name weights of 0 or more, one of them above 0.",
            )

    @property
    def exponents(self) -> tuple[float, float, float]:
        """The factors' exponents, in the attributes' order: they add up to 1."""
        total = self.importance + self.urgency + self.feasibility
        return self.importance / total, self.urgency / total, self.feasibility / total


@dataclass(frozen=True, eq=False)
class Priorities:
    """Ranked items.

    Attributes:
        order: int64[items], their places, the highest score first, those not told last.
        importance: [items], on its scale; the interval is that which the score's is made of.
        urgency: Likewise.
        feasibility: float64[items], as stated.
        score: [items], from 0 to `FULL_SCORE`.
        first: int64[items], the best rank that each may have in truth, from 1 on.
        last: int64[items], the worst one.
    """

    order: LongArray = field(repr=False)
    importance: Estimates = field(repr=False)
    urgency: Estimates = field(repr=False)
    feasibility: FloatArray = field(repr=False)
    score: Estimates = field(repr=False)
    first: LongArray = field(repr=False)
    last: LongArray = field(repr=False)


def on_scale(found: Estimates, nothing: float, everything: float) -> Estimates:
    """Estimates as a factor from 0 to 1: 0 at `nothing`, 1 at `everything`, limited to both.

    Args:
        found: What was read.
        nothing: The value that counts as nothing.
        everything: The value that counts in full; below `nothing` if little of it is urgent.

    Raises:
        InputError: Both are the same, or are no numbers.
    """
    span = everything - nothing
    if not (math.isfinite(span) and span != 0):
        raise InputError(f"From {nothing:g} to {everything:g} there is no scale.")
    ends = found.low, found.high
    low, high = ends if span > 0 else ends[::-1]
    value, low, high = ((each - nothing) / span for each in (found.value, low, high))
    return Estimates(value, low, high, found.level).within(0.0, 1.0)


def prioritised(
    read: ReadFactors,
    feasibility: FloatArray,
    weights: Weights,
    *,
    level: float = LEVEL,
    chosen_from: int | None = None,
) -> Priorities:
    """Scores items and ranks them.

    Args:
        read: Gives importance and urgency within 0 and 1, at whatever level intervals shall cover.
        feasibility: float64[items], within 0 and 1.
        weights: How much each factor counts.
        level: How often an interval of a score, and all ranks together, shall cover the truth.
        chosen_from: If the answers themselves chose the items, such as the largest groups: from how
            many. None if they were chosen without them.

    Formal guarantees:
        A score rises with each factor, so it is between the scores of the factors' ends if both
        intervals hold. With each at 1 − (1 − level)/2 that is at least as often as `level`, whether
        or not both are read off the same release (Bonferroni); so are all ranks together, with each
        at 1 − (1 − level)/(2 · items). Items that the answers chose are those that noise raised:
        then scores and ranks hold for all that they were chosen from, all at once.

    Edge cases:
        A factor that noise leaves nothing to say of: no score is said, and its interval has all
        that the factor can be.

    Raises:
        InputError: A factor has another shape, or is not within 0 and 1.
    """
    statements = max(1, len(feasibility), chosen_from or 0)
    together = read(1 - (1 - level) / (_NOISY_FACTORS * statements))
    alone = read(1 - (1 - level) / _NOISY_FACTORS) if chosen_from is None else together
    importance, urgency = alone
    score = _score(importance, urgency, feasibility, weights, level)
    first, last = _ranks(_score(*together, feasibility, weights, level))
    told = np.where(score.known, score.value, -1.0)
    order = np.argsort(-told, kind="stable").astype(np.int64)
    return Priorities(order, importance, urgency, feasibility, score, first, last)


def _score(
    importance: Estimates,
    urgency: Estimates,
    feasibility: FloatArray,
    weights: Weights,
    level: float,
) -> Estimates:
    stated = np.asarray(feasibility, dtype=np.float64)
    _require_factor("importance", importance, stated.shape)
    _require_factor("urgency", urgency, stated.shape)
    if not ((stated >= 0) & (stated <= 1)).all():
        raise InputError(
            "A feasibility is not within 0 and 1.", remedy="State it as a share, such as 0.5."
        )
    powers = weights.exponents

    def score(one: FloatArray, other: FloatArray) -> FloatArray:
        # A power of 0 is 1 whatever the factor, also where nothing is said of it.
        found: FloatArray = FULL_SCORE * one ** powers[0] * other ** powers[1] * stated ** powers[2]
        return found

    return Estimates(
        score(importance.value, urgency.value),
        score(importance.low, urgency.low),
        score(importance.high, urgency.high),
        level,
    )


def _require_factor(name: str, found: Estimates, shape: tuple[int, ...]) -> None:
    inside = (found.low >= 0) & (found.low <= found.high) & (found.high <= 1)
    if found.value.shape != shape or not inside.all():
        raise InputError(
            f"The {name} of {shape[0]} items is not a number within 0 and 1 for each.",
            remedy="Bring it onto a scale first.",
        )


def _ranks(score: Estimates) -> tuple[LongArray, LongArray]:
    """The best and the worst rank that each item may have, if all intervals hold."""
    above = (score.low[None, :] > score.high[:, None]).sum(axis=1)
    below = (score.high[None, :] < score.low[:, None]).sum(axis=1)
    return (1 + above).astype(np.int64), (len(score.low) - below).astype(np.int64)
