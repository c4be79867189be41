"""Privacy events as frozen data, and what they cost: ε at a δ.

Unit and neighbours: the unit is the customer. Two data sets are neighbours if one has all records
of one customer that the other lacks (add or remove one customer). A customer belongs to exactly one
region, so one region's ε is the customer's ε.

The accounting libraries are slow to import; they are imported by the functions that need them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from typing import Any

from common.errors import InputError

NEIGHBORING_RELATION = "add-or-remove-one-customer"
PRIVACY_UNIT = "customer"
#: What stands beside every ε that is printed, with its δ.
UNIT_AND_RELATION = "unit: one customer, added or removed"

# Outside these ranges the closed form loses precision or a guarantee means nothing.
NOISE_MULTIPLIER_RANGE = (1e-3, 1e6)
DELTA_RANGE = (1e-12, 0.1)
MAX_EPSILON = 500.0
#: The most runs of one mechanism that are accounted for.
MAX_COUNT = 10**7
# For sampled mechanisms the formula of integer orders is finite; the series of others need not
# converge, and then says so at length. Fewer orders are a larger, still valid, ε.
# How finely privacy losses are discretised: PLDAccountant's own interval.
_LOSS_INTERVAL = 1e-4
_INTEGER_ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 512, 1024)


@dataclass(frozen=True)
class GaussianEvent:
    """A Gaussian mechanism, run `count` times on independent samples.

    Attributes:
        noise_multiplier: σ / C, the noise's standard deviation in units of the clipping norm, which
            bounds what one customer contributes to the sum (the L2 sensitivity).
        sampling_probability: The probability of Poisson sampling with which a customer takes part
            in one run of the mechanism; 1 is the full batch.
        count: How often it runs.
        key_delta: The probability with which one run shows what is a customer's alone, besides what
            noise hides (`common.analytics.key_union`); 0 for every other mechanism. It is taken off
            the δ of whatever the event is part of (`delta_left`).
    """

    noise_multiplier: float
    sampling_probability: float = 1.0
    count: int = 1
    key_delta: float = 0.0

    def __post_init__(self) -> None:
        _require_within("noise_multiplier", self.noise_multiplier, *NOISE_MULTIPLIER_RANGE)
        _require_within("sampling_probability", self.sampling_probability, 1e-9, 1.0)
        _require_within("count", self.count, 1, MAX_COUNT)
        if self.key_delta != 0.0:
            _require_within("key_delta", self.key_delta, *DELTA_RANGE)


def compose(events: Iterable[GaussianEvent]) -> tuple[GaussianEvent, ...]:
    """Adds up the counts of equal mechanisms, in a canonical order.

    The order of composition does not change ε, so equal multisets of events give equal results.
    """
    counts: dict[tuple[float, float, float], int] = {}
    for event in events:
        key = (event.noise_multiplier, event.sampling_probability, event.key_delta)
        counts[key] = counts.get(key, 0) + event.count
    return tuple(
        GaussianEvent(noise, probability, count, key_delta)
        for (noise, probability, key_delta), count in sorted(counts.items())
    )


def delta_left(events: Iterable[GaussianEvent], delta: float) -> float | None:
    """What of a δ the noise of some events may be stated at; None if keys leave nothing of it.

    Formal guarantees:
        Let a mechanism be a Gaussian one but with probability κ, in which it also shows what only
        one customer has. If the Gaussian part of all events is (ε, δ₀)-DP, all events are (ε, δ₀ +
        Σκ)-DP for adding or removing that customer. With her: every outcome has at most the
        probability that it has without such a failure, plus Σκ. Without her (an outcome T has
        nothing of hers): P(T) ≤ e^ε Q(T) + δ₀, Q being the Gaussian part's with her, and with her T
        has (1 − Σκ) Q(T) at least, the noise of what is hers alone being independent. Where
        e^ε Q(T) ≤ 1 that is at least e^−ε (P(T) − δ₀ − Σκ); where it is more,
        e^ε (1 − Σκ) Q(T) + Σκ exceeds 1, and so P(T).
    """
    left = delta - math.fsum(event.count * event.key_delta for event in events)
    # Written so that a NaN leaves nothing.
    return left if left >= DELTA_RANGE[0] else None


def gaussian_part(events: Iterable[GaussianEvent]) -> tuple[GaussianEvent, ...]:
    """The events without their δ for keys: what is accounted for at `delta_left`."""
    return compose(replace(event, key_delta=0.0) for event in events)


def epsilon(events: Sequence[GaussianEvent], delta: float) -> float:
    """ε at `delta` of all events together, from privacy loss distributions (PLD).

    Formal guarantees:
        An upper bound on the (ε, δ)-differential privacy of the composition under add-or-remove of
        one customer, if all parameters were fixed beforehand. Never below the value of Google's
        dp-accounting for the same events, nor, for full batches, below the exact value.

        Keys' part of δ is taken off first (`delta_left`).

    Edge cases:
        No events: 0. An ε above `MAX_EPSILON`, or keys that leave nothing of δ: infinity.

    Raises:
        InputError: δ is out of range.
    """
    _require_within("delta", delta, *DELTA_RANGE)
    left = delta_left(events, delta)
    return math.inf if left is None else _pld_epsilon(gaussian_part(events), left)


def epsilon_rdp(events: Sequence[GaussianEvent], delta: float) -> float:
    """ε at `delta` by Rényi differential privacy (RDP): looser, but fit for adaptive runs.

    Formal guarantees:
        An upper bound as in `epsilon`. Composing in RDP stays valid when the parameters of later
        events were chosen after seeing earlier results (Feldman and Zrnic, "Individual Privacy
        Accounting via a Rényi Filter", 2021), so this is what adds up over runs. Keys' parts of δ
        simply add up, and are taken off first (`delta_left`).

    Edge cases:
        Keys leave nothing of δ: infinity.

    Raises:
        InputError: δ is out of range.
    """
    _require_within("delta", delta, *DELTA_RANGE)
    left = delta_left(events, delta)
    return math.inf if left is None else _rdp_epsilon(gaussian_part(events), left)


def epsilon_prv(events: Sequence[GaussianEvent], delta: float) -> float:
    """ε at `delta` by Opacus's PRV accountant: an independent cross-check, never charged.

    Returns the accountant's upper bound, within 0.01 of its estimate. Needs Opacus, so torch.

    Raises:
        InputError: δ is out of range.
    """
    from opacus.accountants import PRVAccountant  # Imports torch: only for cross-checks.

    _require_within("delta", delta, *DELTA_RANGE)
    left = delta_left(events, delta)
    if left is None:
        return math.inf
    accountant = PRVAccountant()
    accountant.history = [
        (event.noise_multiplier, event.sampling_probability, event.count)
        for event in gaussian_part(events)
    ]
    return float(accountant.get_epsilon(delta=left, eps_error=0.01))


def total_noise_multiplier(events: Iterable[GaussianEvent]) -> float:
    """The one full-batch Gaussian mechanism that equals all events: 1/σ² = Σ count/σ_i².

    Their δ for keys is not in it: whoever states an ε of it takes that off (`delta_left`).

    Formal guarantees:
        Exact: full-batch Gaussian mechanisms, each with its own sensitivity, compose to one
        Gaussian mechanism (Dong, Roth and Su, "Gaussian Differential Privacy", 2022, corollary 2).

    Raises:
        InputError: There are no events, or one of them samples.
    """
    precision = 0.0
    for event in events:
        if event.sampling_probability != 1.0:
            raise InputError("Mechanisms that sample customers do not compose in closed form.")
        precision += event.count / event.noise_multiplier**2
    if precision == 0.0:
        raise InputError("There are no privacy events to compose.")
    return 1.0 / math.sqrt(precision)


def epsilon_gaussian(noise_multiplier: float, delta: float) -> float:
    """The exact ε of one full-batch Gaussian mechanism at `delta`.

    Formal guarantees:
        Balle and Wang, "Improving the Gaussian Mechanism for Differential Privacy" (2018), theorem
        8: (ε, δ)-DP holds if and only if Φ(1/(2σ) − εσ) − e^ε Φ(−1/(2σ) − εσ) ≤ δ. The upper end of
        the bisection is returned, so the value is never below the exact one.

    Edge cases:
        δ(0) ≤ δ: 0. ε above `MAX_EPSILON`: infinity.

    Raises:
        InputError: A parameter is out of range.
    """
    _require_within("noise_multiplier", noise_multiplier, *NOISE_MULTIPLIER_RANGE)
    _require_within("delta", delta, *DELTA_RANGE)
    if _gaussian_delta(noise_multiplier, MAX_EPSILON) > delta:
        return math.inf
    low, high = 0.0, MAX_EPSILON
    if _gaussian_delta(noise_multiplier, low) <= delta:
        return 0.0
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if _gaussian_delta(noise_multiplier, middle) > delta:
            low = middle
        else:
            high = middle
    return high


def calibrate_sigma(epsilon: float, delta: float) -> float:
    """The least noise multiplier σ / C of a full-batch Gaussian mechanism that is (ε, δ)-DP.

    Formal guarantees:
        `epsilon_gaussian` of the result is at most `epsilon`: the upper end of the bisection on the
        same theorem is returned.

    Raises:
        InputError: A parameter is out of range.
    """
    _require_within("epsilon", epsilon, 1e-4, MAX_EPSILON)
    _require_within("delta", delta, *DELTA_RANGE)
    low, high = NOISE_MULTIPLIER_RANGE
    while high - low > 1e-12 * high:
        middle = math.sqrt(low * high)
        if not low < middle < high:
            break
        if _gaussian_delta(middle, epsilon) > delta:
            low = middle
        else:
            high = middle
    return high


def _gaussian_delta(sigma: float, eps: float) -> float:
    below = _normal_cdf(-1 / (2 * sigma) - eps * sigma)
    return _normal_cdf(1 / (2 * sigma) - eps * sigma) - math.exp(eps) * below


def _normal_cdf(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2


# A run asks for the same few compositions again and again; each takes up to half a second.
@lru_cache(maxsize=1024)
def _pld_epsilon(events: tuple[GaussianEvent, ...], delta: float) -> float:
    if not events:
        return 0.0
    exact = 0.0
    if all(event.sampling_probability == 1.0 for event in events):
        sigma = total_noise_multiplier(events)
        exact = epsilon_gaussian(max(sigma, NOISE_MULTIPLIER_RANGE[0]), delta)
        if math.isinf(exact):
            return math.inf
    distribution = reduce(lambda one, other: one.compose(other), map(_loss_distribution, events))
    discretised = float(distribution.get_epsilon_for_delta(delta))
    # The order of composition moves the discretisation by some 1e-10; err upwards.
    return max(exact, discretised * (1 + 1e-9))


def _loss_distribution(event: GaussianEvent) -> Any:
    """The privacy loss distribution of an event, exactly as dp-accounting's PLDAccountant has it.

    The accountant makes the one of a single run anew each time, which is most of its work; a run's
    rounds ask for compositions of the same two or three.
    """
    if event.sampling_probability == 1.0:
        # Full batches compose in closed form before anything is discretised.
        return _single_loss(event.noise_multiplier / math.sqrt(event.count), 1.0)
    single = _single_loss(event.noise_multiplier, event.sampling_probability)
    return single.self_compose(event.count)


# Each takes a few megabytes.
@lru_cache(maxsize=32)
def _single_loss(noise_multiplier: float, sampling_probability: float) -> Any:
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution.from_gaussian_mechanism(
        standard_deviation=noise_multiplier,
        value_discretization_interval=_LOSS_INTERVAL,
        sampling_prob=sampling_probability,
    )


@lru_cache(maxsize=1024)
def _rdp_epsilon(events: tuple[GaussianEvent, ...], delta: float) -> float:
    if not events:
        return 0.0
    from dp_accounting.rdp.rdp_privacy_accountant import DEFAULT_RDP_ORDERS, compute_epsilon

    sampled = any(event.sampling_probability < 1.0 for event in events)
    orders = _INTEGER_ORDERS if sampled else tuple(DEFAULT_RDP_ORDERS)
    # Rényi divergences of independent mechanisms add up, order by order.
    total = sum(
        event.count * _rdp_curve(event.noise_multiplier, event.sampling_probability, orders)
        for event in events
    )
    return float(compute_epsilon(orders, total, delta)[0])


# Whoever forecasts asks for many counts of the same mechanisms; the curve of one takes 20 ms.
@lru_cache(maxsize=1024)
def _rdp_curve(noise_multiplier: float, probability: float, orders: tuple[float, ...]) -> Any:
    from dp_accounting.rdp.rdp_privacy_accountant import RdpAccountant

    once = GaussianEvent(noise_multiplier, probability)
    return _accounted(RdpAccountant(orders=orders), (once,)).rdp


def _accounted(accountant: Any, events: tuple[GaussianEvent, ...]) -> Any:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent

    for event in events:
        mechanism = GaussianDpEvent(event.noise_multiplier)
        if event.sampling_probability < 1.0:
            mechanism = PoissonSampledDpEvent(event.sampling_probability, mechanism)
        accountant.compose(mechanism, event.count)
    return accountant


def _require_within(name: str, value: float, least: float, most: float) -> None:
    # Written so that a NaN is refused too.
    if not least <= value <= most:
        raise InputError(
            f"The privacy parameter {name} is {value}; it must be within {least:g} and {most:g}.",
            remedy="Correct the run plan or the policy that states it.",
        )
