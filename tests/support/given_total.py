"""A round's total that a test states, for what reads one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from common.parameters import float_chunks

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class GivenTotal:
    """One array's total, whatever its name; the noise of a sum unless another gain is stated."""

    n_regions: int
    array: FloatArray = field(repr=False)
    gain: float | None = None

    @property
    def noise_gain(self) -> float:
        return math.sqrt(self.n_regions) if self.gain is None else self.gain

    def values(self, name: str) -> FloatArray:
        del name
        return self.array

    def chunks(self, name: str) -> Iterator[tuple[slice, FloatArray]]:
        place = 0
        for piece in float_chunks(self.values(name)):
            yield slice(place, place + len(piece)), piece
            place += len(piece)
