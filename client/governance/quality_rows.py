"""Treatment of single rows by the standards: read, filled in, fenced, held to the contract.

What becomes of a row depends on the row and on what the standards and the catalogue say, never on
other rows: so a statistic over treated rows has the sensitivity that it would have over those of
the store. What takes several rows of one customer is in `quality_repeats`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from client.data.row_checks import digests_of
from client.data.source_config import Reading
from client.data.standards_contract import RowContract
from client.data.standards_fields import ColumnStandard, TableStandard
from client.data.standards_values import TypedRows, read_values
from client.governance.quality_changes import SCHEMA, Treatment, Undone, changes_of
from common.timestamps import now_ms

BoolArray = npt.NDArray[np.bool_]
DigestArray = npt.NDArray[np.uint64]

# What ``now`` is in a contract may be so old; well within the slack that clocks have.
_STALE_MS = 3_600_000


@dataclass(frozen=True)
class Surroundings:
    """What rows are judged by besides their standard.

    Attributes:
        clock_ms: The time, in milliseconds since the epoch.
        missing: Texts that stand for a missing value.
        known: For each table.column that is at hand, the values that it has.
        lookups: For each table.column that is at hand, what it says of each item.
        undone: What is not to be treated.
    """

    clock_ms: Callable[[], int] = now_ms
    missing: tuple[str, ...] = ()
    known: Mapping[str, Collection[str]] = field(default_factory=dict)
    lookups: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    undone: Undone = field(default_factory=Undone)


@dataclass(frozen=True, eq=False)
class TreatedRows:
    """Rows after their treatment.

    Attributes:
        rows: What they say now.
        ids: uint64[n], what the journal knows each by: a digest of what it said before.
        passed: bool[n], which keep the contract.
        guessed: bool[n], in which a value was filled in or fenced.
        reasons: Reason → rows that fail for it.
        given: For each column, in how many rows there was something before treatment.
        changes: What was changed (`quality_changes.SCHEMA`).
    """

    rows: TypedRows
    ids: DigestArray = field(repr=False)
    passed: BoolArray = field(repr=False)
    guessed: BoolArray = field(repr=False)
    reasons: Counter[str]
    given: Mapping[str, int]
    changes: pa.Table = field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def guesses(self) -> int:
        """In how many of those that keep the contract a value was filled in or fenced."""
        return int((self.guessed & self.passed).sum())

    def kept(self) -> pa.Table:
        """The rows that keep the contract, each column of the Arrow type of its values."""
        return self.table().filter(pa.array(self.passed))

    def table(self) -> pa.Table:
        """All rows, likewise."""
        return pa.table({str(name): _arrow(each) for name, each in self.rows.frame.items()})


class RowTreatment:
    """Treats rows of one table.

    Args:
        table: The table's name.
        standard: Its standard.
        reading: How its times are written.
        around: What else rows are judged by.
    """

    def __init__(
        self, table: str, standard: TableStandard, reading: Reading, around: Surroundings
    ) -> None:
        self.table = table
        self.standard = standard
        self._reading = reading
        self._around = around
        self._made_ms = around.clock_ms()
        self._contract = RowContract(standard, self._made_ms, around.known)

    def apply(self, raw: pa.Table, *, origin: str) -> TreatedRows:
        """Treats a batch.

        Args:
            raw: Columns under their canonical names, as the store wrote them.
            origin: Where they come from, for messages.

        Raises:
            InputError: A required column is not there, or holds what its type cannot be.
            QualityGateError: The contract cannot be applied.
        """
        self._keep_time()
        batch = _Batch(
            self.table,
            read_values(
                raw, self.standard, self._reading, missing=self._around.missing, origin=origin
            ),
            self._around.undone,
        )
        for name, column in self.standard.columns.items():
            if name in batch.rows.frame:
                self._complete(batch, name, column)
                self._fence(batch, name, column)
        given = {
            name: int((~batch.untreated.frame[name].isna() | unreadable).sum())
            for name, unreadable in batch.untreated.unreadable.items()
        }
        judged = self._contract.judge(batch.rows, batch.set_aside, origin=origin)
        return TreatedRows(
            batch.rows,
            batch.ids,
            judged.passed,
            batch.guessed,
            judged.reasons,
            given,
            pa.concat_tables([SCHEMA.empty_table(), *batch.changes]),
        )

    def _keep_time(self) -> None:
        """Whoever follows a table for days judges by the clock of the day."""
        at_ms = self._around.clock_ms()
        if at_ms - self._made_ms > _STALE_MS:
            self._made_ms = at_ms
            self._contract = RowContract(self.standard, at_ms, self._around.known)

    def _complete(self, batch: _Batch, name: str, column: ColumnStandard) -> None:
        if column.complete is None:
            return
        absent = batch.rows.frame[name].isna().to_numpy() & ~batch.rows.unreadable[name]
        if column.complete.value is not None:
            batch.fill(name, absent, "completed", column.complete.value)
            return
        says = self._around.lookups.get(column.complete.lookup or "")
        if says is None or "item" not in batch.rows.frame:
            return
        items = batch.rows.frame["item"]
        by_code = np.array([*(says.get(text) for text in items.cat.categories), None], dtype=object)
        found = by_code[items.cat.codes.to_numpy()]
        batch.fill(name, absent & ~pd.isna(found), "looked-up", found)

    def _fence(self, batch: _Batch, name: str, column: ColumnStandard) -> None:
        outliers = column.outliers
        if outliers is None:
            return
        values = batch.rows.frame[name].to_numpy(dtype=np.float64)
        low = -np.inf if outliers.below is None else outliers.below
        high = np.inf if outliers.above is None else outliers.above
        beyond = (values < low) | (values > high)
        # What is not possible is no outlier: it is refused, not put to a fence.
        if column.range is not None:
            least, most = column.range
            beyond &= values >= (least if isinstance(least, float) else -np.inf)
            beyond &= values <= (most if isinstance(most, float) else np.inf)
        if outliers.treat == "clip":
            batch.clip(name, beyond, np.clip(values, low, high))
        else:
            batch.put_aside(name, beyond)


class _Batch:
    """Rows under treatment."""

    def __init__(self, table: str, rows: TypedRows, undone: Undone) -> None:
        self.untreated = rows
        self.rows = rows
        self.ids = row_ids(rows.frame)
        self.guessed: BoolArray = np.zeros(len(rows), dtype=bool)
        self.set_aside: dict[str, BoolArray] = {}
        self.changes: list[pa.Table] = []
        self._table = table
        self._undone = undone

    def fill(self, name: str, places: BoolArray, how: Treatment, value: Any) -> None:
        places = self._to_treat(name, places, how)
        if not places.any():
            return
        column = self.rows.frame[name]
        values = value[places] if isinstance(value, np.ndarray) else [value] * int(places.sum())
        if isinstance(column.dtype, pd.CategoricalDtype):
            new = pd.Index(pd.unique(np.array(values, dtype=object)))
            column = column.cat.add_categories(new.difference(column.cat.categories))
        else:
            column = column.copy()
        column.loc[places] = pd.Series(values, index=column.index[places], dtype=column.dtype)
        self._put(name, column)
        self.guessed |= places & (how == "completed")
        self.changes.append(
            changes_of(self.ids[places], how, name, after=(_text(each) for each in values))
        )

    def clip(self, name: str, places: BoolArray, clipped: npt.NDArray[np.float64]) -> None:
        places = self._to_treat(name, places, "clipped")
        if not places.any():
            return
        values = self.rows.frame[name].to_numpy(dtype=np.float64)
        self._put(name, pd.Series(np.where(places, clipped, values)))
        self.guessed |= places
        before = (_text(each) for each in values[places].tolist())
        after = (_text(each) for each in clipped[places].tolist())
        self.changes.append(changes_of(self.ids[places], "clipped", name, before, after))

    def put_aside(self, name: str, places: BoolArray) -> None:
        places = self._to_treat(name, places, "set-aside")
        if not places.any():
            return
        values = self.rows.frame[name].to_numpy(dtype=np.float64)[places]
        self.set_aside[name] = places
        before = (_text(each) for each in values.tolist())
        self.changes.append(changes_of(self.ids[places], "set-aside", name, before))

    def _to_treat(self, name: str, places: BoolArray, how: Treatment) -> BoolArray:
        if not places.any():
            return places
        return places & ~self._undone.covers(self._table, how, name, self.ids)

    def _put(self, name: str, column: pd.Series[Any]) -> None:
        self.rows = replace(self.rows, frame=self.rows.frame.assign(**{name: column}))


def row_ids(frame: pd.DataFrame, columns: Collection[str] | None = None) -> DigestArray:
    """uint64[n]: a digest of what each row says; the same for the same values at any time.

    Args:
        frame: Rows with the types of their standard.
        columns: Which columns count; None for all. Their order does not matter.
    """
    names = sorted(frame.columns if columns is None else columns)
    return digests_of((_hashable(frame[name]) for name in names), len(frame))


def _hashable(column: pd.Series[Any]) -> pd.Series[Any]:
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        # Microseconds since the epoch, which a float holds for 285 years around it.
        moments = column.to_numpy(dtype="datetime64[us]")
        numbers = moments.astype(np.int64).astype(np.float64)
        return pd.Series(np.where(np.isnat(moments), np.nan, numbers))
    return pd.Series(column.to_numpy(dtype=np.float64, na_value=np.nan))


def _arrow(column: pd.Series[Any]) -> pa.Array:
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes = column.cat.codes.to_numpy().astype(np.int32)
        return pa.DictionaryArray.from_arrays(
            pa.array(codes, pa.int32(), mask=codes < 0),
            pa.array(column.cat.categories.tolist(), pa.string()),
        )
    return pa.array(column, from_pandas=True)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.17g}" if isinstance(value, float) else str(value)
