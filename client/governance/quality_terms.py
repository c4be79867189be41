"""How many customers the terms of the standards are about, counted while a table is read."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from client.data.definitions import DAY_MS, holders, units_of
from client.data.row_checks import digests_of
from client.data.standards_fields import Definition
from client.governance.quality_repeats import BoolArray, DigestArray, LongArray, RowFacts


class TermCounts:
    """Counts for the definitions of one table, batch by batch.

    Args:
        definitions: The definitions, by name.
    """

    def __init__(self, definitions: Mapping[str, Definition]) -> None:
        self._definitions = definitions
        self._rows = 0
        self._units: dict[str, list[DigestArray]] = {name: [] for name in definitions}
        self._counts: dict[str, list[BoolArray]] = {name: [] for name in definitions}

    def take(self, frame: pd.DataFrame, times: LongArray) -> None:
        """Takes a batch.

        Args:
            frame: Its rows, treated.
            times: int64[n], when each was, in milliseconds since the epoch.
        """
        for name, each in self._definitions.items():
            self._counts[name].append(_counting(each, frame))
            units = units_of(each, times, _values(each, frame))
            if each.count == "rows":
                units = units + self._rows
            self._units[name].append(units.astype(np.uint64))
        self._rows += len(frame)

    def meant(self, facts: RowFacts, accepted: BoolArray) -> dict[str, int]:
        """How many customers each definition is about, as of the newest row that is used.

        Args:
            facts: All rows, in the order in which they were taken.
            accepted: bool[n], which of them are used.
        """
        if not accepted.any():
            return dict.fromkeys(self._definitions, 0)
        newest = int(facts.times[accepted].max())
        found = {}
        for name, each in self._definitions.items():
            recent = accepted & (facts.times > newest - each.within_days * DAY_MS)
            counted = recent & np.concatenate(self._counts[name])
            units = np.concatenate(self._units[name])[counted]
            found[name] = len(holders(each, facts.customers[counted], units))
        return found


def _counting(definition: Definition, frame: pd.DataFrame) -> BoolArray:
    """bool[n]: the rows that a definition counts, whenever they were; none without its columns."""
    counts = np.ones(len(frame), dtype=bool)
    for column, wanted in definition.where.items():
        there = column in frame
        counts &= frame[column].isin(wanted).to_numpy(dtype=bool) if there else False
    if definition.count not in ("rows", "days") and definition.count not in frame:
        counts[:] = False
    return counts


def _values(definition: Definition, frame: pd.DataFrame) -> npt.NDArray[np.uint64] | None:
    if definition.count in ("rows", "days"):
        return None
    if definition.count not in frame:
        return np.zeros(len(frame), dtype=np.uint64)
    return digests_of([frame[definition.count]], len(frame))
