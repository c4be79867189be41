"""Rows of a region's further tables beside the purchases of the same customers, as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from common.errors import InputError

#: In the place of a text that a row does not have.
NONE = -1

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Texts:
    """A column of text.

    Attributes:
        codes: int32[n], each row's text as a position in `labels`, or `NONE`.
        labels: The distinct texts, those of rows that are not here among them.
    """

    codes: IntArray = field(repr=False)
    labels: tuple[str, ...] = field(repr=False)

    def take(self, kept: BoolArray) -> Texts:
        """The marked rows."""
        return Texts(self.codes[kept], self.labels)

    def among(self, names: Sequence[str]) -> LongArray:
        """int64[n]: each row's text as a position among public names; `NONE` for any other."""
        place = {name: number for number, name in enumerate(names)}
        found = [place.get(label, NONE) for label in self.labels]
        return np.array([*found, NONE], dtype=np.int64)[self.codes]


@dataclass(frozen=True, eq=False)
class TableRows:
    """Rows of one table, of some customers.

    Attributes:
        owner: int32[n], each row's customer as a position among the owners of the purchases that
            the rows lie beside.
        time_ms: int64[n], when, milliseconds since the epoch.
        texts: The columns of text, by name.
        numbers: The columns of numbers, by name: float64[n], NaN where a row has none.
    """

    owner: IntArray = field(repr=False)
    time_ms: LongArray = field(repr=False)
    texts: Mapping[str, Texts] = field(repr=False)
    numbers: Mapping[str, FloatArray] = field(repr=False)

    def __len__(self) -> int:
        return len(self.owner)

    def take(self, kept: BoolArray) -> TableRows:
        """The marked rows."""
        return TableRows(
            self.owner[kept],
            self.time_ms[kept],
            {name: each.take(kept) for name, each in self.texts.items()},
            {name: each[kept] for name, each in self.numbers.items()},
        )

    def text(self, name: str) -> Texts:
        """A column of text.

        Raises:
            InputError: There is none of this name.
        """
        if name not in self.texts:
            raise InputError(f"The rows have no column {name!r}.")
        return self.texts[name]

    def number(self, name: str) -> FloatArray:
        """A column of numbers.

        Raises:
            InputError: There is none of this name.
        """
        if name not in self.numbers:
            raise InputError(f"The rows have no column {name!r}.")
        return self.numbers[name]
