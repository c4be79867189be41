"""Released values as elements of the ring of 32-bit integers, and sums of them back.

A released value is a whole number of steps of its mechanism's public grid. K such numbers of less
than 32 − ⌈log₂K⌉ bits, sign included, add up within a signed 32-bit integer, so addition modulo
2³², which is what masked values allow, is their exact sum: nothing is rounded, nothing wraps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.canonical_json import JsonValue
from common.errors import InputError
from common.parameters import ArraySpec, float_chunks
from common.secure_aggregation.refusal import SecureSumRefusedError

RING_BITS = 32
#: The most regions of one sum: a log entry names them all, and has a bound.
MAX_SUMMED = 128

RingArray = npt.NDArray[np.uint32]
Arrays = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Quantiser:
    """How one mechanism's released values become ring elements.

    Attributes:
        grid_exponent: A step is 2 to this power: the mechanism's grid.
        most_summed: K, the most regions that may be in one sum: all of the plan's.

    Raises:
        InputError: So many regions cannot be summed.
    """

    grid_exponent: int
    most_summed: int

    def __post_init__(self) -> None:
        if not 1 <= self.most_summed <= MAX_SUMMED:
            raise InputError(
                f"A secure sum is of at most {MAX_SUMMED} regions, not of {self.most_summed}.",
                remedy="Plan fewer regions, or the rule sum.",
            )

    @property
    def value_bits(self) -> int:
        """The bits of one region's value, its sign included."""
        return RING_BITS - (self.most_summed - 1).bit_length()

    @property
    def largest_steps(self) -> int:
        """The largest magnitude of one region's value, in steps; K of them stay below 2³¹."""
        return (1 << (self.value_bits - 1)) - 1

    @property
    def largest_value(self) -> float:
        """The same as a value."""
        return math.ldexp(float(self.largest_steps), self.grid_exponent)

    def to_record(self) -> dict[str, JsonValue]:
        """As statements and keys are bound to it."""
        return {
            "grid_exponent": self.grid_exponent,
            "most_summed": self.most_summed,
            "ring_bits": RING_BITS,
        }


def finest_grid(largest_value: float, most_summed: int) -> int:
    """The exponent of the finest grid on which values of this magnitude fit the ring.

    Args:
        largest_value: The largest magnitude of one region's value, above 0.
        most_summed: K.
    """
    steps = Quantiser(0, most_summed).largest_steps
    exponent = math.ceil(math.log2(largest_value / steps))
    # A logarithm may be off by a rounding; the comparison is exact.
    while math.ldexp(float(steps), exponent) < largest_value:
        exponent += 1
    return exponent


def to_ring(arrays: Arrays, quantiser: Quantiser) -> RingArray:
    """One region's released arrays as one vector of ring elements.

    Args:
        arrays: The arrays by name; they follow each other by sorted name, each in C order.
        quantiser: The mechanism's.

    Raises:
        SecureSumRefusedError: A value is off the grid, not finite, or beyond the range; wrapped
            around, it would change the sum for everybody.
    """
    vector = np.empty(sum(array.size for array in arrays.values()), np.uint32)
    largest, start = quantiser.largest_steps, 0
    for name in sorted(arrays):
        for chunk in float_chunks(arrays[name]):
            steps = np.ldexp(chunk, -quantiser.grid_exponent)
            # Written so that infinity and what is no number do not pass.
            if not float(np.abs(steps).max()) <= largest:
                raise SecureSumRefusedError(
                    "out-of-range", f"{name[:64]} has values that the ring has no room for."
                )
            if not np.array_equal(steps, np.rint(steps)):
                raise SecureSumRefusedError(
                    "off-grid", f"{name[:64]} has values off the public grid."
                )
            vector[start : start + chunk.size] = steps.astype(np.int32).view(np.uint32)
            start += chunk.size
    return vector


def from_ring(vector: RingArray, specs: Sequence[ArraySpec]) -> dict[str, npt.NDArray[np.int32]]:
    """A vector of ring elements as named arrays, which is how they travel: views, not copies.

    Args:
        vector: Ring elements, as `to_ring` orders them.
        specs: Which arrays; names and shapes count.
    """
    arrays: dict[str, npt.NDArray[np.int32]] = {}
    start = 0
    for spec in sorted(specs, key=lambda each: each.name):
        size = math.prod(spec.shape)
        arrays[spec.name] = vector[start : start + size].view(np.int32).reshape(spec.shape)
        start += size
    return arrays


def ring_specs(specs: Sequence[ArraySpec]) -> tuple[ArraySpec, ...]:
    """What masked arrays are: the released ones' names and shapes, of ring elements."""
    return tuple(ArraySpec(spec.name, "<i4", spec.shape) for spec in specs)


def ring_values(
    vector: RingArray, quantiser: Quantiser, *, n_summed: int
) -> Iterator[npt.NDArray[np.float64]]:
    """The values of a sum in pieces, as float64; exact.

    Args:
        vector: The sum of ``n_summed`` regions' vectors, all masks gone.
        quantiser: The mechanism's.
        n_summed: How many regions are in it.

    Raises:
        SecureSumRefusedError: A value is beyond what so many regions can come to: the masks have
            not cancelled, or a region did not keep to its range.
    """
    most = n_summed * quantiser.largest_steps
    for steps in float_chunks(vector.view(np.int32)):
        if not float(np.abs(steps).max()) <= most:
            raise SecureSumRefusedError(
                "masks-do-not-cancel", f"The sum has values that {n_summed} regions cannot come to."
            )
        yield np.ldexp(steps, quantiser.grid_exponent)
