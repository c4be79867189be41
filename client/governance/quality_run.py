"""The quality report of a region: every table examined, compared with before, and kept."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from client.data.tables.governed import GovernedPlace, examination_of
from client.data.tables.reading import RegionTables, read_tables
from client.data.tables.schema import KEYS
from client.engine.home import RegionHome
from client.governance.quality_changes import Decision, Treatment
from client.governance.quality_files import QualityFiles, QualityReport
from client.governance.quality_home import Governance
from client.governance.quality_score import TableQuality
from common.errors import InputError, QualityGateError, UsageError
from common.timestamps import format_time, now_ms

# From so much on a change is worth a note: of a share of rows, and of how many there are.
_NOTED_SHARE, _NOTED_SCORE, _NOTED_FALL = 0.10, 0.01, 0.5


def make_report(
    home: RegionHome,
    *,
    names: Collection[str] = (),
    accept: bool = False,
    clock_ms: Callable[[], int] = now_ms,
) -> QualityReport:
    """Examines a region's tables, and keeps the report and the journal of changes.

    Args:
        home: The region's home.
        names: Which tables; none for all there are.
        accept: Whether what columns hold now is meant, if it is not what they held before.
        clock_ms: A test's own clock, milliseconds since the epoch.

    Raises:
        InputError: Declaration or standards are malformed, or a table is not declared.
        StorageError: The report cannot be kept.
    """
    tables, files = read_tables(home), QualityFiles(home)
    there = [*tables.names, *([KEYS] if KEYS in tables.declared else [])]
    unknown = [name for name in names if name not in there]
    if unknown:
        raise InputError(
            f"{home.region} declares no table {unknown[0]}; it declares {', '.join(there)}.",
            remedy="Name one of these, or add it to tables.toml.",
        )
    with files.changing():
        # Within the lock: a decision that is being made is either in or comes after.
        governance = Governance.of(home, clock_ms=clock_ms)
        found, meant, journal = list[TableQuality](), dict[str, int](), dict[str, pa.Table]()
        notes = list[str]()
        for name in [each for each in there if not names or each in names]:
            if name not in governance.standards.tables:
                notes.append(f"{name}: the standards say nothing of it; it is not judged")
                continue
            quality, holds = _examined(name, tables, governance, journal, clock_ms())
            changed = governance.changed_kinds(
                name, {column: each.kind for column, each in quality.columns.items()}
            )
            found.append(
                quality if accept else replace(quality, refused=_refused(quality, changed))
            )
            meant |= holds
        history = files.history()
        notes += [note for each in found for note in _notes(each, _before(history, each.table))]
        report = QualityReport(
            home.region,
            format_time(clock_ms()),
            governance.standards.digest,
            tuple(found),
            meant,
            tuple(notes),
        )
        files.append(report)
        files.keep_kinds(_accepted_kinds(governance, found))
        for name, changes in journal.items():
            files.keep_changes(name, changes)
    return report


def decide(
    home: RegionHome,
    table: str,
    treatment: Treatment,
    column: str,
    rows: Collection[str],
    *,
    undo: bool,
    at_ms: int,
) -> int:
    """Undoes a treatment, or takes that back; what reads the table from now on goes by it.

    Args:
        home: The region's home.
        table: The table.
        treatment: What is not to be done any more, or is to be done again.
        column: To which column; empty for treatments of whole rows.
        rows: To which rows, as the journal names them; none for all.
        undo: Whether it is undone; else an earlier decision is taken back.
        at_ms: The time, milliseconds since the epoch.

    Returns:
        How many changes of the journal are concerned.

    Raises:
        UsageError: The journal has no such change, or there is no such decision to take back.
        InputError, StorageError: The files cannot be read or written.
    """
    files = QualityFiles(home)
    with files.changing():
        undone = files.undone()
        chosen: list[str | None] = list(rows) or [None]
        if not undo:
            for row in chosen:
                subject = (table, treatment, column, row)
                if subject not in {each.subject for each in undone.decisions}:
                    raise _nothing_such(f"{treatment} {column}".strip(), table, row, "decision")
                undone = undone.without(subject)
            files.keep_undone(undone)
            return len(chosen)
        concerned = _journalled(files, table, treatment, column)
        for row in chosen:
            if not concerned or (row is not None and row not in concerned):
                raise _nothing_such(f"{treatment} {column}".strip(), table, row, "change")
            undone = undone.with_decision(
                Decision(
                    table=table, treatment=treatment, column=column, row=row, at=format_time(at_ms)
                )
            )
        files.keep_undone(undone)
        counts = concerned.values() if not rows else (concerned[row] for row in rows)
        return sum(counts)


def row_name(digest: int) -> str:
    """How a row is named to people: its digest in hex."""
    return f"{digest:016x}"


def _journalled(files: QualityFiles, table: str, treatment: str, column: str) -> dict[str, int]:
    """Row → how many changes of a kind the journal has of it."""
    changes = files.changes(table)
    if changes is None:
        raise UsageError(
            f"There is no journal of what treatment changed in {table}.",
            remedy="Make one: fedpref-region quality report HOME.",
        )
    kinds, columns = changes.column("treatment"), changes.column("column")
    wanted = pc.and_(
        pc.equal(kinds.cast(pa.string()), treatment), pc.equal(columns.cast(pa.string()), column)
    )
    counted: dict[str, int] = {}
    for digest in changes.filter(wanted).column("row").to_pylist():
        name = row_name(digest)
        counted[name] = counted.get(name, 0) + 1
    return counted


def _nothing_such(what: str, table: str, row: str | None, kind: str) -> UsageError:
    of_row = "" if row is None else f" of row {row}"
    return UsageError(
        f"There is no {kind} {what!r}{of_row} in {table}.",
        remedy="See fedpref-region quality changes HOME TABLE for what there is.",
    )


def _examined(
    name: str,
    tables: RegionTables,
    governance: Governance,
    journal: dict[str, pa.Table],
    at_ms: int,
) -> tuple[TableQuality, dict[str, int]]:
    """A table's quality, and whom definitions are about; one that cannot be read is that."""
    try:
        examined = examination_of(name, governance).examine(
            GovernedPlace(place, at_ms) for place in tables.places(name)
        )
    except (InputError, QualityGateError) as error:
        threshold = governance.standards.threshold_of(name)
        return TableQuality.unread(name, threshold, error.message), {}
    journal[name] = examined.changes
    return examined.quality, dict(examined.meant)


def _refused(quality: TableQuality, changed: list[str]) -> tuple[str, ...]:
    return (*quality.refused, *changed)


def _accepted_kinds(governance: Governance, found: list[TableQuality]) -> dict[str, dict[str, str]]:
    """What columns hold from now on: of refused tables, what they held before."""
    kinds = {table: dict(columns) for table, columns in governance.kinds.items()}
    for quality in found:
        if not quality.refused:
            now = {name: each.kind for name, each in quality.columns.items()}
            kinds[quality.table] = kinds.get(quality.table, {}) | now
    return kinds


def _before(history: list[QualityReport], table: str) -> TableQuality | None:
    """The table in the newest report that could read it."""
    for report in reversed(history):
        for each in report.tables:
            if each.table == table and each.read:
                return each
    return None


def _notes(now: TableQuality, before: TableQuality | None) -> list[str]:
    """What is new since the last report; nothing of it refuses a table."""
    if before is None or not now.read:
        return []
    notes = [
        f"{now.table}: the column {name} is new" for name in now.columns.keys() - before.columns
    ]
    notes += [
        f"{now.table}: the column {name} is gone" for name in before.columns.keys() - now.columns
    ]
    for name in sorted(now.columns.keys() & before.columns):
        share = now.columns[name].given / now.read
        earlier = before.columns[name].given / before.read
        if earlier - share >= _NOTED_SHARE:
            notes.append(
                f"{now.table}: {share:.1%} of rows have a {name}, where {earlier:.1%} had one"
            )
    if now.read < before.read * _NOTED_FALL:
        notes.append(f"{now.table}: {now.read:,} rows, where there were {before.read:,}")
    if before.score - now.score >= _NOTED_SCORE:
        notes.append(f"{now.table}: the score fell from {before.score:.2%} to {now.score:.2%}")
    return sorted(notes)
