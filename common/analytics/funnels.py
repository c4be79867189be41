"""Funnels: how many customers come as far as each stage, and how many of those go on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from common.analytics.estimates import (
    LEVEL,
    Estimates,
    FloatArray,
    deviations_of,
    linear,
    ratio,
    require_released,
)
from common.analytics.outlook import Outlook
from common.canonical_json import JsonValue
from common.errors import InputError


@dataclass(frozen=True)
class Funnel:
    """Stages that follow each other, such as interest, decision, purchase, repeat.

    One customer's row is 1 at the last stage that she reached, all before it included. That is less
    noise than one value for each stage she reached: those would share her norm of 1.

    Attributes:
        name: What is asked.
        stages: The stages' names, public, the first one first.
        wanted: The furthest that an interval is of use, in points of a hundred of the customers.
    """

    name: str
    stages: tuple[str, ...] = field(repr=False)
    wanted: float = 5.0

    def __post_init__(self) -> None:
        if len(set(self.stages)) != len(self.stages) or len(self.stages) < 2:
            raise InputError(f"{self.name}: a funnel has two stages or more, of different names.")

    @property
    def size(self) -> int:
        """How many values the answer has."""
        return len(self.stages)

    @property
    def parameters(self) -> dict[str, JsonValue]:
        """The public constants that a row depends on."""
        return {"stages": [*self.stages]}

    @property
    def _reached(self) -> FloatArray:
        """float64[stages, stages]: who reached a stage reached it or one behind it last."""
        return np.triu(np.ones((self.size, self.size)))

    def outlook(self, customers: int, noise_stddev: float) -> Outlook:
        """What noise would do to the first stage in a region of at least so many customers."""
        reach = 100 * deviations_of(LEVEL) * noise_stddev * math.sqrt(self.size)
        return Outlook(self.name, reach / max(1, customers), self.wanted, "points", customers)

    def read(
        self, released: npt.ArrayLike, noise_stddev: float, *, level: float = LEVEL
    ) -> Estimates:
        """How many customers reached each stage, [..., stages].

        Args:
            released: [..., stages].
            noise_stddev: Standard deviation of the noise in each value.
            level: How often an interval shall cover the truth.

        Raises:
            InputError: It is no answer to this.
        """
        values = require_released(released, self.size, noise_stddev)
        return linear(values, self._reached, noise_stddev, level=level).within(0.0, math.inf)

    def conversions(
        self, released: npt.ArrayLike, noise_stddev: float, *, level: float = LEVEL
    ) -> Estimates:
        """Which share of those who reached a stage went on to the next, [..., stages − 1].

        Formal guarantees:
            As `common.analytics.estimates.fieller`.

        Raises:
            InputError: It is no answer to this.
        """
        values, reached = require_released(released, self.size, noise_stddev), self._reached
        found = ratio(values, reached[1:], reached[:-1], noise_stddev, level=level)
        return found.within(0.0, 1.0)
