"""How much noise a budget asks for: σ / C from ε, δ, the sampling probability and the steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

from common import privacy
from common.errors import InputError
from common.privacy import NOISE_MULTIPLIER_RANGE, GaussianEvent

# ε is met to the first, relative precision; by RDP, where the search begins, to the second.
_PRECISION, _START = 1e-4, 1e-2
# How ε goes with σ, about: as σ to this power. Only for the first step.
_USUAL_SLOPE = 1.5
_MOST_EVALUATIONS = 12

Account = Callable[[Sequence[GaussianEvent], float], float]


def calibrate_noise_multiplier(
    *,
    epsilon: float,
    delta: float,
    sampling_probability: float,
    steps: int,
    others: Sequence[GaussianEvent] = (),
) -> float:
    """The least σ / C with which all steps, and what else is released, stay within ε.

    Args:
        epsilon: ε of everything together, above 0.
        delta: δ.
        sampling_probability: q of the Poisson samples, above 0 and at most 1.
        steps: How many steps.
        others: What else the budget pays for, such as the popularity round.

    Formal guarantees:
        `common.privacy.epsilon` of the steps and the others together is at most ε: the upper end of
        a search on it is returned, which ends within 0.01% below ε.

    Raises:
        InputError: A parameter is out of range, or the others alone spend as much.
    """
    if others and not privacy.epsilon(tuple(others), delta) < epsilon:
        raise InputError(
            f"Other releases alone spend ε = {epsilon:g}; nothing is left for training.",
            remedy="Give them a smaller share of the budget.",
        )
    return _calibrated(epsilon, delta, sampling_probability, steps, tuple(others))


@lru_cache(maxsize=256)
def _calibrated(
    target: float, delta: float, probability: float, steps: int, others: tuple[GaussianEvent, ...]
) -> float:
    def spent(sigma: float, account: Account) -> float:
        return account((*others, GaussianEvent(sigma, probability, steps)), delta)

    # RDP is quick and never tight: what it asks for is enough, and not by far too much.
    low, high = _bracket(lambda sigma: spent(sigma, privacy.epsilon_rdp), target)
    while high > low * (1 + _START):
        middle = math.sqrt(low * high)
        low, high = (
            (low, middle) if spent(middle, privacy.epsilon_rdp) <= target else (middle, high)
        )
    return _refined(lambda sigma: spent(sigma, privacy.epsilon), high, target)


def _refined(spent: Callable[[float], float], enough: float, target: float) -> float:
    """The least σ that spends at most the target, from one that does, by secants of log ε.

    ε falls steadily and nearly as a power of σ, so that a few of the slow evaluations find it.
    """
    best, slope = enough, _USUAL_SLOPE
    last, last_spent = enough, spent(enough)
    for _ in range(_MOST_EVALUATIONS):
        if target * (1 - _PRECISION) <= last_spent <= target:
            break
        # Aims a hair below the target, so that it is met from below.
        guess = last * (last_spent / (target * (1 - _PRECISION / 2))) ** (1 / slope)
        found = spent(guess)
        if not math.isfinite(found):
            # Far too little noise to say how much too little.
            last, last_spent = best, spent(best)
            slope *= 2.0
            continue
        if found <= target:
            best = min(best, guess)
        if guess != last and found != last_spent:
            slope = math.log(last_spent / found) / math.log(guess / last)
        last, last_spent = guess, found
    return best


def _bracket(spent: Callable[[float], float], target: float) -> tuple[float, float]:
    """A σ that spends more than the target, and one that spends at most that."""
    least, most = NOISE_MULTIPLIER_RANGE
    high = 1.0
    while not spent(high) <= target:
        high *= 2.0
        if high > most:
            raise InputError(
                f"No noise brings these steps within ε = {target:g}.",
                remedy="Take fewer steps, or a larger ε.",
            )
    low = high / 2.0
    while low > least and spent(low) <= target:
        high, low = low, low / 2.0
    return low, high
