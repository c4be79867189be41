"""Recency, frequency and monetary value: each customer's score from 1 to 5 in each.

A score is the place among cuts: four values between which a fifth of the customers lie each. Cuts
are the region's own, or given from outside, such as quantiles that were released over all regions
under differential privacy (`common.analytics.cuts.Cuts`), so that a 5 means the same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.canonical_json import JsonValue
from common.errors import FormatError, InputError
from common.toml_file import read_toml

#: The best score; the worst is 1.
BEST = 5
SHARES = (0.2, 0.4, 0.6, 0.8)
REGIONAL = "regional"
_MAX_FILE_BYTES = 1 << 16

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Cuts:
    """Four ascending values for each of recency, frequency and monetary value.

    Attributes:
        recency: Days since the last purchase: few are good.
        frequency: Days with a purchase in a year.
        monetary: What was paid in a year; empty where amounts are not known.
        source: Whose customers they are of: `REGIONAL`, or what a file of cuts says.
        released: Whether they were released under differential privacy: only such cuts may be told
            to a customer, as all others say something exact about other customers.
        own_monetary: Whether those of monetary value are the region's own all the same, as the
            others' file had none: nobody is told them.
    """

    recency: tuple[float, ...]
    frequency: tuple[float, ...]
    monetary: tuple[float, ...]
    source: str = REGIONAL
    released: bool = False
    own_monetary: bool = False

    @property
    def from_outside(self) -> Cuts | None:
        """These cuts as far as they are not the region's own: builds keep to them."""
        if self.source == REGIONAL:
            return None
        return replace(self, monetary=(), own_monetary=False) if self.own_monetary else self

    def with_own(self, own: Cuts) -> Cuts:
        """With the region's own cuts of monetary value where these have none."""
        if self.monetary or not own.monetary:
            return self
        return replace(self, monetary=own.monetary, own_monetary=True)

    def may_be_told(self, kind: str) -> bool:
        """Whether a customer may be told her score: ``recency``, ``frequency`` or ``monetary``."""
        return self.released and not (kind == "monetary" and self.own_monetary)

    @classmethod
    def of_customers(
        cls, recency: FloatArray, frequency: FloatArray, monetary: FloatArray | None
    ) -> Cuts:
        """The cuts of customers who bought something in the last year; none if there are none."""

        def cut(values: FloatArray | None) -> tuple[float, ...]:
            known = np.zeros(0) if values is None else values[np.isfinite(values)]
            return tuple(np.quantile(known, SHARES).tolist()) if len(known) else ()

        return cls(cut(recency), cut(frequency), cut(monetary))

    def scores(self, values: FloatArray, kind: str) -> FloatArray:
        """float64[n]: 1 to 5; NaN where the value is not known or there are no cuts.

        Args:
            values: Of each customer.
            kind: ``recency``, ``frequency`` or ``monetary``.
        """
        cuts = np.array(getattr(self, kind), dtype=np.float64)
        if not len(cuts):
            return np.full(len(values), np.nan)
        if kind == "recency":
            # As many days as a cut are still on its better side.
            place = BEST - np.searchsorted(cuts, values, side="left")
        else:
            place = 1 + np.searchsorted(cuts, values, side="left")
        return np.where(np.isfinite(values), place.astype(np.float64), np.nan)

    def to_record(self) -> dict[str, JsonValue]:
        """As JSON values; `of_record` reads it."""
        numbers: dict[str, JsonValue] = {
            kind: [repr(float(value)) for value in getattr(self, kind)]
            for kind in ("recency", "frequency", "monetary")
        }
        return {
            **numbers,
            "source": self.source,
            "released": self.released,
            "own_monetary": self.own_monetary,
        }

    @classmethod
    def of_record(cls, record: Mapping[str, JsonValue]) -> Cuts:
        """Reads what `to_record` gave.

        Raises:
            FormatError: It is nothing like it.
        """
        try:
            kinds = {kind: record[kind] for kind in ("recency", "frequency", "monetary")}
            numbers = {
                kind: tuple(float(str(value)) for value in values)
                for kind, values in kinds.items()
                if isinstance(values, list)
            }
            return cls(
                **numbers,
                source=str(record["source"]),
                released=bool(record["released"]),
                own_monetary=bool(record["own_monetary"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"Cuts of profiles are malformed: {error!r}.") from error


def read_cuts(path: Path) -> Cuts:
    """Reads cuts that were given from outside (TOML).

    Fields: ``recency`` and ``frequency`` (and ``monetary``, which may be left out), four ascending
    numbers each, ``source``, and ``released``: whether they were released under differential
    privacy.

    Raises:
        InputError: The file cannot be read, or a field is wrong: names file and field.
    """
    values = read_toml(
        path,
        "The cuts",
        max_bytes=_MAX_FILE_BYTES,
        remedy="Name a file that fedpref-server answers --cuts wrote.",
    )
    unknown = values.keys() - {"recency", "frequency", "monetary", "source", "released"}
    if unknown or type(values.get("source")) is not str or type(values.get("released")) is not bool:
        raise _wrong(path, min(unknown) if unknown else "source or released")
    kinds = {kind: _four(values.get(kind), path, kind) for kind in ("recency", "frequency")}
    monetary = _four(values["monetary"], path, "monetary") if "monetary" in values else ()
    return Cuts(
        kinds["recency"], kinds["frequency"], monetary, values["source"], values["released"]
    )


def _four(value: object, path: Path, kind: str) -> tuple[float, ...]:
    numbers = value if isinstance(value, list) else []
    if len(numbers) != len(SHARES) or not all(type(each) in (int, float) for each in numbers):
        raise _wrong(path, kind)
    if not all(map(math.isfinite, numbers)) or not all(one < two for one, two in pairwise(numbers)):
        raise _wrong(path, kind)
    return tuple(float(each) for each in numbers)


def _wrong(path: Path, field: str) -> InputError:
    return InputError(
        f"The cuts {path}: {field} is missing, unknown or malformed.",
        remedy="Give recency and frequency (and monetary) as four ascending numbers each, source "
        "as text, and released as true or false.",
    )
