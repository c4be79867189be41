"""The quality report of a region: every table examined, compared with before, and kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from client.data.tables.governed import GovernedPlace, examination_of
from client.data.tables.reading import RegionTables, read_tables
from client.data.tables.schema import KEYS
from client.engine.home import RegionHome
from client.governance.grades import FOR_PEOPLE
from client.governance.quality_changes import Decision, Treatment, without_values
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
        judged = [each for each in there if each in governance.standards.tables]
        examined = {
            name: _examined(name, tables, governance, clock_ms(), accept=accept)
            for name in judged
            if not names or name in names
        }
        report = _report(home, governance, examined, files.history(), clock_ms())
        report = replace(report, notes=(*report.notes, *_unjudged(there, judged)))
        files.append(report)
        files.keep_kinds(_accepted_kinds(governance, report.tables))
        for name, each in examined.items():
            if each.changes is not None:
                files.keep_changes(name, without_values(each.changes, _guarded(governance, name)))
    return report


def undo(
    home: RegionHome,
    table: str,
    treatment: Treatment,
    column: str,
    rows: Collection[str],
    *,
    at_ms: int,
) -> int:
    """Undoes a treatment; what reads the table from now on goes by it.

    Args:
        home: The region's home.
        table: The table.
        treatment: What is not to be done any more.
        column: To which column; empty for treatments of whole rows.
        rows: To which rows, as the journal names them; none for all.
        at_ms: The time, milliseconds since the epoch.

    Returns:
        How many changes of the journal are concerned.

    Raises:
        UsageError: The journal has no such change.
        InputError, StorageError: The files cannot be read or written.
    """
    files = QualityFiles(home)
    with files.changing():
        undone, concerned = files.undone(), _journalled(files, table, treatment, column)
        for row in _chosen(rows):
            if not concerned or (row is not None and row not in concerned):
                raise _nothing_such("change", treatment, column, table, row)
            at = format_time(at_ms)
            undone = undone.with_decision(
                Decision(table=table, treatment=treatment, column=column, row=row, at=at)
            )
        files.keep_undone(undone)
    return sum(concerned[row] for row in rows) if rows else sum(concerned.values())


def redo(
    home: RegionHome, table: str, treatment: Treatment, column: str, rows: Collection[str]
) -> int:
    """Takes decisions of `undo` back.

    Args:
        home: The region's home.
        table: The table.
        treatment: What is to be done again.
        column: To which column; empty for treatments of whole rows.
        rows: To which rows; none for the decision about all of them.

    Returns:
        How many decisions were taken back.

    Raises:
        UsageError: There is no such decision.
        InputError, StorageError: The files cannot be read or written.
    """
    files = QualityFiles(home)
    with files.changing():
        undone, chosen = files.undone(), _chosen(rows)
        for row in chosen:
            subject = (table, treatment, column, row)
            if subject not in {each.subject for each in undone.decisions}:
                raise _nothing_such("decision", treatment, column, table, row)
            undone = undone.without(subject)
        files.keep_undone(undone)
    return len(chosen)


def _chosen(rows: Collection[str]) -> list[str | None]:
    """The rows that are named, or the one word for all of them."""
    return list(rows) if rows else [None]


def row_name(digest: int) -> str:
    """How a row is named to people: its digest in hex."""
    return f"{digest:016x}"


@dataclass(frozen=True, eq=False)
class _Examined:
    """A table's quality, what was changed in it, and whom definitions are about."""

    quality: TableQuality
    changes: pa.Table | None = None
    meant: Mapping[str, int] = field(default_factory=dict)


def _examined(
    name: str, tables: RegionTables, governance: Governance, at_ms: int, *, accept: bool
) -> _Examined:
    """Examines a table; one that cannot be read is that."""
    try:
        found = examination_of(name, governance).examine(
            GovernedPlace(place, at_ms) for place in tables.places(name)
        )
    except (InputError, QualityGateError) as error:
        threshold = governance.standards.threshold_of(name)
        return _Examined(TableQuality.unread(name, threshold, error.message))
    quality = found.quality
    if not accept:
        changed = governance.changed_kinds(name, quality.kinds)
        quality = replace(quality, refused=(*quality.refused, *changed))
    return _Examined(quality, found.changes, found.meant)


def _guarded(governance: Governance, table: str) -> list[str]:
    """The columns whose values people read under a grant alone: the journal does without them."""
    columns = governance.standards.table(table).columns
    return [name for name, each in columns.items() if each.grade not in FOR_PEOPLE]


def _report(
    home: RegionHome,
    governance: Governance,
    examined: Mapping[str, _Examined],
    history: list[QualityReport],
    at_ms: int,
) -> QualityReport:
    found = [each.quality for each in examined.values()]
    return QualityReport(
        region=home.region,
        at=format_time(at_ms),
        standards=governance.standards.digest,
        tables=tuple(found),
        meant={term: n for each in examined.values() for term, n in each.meant.items()},
        notes=tuple(note for each in found for note in _notes(each, _before(history, each.table))),
    )


def _unjudged(there: Collection[str], judged: Collection[str]) -> list[str]:
    return [
        f"{name}: the standards say nothing of it; it is not judged"
        for name in there
        if name not in judged
    ]


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
    return Counter(map(row_name, changes.filter(wanted).column("row").to_pylist()))


def _nothing_such(
    kind: str, treatment: str, column: str, table: str, row: str | None
) -> UsageError:
    of_row = "" if row is None else f" of row {row}"
    return UsageError(
        f"There is no {kind} {f'{treatment} {column}'.strip()!r}{of_row} in {table}.",
        remedy="See fedpref-region quality changes HOME TABLE for what there is.",
    )


def _accepted_kinds(
    governance: Governance, found: Collection[TableQuality]
) -> dict[str, dict[str, str]]:
    """What columns hold from now on: of refused tables, what they held before."""
    kinds = {table: dict(columns) for table, columns in governance.kinds.items()}
    for quality in found:
        if not quality.refused:
            kinds[quality.table] = kinds.get(quality.table, {}) | quality.kinds
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
