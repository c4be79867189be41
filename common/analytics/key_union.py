"""Keys that nobody can list beforehand: which are released, and what that costs besides ε.

A public list of groups is the ordinary case: noise is added to all of them, also to those nobody is
in. Search terms have no such list. Then noise is added to the keys that somebody has, and a key is
released only if its noisy count is above a threshold so high that one customer's own keys hardly
ever pass it (Korolova, Kenthapadi, Mishra and Ntoulas, 2009; with Gaussian noise: Gopi and others,
"Differentially Private Set Union", 2020, section 5). How rarely is a δ of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from common.analytics.estimates import LEVEL, Estimates, deviations_of
from common.analytics.outlook import Outlook
from common.canonical_json import JsonValue
from common.errors import InputError
from common.privacy import DELTA_RANGE, epsilon_gaussian


@dataclass(frozen=True)
class KeyUnion:
    """The keys that enough customers have.

    One customer's row is 1/√most for each of at most `most` keys of hers.

    Attributes:
        name: What is asked.
        most: Of how many keys one customer is counted at most.
        key_delta: The probability with which a key that only one customer has is released.
        wanted: The largest count that may be needed for a key to be released, as a share of the
            customers.
    """

    name: str
    most: int
    key_delta: float
    wanted: float = 0.02

    def __post_init__(self) -> None:
        if not (self.most >= 1 and DELTA_RANGE[0] <= self.key_delta <= DELTA_RANGE[1]):
            raise InputError(f"{self.name}: its bound or its δ for keys is out of range.")

    @property
    def parameters(self) -> dict[str, JsonValue]:
        """The public constants that a row depends on."""
        return {"most": self.most, "key_delta": repr(self.key_delta)}

    def threshold(self, noise_stddev: float) -> float:
        """What a key's noisy value must exceed to be released.

        Formal guarantees:
            Of a customer with keys that nobody else has, at most `most` count, each with a value of
            1/√most. The probability that any of them exceeds the threshold is at most
            1 − (1 − key_delta) = key_delta, as Φ((threshold − 1/√most)/σ)^most is 1 − key_delta.
        """
        # Of a probability so near 1 the logarithm is what keeps its digits.
        tail = -math.expm1(math.log1p(-self.key_delta) / self.most)
        return 1 / math.sqrt(self.most) - noise_stddev * NormalDist().inv_cdf(tail)

    def epsilon(self, noise_stddev: float, delta: float) -> float:
        """ε at `delta` of releasing keys and their noisy values, at a clipping norm of 1.

        Formal guarantees:
            Unless a key of that customer alone is released, both neighbours' answers are those of a
            Gaussian mechanism on the keys of others; so (ε, δ₀)-DP of that one gives
            (ε, δ₀ + key_delta).

        Raises:
            InputError: δ leaves nothing beside the keys' part of it.
        """
        if not delta > self.key_delta:
            raise InputError(
                f"{self.name}: a δ of {delta:g} leaves nothing beside {self.key_delta:g} for keys.",
                remedy="Give the keys a smaller part, such as half.",
            )
        return epsilon_gaussian(noise_stddev, delta - self.key_delta)

    def outlook(self, customers: int, noise_stddev: float) -> Outlook:
        """How many customers a key must have to be released half of the time."""
        needed = self.threshold(noise_stddev) * math.sqrt(self.most)
        return Outlook(
            self.name, needed / max(1, customers), self.wanted, "of the customers", customers
        )

    def read(
        self, released: npt.ArrayLike, noise_stddev: float, *, level: float = LEVEL
    ) -> Estimates:
        """How many customers have each released key.

        Only what was large enough was released: a count near the threshold is rather too high, and
        intervals are those of keys that are released nearly always.

        Args:
            released: float64[keys].
            noise_stddev: Standard deviation of the noise in each value.
            level: How often an interval shall cover the truth.
        """
        value = np.asarray(released, dtype=np.float64)
        reach = deviations_of(level) * noise_stddev
        found = Estimates(value, value - reach, value + reach, level)
        return found.scaled(math.sqrt(self.most)).within(0.0, math.inf)
