"""A public grid beside the noise that was rounded to it: how many zeros chance makes.

Noise is everywhere in what leaves a region: a value that is exactly zero was made so by rounding
noise to the grid. How often that happens follows from the grid and the noise. More zeros than that
are values without noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# A release with noise everywhere has more zeros than are expected less than once in 10^9.
_SURPRISE = math.log(1e9)


@dataclass(frozen=True)
class NoisyGrid:
    """The grid of released values, and the noise that is in each of them.

    Attributes:
        exponent: Values are multiples of γ = 2**exponent.
        noise_stddev: The least standard deviation of the noise in one value, in the values' unit.
    """

    exponent: int
    noise_stddev: float

    @property
    def zero_probability(self) -> float:
        """The most probable that a noisy value is rounded to zero: P(|N(0, σ²)| < γ/2).

        Of all values that noise may be added to zero is the one for which it is most probable
        (Anderson, 1955), so that it bounds them all.
        """
        if not self.noise_stddev > 0:
            return 1.0
        step = math.ldexp(1.0, self.exponent)
        return math.erf(step / (2 * math.sqrt(2) * self.noise_stddev))

    def most_zero_rows(self, n_rows: int, n_columns: int) -> int:
        """The most rows of zeros that chance makes: one more is found once in 10^9 releases.

        Rows are independent, each zero with a probability of at most p = q^c, where q is that of a
        value. By Chernoff's bound P(X >= k) <= exp(-n·KL(k/n, p)) for k > n·p.

        Args:
            n_rows: n.
            n_columns: c, the values of each row.
        """
        probability = self.zero_probability**n_columns
        fewest, most = math.floor(n_rows * probability), n_rows
        # Between those that are expected and all there is the first that would be a surprise.
        while fewest < most:
            middle = (fewest + most) // 2
            if n_rows * _divergence((middle + 1) / n_rows, probability) >= _SURPRISE:
                most = middle
            else:
                fewest = middle + 1
        return fewest


def _divergence(share: float, probability: float) -> float:
    """KL(share, probability) of two Bernoulli distributions, in nats."""
    if probability <= 0:
        return math.inf if share > 0 else 0.0
    if probability >= 1:
        return math.inf if share < 1 else 0.0
    found = share * math.log(share / probability) if share > 0 else 0.0
    if share < 1:
        # Precise for probabilities that are next to none, too.
        found += (1 - share) * (math.log1p(-share) - math.log1p(-probability))
    return found
