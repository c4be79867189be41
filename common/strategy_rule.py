"""Which strategy a plan takes where it is asked for ``auto``: from public numbers alone.

The rule was read off measurements on made-up customers and on public data
(docs/decisions/0038-gram-and-auto.md); no number of anybody's customers enters, so it costs no ε.
"""

from __future__ import annotations

from common.aggregation_rules import NoiseMode
from common.strategies import FACTORS, GRAM, MATRIX_FACTORISATION, StrategyName

# From so many customers in a region on, steps in the regions find more than sums do.
STEPS_FROM = 5_000
# Below this ε their noise takes that away again.
STEPS_LEAST_EPSILON = 3.0


def choose_strategy(
    *, planned_customers: int, n_regions: int, n_items: int, epsilon: float, mode: NoiseMode
) -> StrategyName:
    """The strategy for a federation of that size.

    Args:
        planned_customers: Public planning size, over all regions.
        n_regions: How many regions.
        n_items: The catalogue's number of items.
        epsilon: ε of the run.
        mode: Whose noise protects.
    """
    in_region = planned_customers / max(1, n_regions)
    if mode == "local" and in_region >= STEPS_FROM and epsilon >= STEPS_LEAST_EPSILON:
        return MATRIX_FACTORISATION
    return GRAM if n_items > 1 else FACTORS
