"""What a run's rounds cost, worked out from its plan alone."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from common.plan import RunPlan, epsilon_bound


def epsilon_after(plan: RunPlan, rounds: int) -> float:
    """ε of a run's first rounds, at the plan's δ; each round counted once.

    Args:
        plan: The run plan.
        rounds: How many rounds are done.
    """
    if not rounds:
        return 0.0
    events = [
        replace(mechanism.event, count=mechanism.steps)
        for mechanism in (plan.mechanism_of(number) for number in range(1, rounds + 1))
    ]
    return epsilon_bound(tuple(events), float(plan.delta))


def update_bytes(plan: RunPlan, mechanism: str) -> int:
    """How many bytes the arrays of one region's update have: a public constant of the plan."""
    return sum(
        prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in plan.released_arrays(mechanism)
    )
