"""How large a region's release can be, by public numbers alone.

Both sides use it: the coordinator where it sees an update, a region where nobody else does, and the
plan where released values must fit the ring of a secure sum.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from common.noisy_grid import NoisyGrid

if TYPE_CHECKING:  # A plan checks itself against these bounds.
    from common.plan import LocalTraining, Mechanism, RunPlan

# How many customers a region has is not known here; so many times the planned size of all regions
# bounds it.
_CUSTOMERS_SLACK = 10
# A norm of n normal values is over √n + 10 deviations less than once in 10^20 draws, and a single
# value over 12 less than once in 10^32.
_NORM_DEVIATIONS = 10.0
_VALUE_DEVIATIONS = 12.0
# So far a sample of customers, each taken with the same probability, exceeds its expected size less
# than once in 10^30 draws: 12 √n + 72, by Bernstein's inequality.
_SAMPLE_DEVIATIONS = 12.0
_SAMPLE_CONSTANT = 72.0
# What a region's momentum can make of equal steps: at most 1 / (1 − 0.9).
_MOMENTUM_GAIN = {"sgd": 1.0, "momentum": 10.0}
# A step of Adam moves no value by more than the learning rate times (1 − β₁)/√(1 − β₂), or times 1
# if that is less (Kingma and Ba, 2015, section 2.1); ten times as far is allowed.
_ADAM_STEP = 10.0
# Steps of earlier rounds, which may have made the parameters longer, per step of this one.
_MOST_ROUNDS = 1000


def release_norm_bound(plan: RunPlan, mechanism: Mechanism) -> float:
    """The largest L2 norm that one region's release may have.

    A noisy sum is a sum over customers of vectors of norm at most C, plus noise of deviation σ in
    each of n values. A change of parameters by local steps is at most the sum of what each step can
    move them by; weight decay takes off of parameters whose norm is not known here: they may be as
    long as the steps have made them in all rounds, or as they started, √n.

    Args:
        plan: The run plan.
        mechanism: The mechanism of the release.
    """
    size = math.sqrt(_n_values(plan, mechanism))
    deviations = size + _NORM_DEVIATIONS
    if _chooses(plan, mechanism):
        deviations = size * _VALUE_DEVIATIONS
    noise = mechanism.noise_stddev * deviations
    return _bound(plan, mechanism, noise, size) + math.ldexp(size, mechanism.grid_exponent)


def release_value_bound(plan: RunPlan, mechanism: Mechanism) -> float:
    """The largest magnitude that one value of a region's release may have; see the norm's bound.

    Args:
        plan: The run plan.
        mechanism: The mechanism of the release.
    """
    noise = mechanism.noise_stddev * _VALUE_DEVIATIONS
    return _bound(plan, mechanism, noise, 1.0) + math.ldexp(1.0, mechanism.grid_exponent)


def release_noise_stddev(plan: RunPlan, mechanism: Mechanism) -> float:
    """The least standard deviation of the noise in one value of a region's release.

    Of a change by local steps: that of one step alone, at the smallest learning rate. Adam divides
    by the size of what it is given, so that noise moves a value by about the learning rate.

    Args:
        plan: The run plan.
        mechanism: The mechanism of the release.
    """
    local = _local(plan, mechanism)
    if local is None:
        return mechanism.noise_stddev
    rate = min(local.learning_rate_of(number) for number in mechanism.rounds)
    if local.optimizer == "adam":
        return rate
    return rate * mechanism.noise_stddev / float(local.expected_batch_size)


def release_grid(plan: RunPlan, mechanism: Mechanism) -> NoisyGrid | None:
    """The grid of a region's release with the noise in it.

    None for shares of noise: these are whole grid units, and the noise of all is what matters.

    Args:
        plan: The run plan.
        mechanism: The mechanism of the release.
    """
    if plan.mode != "local":
        return None
    return NoisyGrid(mechanism.grid_exponent, release_noise_stddev(plan, mechanism))


def _bound(plan: RunPlan, mechanism: Mechanism, noise: float, size: float) -> float:
    """The bound on a norm of values whose noise has this norm and whose number has this root."""
    customers = _most_sampled(plan, mechanism)
    noisy_sum = customers * float(mechanism.clipping_norm) + noise
    local = _local(plan, mechanism)
    if local is None:
        return noisy_sum
    rate = max(local.learning_rate_of(number) for number in mechanism.rounds)
    if local.optimizer == "adam":
        step = _ADAM_STEP * size
    else:
        gain = _MOMENTUM_GAIN[local.optimizer]
        step = noisy_sum / float(local.expected_batch_size) * gain
    decay = float(local.weight_decay) * (size + rate * step * mechanism.steps * _MOST_ROUNDS)
    return rate * mechanism.steps * (step + decay)


def _most_sampled(plan: RunPlan, mechanism: Mechanism) -> float:
    """The most customers that one step is made of."""
    most = float(_CUSTOMERS_SLACK * plan.planned_customers)
    expected = most * float(mechanism.sampling_probability)
    return min(most, expected + _SAMPLE_DEVIATIONS * math.sqrt(expected) + _SAMPLE_CONSTANT)


def _local(plan: RunPlan, mechanism: Mechanism) -> LocalTraining | None:
    return plan.local_training if mechanism.name == plan.strategy else None


def _chooses(plan: RunPlan, mechanism: Mechanism) -> bool:
    """Whether what is released is chosen by its noise: keys that pass a threshold."""
    return plan.asks and not plan.question(mechanism.name).is_summed


def _n_values(plan: RunPlan, mechanism: Mechanism) -> int:
    specs = plan.released_arrays(mechanism.name)
    # Of keys the first array has the values; the texts beside them are no numbers.
    noisy = specs[:1] if _chooses(plan, mechanism) else specs
    return sum(math.prod(spec.shape) for spec in noisy)
