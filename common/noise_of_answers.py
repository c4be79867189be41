"""How much noise is in an answer, by public numbers: a region's own, or a sum of so many."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.plan import Mechanism, RunPlan


def answer_noise_stddev(plan: RunPlan, mechanism: Mechanism, n_regions: int) -> float:
    """The standard deviation of the noise in each value of an answer.

    Of n regions with noise of their own √n·σ, and what rounding each to the grid adds, γ²/12 of
    variance a region; of n shares of distributed noise √n·s·γ: whole numbers are summed there, so
    nothing is rounded after noise.

    Args:
        plan: The run plan.
        mechanism: The question's mechanism.
        n_regions: How many regions' answers are in it.
    """
    grid = math.ldexp(1.0, mechanism.grid_exponent)
    if plan.mode == "distributed":
        return math.sqrt(n_regions) * plan.shared_noise(mechanism).share.value * grid
    return math.sqrt(n_regions * (mechanism.noise_stddev**2 + grid**2 / 12))
