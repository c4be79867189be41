"""Counts and sums by group, and the largest of them."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from common.analytics.estimates import (
    LEVEL,
    BoolArray,
    Estimates,
    FloatArray,
    deviations_of,
    linear,
    require_released,
)
from common.analytics.outlook import Outlook
from common.canonical_json import JsonValue
from common.errors import InputError

LongArray = npt.NDArray[np.int64]


def labels_digest(labels: tuple[str, ...]) -> str:
    """SHA-256 of groups' names in their order, in hex: it says what an answer's values are of."""
    return hashlib.sha256(json.dumps([*labels]).encode()).hexdigest()


@dataclass(frozen=True)
class Groups:
    """How many customers are in each group, or what they come to there.

    One customer's row is her amounts by group divided by `bound`, which no row's norm exceeds. For
    counts, she is in at most `most` groups, with an amount of 1 in each.

    Attributes:
        name: What is asked.
        labels: The groups, public, in order.
        bound: The largest L2 norm of one customer's amounts.
        most: In how many groups one customer counts at most; None for sums of amounts.
        unit: What amounts are in.
        wanted: The furthest that an interval is of use, as a share of the number of customers
            times `unit`.
    """

    name: str
    labels: tuple[str, ...] = field(repr=False)
    bound: float
    most: int | None = None
    unit: str = "customers"
    wanted: float = 0.05

    def __post_init__(self) -> None:
        if len(set(self.labels)) != len(self.labels) or not self.labels:
            raise InputError(f"{self.name}: there are no groups, or two of one name.")
        if not 0 < self.bound < math.inf:
            raise InputError(
                f"{self.name}: {self.bound} does not bound what a customer adds.",
                remedy="Name a positive bound that is public, never the largest of the data.",
            )

    @classmethod
    def counts(
        cls, name: str, labels: tuple[str, ...], *, most: int, wanted: float = 0.05
    ) -> Groups:
        """Counts of customers, each in at most so many groups.

        Raises:
            InputError: `most` is below 1.
        """
        if most < 1:
            raise InputError(f"{name}: a customer cannot be in at most {most} groups.")
        most = min(most, len(labels))
        return cls(name, labels, math.sqrt(most), most=most, wanted=wanted)

    @property
    def size(self) -> int:
        """How many values the answer has."""
        return len(self.labels)

    @property
    def parameters(self) -> dict[str, JsonValue]:
        """The public constants that a row depends on."""
        return {
            "labels": labels_digest(self.labels),
            "bound": repr(float(self.bound)),
            "most": self.most,
        }

    def outlook(self, customers: int, noise_stddev: float) -> Outlook:
        """What noise would do to it in a region of at least so many customers."""
        reach = deviations_of(LEVEL) * noise_stddev * self.bound / max(1, customers)
        unit = f"{self.unit} for each customer"
        return Outlook(self.name, reach, self.wanted, unit, customers)

    def read(
        self, released: npt.ArrayLike, noise_stddev: float, *, level: float = LEVEL
    ) -> Estimates:
        """What each group comes to; counts are not below 0.

        Args:
            released: [..., groups].
            noise_stddev: Standard deviation of the noise in each value.
            level: How often an interval shall cover the truth.

        Formal guarantees:
            As `common.analytics.estimates.linear`. A group that nobody is in has an interval that
            begins at 0, as has one that is too small to be seen: the two are not told apart.

        Raises:
            InputError: It is no answer to this.
        """
        values = require_released(released, self.size, noise_stddev)
        found = linear(values, np.eye(self.size) * self.bound, noise_stddev, level=level)
        return found if self.most is None else found.within(0.0, math.inf)

    def top(
        self, released: npt.ArrayLike, noise_stddev: float, k: int, *, level: float = LEVEL
    ) -> Ranking:
        """The k largest groups.

        Raises:
            InputError: It is no answer to this, or there are not so many groups.
        """
        values = require_released(released, self.size, noise_stddev)
        if values.ndim != 1 or not 1 <= k < self.size:
            raise InputError(
                f"{self.name}: of {self.size} groups the largest {k} cannot be told.",
                remedy=f"Ask for 1 to {self.size - 1}.",
            )
        # Ties, which the public grid allows, go to the earlier group.
        order = np.argsort(-values, kind="stable")
        simultaneous = 1 - (1 - level) / self.size
        reach = deviations_of(simultaneous) * noise_stddev
        outside = float((values[order[k:]] + reach).max())
        return Ranking(
            places=order[:k].astype(np.int64),
            sure=values[order[:k]] - reach > outside,
            precision=_expected_precision(values, order, k, noise_stddev),
        )


@dataclass(frozen=True, eq=False)
class Ranking:
    """The largest groups, as far as noise lets them be told.

    Attributes:
        places: int64[k], places among the question's labels, the largest first.
        sure: bool[k], whether each is among the k largest in truth, all statements together at the
            level that was asked for.
        precision: Which share of the k is in truth among the k largest, as far as the answer itself
            tells: an expectation, not a bound.
    """

    places: LongArray = field(repr=False)
    sure: BoolArray = field(repr=False)
    precision: float


def _expected_precision(values: FloatArray, order: LongArray, k: int, noise_stddev: float) -> float:
    """The mean chance of the chosen to be above the border, if true values lie as seen ones do.

    The seen values are spread wider than the true ones by the noise's variance; drawn together
    towards their mean by that much, they are what truth is guessed to be (James and Stein).
    """
    spread = float(values.var())
    kept = max(0.0, 1.0 - noise_stddev**2 / spread) if spread > 0 else 0.0
    if kept == 0.0:
        return k / len(values)
    centre = float(values.mean())
    guessed = centre + kept * (values - centre)
    border = (guessed[order[k - 1]] + guessed[order[k]]) / 2
    # What is left unknown of a true value once its noisy one is seen.
    doubt = noise_stddev * math.sqrt(kept)
    return float(
        np.mean([_normal_cdf((guessed[place] - border) / doubt) for place in order[:k].tolist()])
    )


def _normal_cdf(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2
