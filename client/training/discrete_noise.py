"""The discrete Gaussian, sampled exactly: noise of whole grid units, without a float in between.

Canonne, Kamath and Steinke, "The Discrete Gaussian for Differential Privacy" (2020), algorithms 2
and 3, over arrays: a candidate from the discrete Laplace distribution of scale t = ⌊σ⌋ + 1 is kept
with probability exp(−(|y| − σ²/t)² / (2σ²)). Every coin is exact (`exact_bernoulli`).
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import numpy.typing as npt

from client.training.exact_bernoulli import (
    EXPONENT_BITS,
    LARGEST_EXPONENT,
    LazyUniform,
    WordSource,
    exp_bounds,
    flip_exp,
)
from common.errors import InputError
from common.grid_stddev import GridStddev

IntArray = npt.NDArray[np.int64]
UintArray = npt.NDArray[np.uint64]

# Candidates at a time: their arrays stay in a core's cache.
_MOST_CANDIDATES = 1 << 15
# So many candidates are drawn for each value wanted: somewhat above what is kept of them.
_CANDIDATES_PER_VALUE = 2.2
# Digits of a quotient of at most 64, before and after the point; its square fits 64 bits.
_QUOTIENT_BITS = 26
_LARGEST_QUOTIENT = (64 << _QUOTIENT_BITS) - 1


def discrete_gaussian(shape: tuple[int, ...], stddev: GridStddev, source: WordSource) -> IntArray:
    """Independent values of the discrete Gaussian N_Z(0, σ²): P(y) ∝ exp(−y² / (2σ²)).

    Args:
        shape: The array's shape.
        stddev: σ, exactly, in grid units.
        source: Where random words are drawn from; equal words give equal values everywhere.

    Formal guarantees:
        The distribution is exactly N_Z(0, σ²) if the words are uniform: there is no rounding and
        no cut-off tail. How long a draw takes depends on the noise alone, not on what it is added
        to.

    Returns:
        int64 array.
    """
    size = math.prod(shape)
    values = np.empty(size, dtype=np.int64)
    filled = 0
    while filled < size:
        wanted = int(_CANDIDATES_PER_VALUE * (size - filled)) + 16
        kept = _kept_candidates(min(wanted, _MOST_CANDIDATES), stddev, source)[: size - filled]
        values[filled : filled + len(kept)] = kept
        filled += len(kept)
    return values.reshape(shape)


def _kept_candidates(n: int, stddev: GridStddev, source: WordSource) -> IntArray:
    scale = stddev.floor + 1
    magnitudes, negative = _discrete_laplace(n, scale, source)
    deviation, divisor = _deviations(magnitudes, scale, stddev)

    def exact(position: int) -> tuple[int, int]:
        return int(deviation[position]) ** 2, 2 * divisor**2

    kept = flip_exp(_half_squares(deviation, divisor), exact, source)
    signed = np.where(negative, -magnitudes, magnitudes)
    return signed[kept]


def _discrete_laplace(
    n: int, scale: int, source: WordSource
) -> tuple[IntArray, npt.NDArray[np.bool_]]:
    """Fewer than n candidates of P(y) ∝ e^(−|y| / scale): their magnitudes, and which are negative.

    |y| = u + scale · v: u uniform below the scale and kept with probability e^(−u / scale), v the
    number of coins of e^-1 that fall in a row. A negative zero is dropped, or zero would count
    twice.
    """
    words = source.words(n)
    product = (words >> np.uint64(32)) * np.uint64(scale)
    # Without these few words some u would be likelier than others (Lemire, 2019).
    fair = (product & np.uint64(0xFFFFFFFF)) >= np.uint64((1 << 32) % scale)
    rest = (product >> np.uint64(32))[fair]
    negative = (words[fair] & np.uint64(1)).astype(bool)

    def exact(position: int) -> tuple[int, int]:
        return int(rest[position]), scale

    kept = flip_exp((rest << np.uint64(EXPONENT_BITS)) // np.uint64(scale), exact, source)
    rest, negative = rest[kept], negative[kept]
    magnitudes = rest.astype(np.int64) + _geometric(len(rest), source) * scale
    counted = ~negative | (magnitudes != 0)
    return magnitudes[counted], negative[counted]


def _geometric(n: int, source: WordSource) -> IntArray:
    """int64[n]: P(v) = (1 − e^-1) · e^-v: how many of e^-1, e^-2, … a uniform number is below."""
    powers = _powers()
    words = source.words(n)
    place = np.searchsorted(powers, words, side="left")
    found: IntArray = (len(powers) - place).astype(np.int64)
    # A word that equals the digits of a power, zero among them, decides nothing yet.
    for position in np.flatnonzero((words == 0) | (powers[np.minimum(place, 43)] == words)):
        uniform, count = LazyUniform(int(words[position]), source), 0
        while uniform.is_below_exp(count + 1, 1):
            count += 1
        found[position] = count
    return found


@cache
def _powers() -> UintArray:
    """The first 64 binary digits of e^-44 to e^-1, ascending; those of e^-45 are all zero."""
    return np.array([exp_bounds(k, 1, 64)[0] for k in range(44, 0, -1)], dtype=np.uint64)


def _deviations(magnitudes: IntArray, scale: int, stddev: GridStddev) -> tuple[UintArray, int]:
    """Numerators and the denominator of | |y| − σ²/t | / σ, as exact whole numbers.

    With σ = s / 2^b they are | |y|·t·4^b − s² | and s·t·2^b. For s below 2^24 and t·2^b at most
    s + 2^b, the first is below 2^63 for every |y| below 2^12 · t.
    """
    if magnitudes.size and int(magnitudes.max()) >= scale << 12:
        # Less likely than e^-4000.
        raise InputError("A draw of noise is larger than any that can occur; nothing is released.")
    square = stddev.numerator**2
    scaled = magnitudes * (scale << 2 * stddev.exponent) - square
    return np.abs(scaled).astype(np.uint64), stddev.numerator * scale << stddev.exponent


def _half_squares(numerators: UintArray, denominator: int) -> UintArray:
    """(numerator / denominator)² / 2 in fixed point, for `flip_exp`.

    The quotient r is long division's, rounded down at 2^-26: e^(−r²/2) is off by less than
    r·e^(−r²/2) · 2^-26, which is below 2^-26.
    """
    divisor, half = np.uint64(denominator), np.uint64(_QUOTIENT_BITS // 2)
    quotient, rest = np.divmod(numerators, divisor)
    # Above 64 all are alike, and shifted too far they would overflow.
    quotient = np.minimum(quotient, np.uint64(64))
    for _ in range(2):
        digits, rest = np.divmod(rest << half, divisor)
        quotient = (quotient << half) | digits
    quotient = np.minimum(quotient, np.uint64(_LARGEST_QUOTIENT))
    # The square has 52 digits after the point; half of it one more.
    halved: UintArray = (quotient * quotient) >> np.uint64(2 * _QUOTIENT_BITS + 1 - EXPONENT_BITS)
    bounded: UintArray = np.minimum(halved, np.uint64(LARGEST_EXPONENT))
    return bounded
