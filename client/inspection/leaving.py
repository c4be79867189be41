"""What would leave the region under its permits, to the byte."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from client.engine.forecast import PlanOutlook
from client.engine.permit_files import PermitFile
from common.plan import RunPlan


@dataclass(frozen=True)
class LeavingArray:
    """An array that leaves in each round of a mechanism.

    Attributes:
        mechanism: The mechanism.
        first_round: Its first round.
        last_round: Its last one.
        rounds: How many it has.
        name: The array's name.
        dtype: Its elements' type, as it leaves.
        shape: Its shape.
        bytes_a_round: The bytes of its elements.
    """

    mechanism: str
    first_round: int
    last_round: int
    rounds: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes_a_round: int


@dataclass(frozen=True)
class PermittedRun:
    """A run that the region permits now.

    Attributes:
        permit: Its permit.
        plan: Its plan.
        arrays: What leaves, and nothing else.
        outlook: What the budget pays for; None if the budget cannot be read.
    """

    permit: PermitFile
    plan: RunPlan
    arrays: tuple[LeavingArray, ...]
    outlook: PlanOutlook | None

    @property
    def total_bytes(self) -> int:
        """The bytes of all arrays of all rounds."""
        return sum(each.bytes_a_round * each.rounds for each in self.arrays)


def leaving_arrays(plan: RunPlan) -> Iterator[LeavingArray]:
    """What leaves a region under a plan, mechanism by mechanism.

    Under masks the elements are whole numbers of 32 bits of the ring: as many, and as many bytes.
    """
    masked = plan.aggregation.rule == "secure-sum"
    for mechanism in plan.mechanisms:
        for spec in plan.released_arrays(mechanism.name):
            dtype = "<i4" if masked else spec.dtype
            yield LeavingArray(
                mechanism=mechanism.name,
                first_round=mechanism.rounds[0],
                last_round=mechanism.rounds[-1],
                rounds=len(mechanism.rounds),
                name=spec.name,
                dtype=dtype,
                shape=spec.shape,
                bytes_a_round=math.prod(spec.shape) * np.dtype(dtype).itemsize,
            )
