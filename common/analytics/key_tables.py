"""Released keys to be read: of one region, or the union of what several released, with intervals.

A region that has not released a key may have it all the same, below its threshold. So what the
regions' counts come to is a lower bound of how many customers have it, unless all of them released
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from common.analytics.array_names import region_array
from common.analytics.estimates import LEVEL, Estimates, FloatArray
from common.analytics.key_arrays import Arrays, key_specs, unpacked_keys
from common.analytics.key_union import KeyUnion
from common.analytics.lines import Line

#: Of keys, so many are shown: the largest.
MOST_SHOWN = 50
#: What is said where no key is released, which does not say that there is none.
NONE_RELEASED = "none that enough customers have"


@dataclass(frozen=True, eq=False)
class KeyTable:
    """Keys, and the values that regions released of each.

    Attributes:
        keys: The keys, in the order of their bytes.
        values: float64[keys, regions], not a number where a region has not released a key.
    """

    keys: tuple[str, ...]
    values: FloatArray = field(repr=False)

    def is_full(self, question: KeyUnion) -> bool:
        """Whether a region had room for no more keys: others of its may have passed, too."""
        return int(np.isfinite(self.values).sum(axis=0).max(initial=0)) >= question.keys

    @property
    def releasing(self) -> list[int]:
        """In how many regions each key was released."""
        return [int(each) for each in np.isfinite(self.values).sum(axis=1).tolist()]

    @property
    def sums(self) -> FloatArray:
        """float64[keys]: what the released values of each key come to."""
        sums: FloatArray = np.nansum(self.values, axis=1)
        return sums

    def read(self, question: KeyUnion, noise_stddev: float, *, level: float = LEVEL) -> Estimates:
        """How many customers have each key, in the regions that released it.

        The interval of a sum is put together from the intervals of its parts, which are independent
        and need not be symmetric (Zou and Donner, "Construction of confidence limits about effect
        measures", 2008).

        Args:
            question: What was asked.
            noise_stddev: Standard deviation of the noise in each region's value.
            level: How often an interval shall cover the truth.
        """
        known = np.isfinite(self.values)
        parts = question.read(self.values[known], noise_stddev, level=level)
        down, up, value = (np.zeros(self.values.shape) for _ in range(3))
        value[known] = parts.value
        down[known] = (parts.value - parts.low) ** 2
        up[known] = (parts.high - parts.value) ** 2
        total = value.sum(axis=1)
        low = total - np.sqrt(down.sum(axis=1))
        return Estimates(total, np.maximum(low, 1.0), total + np.sqrt(up.sum(axis=1)), level)


def key_table(question: KeyUnion, regions: Sequence[str], arrays: Arrays) -> KeyTable:
    """What some regions released of keys, as published.

    Args:
        question: What was asked.
        regions: The regions.
        arrays: A run's published arrays, each region's under `region_array`.

    Raises:
        KeyError: A region's array is missing.
        ValueError: An array has another shape or type.
        FormatError: Arrays are not of the form of keys.
    """
    found: dict[str, FloatArray] = {}
    for place, region in enumerate(regions):
        own = {spec.name: arrays[region_array(region, spec.name)] for spec in key_specs(question)}
        for spec in key_specs(question):
            if (own[spec.name].dtype.str, own[spec.name].shape) != (spec.dtype, spec.shape):
                raise ValueError(f"an array of {question.name} has another shape or type")
        for key, value in zip(*_released(question, own), strict=True):
            row = found.setdefault(key, np.full(len(regions), np.nan))
            row[place] = value
    keys = sorted(found, key=str.encode)
    rows = [found[key] for key in keys]
    return KeyTable(tuple(keys), np.array(rows).reshape(len(keys), len(regions)))


def _released(question: KeyUnion, own: Arrays) -> tuple[tuple[str, ...], list[float]]:
    keys, values = unpacked_keys(question, own)
    return keys, values.tolist()


def key_lines(
    question: KeyUnion, table: KeyTable, noise_stddev: float, *, level: float = LEVEL
) -> list[Line]:
    """An answer's lines: the keys that most customers have, and what is to be said besides.

    Args:
        question: What was asked.
        table: The released keys.
        noise_stddev: Standard deviation of the noise in each region's value.
        level: How often an interval shall cover the truth.
    """
    found = table.read(question, noise_stddev, level=level)
    n_regions = table.values.shape[1]
    lines = []
    for place in np.argsort(-found.value, kind="stable")[:MOST_SHOWN].tolist():
        releasing, high = table.releasing[place], float(found.high[place])
        everywhere = releasing == n_regions
        note = "" if n_regions == 1 else f"in {releasing} of {n_regions} regions"
        lines.append(
            Line(
                table.keys[place],
                float(found.value[place]),
                float(found.low[place]),
                high if everywhere else None,
                "customers",
                note if everywhere else f"at least: {note}",
            )
        )
    if not lines:
        lines.append(Line("no key", None, None, None, "customers", NONE_RELEASED))
    if table.is_full(question):
        note = f"{question.keys} keys of a region: others may have passed, too"
        lines.append(Line("no room for more", None, None, None, "customers", note))
    return lines
