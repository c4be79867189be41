"""The sum of a round's releases: added as they arrive, the same sum in whatever order they do.

A released value is a whole number of steps of the plan's grid (`common.parameters.snap_to_grid`).
Whole numbers add without rounding, so the order of arrival, a resume, and how many regions were
added before say nothing about the sum's last bit. Floating point would: it would have to be summed
by region in order, with every release kept until the round closes.

Nothing here is larger than it has to be: a release is read in chunks and is not kept, and sums take
32 bits a value for as long as those hold them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from common.errors import FormatError, InputError
from common.parameters import ArraySpec, float_chunks

Arrays = Mapping[str, npt.NDArray[np.generic]]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.signedinteger[npt.NBitBase]]

_MOST_32 = 2**31 - 1
_MOST_64 = 2**63 - 1


class RoundTotal(Protocol):
    """What a round's releases come to, by array. All that makes the next model takes one."""

    @property
    def n_regions(self) -> int:
        """How many regions' releases are in it."""

    @property
    def noise_gain(self) -> float:
        """By how much the standard deviation of its noise is larger than that of one region's.

        √n for a sum of n; what shrinks a model's values by their noise takes it into account.
        """

    def values(self, name: str) -> FloatArray:
        """An array's total, whole, in its shape.

        Raises:
            FormatError: There is no such array.
        """

    def chunks(self, name: str) -> Iterator[tuple[slice, FloatArray]]:
        """The same in pieces: where each lies in C order, and its float64 values.

        Raises:
            FormatError: There is no such array.
        """


class Aggregator(Protocol):
    """Takes each region's release once, and then gives their total."""

    def add(self, region: str, arrays: Arrays) -> None:
        """Takes a validated release; it is not kept longer than the rule needs it.

        Raises:
            FormatError: It is not what the plan says a release is.
            InputError: The region was added before.
        """

    def total(self) -> RoundTotal:
        """What all of them come to; to be asked once, after the last.

        Raises:
            InputError: None was added.
        """


@dataclass(frozen=True, eq=False)
class WholeTotal:
    """A total that is there whole, as float64.

    Attributes:
        n_regions: How many regions' releases are in it.
        arrays: float64 arrays by name.
    """

    n_regions: int
    arrays: Mapping[str, FloatArray]

    @classmethod
    def of(cls, releases: Sequence[Arrays]) -> WholeTotal:
        """The plain sum of releases, on a grid or not, in the order given."""
        arrays = {name: np.zeros(array.shape) for name, array in releases[0].items()}
        for release in releases:
            for name, total in arrays.items():
                total += release[name].astype(np.float64)
        return cls(len(releases), arrays)

    @property
    def noise_gain(self) -> float:
        """By how much its noise is larger than one region's; see `RoundTotal`."""
        return math.sqrt(self.n_regions)

    def values(self, name: str) -> FloatArray:
        """An array's total; see `RoundTotal`."""
        if name not in self.arrays:
            raise _no_array(name)
        return self.arrays[name]

    def chunks(self, name: str) -> Iterator[tuple[slice, FloatArray]]:
        """An array's total in pieces; see `RoundTotal`."""
        return _places(float_chunks(self.values(name)))


@dataclass(frozen=True, eq=False)
class GridTotal:
    """A total in whole steps of the grid.

    Attributes:
        n_regions: How many regions' releases are in it.
        shapes: Each array's shape, by name.
        steps: Each array's values in C order, in blocks of whole numbers.
        grid_exponent: A step is 2 to this power.
    """

    n_regions: int
    shapes: Mapping[str, tuple[int, ...]]
    steps: Mapping[str, Sequence[IntArray]]
    grid_exponent: int

    @property
    def noise_gain(self) -> float:
        """By how much its noise is larger than one region's; see `RoundTotal`."""
        return math.sqrt(self.n_regions)

    def values(self, name: str) -> FloatArray:
        """An array's total; see `RoundTotal`. Exact up to 2^53 steps, beyond to the nearest."""
        shape = self._shape(name)
        flat = np.empty(math.prod(shape))
        for place, chunk in self.chunks(name):
            flat[place] = chunk
        return flat.reshape(shape)

    def chunks(self, name: str) -> Iterator[tuple[slice, FloatArray]]:
        """An array's total in pieces; see `RoundTotal`."""
        self._shape(name)
        exponent = self.grid_exponent
        return _places(np.ldexp(block.astype(np.float64), exponent) for block in self.steps[name])

    def _shape(self, name: str) -> tuple[int, ...]:
        if name not in self.shapes:
            raise _no_array(name)
        return self.shapes[name]


class ExactSum:
    """Adds releases exactly.

    Formal guarantees:
        Every value added is a whole number of steps of magnitude at most B = ``max_magnitude`` /
        2**``grid_exponent``, both checked here, and at most K = ``max_regions`` are added. So each
        partial sum in any order is at most K·B in magnitude, and K·B < 2^63 is required: no sum
        leaves a 64-bit integer. A block is held in 32 bits only while the magnitudes of all that
        was added to the array sum to less than 2^31.

    Args:
        specs: What a release is; floats on the grid.
        grid_exponent: Released values are multiples of 2 to this power.
        max_magnitude: The largest magnitude a released value may have.
        max_regions: How many regions there are.

    Raises:
        InputError: The sum of so many such releases might not be exact.
    """

    def __init__(
        self,
        specs: Sequence[ArraySpec],
        *,
        grid_exponent: int,
        max_magnitude: float,
        max_regions: int,
    ) -> None:
        require_exact(
            grid_exponent=grid_exponent, max_magnitude=max_magnitude, max_regions=max_regions
        )
        self._grid_exponent = grid_exponent
        self._max_steps = max_magnitude / math.ldexp(1.0, grid_exponent)
        self._max_regions = max_regions
        self._sums = {spec.name: _ArraySum(spec.shape) for spec in specs}
        self._regions: set[str] = set()

    def add(self, region: str, arrays: Arrays) -> None:
        """Adds a release, the whole of it or, if it is refused, nothing; see `Aggregator`."""
        if region in self._regions:
            raise InputError(f"The release of {region} is in the sum already.")
        if len(self._regions) >= self._max_regions:
            raise InputError(f"The sum is of {self._max_regions} regions at most.")
        if set(arrays) != set(self._sums):
            raise FormatError(f"The release of {region} has other arrays than the sum.")
        largest = {name: self._largest(region, name, arrays[name]) for name in self._sums}
        for name, total in self._sums.items():
            total.add(self._steps(arrays[name]), largest[name])
        self._regions.add(region)

    def total(self) -> GridTotal:
        """The sum; see `Aggregator`. It is handed over, not copied."""
        if not self._regions:
            raise InputError("There is no release to sum.")
        sums, self._sums = self._sums, {}
        return GridTotal(
            n_regions=len(self._regions),
            shapes={name: total.shape for name, total in sums.items()},
            steps={name: total.blocks for name, total in sums.items()},
            grid_exponent=self._grid_exponent,
        )

    def _steps(self, array: npt.NDArray[np.generic]) -> Iterator[FloatArray]:
        for chunk in float_chunks(array):
            yield np.ldexp(chunk, -self._grid_exponent)

    def _largest(self, region: str, name: str, array: npt.NDArray[np.generic]) -> int:
        """The largest number of steps in an array, once it is known that it can be added."""
        if array.shape != self._sums[name].shape:
            raise FormatError(f"{name} of {region} is not of shape {self._sums[name].shape}.")
        largest = 0.0
        for steps in self._steps(array):
            if not np.array_equal(steps, np.rint(steps)):
                raise FormatError(f"{name} of {region} has values off the public grid.")
            largest = max(largest, float(np.abs(steps).max()))
        # Written so that infinity and what is no number do not pass.
        if not largest <= self._max_steps:
            raise FormatError(f"{name} of {region} has values beyond the public bound.")
        return int(largest)


class _ArraySum:
    """One array's sum, in blocks as `float_chunks` has them."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.blocks: list[IntArray] = []
        self._magnitude = 0

    def add(self, chunks: Iterator[FloatArray], largest: int) -> None:
        self._magnitude += largest
        narrow = self._magnitude <= _MOST_32
        for number, chunk in enumerate(chunks):
            if number == len(self.blocks):
                self.blocks.append(np.zeros(chunk.shape, np.int32 if narrow else np.int64))
            elif not narrow and self.blocks[number].dtype == np.int32:
                self.blocks[number] = self.blocks[number].astype(np.int64)
            block = self.blocks[number]
            # Both are whole numbers of this width by what `add` was told; nothing is cut off.
            block += chunk.astype(block.dtype)


def require_exact(*, grid_exponent: int, max_magnitude: float, max_regions: int) -> None:
    """Requires that 64-bit integers hold every sum of so many releases.

    Raises:
        InputError: They might not.
    """
    # Written so that infinity and what is no number do not pass.
    if not max_magnitude * max_regions < math.ldexp(float(_MOST_64), grid_exponent):
        raise InputError(
            f"The sum of {max_regions} releases with values up to {max_magnitude:.3g} on a grid of "
            f"2^{grid_exponent} might not be exact.",
            remedy="Plan a coarser grid, a smaller clipping norm or fewer customers.",
        )


def _places(chunks: Iterator[FloatArray]) -> Iterator[tuple[slice, FloatArray]]:
    start = 0
    for chunk in chunks:
        yield slice(start, start + chunk.size), chunk
        start += chunk.size


def _no_array(name: str) -> FormatError:
    return FormatError(f"The regions released no {name[:64]}.")
