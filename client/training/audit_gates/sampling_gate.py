"""Gate (d): samples of customers are Poisson, so that their amplification may be claimed."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from client.data.dataset import CustomerItemMatrix
from client.training.audit_gates.audit import (
    CLIPPING_NORM,
    FALSE_ALARM,
    FloatArray,
    GateResult,
    Muted,
    Subject,
    Trainer,
    claim,
    releases,
)
from client.training.audit_gates.probe import ProbeModel
from client.training.noise import NoiseSource

_CUSTOMERS, _STEPS, _PROBABILITY = 2000, 40, 0.1


def sampling_gate(_subject: Subject, trainer: Trainer, noise: NoiseSource) -> GateResult:
    """Who took part in which step, read off a model in which each customer has her own weight.

    Tested are the number of all inclusions (binomial), the spread of batch sizes, the spread of how
    often each customer was drawn, and the agreement of consecutive steps (all near normal).

    Args:
        _subject: Not used: samples do not depend on the model.
        trainer: The trainer under audit.
        noise: Where the trainer draws from.

    Returns:
        The largest deviation in units of what is allowed: the threshold is 1.
    """
    everyone = CustomerItemMatrix(
        np.arange(_CUSTOMERS + 1, dtype=np.int64),
        np.arange(_CUSTOMERS, dtype=np.int32),
        np.ones(_CUSTOMERS, dtype=np.float32),
        _CUSTOMERS,
    )
    settings = claim(sampling_probability=_PROBABILITY, steps=_STEPS)
    steps = releases(trainer, ProbeModel(_CUSTOMERS), everyone, settings, Muted(noise))
    # A customer's contribution is −C by her own weight.
    taken = np.rint(steps / -CLIPPING_NORM)
    if not np.isin(taken, (0.0, 1.0)).all():
        return GateResult("sampling", math.inf, 1.0, FALSE_ALARM, "somebody took part twice")
    deviations = _deviations(taken, FALSE_ALARM / 4)
    worst = max(deviations, key=lambda name: deviations[name])
    return GateResult(
        "sampling",
        deviations[worst],
        1.0,
        FALSE_ALARM,
        f"{worst}: {deviations[worst]:.2f} of the deviation allowed",
    )


def _deviations(taken: FloatArray, alarm: float) -> dict[str, float]:
    steps, customers = taken.shape
    q, variance = _PROBABILITY, _PROBABILITY * (1 - _PROBABILITY)
    low, high = stats.binom(taken.size, q).ppf([alarm / 2, 1 - alarm / 2])
    middle, total = taken.size * q, float(taken.sum())
    allowed = middle - low if total < middle else high - middle
    agreement = ((taken[1:] - q) * (taken[:-1] - q)).sum() / variance
    return {
        "inclusions": abs(total - middle) / allowed,
        "batch sizes": _spread(taken.sum(1), customers, alarm),
        "customers' turns": _spread(taken.sum(0), steps, alarm),
        "consecutive steps": abs(float(agreement))
        / math.sqrt((steps - 1) * customers)
        / float(stats.norm.isf(alarm / 2)),
    }


def _spread(counts: FloatArray, trials: int, alarm: float) -> float:
    """How far the sum of squares of binomial counts is from that of independent trials."""
    variance = _PROBABILITY * (1 - _PROBABILITY) * trials
    squares = float(((counts - trials * _PROBABILITY) ** 2).sum()) / variance
    # A χ² whose degrees of freedom match the variance, which a binomial's kurtosis raises.
    kurtosis = (1 - 6 * _PROBABILITY * (1 - _PROBABILITY)) / variance
    freedom = len(counts) / (1 + kurtosis / 2)
    squares *= freedom / len(counts)
    low, high = stats.chi2(freedom).ppf([alarm / 2, 1 - alarm / 2])
    return (
        float((freedom - squares) / (freedom - low))
        if squares < freedom
        else float((squares - freedom) / (high - freedom))
    )
