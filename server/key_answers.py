"""Regions' keys of a round: kept as each of them released them, for there is no sum of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from common.analytics.array_names import region_array
from common.errors import FormatError, InputError
from common.parameters import array_specs
from common.plan import Mechanism, RunPlan
from server.round_total import WholeTotal

Arrays = Mapping[str, npt.NDArray[np.generic]]


class KeptKeys:
    """Takes each region's keys once; an `server.round_total.Aggregator` whose total has no array.

    What keys come to over regions follows from the regions' own, which are published
    (`common.analytics.key_tables.union_of`).

    Args:
        plan: The plan of questions.
        mechanism: The question's mechanism.

    Attributes:
        kept: Each region's arrays, by the names they are published under.
    """

    def __init__(self, plan: RunPlan, mechanism: Mechanism) -> None:
        self._specs = tuple(
            sorted(plan.released_arrays(mechanism.name), key=lambda spec: spec.name)
        )
        self._regions: set[str] = set()
        self.kept: dict[str, npt.NDArray[np.generic]] = {}

    def add(self, region: str, arrays: Arrays) -> None:
        """Keeps a release; see `server.round_total.Aggregator`."""
        if region in self._regions:
            raise InputError(f"The release of {region} was taken already.")
        if array_specs(arrays) != self._specs:
            raise FormatError(f"The release of {region} has other arrays than the plan's.")
        self._regions.add(region)
        # What is received is a view of its message, which is not to be kept.
        self.kept |= {region_array(region, name): np.array(each) for name, each in arrays.items()}

    def total(self) -> WholeTotal:
        """How many regions released keys; see `server.round_total.Aggregator`."""
        if not self._regions:
            raise InputError("There is no release to sum.")
        return WholeTotal(len(self._regions), {})
