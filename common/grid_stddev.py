"""A standard deviation that sampler, accountant and records mean alike, to the last bit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal

from common.errors import InputError

#: A numerator has at most so many binary digits: then the sampler's numbers fit 64 bits.
NUMERATOR_BITS = 24
#: The least σ of a sampler, in grid units (Kairouz, Liu and Steinke, 2021, ask for as much).
LEAST = 0.5


@dataclass(frozen=True)
class GridStddev:
    """σ = numerator / 2^exponent, in units of a grid: exactly a float, and exactly a decimal.

    Attributes:
        numerator: At least 1, below 2^24.
        exponent: From 0 to 24; σ is at least 0.5.

    Raises:
        InputError: Out of range.
    """

    numerator: int
    exponent: int

    def __post_init__(self) -> None:
        if not (
            0 <= self.exponent <= NUMERATOR_BITS
            and 1 <= self.numerator < 1 << NUMERATOR_BITS
            and 2 * self.numerator >= 1 << self.exponent
        ):
            raise InputError(
                f"A noise of {self.numerator} / 2^{self.exponent} grid units cannot be drawn: it "
                f"must be from {LEAST} to {1 << NUMERATOR_BITS}.",
                remedy="Choose another grid.",
            )

    @classmethod
    def at_least(cls, stddev: float) -> GridStddev:
        """The least of this form that is not below a value; at most 2^-23 of it above.

        Raises:
            InputError: The value is not within 0.5 and 2^24.
        """
        # Written so that a NaN is refused too.
        if not LEAST <= stddev <= (1 << NUMERATOR_BITS) - 1:
            raise InputError(
                f"A noise of {stddev} grid units cannot be drawn: it must be from {LEAST} to "
                f"{1 << NUMERATOR_BITS}.",
                remedy="Choose another grid.",
            )
        exponent = NUMERATOR_BITS - max(1, math.frexp(stddev)[1])
        numerator = math.ceil(math.ldexp(stddev, exponent))
        if numerator == 1 << NUMERATOR_BITS:
            numerator, exponent = numerator >> 1, exponent - 1
        # In lowest terms, so that equal σ are equal records.
        while exponent and numerator % 2 == 0:
            numerator, exponent = numerator >> 1, exponent - 1
        return cls(numerator, exponent)

    @property
    def value(self) -> float:
        """σ; exact."""
        return math.ldexp(self.numerator, -self.exponent)

    @property
    def floor(self) -> int:
        """⌊σ⌋."""
        return self.numerator >> self.exponent

    @property
    def text(self) -> str:
        """σ as a decimal; exact."""
        return format(Decimal(self.value), "f")
