"""Gate (c): nobody contributes more than the clipping norm, alone or among others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from client.data.dataset import CustomerItemMatrix
from client.training.audit_gates.audit import (
    CLIPPING_NORM,
    FloatArray,
    GateResult,
    Muted,
    Subject,
    Trainer,
    claim,
    releases,
)
from client.training.noise import NoiseSource

# Contributions are read off parameters in float32, a sum of a few dozen of them to some 1e-6.
TOLERANCE = 1e-5
# Steps so long that the parameters before them drown: what is left is the sum, to 24 bits.
_LONG = 2.0**20
# Customers to look at, and how the model's parameters are scaled for it.
_LOOKS = 24
_SCALES = (1.0, 100.0, 0.01)


def contribution_gate(subject: Subject, trainer: Trainer, noise: NoiseSource) -> GateResult:
    """Measures customers' contributions without noise: alone, and by leaving each one out.

    Args:
        subject: The model, at parameters of several sizes, and its customers.
        trainer: The trainer under audit.
        noise: Where the trainer draws from; only its samples are used.

    Returns:
        The largest contribution in units of C. The threshold is 1, and what reading it off float32
        parameters may add. No chance is involved.
    """
    largest, where = 0.0, ""
    many = np.arange(min(_LOOKS, subject.customers.n_rows))
    for scale in _SCALES:
        whole = _sum(subject, trainer, noise, subject.customers.gather(many), scale)
        for one in many.tolist():
            alone = _sum(subject, trainer, noise, subject.customers.gather(many[[one]]), scale)
            others = subject.customers.gather(np.delete(many, one))
            among = whole - _sum(subject, trainer, noise, others, scale)
            for sum_, how in ((alone, "alone"), (among, "among others")):
                norm = float(np.linalg.norm(sum_)) / CLIPPING_NORM
                # Written so that a NaN is the largest.
                if not norm <= largest:
                    largest, where = norm, f"{how}, parameters × {scale:g}"
    return GateResult(
        "contribution", largest, 1.0 + TOLERANCE, 0.0, f"{largest:.6f} × C at most ({where})"
    )


def _sum(
    subject: Subject,
    trainer: Trainer,
    noise: NoiseSource,
    customers: CustomerItemMatrix,
    scale: float,
) -> FloatArray:
    model = subject.make_model()
    for parameter in model.parameters.values():
        parameter.mul_(scale)
    settings = claim()
    settings = replace(settings, learning_rate=settings.learning_rate * _LONG)
    total: FloatArray = releases(trainer, model, customers, settings, Muted(noise))[0]
    return total
