"""Kano surveys: what customers would miss, what delights them, from pairs of answers.

Of each feature a customer is asked twice: how she would feel if it were there (*functional*) and if
it were not (*dysfunctional*). The pair says which class the feature has for her (Kano, Seraku,
Takahashi and Tsuji, "Attractive Quality and Must-Be Quality", 1984; the table and the coefficients
as in Berger and others, "Kano's Methods for Understanding Customer-defined Quality", 1993).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from common.analytics.estimates import (
    LEVEL,
    BoolArray,
    Estimates,
    FloatArray,
    deviations_of,
    linear,
    ratio,
    require_released,
)
from common.analytics.groups import labels_digest
from common.analytics.outlook import Outlook
from common.canonical_json import JsonValue
from common.errors import InputError

LongArray: TypeAlias = npt.NDArray[np.int64]

#: What can be answered to each of both questions, in order.
ANSWERS = ("like", "expect", "neutral", "tolerate", "dislike")
#: What a pair of answers makes of a feature, in the order of an answer's values.
CLASSES = ("attractive", "performance", "must-be", "indifferent", "reverse", "questionable")
#: Class by functional and dysfunctional answer.
TABLE: LongArray = np.array(
    [
        [5, 0, 0, 0, 1],
        [4, 3, 3, 3, 2],
        [4, 3, 3, 3, 2],
        [4, 3, 3, 3, 2],
        [4, 4, 4, 4, 5],
    ],
    dtype=np.int64,
)
TABLE.setflags(write=False)

# Coefficients are shares of these: who wants it the other way round, or says both, is left out.
_COUNTED = np.array([1.0, 1.0, 1.0, 1.0, 0.0, 0.0])
_BETTER = np.array([1.0, 1.0, 0.0, 0.0, 0.0, 0.0])
_WORSE = np.array([0.0, 1.0, 1.0, 0.0, 0.0, 0.0])
_MATTERS = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])


@dataclass(frozen=True, eq=False)
class Classified:
    """The class of each feature, as far as noise lets it be told.

    Attributes:
        likely: int64[features], the class that most pairs seem to have, a place in `CLASSES`.
        sure: bool[features], whether it has the most in truth, all statements together at the level
            that was asked for.
    """

    likely: LongArray = field(repr=False)
    sure: BoolArray = field(repr=False)


@dataclass(frozen=True)
class Kano:
    """How many customers' answers put each feature into each class.

    One customer's row is 1/√most in the class of each of at most `most` features: those of her
    newest pairs.

    Attributes:
        name: What is asked.
        features: The features that were asked about, public, in order.
        most: Of how many features one customer's pairs count.
        answering_share: Which share of the customers answers about a feature, for the outlook: a
            guess from public knowledge, never from the data.
        wanted: The furthest that an interval of a coefficient is of use, in points of a hundred.
    """

    name: str
    features: tuple[str, ...] = field(repr=False)
    most: int
    answering_share: float = 0.1
    wanted: float = 10.0

    def __post_init__(self) -> None:
        if len(set(self.features)) != len(self.features) or not self.features:
            raise InputError(f"{self.name}: there are no features, or two of one name.")
        if self.most < 1 or not 0 < self.answering_share <= 1:
            raise InputError(f"{self.name}: its bound, or who answers it, is none.")

    @property
    def size(self) -> int:
        """How many values the answer has: for each feature, its classes."""
        return len(self.features) * len(CLASSES)

    @property
    def bound(self) -> float:
        """What a row is divided by."""
        return math.sqrt(min(self.most, len(self.features)))

    @property
    def parameters(self) -> dict[str, JsonValue]:
        """The public constants that a row depends on."""
        return {"features": labels_digest(self.features), "most": self.most}

    def class_of(self, functional: LongArray, dysfunctional: LongArray) -> LongArray:
        """int64[n]: the class of each pair of answers, each a place in `ANSWERS`.

        Raises:
            InputError: An answer is none of those.
        """
        for answers in (functional, dysfunctional):
            if ((answers < 0) | (answers >= len(ANSWERS))).any():
                raise InputError(
                    f"{self.name}: an answer is none of {', '.join(ANSWERS)}.",
                    remedy="Let the quality gate leave such answers out.",
                )
        return TABLE[functional, dysfunctional]

    def outlook(self, customers: int, noise_stddev: float) -> Outlook:
        """What noise would do to a coefficient of ½: the least certain."""
        answering = max(1, customers) * self.answering_share
        # ½ of four counts above, the other ½ below: a variance of 4 · ¼ of one count's.
        reach = 100 * deviations_of(LEVEL) * noise_stddev * self.bound / answering
        return Outlook(self.name, reach, self.wanted, "points", customers)

    def read(
        self, released: npt.ArrayLike, noise_stddev: float, *, level: float = LEVEL
    ) -> Estimates:
        """How many customers have put each feature into each class, [..., features · classes].

        Args:
            released: [..., size].
            noise_stddev: Standard deviation of the noise in each value.
            level: How often an interval shall cover the truth.

        Raises:
            InputError: It is no answer to this.
        """
        values = require_released(released, self.size, noise_stddev)
        found = linear(values, np.eye(self.size) * self.bound, noise_stddev, level=level)
        return found.within(0.0, math.inf)

    def better(
        self, released: npt.ArrayLike, noise_stddev: float, *, level: float = LEVEL
    ) -> Estimates:
        """Which share of the customers a feature would please, [..., features].

        Attractive and performance, of these two, must-be and indifferent; as `_shares`.
        """
        return self._shares(released, _BETTER, noise_stddev, level)

    def worse(
        self, released: npt.ArrayLike, noise_stddev: float, *, level: float = LEVEL
    ) -> Estimates:
        """Which share would be displeased without it, [..., features].

        Performance and must-be, of the same four; as `_shares`. In the literature it is below 0.
        """
        return self._shares(released, _WORSE, noise_stddev, level)

    def matters(
        self, released: npt.ArrayLike, noise_stddev: float, *, level: float = LEVEL
    ) -> Estimates:
        """Which share is not indifferent to it, [..., features], of the same four; as `_shares`."""
        return self._shares(released, _MATTERS, noise_stddev, level)

    def answered(
        self, released: npt.ArrayLike, noise_stddev: float, *, level: float = LEVEL
    ) -> Estimates:
        """How many customers' pairs about each feature count, [..., features].

        Raises:
            InputError: It is no answer to this.
        """
        values = require_released(released, self.size, noise_stddev)
        weights = self._weights(np.ones(len(CLASSES))) * self.bound
        return linear(values, weights, noise_stddev, level=level).within(0.0, math.inf)

    def classified(
        self, released: npt.ArrayLike, noise_stddev: float, *, level: float = LEVEL
    ) -> Classified:
        """The class of each feature, of one answer.

        Formal guarantees:
            With at least the probability `level`, no class is called sure that another one exceeds:
            for each feature the class of most pairs is compared with the five others, all at once
            (Bonferroni). Where two are equal in truth, either may be called so.

        Raises:
            InputError: It is no answer to this, or it is several.
        """
        values = require_released(released, self.size, noise_stddev)
        if values.ndim != 1:
            raise InputError(f"{self.name}: classes are told of one answer at a time.")
        counts = values.reshape(len(self.features), len(CLASSES))
        order = np.argsort(-counts, axis=1, kind="stable")
        first, second = (np.take_along_axis(counts, order[:, [n]], axis=1)[:, 0] for n in (0, 1))
        statements = len(self.features) * (len(CLASSES) - 1)
        reach = deviations_of(1 - (1 - level) / statements) * math.sqrt(2) * noise_stddev
        return Classified(order[:, 0].astype(np.int64), first - second > reach)

    def _shares(
        self, released: npt.ArrayLike, classes: FloatArray, noise_stddev: float, level: float
    ) -> Estimates:
        """Shares of the customers whose pairs are of the four classes that count.

        Formal guarantees:
            As `common.analytics.estimates.fieller`.

        Raises:
            InputError: It is no answer to this.
        """
        values = require_released(released, self.size, noise_stddev)
        over, under = self._weights(classes), self._weights(_COUNTED)
        return ratio(values, over, under, noise_stddev, level=level).within(0.0, 1.0)

    def _weights(self, classes: FloatArray) -> FloatArray:
        """float64[features, size]: the same weights for each feature's classes."""
        weights = np.kron(np.eye(len(self.features)), classes[None, :])
        return weights.astype(np.float64)
