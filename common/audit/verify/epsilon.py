"""ε recomputed from what was charged.

Full-batch Gaussian mechanisms compose to one Gaussian mechanism exactly, whose ε has a closed form:
no accounting library and no discretisation is needed. Subsampled ones go to the accounting library,
which is slow to import and is imported only then.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction

from common.audit.verify.fields import Record
from common.errors import FedprefError, VerificationError

# Noise multiplier, sampling probability and, where keys are released, their δ → how often it ran.
Mechanism = tuple[str, ...]
Mechanisms = Mapping[Mechanism, int]

_NOISE_RANGE = (1e-3, 1e6)
_KEY_DELTA_RANGE = (1e-12, 0.1)
_MAX_EPSILON = 500.0


def mechanism_in(record: Record) -> Mechanism:
    """What ε depends on of a checked record: a charge, or a mechanism of a plan or permit."""
    stated = ("noise_multiplier", "sampling_probability", "key_delta")
    return tuple(str(record[name]) for name in stated if name in record)


def composed_epsilon(mechanisms: Mechanisms, delta: float) -> float:
    """ε at ``delta`` of all mechanisms together; infinite above 500.

    What may release a key of one customer alone with a probability takes that off δ each time it
    runs: what noise hides is reckoned at the rest. Infinite if nothing is left.

    Formal guarantees:
        With sampling probability 1 everywhere, the exact ε(δ) of the composition for neighbours
        that differ in one customer (add or remove), with sensitivity equal to the clipping norm.
        Else an upper bound from privacy loss distributions.

    Raises:
        VerificationError: A parameter is outside the range in which a guarantee can be computed.
    """
    if not 0 < delta < 1:
        raise VerificationError("δ is not between 0 and 1.")
    events = [
        (_within(noise, *_NOISE_RANGE), _within(probability, 1e-9, 1.0), count)
        for (noise, probability, *_), count in mechanisms.items()
        if count
    ]
    delta -= _keys_part(mechanisms)
    if not delta > 0:
        return math.inf
    if not events:
        return 0.0
    if all(probability == 1.0 for _, probability, _ in events):
        # 1 / σ² adds up over full-batch Gaussian mechanisms, σ in units of the sensitivity.
        precision = math.fsum(count / noise**2 for noise, _, count in events)
        return gaussian_epsilon(1 / math.sqrt(precision), delta)
    return _accounted(events, delta)


def _keys_part(mechanisms: Mechanisms) -> float:
    """What of δ the keys take that some mechanisms release."""
    taken = (
        Fraction(_within(key_delta, *_KEY_DELTA_RANGE)) * count
        for (_, _, *stated), count in mechanisms.items()
        for key_delta in stated
        if count
    )
    return float(sum(taken, start=Fraction(0)))


def gaussian_epsilon(noise_multiplier: float, delta: float) -> float:
    """The exact ε of one Gaussian mechanism at ``delta``; infinite above 500.

    Source: Balle and Wang, "Improving the Gaussian Mechanism for Differential Privacy" (2018),
    theorem 8: δ(ε) = Φ(1/(2σ) − εσ) − e^ε Φ(−1/(2σ) − εσ), which falls as ε grows.
    """
    low, high = 0.0, _MAX_EPSILON
    if _gaussian_delta(noise_multiplier, high) > delta:
        return math.inf
    if _gaussian_delta(noise_multiplier, low) <= delta:
        return 0.0
    for _ in range(100):
        middle = (low + high) / 2
        if _gaussian_delta(noise_multiplier, middle) > delta:
            low = middle
        else:
            high = middle
    return low


def shared_noise_multiplier(
    share_stddev: str, survivors: int, *, clipping_norm: str, grid_exponent: int
) -> float:
    """The noise multiplier of a Gaussian mechanism that a sum of shares protects as well as.

    Each region adds discrete Gaussian noise of s grid units to whole grid units, of which one
    customer moves the sum by at most C / γ. A sum of n shares is a discrete Gaussian of variance
    n·s² up to a factor of exp(10 n e^(−π² s²)) in every probability (Kairouz, Liu and Steinke,
    2021, theorem 13), and that is a rounding of a Gaussian of variance n·s² − 4 up to a factor of
    1 + 10^-33 (Peikert, 2010, theorem 3.1 with η² = 4): rounding costs nothing.

    Args:
        share_stddev: s, in grid units.
        survivors: n.
        clipping_norm: C.
        grid_exponent: γ is 2 to this power.

    Raises:
        VerificationError: The share is below 4 grid units, where the factors begin to matter, or a
            parameter is out of range.
    """
    share, norm = float(share_stddev), float(clipping_norm)
    if not (4.0 <= share <= 2.0**24 and 1 <= survivors <= 10_000 and 0 < norm <= 1e9):
        raise VerificationError(
            f"{survivors} shares of {share_stddev} grid units are no noise to reckon with."
        )
    return math.sqrt(survivors * share**2 - 4.0) / math.ldexp(norm, -grid_exponent)


def _gaussian_delta(sigma: float, epsilon: float) -> float:
    upper = _normal_cdf(1 / (2 * sigma) - epsilon * sigma)
    return upper - math.exp(epsilon) * _normal_cdf(-1 / (2 * sigma) - epsilon * sigma)


def _normal_cdf(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2


def _within(text: str, least: float, most: float) -> float:
    value = float(text)
    if not least <= value <= most:
        raise VerificationError(f"The parameter {text} is not within {least:g} and {most:g}.")
    return value


def _accounted(events: Iterable[tuple[float, float, int]], delta: float) -> float:
    from common.privacy import GaussianEvent, epsilon  # Slow to import, seldom needed.

    try:
        return epsilon(
            [
                GaussianEvent(noise_multiplier=noise, sampling_probability=probability, count=count)
                for noise, probability, count in events
            ],
            delta,
        )
    except FedprefError as error:
        raise VerificationError(error.message) from error
