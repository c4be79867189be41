"""Trends: by how much groups grew from one period to the next, and which crossed a threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from common.analytics.estimates import (
    LEVEL,
    Estimates,
    deviations_of,
    ratio,
    require_released,
)
from common.analytics.groups import labels_digest
from common.analytics.outlook import COARSE, Outlook
from common.canonical_json import JsonValue
from common.errors import InputError

#: What an answer says of a threshold.
Alert = Literal["crossed", "not crossed", "not told"]


@dataclass(frozen=True)
class Trend:
    """How many customers were in each group in an earlier and in a later period.

    One customer's row is 1 for each group and period that she was in, at most `most` groups in each
    period, divided by √(2 · most), which bounds its norm.

    Attributes:
        name: What is asked.
        labels: The groups, public, in order.
        most: In how many groups one customer counts at most, in each period.
        threshold: The change that alerts: 2.0 is +200%, −0.5 is −50%.
        usual_share: Which share of the customers an ordinary group has, for the outlook: a guess
            from public knowledge, never from the data.
        wanted: The furthest that an interval is of use, in points of change of such a group.
    """

    name: str
    labels: tuple[str, ...] = field(repr=False)
    most: int
    threshold: float = 2.0
    usual_share: float = 0.05
    wanted: float = 100.0

    def __post_init__(self) -> None:
        if len(set(self.labels)) != len(self.labels) or not self.labels:
            raise InputError(f"{self.name}: there are no groups, or two of one name.")
        if not (self.most >= 1 and -1 < self.threshold < math.inf and self.threshold != 0):
            raise InputError(f"{self.name}: its bound or its threshold is none.")
        if not 0 < self.usual_share <= 1:
            raise InputError(f"{self.name}: {self.usual_share} is no share of the customers.")

    @property
    def size(self) -> int:
        """How many values the answer has: all groups of the earlier period, then of the later."""
        return 2 * len(self.labels)

    @property
    def bound(self) -> float:
        """What a row is divided by."""
        return math.sqrt(2 * min(self.most, len(self.labels)))

    @property
    def parameters(self) -> dict[str, JsonValue]:
        """The public constants that a row depends on."""
        return {"labels": labels_digest(self.labels), "most": self.most}

    def outlook(self, customers: int, noise_stddev: float) -> Outlook:
        """What noise would do to an ordinary group that did not change."""
        usual = max(1, customers) * self.usual_share
        reach = 100 * deviations_of(LEVEL) * math.sqrt(2) * self.bound * noise_stddev / usual
        return Outlook(self.name, reach, self.wanted, "points of change", customers)

    def read(
        self, released: npt.ArrayLike, noise_stddev: float, *, level: float = LEVEL
    ) -> Estimates:
        """The change of each group, [..., groups]: later over earlier, less 1; −1 at least.

        Args:
            released: [..., size].
            noise_stddev: Standard deviation of the noise in each value.
            level: How often an interval shall cover the truth.

        Formal guarantees:
            As `common.analytics.estimates.fieller`. Of a group that the earlier period hardly had,
            nothing is said.

        Raises:
            InputError: It is no answer to this.
        """
        values, n = require_released(released, self.size, noise_stddev), len(self.labels)
        earlier, later = np.eye(2 * n)[:n], np.eye(2 * n)[n:]
        found = ratio(values, later, earlier, noise_stddev, level=level).within(0.0, math.inf)
        return Estimates(found.value - 1, found.low - 1, found.high - 1, level)

    def of_use(self, change: Estimates) -> Estimates:
        """Changes whose interval says something; of the others nothing is said.

        Shown, a change of 20% within −100% and +900% would be taken for one. Whether the threshold
        was crossed is another question, which `alerts` answers by the interval as it is.

        Args:
            change: As `read` gives it.
        """
        half_width = (change.high - change.low) / 2
        return change.only(100 * half_width <= COARSE * self.wanted)

    def alerts(self, change: Estimates) -> list[Alert]:
        """What is to be said of each group's change: crossed only if the interval is beyond.

        Args:
            change: Of one answer, as `read` gives it.
        """
        rising = self.threshold > 0
        inner, outer = (change.low, change.high) if rising else (-change.high, -change.low)
        limit = self.threshold if rising else -self.threshold
        return [
            "crossed" if low >= limit else "not crossed" if high < limit else "not told"
            for low, high in zip(inner.tolist(), outer.tolist(), strict=True)
        ]
