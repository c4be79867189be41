"""The quality of one table, from its raw rows, batch by batch.

A row costs some fifty bytes until the end, whatever it says: what tells repeats and customers apart
are digests. So a table may be larger than memory is for its text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from client.data.row_checks import digests_of
from client.data.source_config import Reading
from client.data.standards_fields import Definition, TableStandard
from client.data.store_units import UNKNOWN, kind_of
from client.governance.quality_changes import SCHEMA, Treatment, changes_of
from client.governance.quality_repeats import RowFacts, joined, repeats, rows_beyond
from client.governance.quality_rows import RowTreatment, Surroundings, TreatedRows, row_ids
from client.governance.quality_score import ColumnQuality, TableQuality, faults_of
from client.governance.quality_terms import TermCounts
from common.timestamps import MAX_TIME_MS, format_time

BoolArray = npt.NDArray[np.bool_]
LongArray = npt.NDArray[np.int64]
DigestArray = npt.NDArray[np.uint64]

_NO_TIME = np.iinfo(np.int64).min
#: So many changes are kept in the journal; all are counted.
MAX_CHANGES = 2_000_000


class RawPlace(Protocol):
    """One place of a table's rows."""

    @property
    def origin(self) -> str:
        """What messages call it."""
        ...

    @property
    def reading(self) -> Reading:
        """How its times are written."""
        ...

    def batches(self) -> Iterator[pa.Table]:
        """Its rows, under canonical names, as the store wrote them.

        Raises:
            InputError: It cannot be read.
        """
        ...


@dataclass(frozen=True, eq=False)
class Examined:
    """What the examination of a table gave.

    Attributes:
        quality: Its quality.
        changes: What treatment changes (`quality_changes.SCHEMA`), as far as it is kept.
        meant: Definition → how many customers it is about, at the newest moment of the table.
        accepted: bool[n], the rows that are used, in the order in which they were read.
        spared: bool[n], those of them that say what another says, and are not to be left out.
    """

    quality: TableQuality
    changes: pa.Table = field(repr=False)
    meant: Mapping[str, int]
    accepted: BoolArray = field(repr=False)
    spared: BoolArray = field(repr=False)


@dataclass
class _Batches:
    """What is kept of batches."""

    terms: TermCounts
    facts: list[RowFacts] = field(default_factory=list)
    guessed: list[BoolArray] = field(default_factory=list)
    changes: list[pa.Table] = field(default_factory=list)
    n_changes: int = 0
    treatments: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    given: Counter[str] = field(default_factory=Counter)
    kinds: dict[str, str] = field(default_factory=dict)


class TableExamination:
    """Examines a table.

    Args:
        table: Its name.
        standard: Its standard.
        threshold: The least share of rows that must be right.
        around: What else rows are judged by.
        definitions: The definitions that are about this table, by name.
    """

    def __init__(
        self,
        table: str,
        standard: TableStandard,
        threshold: float,
        around: Surroundings,
        definitions: Mapping[str, Definition],
    ) -> None:
        self._table = table
        self._standard = standard
        self._threshold = threshold
        self._around = around
        self._definitions = definitions

    def examine(
        self,
        places: Iterable[RawPlace],
        sink: Callable[[RawPlace, TreatedRows], None] | None = None,
    ) -> Examined:
        """Reads and judges all places of the table.

        Args:
            places: Where its rows are.
            sink: Is given the rows as they are read, with their place.

        Raises:
            InputError: A place cannot be read, or is not what the standard says of its columns.
            QualityGateError: The contract cannot be applied.
        """
        kept = _Batches(TermCounts(self._definitions))
        origin = self._read(places, kept, sink)
        facts = joined(kept.facts)
        kept.facts.clear()
        repeated, replaced, spared = self._judge_repeats(kept, facts)
        counted = facts.passed & ~repeated & ~replaced
        beyond, bounded_customers = self._judge_bound(kept, facts, counted)
        accepted = counted & ~beyond
        quality = self._quality(
            kept,
            facts,
            accepted,
            origin=origin,
            beyond_bound=int(beyond.sum()),
            bounded_customers=bounded_customers,
            repeated=int((repeated | replaced).sum()),
        )
        changes = pa.concat_tables([SCHEMA.empty_table(), *kept.changes]).unify_dictionaries()
        meant = kept.terms.meant(facts, accepted)
        return Examined(quality, changes.slice(0, MAX_CHANGES), meant, accepted, spared & accepted)

    def _read(
        self,
        places: Iterable[RawPlace],
        kept: _Batches,
        sink: Callable[[RawPlace, TreatedRows], None] | None,
    ) -> str:
        """Reads and treats all rows; gives what messages call where they are."""
        origins = list[str]()
        for place in places:
            origins.append(place.origin)
            treatment = RowTreatment(self._table, self._standard, place.reading, self._around)
            for batch in place.batches():
                if batch.num_rows:
                    treated = treatment.apply(batch, origin=place.origin)
                    self._take(kept, batch, treated)
                    if sink is not None:
                        sink(place, treated)
        return ", ".join(dict.fromkeys(origins))

    def _take(self, kept: _Batches, raw: pa.Table, treated: TreatedRows) -> None:
        facts = self._facts(treated)
        kept.facts.append(facts)
        kept.guessed.append(treated.guessed)
        kept.reasons += treated.reasons
        kept.given += Counter(treated.given)
        for name in treated.given:
            if kept.kinds.get(name, UNKNOWN) == UNKNOWN:
                kept.kinds[name] = kind_of(raw.schema.field(name).type)
        self._keep_changes(kept, treated.changes)
        kept.terms.take(treated.rows.frame, facts.times)

    def _facts(self, treated: TreatedRows) -> RowFacts:
        frame, standard = treated.rows.frame, self._standard
        # A key of which the store lacks a part tells nothing apart: then all columns do.
        whole = all(name in frame for name in standard.key)
        n_rows = len(frame)
        times = _moments(frame, "time")
        newest = times if standard.newest_by is None else _moments(frame, standard.newest_by)
        customers = np.zeros(n_rows, dtype=np.uint64)
        if "customer" in frame:
            present = frame["customer"].notna().to_numpy()
            customers[present] = digests_of([frame["customer"]], n_rows)[present]
        return RowFacts(
            ids=treated.ids,
            keys=row_ids(frame, standard.key) if whole else treated.ids,
            customers=customers,
            times=times,
            newest=newest,
            filled=frame.notna().sum(axis=1).to_numpy().astype(np.uint8),
            passed=treated.passed,
        )

    def _judge_repeats(
        self, kept: _Batches, facts: RowFacts
    ) -> tuple[BoolArray, BoolArray, BoolArray]:
        alike, other = repeats(facts)
        repeated = self._to_treat(kept, alike, "repeated", facts)
        replaced = self._to_treat(kept, other, "replaced", facts)
        kept.reasons["row-repeated"] += int(repeated.sum())
        kept.reasons["row-replaced"] += int(replaced.sum())
        return repeated, replaced, alike & ~repeated

    def _judge_bound(
        self, kept: _Batches, facts: RowFacts, counted: BoolArray
    ) -> tuple[BoolArray, int]:
        most = self._standard.most_per_customer
        if most is None:
            return np.zeros(len(facts), dtype=bool), 0
        beyond, customers = rows_beyond(facts, counted, most)
        # Counted, and in no journal: it is not undone row by row.
        kept.treatments["beyond-bound"] += int(beyond.sum())
        return beyond, customers

    def _to_treat(
        self, kept: _Batches, rows: BoolArray, how: Treatment, facts: RowFacts
    ) -> BoolArray:
        if not rows.any():
            return rows
        left_out = rows & ~self._around.undone.covers(self._table, how, "", facts.ids)
        self._keep_changes(kept, changes_of(facts.ids[left_out], how))
        return left_out

    def _keep_changes(self, kept: _Batches, changes: pa.Table) -> None:
        if not changes.num_rows:
            return
        counts = (
            changes.unify_dictionaries()
            .group_by(["treatment", "column"])
            .aggregate([([], "count_all")])
        )
        for each in counts.to_pylist():
            name = f"{each['treatment']} {each['column']}".strip()
            kept.treatments[name] += each["count_all"]
        if kept.n_changes < MAX_CHANGES:
            kept.changes.append(changes)
            kept.n_changes += changes.num_rows

    def _quality(
        self,
        kept: _Batches,
        facts: RowFacts,
        accepted: BoolArray,
        *,
        origin: str,
        beyond_bound: int,
        bounded_customers: int,
        repeated: int,
    ) -> TableQuality:
        by_count = sorted(kept.reasons.items(), key=lambda each: (-each[1], each[0]))
        reasons = {name: n for name, n in by_count if n}
        guessed = np.concatenate([np.zeros(0, dtype=bool), *kept.guessed])
        rules = sum(reasons.get(rule.name, 0) for rule in self._standard.rules)
        newest = int(facts.times[accepted].max(initial=_NO_TIME))
        has_customers = "customer" in self._standard.columns
        return TableQuality(
            table=self._table,
            origin=origin,
            read=len(facts),
            beyond_bound=beyond_bound,
            bounded_customers=bounded_customers,
            repeated=repeated,
            broken_rules=min(rules, len(facts)),
            accepted=int(accepted.sum()),
            guessed=int((guessed & accepted).sum()),
            reasons=reasons,
            treatments={name: n for name, n in sorted(kept.treatments.items()) if n},
            columns={
                name: ColumnQuality(kind, kept.given[name], faulty)
                for name, kind in kept.kinds.items()
                for faulty in [min(faults_of(name, reasons), kept.given[name])]
            },
            customers=len(np.unique(facts.customers[accepted])) if has_customers else None,
            newest=format_time(newest) if 0 <= newest <= MAX_TIME_MS else "",
            threshold=self._threshold,
            changed_most=self._standard.changed_most,
        )


def _moments(frame: pd.DataFrame, name: str) -> LongArray:
    """int64[n]: a column's moments in milliseconds since the epoch, `_NO_TIME` for none."""
    if name not in frame:
        return np.full(len(frame), _NO_TIME, dtype=np.int64)
    moments = frame[name].to_numpy(dtype="datetime64[us]")
    return np.where(np.isnat(moments), _NO_TIME, moments.astype(np.int64) // 1000)
