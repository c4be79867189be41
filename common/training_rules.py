"""How large a model that is trained in the regions is, and how it is trained: from public numbers.

The rule takes what is agreed before anything is counted: about how many customers there are, in
how many regions. ε and δ then set the noise and nothing else. Where each constant was measured, and
from which size on it extrapolates, is in docs/decisions/0021-strategies-and-their-rule.md.
"""

from __future__ import annotations

from typing import NamedTuple

from common.errors import InputError
from common.strategies import MATRIX_FACTORISATION, SASREC, TIED_AUTOENCODER

ROUNDS = 5


class TrainingRule(NamedTuple):
    """What follows for one strategy and size.

    Attributes:
        vocabulary_size: m.
        rank: d.
        rounds: How many rounds of local steps.
        steps: How many steps a region takes in each.
        sampling_probability: q, as a decimal string.
        clipping_norm: C, as a decimal string.
        learning_rate: As a decimal string; the step is learning_rate · C when all are clipped.
        learning_rate_decay: From round to round, as a decimal string.
        popularity_share: Share of ε that the popularity round may spend, as a decimal string.
        options: The strategy's own constants.
    """

    vocabulary_size: int
    rank: int
    rounds: int
    steps: int
    sampling_probability: str
    clipping_norm: str
    learning_rate: str
    learning_rate_decay: str
    popularity_share: str
    options: dict[str, str]


class _Sizes(NamedTuple):
    """Sizes from so many customers in a region on."""

    customers_from: int
    vocabulary_size: int
    rank: int
    steps: int
    sampling_probability: str


# q falls as regions grow: a step's batch stays in the hundreds, its noise is small beside it then,
# and amplification by sampling pays for more steps.
_SIZES = (
    _Sizes(0, 100, 2, 4, "0.5"),
    _Sizes(300, 100, 8, 4, "0.5"),
    _Sizes(1_000, 200, 8, 10, "0.2"),
    _Sizes(4_000, 500, 16, 20, "0.1"),
    _Sizes(20_000, 1_000, 24, 40, "0.02"),
    _Sizes(100_000, 2_000, 32, 40, "0.02"),
)


def training_rule(
    strategy: str, *, planned_customers: int, n_regions: int, n_items: int
) -> TrainingRule:
    """Sizes and schedule of a strategy that trains in the regions.

    Args:
        strategy: Any but ``factors``.
        planned_customers: Public planning size, over all regions.
        n_regions: How many regions.
        n_items: The catalogue's number of items.

    Raises:
        InputError: The strategy is none of these.
    """
    in_region = planned_customers / max(1, n_regions)
    sizes = next(row for row in reversed(_SIZES) if in_region >= row.customers_from)
    vocabulary_size = min(sizes.vocabulary_size, n_items)
    clipping_norm, learning_rate, options = _of_strategy(strategy)
    return TrainingRule(
        vocabulary_size=vocabulary_size,
        rank=min(sizes.rank, vocabulary_size),
        rounds=ROUNDS,
        steps=sizes.steps,
        sampling_probability=sizes.sampling_probability,
        clipping_norm=clipping_norm,
        learning_rate=learning_rate,
        learning_rate_decay="0.9",
        popularity_share="0.20",
        options=options,
    )


def _of_strategy(strategy: str) -> tuple[str, str, dict[str, str]]:
    """C, the learning rate and the options."""
    # A step in which all customers agree moves the parameters by learning rate × C.
    if strategy == TIED_AUTOENCODER:
        return "0.2", "75", {}
    if strategy == MATRIX_FACTORISATION:
        return "0.1", "150", {"regularisation": "0.1", "unobserved_weight": "0.05"}
    if strategy == SASREC:
        options = {"blocks": "1", "heads": "1", "max_length": "50", "negatives": "100"}
        return "0.2", "15", options
    raise InputError(f"The strategy {strategy!r} does not train in the regions.")
