"""Terms that mean one thing everywhere: which customers a definition of the standards is about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from client.data.standards_fields import Definition

BoolArray = npt.NDArray[np.bool_]
LongArray = npt.NDArray[np.int64]

DAY_MS = 86_400_000


def counted_rows(
    definition: Definition,
    column: Callable[[str], pd.Series[Any]],
    times_ms: LongArray,
    now_ms: int,
) -> BoolArray:
    """bool[n]: the rows that count for a definition: within its days, and of what it names.

    Args:
        definition: The definition.
        column: Gives a column of the table by its name.
        times_ms: int64[n], when each row was, in milliseconds since the epoch.
        now_ms: The moment that is asked for.
    """
    begin_ms = now_ms - definition.within_days * DAY_MS
    counts: BoolArray = (times_ms > begin_ms) & (times_ms <= now_ms)
    for name, values in definition.where.items():
        counts &= column(name).isin(values).to_numpy(dtype=bool)
    return counts


def units_of(
    definition: Definition, times_ms: LongArray, values: npt.NDArray[Any] | None
) -> npt.NDArray[Any]:
    """What is counted of each row: itself, its day (UTC), or a column's value.

    Args:
        definition: The definition.
        times_ms: int64[n], when each row was, in milliseconds since the epoch.
        values: The column that the definition counts the distinct values of, if it names one.
    """
    if definition.count == "rows":
        return np.arange(len(times_ms))
    if definition.count == "days":
        return times_ms // DAY_MS
    if values is None:
        raise ValueError(f"the definition counts {definition.count}, which was not given")
    return values


def holders(
    definition: Definition, customer: npt.NDArray[Any], units: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """The customers whom a definition is about, each once, ascending.

    Args:
        definition: The definition.
        customer: [n], whose each row is, of those that count.
        units: [n], what is counted of each (`units_of`).
    """
    if not len(customer):
        return customer
    pairs = pd.DataFrame({"customer": customer, "unit": units}, copy=False).drop_duplicates()
    whose, count = np.unique(pairs["customer"].to_numpy(), return_counts=True)
    found: npt.NDArray[Any] = whose[count >= definition.at_least]
    return found


def meets(
    definition: Definition, rows: Mapping[str, pd.Series[Any]], *, now_ms: int
) -> npt.NDArray[Any]:
    """The customers of a table whom a definition is about, as the table refers to them, sorted.

    Args:
        definition: The definition.
        rows: The table's columns: ``customer``, ``time`` and those that the definition names.
        now_ms: The moment that is asked for, in milliseconds since the epoch.
    """
    times_ms = pd.Series(rows["time"]).to_numpy(dtype="datetime64[ms]").astype(np.int64)
    counts = counted_rows(definition, lambda name: rows[name], times_ms, now_ms)
    named = definition.count not in ("rows", "days")
    values = np.asarray(rows[definition.count].astype(str))[counts] if named else None
    customer = np.asarray(rows["customer"].astype(str))[counts]
    return holders(definition, customer, units_of(definition, times_ms[counts], values))
