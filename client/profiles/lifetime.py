"""Customer lifetime value: when customers buy again, and for how much, from when they bought.

BG/NBD (Fader, Hardie and Lee 2005, "Counting Your Customers" the Easy Way): while alive, a customer
buys at a rate drawn from a gamma distribution; after each purchase she leaves for good with a
probability drawn from a beta distribution. Gamma-Gamma (Fader and Hardie 2013, The Gamma-Gamma
Model of Monetary Value): what she pays each time scatters about a mean of her own, which does not
depend on how often she buys.

Libraries that have these are no longer kept (lifetimes: 2020, btyd: 2022), or bring a compiler of
probabilistic programs along (pymc-marketing). Here are the two likelihoods and what follows from
them, held to the published figures of the CDNOW data by the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import betaln, gammaln, hyp2f1

from common.canonical_json import JsonValue
from common.errors import InputError

FloatArray = npt.NDArray[np.float64]

#: The fewest customers, some of whom bought again, that a model is fitted to.
LEAST_CUSTOMERS = 50
# What parameters may be: beyond, the likelihood is flat and their values say nothing.
_BOUND = np.log(1e5)


@dataclass(frozen=True)
class BuyingModel:
    """BG/NBD with its fitted parameters, in the unit of time of what it was fitted to.

    Attributes:
        r: Shape of the purchase rates' gamma distribution.
        alpha: Its rate.
        a: First parameter of the leaving probabilities' beta distribution.
        b: Its second.
    """

    r: float
    alpha: float
    a: float
    b: float

    @classmethod
    def fit(
        cls,
        repeats: FloatArray,
        last: FloatArray,
        age: FloatArray,
        weights: FloatArray | None = None,
    ) -> BuyingModel:
        """The parameters of the greatest likelihood.

        Args:
            repeats: Purchases of each customer after her first.
            last: From her first purchase to her last; 0 if there is one only.
            age: From her first purchase until now.
            weights: How many customers are alike; one each if it is not given.

        Raises:
            InputError: The numbers contradict each other, or are of too few customers.
        """
        counted = np.ones(len(repeats)) if weights is None else weights
        _require(bool(((last >= 0) & (age >= last) & (repeats >= 0)).all()), "their times")
        _require(float(counted[repeats > 0].sum()) > 0, "none who bought again")
        _require(float(counted.sum()) >= LEAST_CUSTOMERS, "their number")
        # Likelihoods of times near 1: the scale is put back afterwards.
        scale = max(float(np.average(age, weights=counted)) / 10, 1e-9)

        def loss(logs: FloatArray) -> float:
            r, alpha, a, b = np.exp(logs)
            found = _buying_log_likelihood(r, alpha, a, b, repeats, last / scale, age / scale)
            return float(-np.average(found, weights=counted))

        r, alpha, a, b = _greatest(loss, (np.zeros(4), np.array([-1.0, 1.0, -0.5, 1.0])))
        return cls(r, alpha * scale, a, b)

    def log_likelihood(self, repeats: FloatArray, last: FloatArray, age: FloatArray) -> FloatArray:
        """float64[n]: of each customer's purchases."""
        return _buying_log_likelihood(self.r, self.alpha, self.a, self.b, repeats, last, age)

    def alive(self, repeats: FloatArray, last: FloatArray, age: FloatArray) -> FloatArray:
        """float64[n]: the probability that each customer has not left.

        Of whoever bought once it is 1: she can leave only after a repeat purchase (Fader, Hardie
        and Lee 2008, Computing P(alive) Using the BG/NBD Model).
        """
        odds = (self.r + repeats) * np.log((self.alpha + age) / (self.alpha + last))
        odds += np.log(self.a) - np.log(self.b + np.maximum(repeats, 1) - 1)
        found: FloatArray = np.where(repeats > 0, 1 / (1 + np.exp(np.minimum(odds, 700.0))), 1.0)
        return found

    def expected(
        self, ahead: float, repeats: FloatArray, last: FloatArray, age: FloatArray
    ) -> FloatArray:
        """float64[n]: how many purchases are expected within a time from now (equation 10)."""
        r, alpha, a, b = self.r, self.alpha, self.a, self.b
        # The formula has a − 1 in a denominator; its limit is reached from beside.
        a = a if abs(a - 1) > 1e-6 else 1 + 1e-6
        z = ahead / (alpha + age + ahead)
        # Euler's transformation of the paper's series: its factor (1 − z)^(r + x) is taken in, so
        # that nothing overflows however often somebody bought.
        surviving = (1 - z) ** (a - 1) * hyp2f1(a + b - 1 - r, a - 1, a + b + repeats - 1, z)
        found = (a + b + repeats - 1) / (a - 1) * (1 - surviving)
        expected: FloatArray = np.maximum(found * self.alive(repeats, last, age), 0.0)
        return expected

    def to_record(self) -> dict[str, JsonValue]:
        """The parameters as decimals."""
        return {name: repr(value) for name, value in vars(self).items()}


@dataclass(frozen=True)
class SpendingModel:
    """Gamma-Gamma with its fitted parameters.

    Attributes:
        p: Shape of what is paid at one purchase.
        q: Shape of the distribution of customers' scales.
        gamma: Its rate, in the unit of money.
    """

    p: float
    q: float
    gamma: float

    @classmethod
    def fit(cls, purchases: FloatArray, mean: FloatArray) -> SpendingModel:
        """The parameters of the greatest likelihood.

        Args:
            purchases: How many purchases each customer's mean is of; above 0.
            mean: What she paid at each, on average; above 0.

        Raises:
            InputError: They are not, or are of too few customers.
        """
        _require(bool(((purchases > 0) & (mean > 0)).all()), "what they paid")
        _require(len(mean) >= LEAST_CUSTOMERS, "their number")
        scale = float(mean.mean())

        def loss(logs: FloatArray) -> float:
            p, q, gamma = np.exp(logs)
            return float(-_spending_log_likelihood(p, q, gamma, purchases, mean / scale).mean())

        p, q, gamma = _greatest(loss, (np.ones(3), np.array([2.0, 1.0, 0.0])))
        return cls(p, q, gamma * scale)

    def expected(self, purchases: FloatArray, mean: FloatArray) -> FloatArray:
        """float64[n]: the mean that each customer is expected to pay at a purchase from now on.

        Between the mean of all and her own, nearer to hers the more she bought. Of whoever has no
        purchase that counts (``purchases`` of 0) it is the mean of all.
        """
        # With q ≤ 1 the mean of all does not exist; her own is then all that is known.
        if not self.q > 1:
            return np.where(purchases > 0, mean, np.nan)
        weight = self.p * purchases / (self.p * purchases + self.q - 1)
        return (1 - weight) * self.gamma * self.p / (self.q - 1) + weight * mean

    def to_record(self) -> dict[str, JsonValue]:
        """The parameters as decimals."""
        return {name: repr(value) for name, value in vars(self).items()}


def _buying_log_likelihood(
    r: float,
    alpha: float,
    a: float,
    b: float,
    repeats: FloatArray,
    last: FloatArray,
    age: FloatArray,
) -> FloatArray:
    """Equation 6 of the paper, in logarithms."""
    common = gammaln(r + repeats) - gammaln(r) + r * np.log(alpha)
    common += betaln(a, b + repeats) - betaln(a, b)
    staying = -(r + repeats) * np.log(alpha + age)
    leaving = np.log(a) - np.log(b + np.maximum(repeats, 1) - 1)
    leaving = leaving - (r + repeats) * np.log(alpha + last)
    found: FloatArray = common + np.where(repeats > 0, np.logaddexp(staying, leaving), staying)
    return found


def _spending_log_likelihood(
    p: float, q: float, gamma: float, purchases: FloatArray, mean: FloatArray
) -> FloatArray:
    """Equation 1a of the note, in logarithms."""
    shape = p * purchases
    total = purchases * mean
    found: FloatArray = (
        gammaln(shape + q)
        - gammaln(shape)
        - gammaln(q)
        + q * np.log(gamma)
        + (shape - 1) * np.log(mean)
        + shape * np.log(purchases)
        - (shape + q) * np.log(gamma + total)
    )
    return found


def _greatest(loss: Callable[[FloatArray], float], starts: tuple[FloatArray, ...]) -> list[float]:
    """Parameters above 0 of the least loss, from the best of some starts."""
    bounds = [(-_BOUND, _BOUND)] * len(starts[0])
    found = [minimize(loss, start, method="L-BFGS-B", bounds=bounds) for start in starts]
    best = min(found, key=lambda each: float(each.fun))
    if not np.isfinite(best.fun):
        raise InputError("No model of lifetime value fits the region's purchases.")
    return [float(value) for value in np.exp(best.x)]


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise InputError(
            f"No model of lifetime value can be fitted to the customers: {what}.",
            remedy=f"It takes {LEAST_CUSTOMERS} customers or more, some of them on two days.",
        )
