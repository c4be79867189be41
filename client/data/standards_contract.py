"""Contracts made from the standards: what a pandera schema checks of each row, and why it fails.

A check is one reason, and its name is the reason's code: the column's name and the fault. What is
not a matter of the typed value alone (whether it could be read, whether the catalogue has it, a
rule across columns) is marked beforehand in a column of its own, which the schema demands to be
true.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pandera.pandas as pandera
from pandera.errors import SchemaErrors

from client.data.standards_fields import NOW, ColumnStandard, RowRule, TableStandard
from client.data.standards_values import TypedRows
from common.errors import QualityGateError

BoolArray = npt.NDArray[np.bool_]

MISSING, UNREADABLE, GARBLED = "missing", "unreadable", "mixed-encoding"
OUT_OF_RANGE, UNKNOWN_CODE, MALFORMED = "out-of-range", "unknown-code", "malformed"
NOT_FOUND, SET_ASIDE = "not-found", "implausible"
#: What can be wrong with a value; a reason is its column, a dash, and one of these.
FAULTS = (
    MISSING,
    UNREADABLE,
    GARBLED,
    OUT_OF_RANGE,
    UNKNOWN_CODE,
    MALFORMED,
    NOT_FOUND,
    SET_ASIDE,
)
#: Clocks of tills and phones differ from the region's by less.
CLOCK_SLACK_MS = 86_400_000

_DTYPES = {
    **dict.fromkeys(("reference", "code", "text"), "category"),
    **dict.fromkeys(("integer", "number"), "float64"),
    "time": "datetime64[us, UTC]",
    "flag": "boolean",
}


@dataclass(frozen=True)
class Judgement:
    """What a contract says of some rows.

    Attributes:
        passed: bool[n], the rows that keep it.
        reasons: Reason → rows that fail for it; a row may fail for several.
    """

    passed: BoolArray = field(repr=False)
    reasons: Counter[str]


def reason(column: str, fault: str) -> str:
    """What a fault of a column is counted under."""
    return f"{column}-{fault}".replace("_", "-")


class RowContract:
    """The contract of a table's rows.

    Args:
        standard: The table's standard.
        now_ms: The time, in milliseconds since the epoch.
        known: For each table.column that is at hand, the values that it has.
    """

    def __init__(
        self, standard: TableStandard, now_ms: int, known: Mapping[str, Collection[str]]
    ) -> None:
        self._standard = standard
        self._now_ms = now_ms
        self._known = known
        self._schemas: dict[tuple[frozenset[str], frozenset[str]], pandera.DataFrameSchema] = {}

    def judge(
        self, rows: TypedRows, set_aside: Mapping[str, BoolArray], *, origin: str
    ) -> Judgement:
        """Holds rows to the contract.

        Args:
            rows: The rows, treated.
            set_aside: For columns with such outliers, bool[n]: whose value is one.
            origin: Where the rows come from, for messages.

        Raises:
            QualityGateError: The contract cannot be applied to the rows.
        """
        marks = _marks(rows, self._standard, self._known, set_aside)
        frame = rows.frame.assign(**marks)
        passed = np.ones(len(frame), dtype=bool)
        try:
            self._schema(frozenset(rows.columns), frozenset(marks)).validate(frame, lazy=True)
        except SchemaErrors as error:
            cases = error.failure_cases
            if cases["index"].isna().any():
                broken = cases[cases["index"].isna()].iloc[0]
                raise QualityGateError(
                    f"{origin}: the contract cannot be applied to {broken['column']}: "
                    f"{broken['check']}.",
                    remedy="Report this: the columns are not what the reading promised.",
                ) from None  # the original repeats values
            passed[cases["index"].to_numpy(dtype=np.int64)] = False
            counts = cases["check"].value_counts()
            return Judgement(passed, Counter({str(name): int(n) for name, n in counts.items()}))
        return Judgement(passed, Counter())

    def _schema(self, mapped: frozenset[str], marks: frozenset[str]) -> pandera.DataFrameSchema:
        if (mapped, marks) not in self._schemas:
            made = contract(self._standard, mapped, marks, self._now_ms)
            self._schemas[mapped, marks] = made
        return self._schemas[mapped, marks]


def contract(
    standard: TableStandard, mapped: Collection[str], marks: Collection[str], now_ms: int
) -> pandera.DataFrameSchema:
    """The pandera schema of a table.

    Args:
        standard: Its standard.
        mapped: The columns that there are.
        marks: Reasons whose columns say, row by row, that there is no such fault.
        now_ms: What ``now`` is, in milliseconds since the epoch.
    """
    columns = {
        name: pandera.Column(
            _DTYPES[column.type], _checks(name, column, now_ms), nullable=True, required=True
        )
        for name, column in standard.columns.items()
        if name in mapped
    }
    for mark in marks:
        columns[mark] = pandera.Column("bool", pandera.Check(_holds, name=mark))
    return pandera.DataFrameSchema(columns, strict=True)


def _holds(flags: pd.Series[Any]) -> pd.Series[Any]:
    return flags


def _checks(name: str, column: ColumnStandard, now_ms: int) -> list[pandera.Check]:
    """The checks of a column's values; nulls pass, they are the business of a mark."""
    checks = []
    if column.range is not None:
        low, high = (_end(bound, now_ms) for bound in column.range)

        def within(values: pd.Series[Any]) -> pd.Series[Any]:
            inside = pd.Series(True, index=values.index)
            if low is not None:
                inside &= values >= low
            if high is not None:
                inside &= values <= high
            return inside

        checks.append(pandera.Check(within, name=reason(name, OUT_OF_RANGE), ignore_na=True))
    if column.codes is not None:
        codes = column.codes
        checks.append(
            pandera.Check(
                lambda values: values.isin(codes), name=reason(name, UNKNOWN_CODE), ignore_na=True
            )
        )
    if column.pattern is not None:
        form = re.compile(column.pattern)
        checks.append(
            pandera.Check(
                lambda values: _by_text(values, lambda text: form.fullmatch(text) is not None),
                name=reason(name, MALFORMED),
                ignore_na=True,
            )
        )
    return checks


def _by_text(values: pd.Series[Any], holds: Any) -> pd.Series[Any]:
    """A check of texts, asked once for each distinct one."""
    by_code = np.array([*(holds(text) for text in values.cat.categories), True], dtype=bool)
    return pd.Series(by_code[values.cat.codes.to_numpy()], index=values.index)


def _end(bound: float | datetime | str | None, now_ms: int) -> float | pd.Timestamp | None:
    if bound == NOW:
        return pd.Timestamp(now_ms + CLOCK_SLACK_MS, unit="ms", tz="UTC")
    if isinstance(bound, datetime):
        return pd.Timestamp(bound).tz_convert("UTC")
    return bound if isinstance(bound, float) else None


def _marks(
    rows: TypedRows,
    standard: TableStandard,
    known: Mapping[str, Collection[str]],
    set_aside: Mapping[str, BoolArray],
) -> dict[str, BoolArray]:
    """By reason, bool[n]: that a row has no such fault. Faults that no row has are left out."""
    faults: dict[str, BoolArray] = {}
    for name, column in standard.columns.items():
        if name not in rows.frame:
            continue
        values, unreadable = rows.frame[name], rows.unreadable[name]
        faults[reason(name, UNREADABLE)] = unreadable
        if column.needed:
            faults[reason(name, MISSING)] = values.isna().to_numpy() & ~unreadable
        if name in rows.garbled:
            faults[reason(name, GARBLED)] = rows.garbled[name]
        if column.known_in is not None and column.known_in in known:
            faults[reason(name, NOT_FOUND)] = _unknown(values, known[column.known_in])
        if name in set_aside:
            faults[reason(name, SET_ASIDE)] = set_aside[name]
    for rule in standard.rules:
        if rule.named <= set(rows.columns):
            faults[rule.name] = _breaks(rows.frame, rule)
    return {name: ~fault for name, fault in faults.items() if fault.any()}


def _unknown(values: pd.Series[Any], known: Collection[str]) -> BoolArray:
    by_code = np.array([*(text not in known for text in values.cat.categories), False], dtype=bool)
    found: BoolArray = by_code[values.cat.codes.to_numpy()]
    return found


def _breaks(frame: pd.DataFrame, rule: RowRule) -> BoolArray:
    """bool[n]: the rows that break a rule across columns."""
    meant = np.ones(len(frame), dtype=bool)
    for name, wanted in rule.when.items():
        meant &= frame[name].isin(wanted).to_numpy(dtype=bool)
    broken = np.zeros(len(frame), dtype=bool)
    if rule.column is not None:
        values = frame[rule.column]
        absent = values.isna().to_numpy()
        if rule.filled:
            broken |= absent
        if rule.range is not None:
            low, high = (end if isinstance(end, float) else None for end in rule.range)
            number = values.to_numpy(dtype=np.float64)
            inside = np.ones(len(frame), dtype=bool)
            if low is not None:
                inside &= number >= low
            if high is not None:
                inside &= number <= high
            broken |= ~absent & ~inside
    for earlier, later in zip(rule.ascending, rule.ascending[1:], strict=False):
        both = frame[earlier].notna() & frame[later].notna()
        broken |= (both & (frame[earlier] > frame[later])).to_numpy(dtype=bool)
    return meant & broken
