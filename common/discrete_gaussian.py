"""What it costs to release a sum to which each of several regions added its share of noise.

The mechanism. Each of K regions has a vector z_k of whole grid units, adds Y_k with coordinates
from the discrete Gaussian N_Z(0, s²), and of all this only Σ(z_k + Y_k) modulo the ring is seen.
One customer, added or removed, moves one z_k by at most Δ in the L2 norm (`sensitivity_of`). If n
of the regions are honest and their noise is in the sum, what protects is the sum of n shares.

Two theorems turn that into a Gaussian mechanism, for which ε is known exactly.

1. The sum of n shares is nearly N_Z(0, n·s²). Kairouz, Liu and Steinke, "The Distributed Discrete
   Gaussian Mechanism for Federated Learning with Secure Aggregation" (2021), section 3: if s ≥ ½,
   then |log P(ΣY = x) / N_Z(x)| ≤ τ at every x, τ = 10 Σ_{k<n} exp(−2π² s² k/(k+1)).

2. N_Z(0, v) is nearly a rounding of N(0, v − η²), and rounding is free. Take G from N(0, v − η²)
   and then X from N_Z(G, η²), the discrete Gaussian around G (Peikert, "An Efficient and Parallel
   Gaussian Sampler for Lattices", 2010, theorem 3.1). By Poisson summation the sum of the density
   of N(g, η²) over the integers is within 1 ± e for every g, e = 2 Σ_k exp(−2π² η² k²). So
   P(X = x) = ∫ N(g; 0, v − η²) N(x; g, η²) / (1 ± e) dg = N(x; 0, v) / (1 ± e), and
   N_Z(x) = N(x; 0, v) / (1 ± e): they differ by a factor of at most (1 + e) / (1 − e). The rounding
   commutes with whole numbers: of G + z it makes X + z. So z + X is a function, with coins of its
   own, of the Gaussian mechanism z + G.

Together: with Λ = Σ d·(τ + log((1 + e) / (1 − e))) over d coordinates and all releases, every
event's probability is within e^±Λ of what it is after that rounding. Let the Gaussian mechanisms
of variance n·s² − η² together be (ε, δ)-DP. Then P(E) ≤ e^Λ P̂(E) ≤ e^Λ (e^ε Q̂(E) + δ) ≤ e^(ε+2Λ)
Q(E) + e^Λ δ, also if each release depends on those before. With η² = 4 and shares of at least 4
grid units, Λ is below 1e-24 for a billion coordinates: nothing is lost but η² of n·s².

Full batches only. That a sample of customers amplifies is not shown here: it would have to be
shown for the exact joint law of what all regions release, so such plans are refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from common import privacy
from common.errors import InputError
from common.grid_stddev import GridStddev
from common.privacy import GaussianEvent

#: η², in squared grid units: what of the variance the second theorem uses up.
ROUNDING_VARIANCE = 4.0
#: Shares below so many grid units are not calibrated: their sum would be too far from a Gaussian.
LEAST_SHARE = 4.0
# Beyond such a Λ the statement would differ from that of the Gaussian mechanism.
_MOST_LOG_RATIO = 1e-3


def sensitivity_of(clipping_norm: float, grid_exponent: int) -> float:
    """The most by which one customer moves a region's sum of whole grid units, L2: C / γ.

    Formal guarantees:
        A region quantises each customer's clipped contribution g by itself, coordinate by
        coordinate *towards zero*, and adds whole numbers, which is exact. Then z(D) − z(D') is one
        customer's trunc(g / γ), and |trunc(x)| ≤ |x| in every coordinate: its norm is at most
        ‖g‖/γ ≤ C/γ. Nothing is added for rounding, and nothing for float arithmetic: there is none
        between a customer's contribution and the sum. (Rounding a region's *sum* instead moves
        every coordinate by up to one unit more, C/γ + √d in all, of which 81% would be rounding at
        γ = 2^-12, C = 0.3 and a million coordinates; and sums of floats depend on what else is
        added.) Limiting the sum's coordinates to a range is a contraction and changes nothing.

    Args:
        clipping_norm: C, which bounds every customer's contribution (L2).
        grid_exponent: γ = 2 to this power, so that the quotient is exact.
    """
    return math.ldexp(clipping_norm, -grid_exponent)


@dataclass(frozen=True)
class SharedNoise:
    """One release of a sum with the noise of several regions in it.

    Attributes:
        share: s, each region's noise, in grid units.
        shares: n, how many honest regions' noise is in the sum.
        sensitivity: Δ, in grid units; see `sensitivity_of`.
        coordinates: d, how many values are released.

    Raises:
        InputError: A number is out of range, or the noise is too little for the theorems.
    """

    share: GridStddev
    shares: int
    sensitivity: float
    coordinates: int

    def __post_init__(self) -> None:
        if not (self.shares >= 1 and self.coordinates >= 1 and 0 < self.sensitivity < math.inf):
            raise InputError("A shared release has at least one share, value and grid unit.")
        if not self.variance > 2 * ROUNDING_VARIANCE or not self.log_ratio <= _MOST_LOG_RATIO:
            raise InputError(
                f"{self.shares} shares of {self.share.value:g} grid units are too little noise for "
                f"{self.coordinates} values: no guarantee can be computed for them.",
                remedy="Choose a finer grid.",
            )

    @property
    def variance(self) -> float:
        """n·s², in squared grid units."""
        return self.shares * self.share.value**2

    @property
    def tau(self) -> float:
        """τ of the first theorem, for one coordinate."""
        exponent = -2 * math.pi**2 * self.share.value**2
        return 10 * math.fsum(math.exp(exponent * k / (k + 1)) for k in range(1, self.shares))

    @property
    def log_ratio(self) -> float:
        """Λ of one release."""
        # The series' first term is all but 1e-100 of it.
        e = 2.000001 * math.exp(-2 * math.pi**2 * ROUNDING_VARIANCE)
        return self.coordinates * (self.tau + math.log1p(e) - math.log1p(-e))

    @property
    def noise_multiplier(self) -> float:
        """σ / C of the Gaussian mechanism that protects no better than this sum."""
        return math.sqrt(self.variance - ROUNDING_VARIANCE) / self.sensitivity

    def among(self, shares: int) -> SharedNoise:
        """The same release with another number of honest regions' noise in it."""
        return replace(self, shares=shares)

    def renyi_divergence(self, order: float) -> float:
        """Bounds the Rényi divergence of an order, above 1, between neighbours.

        Source: Kairouz, Liu and Steinke (2021), proposition 14, for full batches.
        """
        scale = self.sensitivity / math.sqrt(self.variance)
        return min(
            order / 2 * scale**2 + self.tau * self.coordinates,
            order / 2 * (scale + self.tau * math.sqrt(self.coordinates)) ** 2,
        )


def calibrate_share(
    noise_multiplier: float, *, shares: int, sensitivity: float, coordinates: int
) -> SharedNoise:
    """The least share with which a sum of so many protects like a Gaussian mechanism.

    Args:
        noise_multiplier: σ / C of that mechanism.
        shares: n, the least number of honest regions in the sum.
        sensitivity: Δ, in grid units.
        coordinates: How many values are released.

    Formal guarantees:
        `SharedNoise.noise_multiplier` of the result is at least the one asked for.

    Raises:
        InputError: A number is out of range; the grid is too coarse, or too fine to draw noise on.
    """
    variance = (noise_multiplier * sensitivity) ** 2 + ROUNDING_VARIANCE
    wanted = math.sqrt(variance / shares) if shares >= 1 else math.nan
    if not wanted >= LEAST_SHARE:
        raise InputError(
            f"A share of {wanted:.3g} grid units is below {LEAST_SHARE:g}.",
            remedy="Choose a finer grid for this mechanism.",
        )
    # A last digit more, so that no rounding on the way makes it less than asked for.
    return SharedNoise(
        share=GridStddev.at_least(wanted * (1 + 1e-12)),
        shares=shares,
        sensitivity=sensitivity,
        coordinates=coordinates,
    )


def epsilon(releases: Sequence[tuple[SharedNoise, int]], delta: float) -> float:
    """ε at `delta` of several releases, each so many times; see the module's docstring.

    Formal guarantees:
        An upper bound on the (ε, δ)-differential privacy of everything together, for one customer
        added or removed, as long as each release has the noise of its `shares` honest regions.

    Raises:
        InputError: δ is out of range.
    """
    total = math.fsum(count * noise.log_ratio for noise, count in releases)
    events = [GaussianEvent(noise.noise_multiplier, count=count) for noise, count in releases]
    return privacy.epsilon(events, delta * math.exp(-total)) + 2 * total


def epsilon_renyi(releases: Sequence[tuple[SharedNoise, int]], delta: float) -> float:
    """ε at `delta` by the published theorem alone: looser, and independent of the second one.

    Raises:
        InputError: δ is out of range.
    """
    from dp_accounting.rdp.rdp_privacy_accountant import (  # Slow to import.
        DEFAULT_RDP_ORDERS,
        compute_epsilon,
    )

    least, most = privacy.DELTA_RANGE
    if not least <= delta <= most:
        raise InputError(f"The privacy parameter delta is {delta}.")
    divergences = [
        math.fsum(count * noise.renyi_divergence(order) for noise, count in releases)
        for order in DEFAULT_RDP_ORDERS
    ]
    found, _ = compute_epsilon(DEFAULT_RDP_ORDERS, divergences, delta)
    return float(found)


def epsilon_by_survivors(
    releases: Sequence[tuple[SharedNoise, int]], delta: float, survivors: Iterable[int]
) -> dict[int, float]:
    """ε of the same releases, by how many honest regions' noise was in each.

    What a plan calibrates to holds with as many; with one fewer it is more. Infinite where the
    noise that is left is too little for any statement.
    """
    return {number: _epsilon_among(releases, delta, number) for number in survivors}


def _epsilon_among(releases: Sequence[tuple[SharedNoise, int]], delta: float, shares: int) -> float:
    try:
        return epsilon([(noise.among(shares), count) for noise, count in releases], delta)
    except InputError:
        return math.inf
