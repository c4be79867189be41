"""Gates (a) and (b): noise is as large as claimed wherever it is, and never the same twice."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
from scipy import stats

from client.training.audit_gates.audit import (
    CLIPPING_NORM,
    EXPECTED_BATCH_SIZE,
    FALSE_ALARM,
    FloatArray,
    GateResult,
    Subject,
    Trainer,
    claim,
    releases,
    without_entries,
)
from client.training.noise import NoiseSource

_STEPS = 8
# Many more than the plan expects, so that a scale taken from their number is far off.
_MANY = int(8 * EXPECTED_BATCH_SIZE)


def noise_size_gate(subject: Subject, trainer: Trainer, noise: NoiseSource) -> GateResult:
    """Gate (a): χ² of the noise on dead coordinates.

    Dead are all coordinates of a step without customers, or with customers who bought nothing, each
    array of the model by itself; and all coordinates of the difference between two steps in which
    the same customers take part, who cancel out.

    Args:
        subject: The model.
        trainer: The trainer under audit.
        noise: Where the trainer draws from.

    Returns:
        The largest deviation of a sum of squares from what is expected of it, in units of the
        largest deviation that is allowed: the threshold is 1.
    """
    stddev = CLIPPING_NORM
    samples = {
        f"{array} without customers": part
        for array, part in _by_array(subject, trainer, noise, 0).items()
    }
    samples |= {
        f"{array} with {_MANY} customers": part
        for array, part in _by_array(subject, trainer, noise, _MANY).items()
    }
    pair = [
        releases(trainer, subject.make_model(), subject.customers, claim(), noise) for _ in "ab"
    ]
    samples["all with live customers"] = (pair[0] - pair[1]) / math.sqrt(2)
    alarm = FALSE_ALARM / len(samples)
    deviations = {name: _deviation(part / stddev, alarm) for name, part in samples.items()}
    worst = max(deviations, key=lambda name: deviations[name])
    measured = float(np.sqrt(np.mean((samples[worst] / stddev) ** 2)))
    return GateResult(
        "noise size",
        deviations[worst],
        1.0,
        FALSE_ALARM,
        f"noise is {measured:.3f} of what is claimed ({worst})",
    )


def noise_reuse_gate(subject: Subject, trainer: Trainer, noise: NoiseSource) -> GateResult:
    """Gate (b): correlation of noise across the steps of a round, across rounds, within a step.

    Args:
        subject: The model.
        trainer: The trainer under audit.
        noise: Where the trainer draws from.

    Returns:
        The largest |correlation| · √n, which for independent noise is standard normal.
    """
    empty = without_entries(0, subject.customers.n_items)
    rounds = [
        releases(trainer, subject.make_model(), empty, claim(steps=_STEPS // 2), noise)
        for _ in range(2)
    ]
    steps = np.concatenate(rounds)
    half = steps.shape[1] // 2
    pairs = [(f"steps {a} and {b}", steps[a], steps[b]) for a, b in combinations(range(_STEPS), 2)]
    pairs += [
        (f"the halves of step {number}", step[:half], step[half : 2 * half])
        for number, step in enumerate(steps)
    ]
    pairs += [
        (f"neighbours in step {number}", step[:-1], step[1:]) for number, step in enumerate(steps)
    ]
    scores = {name: _correlation(first, second) for name, first, second in pairs}
    worst = max(scores, key=lambda name: scores[name])
    return GateResult(
        "noise reuse",
        scores[worst],
        float(stats.norm.isf(FALSE_ALARM / 2 / len(pairs))),
        FALSE_ALARM,
        f"{scores[worst]:.1f} standard deviations of correlation between {worst}",
    )


def _by_array(
    subject: Subject, trainer: Trainer, noise: NoiseSource, n_customers: int
) -> dict[str, FloatArray]:
    """Each array's noise over some steps with customers who bought nothing."""
    model = subject.make_model()
    empty = without_entries(n_customers, subject.customers.n_items)
    settings = claim(sampling_probability=0.5, steps=_STEPS)
    steps = releases(trainer, model, empty, settings, noise)
    names = sorted(model.parameters)
    ends = np.cumsum([model.parameters[name].numel() for name in names])
    return dict(zip(names, np.split(steps, ends[:-1], axis=1), strict=True))


def _deviation(standardised: FloatArray, alarm: float) -> float:
    n = standardised.size
    ratio = float((standardised**2).sum()) / n
    low, high = (stats.chi2.ppf(alarm / 2, n) / n, stats.chi2.isf(alarm / 2, n) / n)
    return float((1 - ratio) / (1 - low) if ratio < 1 else (ratio - 1) / (high - 1))


def _correlation(first: FloatArray, second: FloatArray) -> float:
    norms = float(np.linalg.norm(first) * np.linalg.norm(second))
    # Without noise there is nothing to be correlated: that is for the other gate.
    return abs(float(first @ second)) / norms * math.sqrt(first.size) if norms else 0.0
