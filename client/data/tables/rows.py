"""From a table's rows, as its store wrote them, to canonical ones: what is wrong is counted.

A value that its column may not hold leaves its row out, under a reason that names the column; a row
that is wrong for two reasons counts under both and is left out once. What is not there, where it
need not be, is null. Whose key nobody has registered is nobody's mistake: such rows are counted
apart. Standards, treatment and scores are the work of quality governance, on top of this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from client.data.canonicalise import as_numbers, as_references, as_times
from client.data.customer_keys import CustomerKeys
from client.data.tables.declaration import TableConfig
from client.data.tables.schema import FEEDBACK, SCALES, Column, TableSchema
from common.canonical_json import JsonValue

BoolArray = npt.NDArray[np.bool_]

TEXT = pa.dictionary(pa.int32(), pa.string())
TIME = pa.timestamp("ms", "UTC")
#: Beyond these a moment is a mistake, whatever it is of.
FIRST_MOMENT = pd.Timestamp("1900-01-01", tz="UTC")
#: Clocks of tills and phones differ from the region's by less.
CLOCK_SLACK_MS = 86_400_000


@dataclass(frozen=True)
class TableCounts:
    """What was read of a table.

    Attributes:
        read: All rows.
        unmatched: Rows of customers whom the region's map of keys does not have; they are left out
            and lower no score.
        accepted: The rows that are left.
        reasons: Reason → rows that were left out for it.
        guessed: In how many of the rows that the standards let pass treatment guessed a value.
    """

    read: int = 0
    unmatched: int = 0
    accepted: int = 0
    reasons: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    guessed: int = 0

    def __add__(self, other: TableCounts) -> TableCounts:
        return TableCounts(
            self.read + other.read,
            self.unmatched + other.unmatched,
            self.accepted + other.accepted,
            MappingProxyType(dict(Counter(self.reasons) + Counter(other.reasons))),
            self.guessed + other.guessed,
        )

    def without(self, reason: str, rows: int) -> TableCounts:
        """Of the accepted rows so many are left out after all."""
        if not rows:
            return self
        return TableCounts(0, 0, -rows, {reason: rows}) + self

    @property
    def score(self) -> float:
        """Accepted rows, of those that are of known customers; 1 where there are none."""
        known = self.read - self.unmatched
        return self.accepted / known if known else 1.0

    def to_record(self) -> dict[str, JsonValue]:
        """As canonical JSON values."""
        by_count = sorted(self.reasons.items(), key=lambda each: (-each[1], each[0]))
        return {
            "read": self.read,
            "unmatched": self.unmatched,
            "accepted": self.accepted,
            "reasons": dict(by_count),
            "score": f"{self.score:.6f}",
        }


def arrow_schema(schema: TableSchema) -> pa.Schema:
    """The types of a canonical table's columns."""
    types = {"time": TIME, "number": pa.float64(), "whole": pa.float64()}
    return pa.schema([(name, types.get(each.holds, TEXT)) for name, each in schema.columns.items()])


class RowReader:
    """Reads the rows of one place of a table.

    Args:
        schema: The canonical table.
        config: How the place is declared.
        keys: The region's map of keys, where the place's customers are a channel's.
    """

    def __init__(self, schema: TableSchema, config: TableConfig, keys: CustomerKeys | None) -> None:
        self._schema = schema
        self._config = config
        self._keys = keys

    def read(self, raw: pa.Table, origin: str, now_ms: int) -> tuple[pa.Table, TableCounts]:
        """Makes canonical rows.

        Args:
            raw: The mapped columns, under the place's own names.
            origin: Where they are from, for messages.
            now_ms: The time, milliseconds since the epoch: what happened later than a day from now
                did not happen.

        Returns:
            All columns of the canonical table, those that are not mapped null; and the counts.

        Raises:
            InputError: A column has a type that its meaning does not allow.
        """
        batch = _Batch(raw.num_rows)
        arrays: dict[str, pa.Array | None] = {}
        for name, column in self._schema.columns.items():
            place = self._config.columns.get(name)
            if place is None:
                arrays[name] = None
                continue
            where = f"{origin}, column {place!r} ({name})"
            arrays[name] = self._column(name, column, raw.column(place), where, batch, now_ms)
        if self._schema.name == FEEDBACK:
            _judge_scales(arrays, batch)
        kept = pa.array(batch.kept & ~batch.unmatched)
        wanted = arrow_schema(self._schema)
        columns = [
            pa.nulls(raw.num_rows, each.type) if array is None else array
            for each, array in zip(wanted, arrays.values(), strict=True)
        ]
        table = pa.table(columns, schema=wanted).filter(kept)
        reasons = MappingProxyType({name: n for name, n in batch.reasons.items() if n})
        unmatched = int((batch.unmatched & batch.kept).sum())
        return table, TableCounts(raw.num_rows, unmatched, table.num_rows, reasons)

    def _column(
        self,
        name: str,
        column: Column,
        raw: pa.ChunkedArray,
        where: str,
        batch: _Batch,
        now_ms: int,
    ) -> pa.Array:
        if column.holds == "time":
            moments = as_times(raw, self._config, where).reset_index(drop=True)
            self._judge_times(name, column, raw, moments, batch, now_ms)
            return pa.array(moments.dt.floor("ms"), pa.timestamp("us", "UTC")).cast(TIME)
        if column.holds in ("number", "whole"):
            numbers = as_numbers(raw, len(raw), where)
            self._judge_numbers(name, column, raw, numbers, batch)
            return pa.array(numbers, pa.float64(), from_pandas=True)
        texts = as_references(raw, len(raw), where)
        if column.required:
            batch.refuse(f"{name}-missing", np.asarray(texts.isna()))
        if column.holds == "code":
            texts = self._codes(name, column, texts, batch)
        channel = self._config.channel
        if name == "customer" and channel is not None and self._keys is not None:
            unified = self._keys.unify(channel, texts)
            batch.unmatched |= unified.unmatched
            batch.refuse("customer-ambiguous", unified.ambiguous)
            texts = unified.customers
        return _dictionary(texts)

    def _codes(
        self, name: str, column: Column, texts: pd.Categorical, batch: _Batch
    ) -> pd.Categorical:
        """The canonical codes; those that are not known are refused."""
        stated = self._config.codes.get(name, {})
        known = column.codes or tuple(stated.values())
        found: list[str | None] = []
        for text in texts.categories.tolist():
            code = stated.get(text, text)
            found.append(code if not known or code in known else None)
        codes, names = pd.factorize(np.array([*found, None], dtype=object))
        by_row = np.append(codes[:-1], -1)[texts.codes]
        batch.refuse(f"{name}-unknown", np.asarray(texts.codes >= 0) & (by_row < 0))
        return pd.Categorical.from_codes(by_row, categories=pd.Index(names, dtype="str"))

    def _judge_times(
        self,
        name: str,
        column: Column,
        raw: pa.ChunkedArray,
        moments: pd.Series[Any],
        batch: _Batch,
        now_ms: int,
    ) -> None:
        missing, given = moments.isna().to_numpy(), _given(raw)
        batch.refuse(f"{name}-unreadable", missing & given)
        if column.required:
            batch.refuse(f"{name}-missing", ~given)
        impossible = moments < FIRST_MOMENT
        if column.past:
            impossible |= moments > pd.Timestamp(now_ms + CLOCK_SLACK_MS, unit="ms", tz="UTC")
        batch.refuse(f"{name}-impossible", impossible.to_numpy())

    def _judge_numbers(
        self,
        name: str,
        column: Column,
        raw: pa.ChunkedArray,
        numbers: npt.NDArray[np.float64],
        batch: _Batch,
    ) -> None:
        missing, given = np.isnan(numbers), _given(raw)
        fraction = column.holds == "whole"
        with np.errstate(invalid="ignore"):
            broken = fraction & ~missing & (numbers != np.floor(numbers))
        batch.refuse(f"{name}-unreadable", (missing & given) | broken)
        if column.required:
            batch.refuse(f"{name}-missing", ~given)
        low = -np.inf if column.least is None else column.least
        high = np.inf if column.most is None else column.most
        batch.refuse(f"{name}-out-of-range", ~missing & ~((numbers >= low) & (numbers <= high)))


class _Batch:
    """What becomes of the rows of a batch.

    Args:
        n_rows: How many there are.
    """

    def __init__(self, n_rows: int) -> None:
        self.kept: BoolArray = np.ones(n_rows, dtype=bool)
        self.unmatched: BoolArray = np.zeros(n_rows, dtype=bool)
        self.reasons: Counter[str] = Counter()

    def refuse(self, reason: str, rows: BoolArray) -> None:
        """Leaves rows out."""
        self.kept &= ~rows
        self.reasons[reason] += int(rows.sum())


def _judge_scales(arrays: Mapping[str, pa.Array | None], batch: _Batch) -> None:
    """Refuses answers that their kind of feedback has no place for."""
    kinds, scores = arrays["kind"], arrays["score"]
    if kinds is None or scores is None:
        return
    codes = kinds.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    scales = [SCALES.get(each, (-np.inf, np.inf)) for each in kinds.dictionary.to_pylist()]
    low, high = np.array([*scales, (-np.inf, np.inf)]).T[:, codes]
    score = scores.to_numpy(zero_copy_only=False)
    batch.refuse("score-off-scale", (score < low) | (score > high))


def _given(raw: pa.ChunkedArray) -> BoolArray:
    """bool[n]: where something is written, whether it can be read or not."""
    column = raw.cast(raw.type.value_type) if pa.types.is_dictionary(raw.type) else raw
    given = np.asarray(pc.is_valid(column))
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        blank = pc.equal(pc.utf8_trim_whitespace(column), "")
        given &= ~np.asarray(blank.fill_null(False))
    return given


def _dictionary(texts: pd.Categorical) -> pa.DictionaryArray:
    codes = np.asarray(texts.codes).astype(np.int32)
    return pa.DictionaryArray.from_arrays(
        pa.array(codes, pa.int32(), mask=codes < 0),
        pa.array(texts.categories.tolist(), pa.string()),
    )
