"""The regions' noise and robust rules: how much of it a rule leaves, and where it defeats Krum.

A median or a trimmed mean of K values is a weighted mean of the sorted values. Its variance over
independent standard normal values has no closed form, but it is a double integral of elementary
functions: with N(x) how many values are at most x, and A(k) the weight of the k smallest, the
estimate is a constant minus ∫ (A(N(x)) − 1[x > 0]) dx, so that its variance is
∬ Cov(A(N(x)), A(N(y))) dx dy (Hoeffding's covariance identity), N(x) and N(y) being binomial.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from common.aggregation_rules import Aggregation
from common.plan import RunPlan

FloatArray = npt.NDArray[np.float64]

# Beyond so many values the limit's deviation is right to 1 part in 50.
_LARGE = 32
# Six standard deviations hold all but 2 in 10^9 of a normal value; a tenth lies between two nodes.
_REACH, _NODES = 6.0, 121


def noise_gain(aggregation: Aggregation, n_regions: int) -> float:
    """By how much the noise of a total is larger than one region's (`server.round_total`).

    With distributed noise, than what the shares of the least honest survivors come to. One region
    alone, as in studies, has noise of its own that protects by itself.
    """
    if aggregation.honest_survivors_min and n_regions > 1:
        return math.sqrt(n_regions / aggregation.honest_survivors_min)
    if n_regions == 1 or aggregation.name != "robust":
        return math.sqrt(n_regions)
    if aggregation.rule == "krum":
        return float(n_regions)
    if aggregation.rule == "median":
        return n_regions * median_stddev(n_regions)
    return n_regions * trimmed_mean_stddev(n_regions, aggregation.tolerated)


def unguarded(plan: RunPlan) -> str | None:
    """What a plan's rule does not withstand, in one sentence; None if there is nothing to say.

    Krum is guarded only while η(n, f)·√d·σ is below the norm of what regions have to say (Blanchard
    et al., 2017, proposition 1), d values having noise σ each. Otherwise an update that leaves its
    noise out is nearest to all others, whatever else is in it (Guerraoui et al., "Differential
    Privacy and Byzantine Resilience in SGD: Do They Add Up?", 2021). What regions have to say is at
    most C for each of their customers.
    """
    rule, n = plan.aggregation, len(plan.regions)
    if rule.rule != "krum":
        return None
    f = rule.tolerated
    spread = (f * (n - f - 2) + f**2 * (n - f - 1)) / (n - 2 * f - 2)
    eta = math.sqrt(2 * (n - f + spread))
    for mechanism in plan.mechanisms:
        specs = plan.released_arrays(mechanism.name)
        size = math.sqrt(sum(math.prod(spec.shape) for spec in specs))
        customers = plan.planned_customers / n * float(mechanism.sampling_probability)
        # Steps say the same again, at most; their noise is each time another.
        signal = float(mechanism.clipping_norm) * customers * math.sqrt(mechanism.steps)
        if not eta * mechanism.noise_stddev * size < signal:
            return (
                f"In this plan the noise of {mechanism.name} outweighs what a region has to say, "
                "so that Krum takes the update of a region that leaves its noise out; median and "
                "trimmed-mean do not"
            )
    return None


@lru_cache(maxsize=256)
def trimmed_mean_stddev(n_values: int, trimmed: int) -> float:
    """The standard deviation of a trimmed mean of independent standard normal values.

    With all trimmed that can be, it is the median's.

    Args:
        n_values: How many values, K.
        trimmed: How many are left out at either end; 2·trimmed < K.
    """
    if n_values > _LARGE:
        return math.sqrt(_limit_variance(trimmed / n_values) / n_values)
    nodes = np.linspace(-_REACH, _REACH, _NODES)
    below = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in nodes])
    kept = np.arange(n_values + 1) - trimmed
    weight = np.clip(kept / (n_values - 2 * trimmed), 0.0, 1.0)
    covariance = _covariance(n_values, weight, below)
    step = nodes[1] - nodes[0]
    fine, coarse = covariance.sum() * step**2, covariance[::2, ::2].sum() * (2 * step) ** 2
    # The integrand has an edge where x = y, so the error goes with the step's square: Richardson.
    return math.sqrt(float(4 * fine - coarse) / 3)


def median_stddev(n_values: int) -> float:
    """The standard deviation of the median of independent standard normal values."""
    return trimmed_mean_stddev(n_values, (n_values - 1) // 2)


def _covariance(n_values: int, weight: FloatArray, below: FloatArray) -> FloatArray:
    """Cov(A(N(x)), A(N(y))) at every pair of nodes.

    Of the N(y) values at most y, each is at most x ≤ y with probability F(x)/F(y), by itself.
    """
    n_nodes = len(below)
    at_most = _binomial(n_values, below)
    mean = at_most @ weight
    joint = np.empty((n_nodes, n_nodes))
    for upper in range(n_nodes):
        share = below[: upper + 1] / below[upper]
        given = np.zeros((upper + 1, n_values + 1))
        for count in range(n_values + 1):
            given[:, count] = _binomial(count, share) @ weight[: count + 1]
        joint[: upper + 1, upper] = given @ (at_most[upper] * weight)
    joint = np.triu(joint) + np.triu(joint, 1).T
    covariance: FloatArray = joint - np.outer(mean, mean)
    return covariance


def _binomial(n_values: int, probability: FloatArray) -> FloatArray:
    """float64[len(probability), n_values + 1]: the probability of each count."""
    counts = np.arange(n_values + 1)
    ways = np.array([float(math.comb(n_values, int(count))) for count in counts])
    chance = probability[:, None]
    found: FloatArray = ways * chance**counts * (1.0 - chance) ** (n_values - counts)
    return found


def _limit_variance(share: float) -> float:
    """K times the variance for many values, `share` of them left out at either end.

    Source: Huber and Ronchetti, "Robust Statistics" (2009), section 3.3; the median's is π/2.
    """
    if share >= 0.5 - 1e-9:
        return math.pi / 2
    edge = NormalDist().inv_cdf(1.0 - share) if share else 0.0
    density = math.exp(-(edge**2) / 2) / math.sqrt(2 * math.pi)
    inner = (1.0 - 2.0 * share) - 2.0 * edge * density if share else 1.0
    outer = 2.0 * share * edge**2 if share else 0.0
    return (inner + outer) / (1.0 - 2.0 * share) ** 2
