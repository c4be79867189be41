"""What a round of a plan of questions lets out of a region: one noisy sum, or a share of one.

The sums are those of a region's own queries (`client.training.bounded_sums`), and with distributed
noise their counterpart in whole grid units (`client.training.bounded_units`); the plan says which.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from client.data.transactions import Purchases
from client.training.bounded_sums import Statistic, noisy_sum
from client.training.bounded_units import shared_sum
from client.training.exact_bernoulli import WordSource
from client.training.noise import NoiseSource
from common.errors import InputError
from common.plan import Mechanism, RunPlan
from common.secure_aggregation import Quantiser
from common.timestamps import parse_time


def answer_release(
    parts: Iterable[Purchases],
    statistic: Statistic,
    *,
    plan: RunPlan,
    mechanism: Mechanism,
    noise: NoiseSource,
) -> dict[str, npt.NDArray[np.generic]]:
    """One region's answer to one question, ready to leave it as the plan has it.

    Args:
        parts: The consenting customers' purchases; no customer is in two parts.
        statistic: What is asked, as `client.analytics.planned` has it.
        plan: The plan of questions.
        mechanism: The question's mechanism.
        noise: Where noise is drawn from; with distributed noise it must give random words.

    Formal guarantees:
        With local noise one (σ/C)-Gaussian mechanism under add-or-remove of one customer; with
        distributed noise the mechanism that `RunPlan.shared_noise` accounts for, together with the
        shares of the other honest regions, and as long as nothing but the sum of all is seen.

    Returns:
        By name the array that `RunPlan.released_arrays` states.

    Raises:
        InputError: As `noisy_sum` and `shared_sum`, or the source gives no words.
    """
    start_ms, end_ms = parse_time(plan.train_from), parse_time(plan.train_until)
    clipping_norm = float(mechanism.clipping_norm)
    (spec,) = plan.released_arrays(mechanism.name)
    if plan.mode != "distributed":
        noisy = noisy_sum(
            parts,
            statistic,
            start_ms=start_ms,
            end_ms=end_ms,
            clipping_norm=clipping_norm,
            noise_multiplier=float(mechanism.noise_multiplier),
            grid_exponent=mechanism.grid_exponent,
            noise=noise,
        )
        return {spec.name: noisy}
    if not isinstance(noise, WordSource):
        raise InputError("Discrete noise cannot be drawn from this source.")
    shared = shared_sum(
        parts,
        statistic,
        start_ms=start_ms,
        end_ms=end_ms,
        clipping_norm=clipping_norm,
        share=plan.shared_noise(mechanism),
        quantiser=Quantiser(mechanism.grid_exponent, len(plan.regions)),
        noise=noise,
    )
    return {spec.name: shared}
