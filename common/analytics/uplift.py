"""Uplift: by how much a treatment changes how many customers do something, against a control."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.analytics.estimates import (
    LEVEL,
    Estimates,
    deviations_of,
    difference,
    fieller,
    require_released,
)
from common.analytics.outlook import Outlook
from common.canonical_json import JsonValue
from common.errors import InputError

#: What a row's values are, in order.
CELLS = ("control, did not", "control, did", "treated, did not", "treated, did")


@dataclass(frozen=True)
class Uplift:
    """Rates of an outcome (click, conversion, repurchase) in two arms drawn by chance.

    One customer's row is 1 in the cell of her arm and outcome.

    Attributes:
        name: What is asked.
        treated_share: Which share of those in the experiment is treated, by its design.
        experiment_share: Which share of the customers is in it, for the outlook.
        wanted: The furthest that an interval is of use, in points of a hundred.
    """

    name: str
    treated_share: float = 0.5
    experiment_share: float = 1.0
    wanted: float = 5.0

    def __post_init__(self) -> None:
        if not (0 < self.treated_share < 1 and 0 < self.experiment_share <= 1):
            raise InputError(f"{self.name}: its arms are no shares of the customers.")

    @property
    def size(self) -> int:
        """How many values the answer has."""
        return len(CELLS)

    @property
    def parameters(self) -> dict[str, JsonValue]:
        """The public constants that a row depends on."""
        return {"cells": [*CELLS]}

    def outlook(self, customers: int, noise_stddev: float) -> Outlook:
        """What noise would do to the difference, rates of ½ taken: the least certain."""
        inside = max(1, customers) * self.experiment_share
        arms = (inside * self.treated_share, inside * (1 - self.treated_share))
        # (did − ½ of all) has a variance of σ²/2; half a customer's coin is another ¼ each.
        variance = sum(noise_stddev**2 / 2 / n**2 + 1 / (4 * n) for n in arms)
        reach = 100 * deviations_of(LEVEL) * math.sqrt(variance)
        return Outlook(self.name, reach, self.wanted, "points", customers)

    def rates(
        self, released: npt.ArrayLike, noise_stddev: float, *, level: float = LEVEL
    ) -> Estimates:
        """The outcome's rate in control and treatment, [..., 2], for customers like these.

        The customers of an arm are a sample of all who could have been in it: an interval has the
        sample's variance, r(1 − r)/n with what is seen of r and n, and that of the noise.

        Args:
            released: [..., 4], as `CELLS`.
            noise_stddev: Standard deviation of the noise in each value.
            level: How often an interval shall cover the truth.

        Raises:
            InputError: It is no answer to this.
        """
        values = require_released(released, self.size, noise_stddev)
        arms = values.reshape(*values.shape[:-1], 2, 2)
        did, all_in = arms[..., 1], arms.sum(axis=-1)
        rate = np.clip(did / np.where(all_in > 0, all_in, np.inf), 0.0, 1.0)
        # What is seen of n·r(1 − r) is kept where it may be: a noisy 0 would be too sure of itself.
        sampling = np.maximum(all_in * rate * (1 - rate), 0.0)
        noise = noise_stddev**2
        found = fieller(
            did,
            all_in,
            # An arm's size is given: only how many of it did so is drawn.
            variance_over=noise + sampling,
            variance_under=2 * noise,
            covariance=noise,
            level=level,
        )
        return found.within(0.0, 1.0)

    def read(
        self, released: npt.ArrayLike, noise_stddev: float, *, level: float = LEVEL
    ) -> Estimates:
        """By how much the treated rate is above the control's, [..., 1]; as `rates`.

        Raises:
            InputError: It is no answer to this.
        """
        rates = self.rates(released, noise_stddev, level=level)
        found = difference(rates.at(slice(1, 2)), rates.at(slice(0, 1)))
        return found.within(-1.0, 1.0)
