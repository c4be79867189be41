"""Means of answers on a scale: net promoter score (NPS) and customer satisfaction (CSAT)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from common.analytics.estimates import (
    LEVEL,
    Estimates,
    deviations_of,
    linear,
    ratio,
    require_released,
)
from common.analytics.outlook import Outlook
from common.canonical_json import JsonValue
from common.errors import InputError


@dataclass(frozen=True)
class Score:
    """A mean over those who answered, each answer worth the points of its class.

    One customer's row is 1 in the class of her newest answer. Who did not answer has no row.

    Attributes:
        name: What is asked.
        most_of_class: The highest answer of each class, ascending: answers are whole numbers from
            `lowest` to the last of these.
        points: What an answer of each class is worth.
        lowest: The lowest answer there is.
        answering_share: Which share of the customers answers, for the outlook: a guess from public
            knowledge, never from the data.
        wanted: The furthest that an interval is of use, in points.
    """

    name: str
    most_of_class: tuple[int, ...]
    points: tuple[float, ...]
    lowest: int
    answering_share: float = 0.1
    wanted: float = 10.0

    def __post_init__(self) -> None:
        borders = (self.lowest - 1, *self.most_of_class)
        ascending = all(one < other for one, other in pairwise(borders))
        if not ascending or len(self.points) != len(self.most_of_class) or not self.points:
            raise InputError(f"{self.name}: its classes do not ascend, or have no points each.")
        if not 0 < self.answering_share <= 1:
            raise InputError(f"{self.name}: {self.answering_share} is no share of the customers.")

    @classmethod
    def nps(cls, name: str = "nps") -> Score:
        """Answers from 0 to 10: detractors to 6, passives to 8, promoters.

        Source: Reichheld, "The One Number You Need to Grow" (2003): promoters less detractors, in
        points of a hundred.
        """
        return cls(name, (6, 8, 10), (-100.0, 0.0, 100.0), 0)

    @classmethod
    def csat(cls, name: str = "csat", *, highest: int = 5) -> Score:
        """Answers from 1 to the highest: the percentage of the two best."""
        return cls(name, (highest - 2, highest), (0.0, 100.0), 1)

    @property
    def size(self) -> int:
        """How many values the answer has."""
        return len(self.points)

    @property
    def parameters(self) -> dict[str, JsonValue]:
        """The public constants that a row depends on."""
        return {"lowest": self.lowest, "most_of_class": [*self.most_of_class]}

    def class_of(self, answers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """int64[n]: the class of each answer.

        Raises:
            InputError: An answer is off the scale: it would be counted as something it is not.
        """
        if ((answers < self.lowest) | (answers > self.most_of_class[-1])).any():
            raise InputError(
                f"{self.name}: an answer is not from {self.lowest} to {self.most_of_class[-1]}.",
                remedy="Let the quality gate leave such answers out.",
            )
        return np.searchsorted(np.array(self.most_of_class), answers).astype(np.int64)

    def outlook(self, customers: int, noise_stddev: float) -> Outlook:
        """What noise would do to a score in the middle of the scale."""
        middle = (min(self.points) + max(self.points)) / 2
        spread = math.sqrt(sum((each - middle) ** 2 for each in self.points))
        answering = max(1, customers) * self.answering_share
        reach = deviations_of(LEVEL) * noise_stddev * spread / answering
        return Outlook(self.name, reach, self.wanted, "points", customers)

    def read(
        self, released: npt.ArrayLike, noise_stddev: float, *, level: float = LEVEL
    ) -> Estimates:
        """The score of those who answered, [..., 1]; it says nothing of who did not.

        Args:
            released: [..., classes].
            noise_stddev: Standard deviation of the noise in each value.
            level: How often an interval shall cover the truth.

        Formal guarantees:
            As `common.analytics.estimates.fieller`.

        Raises:
            InputError: It is no answer to this.
        """
        values = require_released(released, self.size, noise_stddev)
        points = np.array(self.points)[None, :]
        found = ratio(values, points, np.ones(self.size), noise_stddev, level=level)
        return found.within(min(self.points), max(self.points))

    def answered(
        self, released: npt.ArrayLike, noise_stddev: float, *, level: float = LEVEL
    ) -> Estimates:
        """How many customers answered, [..., 1].

        Raises:
            InputError: It is no answer to this.
        """
        values = require_released(released, self.size, noise_stddev)
        found = linear(values, np.ones((1, self.size)), noise_stddev, level=level)
        return found.within(0.0, math.inf)
