"""Values read off a noisy vector, with intervals: linear forms, ratios, differences.

A release is a vector of sums plus independent Gaussian noise of a known standard deviation in each
value. So whatever is linear in it has an exact interval, and a ratio has Fieller's, which is as
exact: no estimate of the noise, and no approximation for large numbers, is involved. Every function
takes any leading axes, so that thousands of repetitions are read in one call.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from common.errors import InputError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

#: How often an interval covers the truth, unless something else is asked for.
LEVEL = 0.95
#: A ratio is stated only if its denominator is so many standard deviations above 0. Those that
#: chance brought above a lower bound would be wrong more often than their intervals say.
TOLD_DEVIATIONS = 5.0


@dataclass(frozen=True, eq=False)
class Estimates:
    """Estimates of some values, each with its interval.

    Attributes:
        value: float64[...]; not a number where the noise leaves nothing to say.
        low: float64[...], the interval's lower end; −∞ where nothing is said.
        high: float64[...], its upper end; +∞ where nothing is said.
        level: How often such an interval covers the truth.
    """

    value: FloatArray = field(repr=False)
    low: FloatArray = field(repr=False)
    high: FloatArray = field(repr=False)
    level: float

    @property
    def known(self) -> BoolArray:
        """bool[...]: where something is said."""
        return np.isfinite(self.value)

    def covers(self, truth: FloatArray | float) -> BoolArray:
        """bool[...]: whether each interval covers what is true."""
        covered: BoolArray = (self.low <= truth) & (truth <= self.high)
        return covered

    def scaled(self, factor: float) -> Estimates:
        """The same in another unit.

        Args:
            factor: How many of the new unit the old one is, above 0.
        """
        return Estimates(self.value * factor, self.low * factor, self.high * factor, self.level)

    def within(self, least: float, most: float) -> Estimates:
        """Limited to what the values can be at all, which loses no coverage.

        An interval that lies beyond a limit as a whole becomes that limit.
        """
        low, high = (np.clip(each, least, most) for each in (self.low, self.high))
        value = np.where(self.known, np.clip(self.value, least, most), np.nan)
        return Estimates(value, low, high, self.level)

    def only(self, said: BoolArray) -> Estimates:
        """Those of which something is to be said; of the others nothing is.

        Args:
            said: bool[...].
        """
        return Estimates(
            np.where(said, self.value, np.nan),
            np.where(said, self.low, -np.inf),
            np.where(said, self.high, np.inf),
            self.level,
        )

    def at(self, index: int | slice) -> Estimates:
        """Some of them, by their place on the last axis."""
        return Estimates(
            self.value[..., index], self.low[..., index], self.high[..., index], self.level
        )


@lru_cache(maxsize=64)
def deviations_of(level: float) -> float:
    """How many standard deviations to both sides a normal value stays within so often.

    Raises:
        InputError: The level is not above 0 and below 1.
    """
    if not 0 < level < 1:
        raise InputError(
            f"An interval cannot cover the truth with a probability of {level}.",
            remedy="Choose a level between 0 and 1, such as 0.95.",
        )
    return NormalDist().inv_cdf((1 + level) / 2)


def require_released(released: npt.ArrayLike, size: int, noise_stddev: float) -> FloatArray:
    """A release as float64[..., size].

    Raises:
        InputError: It has another length or values that are not finite, or its noise is unknown.
    """
    values = np.asarray(released, dtype=np.float64)
    if values.ndim == 0 or values.shape[-1] != size or not np.isfinite(values).all():
        raise InputError(
            f"An answer of shape {values.shape} is none to a question with {size} finite values.",
            remedy="Read each answer by the question that it was given to.",
        )
    if not 0 < noise_stddev < np.inf:
        raise InputError(f"Noise of standard deviation {noise_stddev} says nothing.")
    return values


def linear(
    released: FloatArray,
    weights: FloatArray,
    noise_stddev: float,
    *,
    level: float = LEVEL,
) -> Estimates:
    """Linear forms of a release.

    Args:
        released: float64[..., m], true sums plus independent noise.
        weights: float64[q, m], one row for each form.
        noise_stddev: Standard deviation of the noise in each value.
        level: How often an interval shall cover the truth.

    Formal guarantees:
        Each interval covers its form of the true sums with exactly the probability `level`, however
        few customers there are.

    Returns:
        Estimates of shape [..., q].
    """
    value = released @ weights.T
    reach = deviations_of(level) * noise_stddev * np.linalg.norm(weights, axis=1)
    return Estimates(value, value - reach, value + reach, level)


def ratio(
    released: FloatArray,
    over: FloatArray,
    under: FloatArray,
    noise_stddev: float,
    *,
    level: float = LEVEL,
) -> Estimates:
    """Ratios of linear forms of a release, such as shares and means.

    Args:
        released: float64[..., m], true sums plus independent noise.
        over: float64[q, m], the numerators' weights.
        under: float64[q, m] or [m], the denominators'.
        noise_stddev: Standard deviation of the noise in each value.
        level: How often an interval shall cover the truth.

    Returns:
        As `fieller`, of shape [..., q].
    """
    below = np.broadcast_to(under, over.shape)
    variance = noise_stddev**2
    return fieller(
        released @ over.T,
        released @ below.T,
        variance_over=variance * (over**2).sum(axis=1),
        variance_under=variance * (below**2).sum(axis=1),
        covariance=variance * (over * below).sum(axis=1),
        level=level,
    )


def fieller(
    over: FloatArray,
    under: FloatArray,
    *,
    variance_over: npt.ArrayLike,
    variance_under: npt.ArrayLike,
    covariance: npt.ArrayLike,
    level: float = LEVEL,
) -> Estimates:
    """The ratio of two normal values, of which the lower one is above 0 in truth.

    A ratio r is in the interval if over − r·under is no further from 0 than its standard deviation
    allows (Fieller, "Some Problems in Interval Estimation", 1954).

    Formal guarantees:
        The ratios that are not refused are a set that covers the true one with exactly the
        probability `level`. Where the denominator is not well above 0 (`TOLD_DEVIATIONS`), nothing
        is said, which covers the truth.

    Args:
        over: float64[...], the numerators as seen.
        under: float64[...], the denominators as seen.
        variance_over: Their variances.
        variance_under: Likewise.
        covariance: Of each two.
        level: How often an interval shall cover the truth.
    """
    deviations = deviations_of(level)
    square = deviations**2
    lead = under**2 - square * np.asarray(variance_under)
    middle = over * under - square * np.asarray(covariance)
    rest = over**2 - square * np.asarray(variance_over)
    told = under > max(deviations, TOLD_DEVIATIONS) * np.sqrt(np.asarray(variance_under))
    safe = np.where(told, lead, 1.0)
    # Not negative where the lead is not; rounding may make it so.
    root = np.sqrt(np.maximum(middle**2 - lead * rest, 0.0))
    return Estimates(
        np.where(told, over / np.where(told, under, 1.0), np.nan),
        np.where(told, (middle - root) / safe, -np.inf),
        np.where(told, (middle + root) / safe, np.inf),
        level,
    )


def difference(one: Estimates, other: Estimates) -> Estimates:
    """How much more one value is than another, of which the estimates are independent.

    The interval is put together from both intervals, which need not be symmetric (Zou and Donner,
    "Construction of confidence limits about effect measures", 2008).
    """
    value = one.value - other.value
    down = np.sqrt((one.value - one.low) ** 2 + (other.high - other.value) ** 2)
    up = np.sqrt((one.high - one.value) ** 2 + (other.value - other.low) ** 2)
    told = np.isfinite(value)
    return Estimates(
        value,
        np.where(told, value - down, -np.inf),
        np.where(told, value + up, np.inf),
        one.level,
    )
