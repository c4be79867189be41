"""Coins that fall with probability e^-x exactly, for rational x: integers only, no float anywhere.

A float that is rounded a little off makes noise whose low bits tell about what it hides (Mironov,
"On Significance of the Least Significant Bits for Differential Privacy", 2012). Here a coin is the
comparison of a uniform real number, whose binary digits are drawn as they are needed, with e^-x.
Fixed-point arithmetic with a proved bound on its error decides all but one in some millions; those
are decided by long integers, with as many further digits as it takes. So every coin is exact,
whatever the processor and whatever its mathematical library.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

UintArray = npt.NDArray[np.uint64]
BoolArray = npt.NDArray[np.bool_]

#: Exponents are given in fixed point with so many binary digits after the point …
EXPONENT_BITS = 32
#: … and are taken for this at most, where e^-x is below 2^-92.
LARGEST_EXPONENT = (64 << EXPONENT_BITS) - 1

# Probabilities are in units of 2^-31, so that a product of two of them fits 64 bits.
_UNIT_BITS = 31
# Decided by fixed point is only what is so many units away, 2^-24; the error is below 41 units: 32
# for an exponent that is off by 2^-26, 1 for its last digit, 8 for three factors from tables, one
# computed one and three products, each rounded down.
_MARGIN = np.uint64(128)
_FINE = 11
_LOW = EXPONENT_BITS - 2 * _FINE


@runtime_checkable
class WordSource(Protocol):
    """Something that uniform random words are drawn from."""

    def words(self, n: int) -> UintArray:
        """uint64[n]: independent, uniform."""
        ...


class LazyUniform:
    """A uniform real number in [0, 1), of which only the digits are drawn that a question needs.

    Args:
        word: Its first 64 binary digits.
        source: Where further ones are drawn from.
    """

    def __init__(self, word: int, source: WordSource) -> None:
        self._digits = word
        self._bits = 64
        self._source = source

    def is_below_exp(self, numerator: int, denominator: int) -> bool:
        """Whether the number is below e^-(numerator / denominator); exact."""
        while True:
            low, high = exp_bounds(numerator, denominator, self._bits)
            if self._digits + 1 <= low:
                return True
            if self._digits >= high:
                return False
            self._digits = (self._digits << 64) | int(self._source.words(1)[0])
            self._bits += 64


def exp_bounds(numerator: int, denominator: int, bits: int) -> tuple[int, int]:
    """Whole numbers low ≤ 2^bits · e^-(numerator / denominator) ≤ high, close together.

    Interval arithmetic over integers: e^-y for y = x / 2^k below 1/2 by its alternating series,
    whose remainder is below the first term left out, then k squares, each bound rounded outwards.

    Args:
        numerator: At least 0.
        denominator: Above 0.
        bits: The precision asked for.
    """
    if numerator == 0:
        return 1 << bits, 1 << bits
    halvings = (numerator // denominator).bit_length() + 1
    work = bits + 2 * halvings + 16
    y_low = (numerator << work) // (denominator << halvings)
    y_high = y_low + 1
    term_low = term_high = low = high = 1 << work
    order = 0
    while term_high > 1:
        order += 1
        term_low = (term_low * y_low // order) >> work
        term_high = -(-term_high * y_high // order >> work)
        if order % 2:
            low, high = low - term_high, high - term_low
        else:
            low, high = low + term_low, high + term_high
    low, high = max(0, low - 1), min(1 << work, high + 1)
    for _ in range(halvings):
        low, high = (low * low) >> work, -(-high * high >> work)
    return low >> (work - bits), -(-high >> (work - bits))


def flip_exp(
    exponents: UintArray, exact: Callable[[int], tuple[int, int]], source: WordSource
) -> BoolArray:
    """bool[n]: independent coins, each true with probability e^-x.

    Args:
        exponents: uint64[n], each x · 2^`EXPONENT_BITS`, off by so little that e^-x is within 2^-26
            of its true value; at most `LARGEST_EXPONENT`.
        exact: Gives the exact x of a position, as numerator and denominator.
        source: Where the digits are drawn from.

    Formal guarantees:
        The probabilities are exactly e^-x of the exact exponents: a comparison closer than 2^-24 is
        decided by `LazyUniform`, and fixed point is never off by as much.
    """
    words = source.words(len(exponents))
    drawn = words >> np.uint64(64 - _UNIT_BITS)
    probability = _exp_units(exponents)
    result: BoolArray = drawn + _MARGIN < probability
    # The digits that were cut off may add up to nearly one unit: the margin has room for it.
    unsure = ~result & (drawn <= probability + _MARGIN)
    for position in np.flatnonzero(unsure):
        uniform = LazyUniform(int(words[position]), source)
        result[position] = uniform.is_below_exp(*exact(int(position)))
    return result


def _exp_units(exponents: UintArray) -> UintArray:
    """e^-x in units of 2^-31, from the digits of x: at most 9 units too small, never too large."""
    whole, coarse, fine = _tables()
    mask, unit = np.uint64((1 << _FINE) - 1), np.uint64(_UNIT_BITS)
    product = whole[exponents >> np.uint64(EXPONENT_BITS)]
    product = product * coarse[(exponents >> np.uint64(_LOW + _FINE)) & mask] >> unit
    product = product * fine[(exponents >> np.uint64(_LOW)) & mask] >> unit
    # Of so small a rest y, e^-y is 1 − y to within 2^-44.
    rest = exponents & np.uint64((1 << _LOW) - 1)
    last = np.uint64(1 << _UNIT_BITS) - ((rest + np.uint64(1)) >> np.uint64(1))
    units: UintArray = product * last >> unit
    return units


@cache
def _tables() -> tuple[UintArray, UintArray, UintArray]:
    def table(size: int, denominator: int) -> UintArray:
        rows = [exp_bounds(digit, denominator, _UNIT_BITS)[0] for digit in range(size)]
        return np.array(rows, dtype=np.uint64)

    return table(64, 1), table(1 << _FINE, 1 << _FINE), table(1 << _FINE, 1 << 2 * _FINE)
