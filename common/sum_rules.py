"""How large a model of noisy sums is, and how ε is split over its rounds: from public numbers.

What is asked for is the *signal* of a plan: planned customers / (σ · √regions) with local noise,
σ being the run's total noise multiplier. Customers' contributions add up like their number, the
regions' noise like σ · √regions; with distributed noise the shares come to σ · √(regions / honest
survivors). The more signal, the larger the vocabulary and the rank that it can fill, and the
smaller the share that the popularity round needs. Where each constant was measured, and from which
signal on it extrapolates, is in docs/decisions/0002-training.md, 0038-gram-and-auto.md and
0055-products-read-together.md.
"""

from __future__ import annotations

from typing import NamedTuple

from common.strategies import GRAM


class SumSizes(NamedTuple):
    """Sizes for a signal of at least `signal_from`.

    Attributes:
        signal_from: The least signal.
        vocabulary_size: m.
        rank: d.
        training_rounds: T, the rounds after the popularity round.
        popularity_share: Share of the run's 1/σ² that the popularity round spends.
    """

    signal_from: float
    vocabulary_size: int
    rank: int
    training_rounds: int
    popularity_share: str


FACTOR_SIZES = (
    SumSizes(0.0, 100, 4, 2, "0.70"),
    SumSizes(400.0, 100, 8, 4, "0.30"),
    SumSizes(1200.0, 150, 16, 4, "0.15"),
    SumSizes(3000.0, 300, 24, 4, "0.10"),
    SumSizes(6000.0, 300, 32, 4, "0.08"),
    SumSizes(12000.0, 500, 32, 4, "0.08"),
    SumSizes(30000.0, 1000, 64, 4, "0.08"),
)
GRAM_SIZES = (
    SumSizes(0.0, 100, 8, 1, "0.70"),
    SumSizes(400.0, 100, 12, 1, "0.30"),
    SumSizes(1200.0, 150, 16, 1, "0.15"),
    SumSizes(3000.0, 150, 20, 1, "0.08"),
    SumSizes(6000.0, 300, 24, 1, "0.08"),
    SumSizes(12000.0, 500, 32, 1, "0.08"),
    SumSizes(30000.0, 1000, 64, 1, "0.08"),
)


#: Under a robust rule: with four factors more, one hostile region of eight can double how often an
#: item is shown (measured in docs/decisions/0055-products-read-together.md).
ROBUST_FACTOR_SIZES = tuple(
    row._replace(rank=12) if row.signal_from == 1200.0 else row for row in FACTOR_SIZES
)


def sum_sizes(strategy: str, signal: float, *, robust: bool = False) -> SumSizes:
    """The sizes for a signal.

    Args:
        strategy: ``factors`` or ``gram``.
        signal: Of the plan.
        robust: Whether the rule withstands hostile regions.
    """
    factors = ROBUST_FACTOR_SIZES if robust else FACTOR_SIZES
    table = GRAM_SIZES if strategy == GRAM else factors
    return next(row for row in reversed(table) if signal >= row.signal_from)
