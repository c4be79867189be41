"""Bulk import of existing consents: all rows are checked first, then logged in batches.

Each record is signed as ``imported``: its event time is the file's, its evidence the salted digest
of what the row refers to. A repeated import changes nothing, however far the first one came; and no
row takes the place of a choice that the customer has made since.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client.consent_service.import_rows import OPTIONAL, PURPOSES, REQUIRED, RowReader
from client.consent_service.region_records import RegionRecords
from client.consent_service.registrar import Choice, ConsentRegistrar
from common import canonical_json
from common.canonical_json import JsonValue
from common.consent import GIVEN, IMPORTED, WITHDRAWN, ConsentRecord
from common.errors import FedprefError, InputError, UsageError
from common.timestamps import format_time

BATCH_ROWS = 5_000
#: So many bad rows are shown; all are counted.
MAX_SHOWN = 20


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be imported.

    Attributes:
        row: Its number in the file: 1 is the first row of data.
        why: What is wrong, without the row's values.
    """

    row: int
    why: str


@dataclass
class ImportSummary:
    """What an import did.

    Attributes:
        rows: How many rows the file has.
        imported: How many were logged now.
        already: How many were on record already.
        bad: How many were left out.
        shown: The first of the bad ones.
        states: How many were logged now, by state.
        done_before: Whether this very file was imported whole before: then nothing was read.
    """

    rows: int = 0
    imported: int = 0
    already: int = 0
    bad: int = 0
    shown: list[BadRow] = field(default_factory=list)
    states: dict[str, int] = field(default_factory=dict)
    done_before: bool = False

    def to_record(self) -> dict[str, JsonValue]:
        """As ``consents import --json`` shows it."""
        return {
            "rows": self.rows,
            "imported": self.imported,
            "already": self.already,
            "bad": self.bad,
            "bad_rows": [{"row": each.row, "why": each.why} for each in self.shown],
            "states": dict(self.states),
            "done_before": self.done_before,
        }


class RowFile:
    """A file of rows, Parquet or CSV, by the columns that are mapped.

    Args:
        path: The file; its name ends in .parquet or .csv.
        mapping: Field → column. A field that is not named has the column of its own name, if there
            is one.

    Raises:
        InputError: The file cannot be read, or lacks a column.
        UsageError: A field is unknown.
    """

    def __init__(self, path: Path, mapping: Mapping[str, str]) -> None:
        self._path = path
        self._table = _read_table(path)
        self.digest = _digest(path)
        known = {*REQUIRED, *OPTIONAL, *PURPOSES}
        unknown = [name for name in mapping if name not in known and ":" not in name]
        if unknown:
            raise UsageError(
                f"--map: there is no field {unknown[0]}.",
                remedy=f"The fields are {', '.join(sorted(known))}, or a purpose's own term.",
            )
        columns = _distinct(self._table, path)
        self.mapping = {name: name for name in known if name in columns} | dict(mapping)
        missing = [column for column in self.mapping.values() if column not in columns]
        missing += [name for name in REQUIRED if name not in self.mapping]
        if missing:
            raise InputError(
                f"{path} has no column {missing[0]}.",
                remedy=f"Its columns are {', '.join(sorted(columns)[:20])}; map them with --map "
                "field=column.",
            )

    @property
    def purposes(self) -> dict[str, str]:
        """The purposes that have a column, by field."""
        return {
            name: PURPOSES.get(name, name)
            for name in self.mapping
            if name in PURPOSES or ":" in name
        }

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def batches(self) -> Iterator[list[tuple[int, dict[str, object]]]]:
        """The rows, numbered from 1, by field, some thousand at a time."""
        names = list(self.mapping)
        table = self._table.select([self.mapping[name] for name in names])
        for start in range(0, len(self), BATCH_ROWS):
            part = table.slice(start, BATCH_ROWS)
            columns = [_values(part.column(number), self._path) for number in range(len(names))]
            yield [
                (start + offset, dict(zip(names, values, strict=True)))
                for offset, values in enumerate(zip(*columns, strict=True), start=1)
            ]


class Importer:
    """Imports one file into a region's log.

    Args:
        records: The region's records, opened by the log's owner.
        registrar: The registrar of that log.
        file: The rows.
        reader: What the rows' fields mean.
        settings: What else the outcome depends on; with the file's digest it names the import.
    """

    def __init__(
        self,
        records: RegionRecords,
        registrar: ConsentRegistrar,
        file: RowFile,
        reader: RowReader,
        settings: Mapping[str, JsonValue],
    ) -> None:
        self._records = records
        self._registrar = registrar
        self._file = file
        self._reader = reader
        self._begins = {each.sha256: each.notice.in_force_from_ms for each in records.state.notices}
        self._checked: set[tuple[object, ...]] = set()
        named: dict[str, JsonValue] = {
            "file": file.digest,
            "mapping": dict(file.mapping),
            **settings,
        }
        self._name = hashlib.sha256(canonical_json.encode(named)).hexdigest()

    def run(self, *, skip_bad: bool, dry_run: bool = False) -> ImportSummary:
        """Checks every row, and then logs them.

        Args:
            skip_bad: Leave bad rows out instead of importing nothing.
            dry_run: Check only.

        Raises:
            InputError: A row is bad; nothing was imported. Names the first ones.
        """
        if self._records.subjects.imported(self._name) is not None:
            return ImportSummary(rows=len(self._file), done_before=True)
        summary = ImportSummary(rows=len(self._file))
        left_out = self._check(summary)
        if summary.bad and not skip_bad:
            first = "\n".join(f"  row {each.row}: {each.why}" for each in summary.shown)
            raise InputError(
                f"{summary.bad} of {summary.rows} rows cannot be imported; nothing was.\n{first}",
                remedy="Correct the file, or leave these rows out with --skip-bad.",
            )
        if dry_run:
            return summary
        for batch in self._file.batches():
            choices = [self._reader.read(row) for number, row in batch if number not in left_out]
            self._registrar.record(choices)
            summary.imported += len(choices)
            for choice in choices:
                summary.states[choice.state] = summary.states.get(choice.state, 0) + 1
        if not summary.bad:
            # Rows that were left out may be good another time.
            self._records.subjects.finish_import(self._name, summary.imported)
        return summary

    def _check(self, summary: ImportSummary) -> set[int]:
        """Checks every row; gives those that are not to be logged: bad ones, and those that are."""
        # Read once, all of them are at hand: a file of a million asks for each twice.
        self._records.subjects.pseudonyms()
        left_out: set[int] = set()
        first_rows: dict[str, int] = {}
        for batch in self._file.batches():
            choices: list[tuple[int, Choice]] = []
            for number, row in batch:
                try:
                    choice = self._reader.read(row)
                    first = first_rows.setdefault(choice.customer_ref, number)
                    if first != number:
                        raise InputError(f"its customer is in row {first} already")
                    choices.append((number, choice))
                except FedprefError as error:
                    left_out.add(number)
                    self._refuse(summary, number, error)
            self._compare(summary, choices, left_out)
        return left_out

    def _compare(
        self, summary: ImportSummary, choices: Sequence[tuple[int, Choice]], left_out: set[int]
    ) -> None:
        """Compares choices with what is on record, and with the rules of records."""
        for number, choice in choices:
            try:
                latest = self._registrar.latest(choice.customer_ref)
                if latest is not None and _is_same(latest, choice):
                    summary.already += 1
                    left_out.add(number)
                    continue
                if latest is not None and latest.event_time >= _event_time(choice):
                    raise InputError("a choice that is as new, or newer, is on record")
                self._check_rules(choice)
            except FedprefError as error:
                left_out.add(number)
                self._refuse(summary, number, error)

    def _check_rules(self, choice: Choice) -> None:
        """Checks what the registrar will check, once for all rows that it is the same for."""
        event_ms, expires_ms, form = choice.event_time_ms or 0, choice.expires_ms, choice.form
        if expires_ms is not None and expires_ms <= event_ms:
            raise InputError("it expires no later than it was given")
        if (
            form is not None
            and choice.state == GIVEN
            and event_ms < self._begins[form.notice_sha256]
        ):
            raise InputError("it was given before its notice was in force")
        guardian = None if choice.guardian is None else choice.guardian.state
        purposes = tuple(choice.purposes.items())
        shape = (choice.state, purposes, form, choice.minor, guardian, expires_ms is None)
        # Who withdraws must have given: that is each customer's own.
        if choice.state == WITHDRAWN or shape not in self._checked:
            self._registrar.check(choice)
            self._checked.add(shape)

    def _refuse(self, summary: ImportSummary, number: int, error: FedprefError) -> None:
        summary.bad += 1
        if len(summary.shown) < MAX_SHOWN:
            summary.shown.append(BadRow(number, error.message))


def _is_same(latest: ConsentRecord, choice: Choice) -> bool:
    """Whether a record is what this row was imported as."""
    return (
        latest.form.method == IMPORTED
        and latest.event_time == _event_time(choice)
        and latest.state == choice.state
        and dict(latest.purposes) == dict(choice.purposes)
    )


def _event_time(choice: Choice) -> str:
    return format_time(choice.event_time_ms or 0)


def _read_table(path: Path):  # type: ignore[no-untyped-def] # pyarrow ships no types
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    try:
        if path.suffix.lower() == ".parquet":
            return pyarrow.parquet.read_table(path)
        if path.suffix.lower() == ".csv":
            # Every column as text: a reference with leading zeros is no number.
            names = pyarrow.csv.open_csv(path).schema.names
            options = pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True
            )
            return pyarrow.csv.read_csv(path, convert_options=options)
    except (OSError, pa.ArrowException) as error:
        # Of a row with too many values, Arrow tells the whole row, which is personal.
        why = re.sub(r"(got \d+):.*", r"\1", str(error), flags=re.DOTALL)
        raise InputError(f"{path} cannot be read: {why}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read: a column's name is not UTF-8.") from error
    raise InputError(
        f"{path} is neither a .parquet nor a .csv file.", remedy="Save it as one of the two."
    )


def _distinct(table: Any, path: Path) -> set[str]:
    """The columns' names, of which no two may be the same."""
    try:
        names: list[str] = table.column_names
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read: a column's name is not UTF-8.") from error
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{path} has two columns of the name {twice[0]!r}.")
    return set(names)


def _values(column: Any, path: Path) -> list[object]:
    """A column's values; Parquet may hold texts that are none, and times beyond Python's."""
    import pyarrow as pa

    try:
        values: list[object] = column.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException) as error:
        raise InputError(
            f"{path} cannot be read: a column of the type {column.type} has a value outside it."
        ) from error
    return values


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
