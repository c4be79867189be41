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

from common.analytics.estimates import LEVEL, Estimates, FloatArray, deviations_of
from common.analytics.outlook import Outlook
from common.canonical_json import JsonValue
from common.errors import InputError
from common.privacy import DELTA_RANGE, epsilon_gaussian

#: The most keys of one answer, of how many one customer may count, and the most bytes of a key.
MAX_KEYS, MAX_MOST, MAX_KEY_BYTES = 4096, 64, 256
#: How many bytes of a key's text go into one number of the array that has it.
BYTES_A_NUMBER = 4

# Up to so many steps of the grid float32 has every one.
_EXACT_STEPS = 2.0**24
_BISECTIONS = 60


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
        keys: How many keys an answer has room for: what leaves is as long whatever there is.
        key_bytes: How many bytes of UTF-8 a key may have, a multiple of four; longer ones are never
            counted.
    """

    name: str
    most: int
    key_delta: float
    wanted: float = 0.02
    keys: int = 256
    key_bytes: int = 64

    def __post_init__(self) -> None:
        holds = (
            1 <= self.most <= MAX_MOST
            and DELTA_RANGE[0] <= self.key_delta <= DELTA_RANGE[1]
            and self.wanted > 0
            and 1 <= self.keys <= MAX_KEYS
            and 1 <= self.key_bytes <= MAX_KEY_BYTES
            and self.key_bytes % BYTES_A_NUMBER == 0
        )
        if not holds:
            raise InputError(f"{self.name}: its bound or its δ for keys is out of range.")

    @property
    def size(self) -> int:
        """How many values an answer has: one for each key that there is room for."""
        return self.keys

    @property
    def parameters(self) -> dict[str, JsonValue]:
        """The public constants that a row depends on."""
        return {
            "most": self.most,
            "key_delta": repr(self.key_delta),
            "keys": self.keys,
            "key_bytes": self.key_bytes,
        }

    def threshold(self, noise_stddev: float) -> float:
        """What a key's noisy value must reach to be released.

        Formal guarantees:
            Of a customer with keys that nobody else has, at most `most` count, each with a value of
            1/√most. The probability that any of them reaches the threshold is at most
            1 − (1 − key_delta) = key_delta, as Φ((threshold − 1/√most)/σ)^most is 1 − key_delta;
            with fewer keys of hers, each of 1/√most too, it is less.
        """
        # Of a probability so near 1 the logarithm is what keeps its digits.
        tail = -math.expm1(math.log1p(-self.key_delta) / self.most)
        return 1 / math.sqrt(self.most) - noise_stddev * NormalDist().inv_cdf(tail)

    def least_released(self, noise_stddev: float, grid_exponent: int) -> float:
        """The least value on the grid that is released.

        Formal guarantees:
            A value that rounds to this one or a larger one was at or above the threshold before:
            half a step is on top of it, so that rounding lets no key pass.

        Raises:
            InputError: The noise is so large that float32 has not every step of the grid there.
        """
        steps = math.ceil(math.ldexp(self.threshold(noise_stddev), -grid_exponent) + 0.5)
        if not 0 < steps < _EXACT_STEPS:
            raise InputError(
                f"{self.name}: a threshold of {steps} steps of the grid is out of range.",
                remedy="Ask with more ε, or for fewer things at once.",
            )
        return math.ldexp(steps, grid_exponent)

    def epsilon(self, noise_stddev: float, delta: float) -> float:
        """ε at `delta` of releasing keys and their noisy values, at a clipping norm of 1.

        Formal guarantees:
            `common.privacy.delta_left`: a Gaussian mechanism on the keys that others have, but for
            `key_delta`; which keys of those that pass there is room for follows from their values.

        Raises:
            InputError: δ leaves nothing beside the keys' part of it.
        """
        if not delta > self.key_delta:
            raise InputError(
                f"{self.name}: a δ of {delta:g} leaves nothing beside {self.key_delta:g} for keys.",
                remedy="Give the keys a smaller part, such as a hundredth.",
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

        A key is released because its noise was not too low, so that values near the threshold are
        rather too high. The lower end of an interval takes that into account: it is the least count
        with which a value that is released is as large as this one in more than (1 − level)/2 of
        the cases. The upper end is that of any noisy value, which is on the safe side here.

        Args:
            released: float64[keys], all of them at or above the threshold.
            noise_stddev: Standard deviation of the noise in each value.
            level: How often an interval shall cover the truth.

        Formal guarantees:
            Of all answers in which a key is released, its interval covers the count in at least the
            share `level`, as long as there was room for all keys that passed.
        """
        value = np.asarray(released, dtype=np.float64)
        reach = deviations_of(level) * noise_stddev
        low = _lower_ends(value, self.threshold(noise_stddev), noise_stddev, (1 - level) / 2)
        found = Estimates(value, low, value + reach, level)
        # Somebody has it, or it would not be there.
        return found.scaled(math.sqrt(self.most)).within(1.0, math.inf)


def _lower_ends(values: FloatArray, threshold: float, stddev: float, tail: float) -> FloatArray:
    """float64[n]: the means at which a normal value, seen only above a threshold, is as large.

    By bisection: the probability rises with the mean. No mean is below 0.
    """
    lows = [
        _lower_end(max(each, threshold), threshold, stddev, tail)
        for each in values.ravel().tolist()
    ]
    return np.array(lows, dtype=np.float64).reshape(values.shape)


def _lower_end(value: float, threshold: float, stddev: float, tail: float) -> float:
    def is_likely(mean: float) -> bool:
        return _above((value - mean) / stddev) >= tail * _above((threshold - mean) / stddev)

    if is_likely(0.0):
        return 0.0
    low, high = 0.0, value
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_likely(middle) else (middle, high)
    return low


def _above(deviations: float) -> float:
    """The probability of a normal value that is so many deviations above its mean."""
    return math.erfc(deviations / math.sqrt(2)) / 2
