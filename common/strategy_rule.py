"""Which strategy a plan takes where it is asked for ``auto``: from public numbers alone.

The rule was read off measurements on made-up customers and on public data
(docs/decisions/0038-gram-and-auto.md); no number of anybody's customers enters, so it costs no ε.
"""

from __future__ import annotations

from common.strategies import FACTORS, GRAM, StrategyName

#: From this signal on pairs say more than power iteration finds, on the real data that were
#: measured; below it, noise drowns them first.
GRAM_SIGNAL_FROM = 500.0
# One item has no pair.
_LEAST_ITEMS = 2


def choose_strategy(*, signal: float, n_items: int) -> StrategyName:
    """The strategy for a federation of that signal.

    Strategies that train in the regions are never chosen: none was measured to be better than
    ``gram`` by more than chance, and only an operator knows that the order of purchases matters.

    Args:
        signal: As `common.sum_rules` has it: it is made of the planned customers, the number of
            regions, ε, δ and whose noise protects.
        n_items: The catalogue's number of items.
    """
    return GRAM if signal >= GRAM_SIGNAL_FROM and n_items >= _LEAST_ITEMS else FACTORS
