"""What noise would do to an answer, told by public numbers before anything is spent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import BudgetError, InputError

#: Intervals of up to so many times what is of use are shown, and called coarse; wider ones not.
COARSE = 2.0


@dataclass(frozen=True)
class Outlook:
    """What noise alone would make of an answer.

    Attributes:
        name: What is asked.
        half_width: How far its interval would reach to each side, in the question's unit.
        wanted: The furthest that is of use, in the same unit.
        unit: The unit, in words.
        customers: The number of customers that it was reckoned with.
    """

    name: str
    half_width: float
    wanted: float
    unit: str
    customers: int

    @property
    def swamped(self) -> bool:
        """Whether the answer would be mostly noise. Written so that a NaN is."""
        return not self.half_width <= self.wanted

    @property
    def customers_needed(self) -> int:
        """With how many customers it would not be: noise does not grow with them."""
        if not math.isfinite(self.half_width):
            raise InputError(f"{self.name}: no number of customers makes up for such noise.")
        return max(1, math.ceil(self.customers * self.half_width / self.wanted))


def require_worth(outlooks: Sequence[Outlook], *, anyway: bool = False) -> None:
    """Requires that noise would not swamp an answer, before any of it is paid for.

    Args:
        outlooks: Of everything that one budget shall pay for.
        anyway: Whether budget may be spent on noise, too.

    Raises:
        BudgetError: It would; names each question, and how many customers it would take.
    """
    swamped = [each for each in outlooks if each.swamped]
    if swamped and not anyway:
        worst = "; ".join(
            f"{each.name} ± {each.half_width:.3g} {each.unit}, where {each.wanted:g} is of use "
            f"(from about {each.customers_needed} customers on)"
            for each in swamped
        )
        raise BudgetError(
            f"Nothing was spent: noise would swamp the answer to {worst}.",
            remedy="Ask for less at once, give it more ε, sum over more regions, or wait for more "
            "customers.",
        )
