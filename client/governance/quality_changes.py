"""What treatment changed, row by row, and what of it was undone.

A region's store is never written to: treatment is applied as rows are read. So undoing is leaving
it, and the journal says what there is to undo. A row is known by a digest of what it says, as
stores have no numbers for rows; two rows that say the same are one to the journal.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common import canonical_json
from common.canonical_json import JsonValue
from common.errors import FormatError

BoolArray = npt.NDArray[np.bool_]
DigestArray = npt.NDArray[np.uint64]

#: A missing value was filled in; by what the catalogue says of the item; a value was put to the
#: fence; a row was left out for a value beyond it, as a repeat, for another row with the same key,
#: or because its customer has too many.
Treatment = Literal[
    "completed", "looked-up", "clipped", "set-aside", "repeated", "replaced", "beyond-bound"
]
TREATMENTS: tuple[Treatment, ...] = get_args(Treatment)
#: Those that change what a row says; a table in which they change much counts as broken. What the
#: catalogue knows is no guess, and is not among them.
GUESSES: frozenset[Treatment] = frozenset({"completed", "clipped"})

#: What can be undone. How many rows of a customer count is a matter of the standards alone.
UNDOABLE: tuple[Treatment, ...] = tuple(each for each in TREATMENTS if each != "beyond-bound")

SCHEMA = pa.schema(
    [
        ("row", pa.uint64()),
        ("treatment", pa.dictionary(pa.int8(), pa.string())),
        ("column", pa.dictionary(pa.int8(), pa.string())),
        ("before", pa.string()),
        ("after", pa.string()),
    ]
)
_VERSION = "fedpref-undone/1"
_MAX_BYTES = 1 << 24
#: So many decisions at most; more than that is a matter for the standards.
MAX_DECISIONS = 100_000


def changes_of(
    rows: DigestArray,
    treatment: Treatment,
    column: str = "",
    before: Iterable[str | None] | None = None,
    after: Iterable[str | None] | None = None,
) -> pa.Table:
    """A table of changes (`SCHEMA`) of one kind.

    Args:
        rows: uint64[n], the rows.
        treatment: What was done.
        column: To which column; empty for whole rows.
        before: What they had, if anything.
        after: What they have now.
    """
    n = len(rows)
    kinds = pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int8)), pa.array([treatment]))
    columns = pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int8)), pa.array([column]))
    nothing = pa.nulls(n, pa.string())
    return pa.table(
        [
            pa.array(rows, pa.uint64()),
            kinds,
            columns,
            nothing if before is None else pa.array(before, pa.string()),
            nothing if after is None else pa.array(after, pa.string()),
        ],
        schema=SCHEMA,
    )


def without_values(changes: pa.Table, columns: Collection[str]) -> pa.Table:
    """Changes without what some columns had and have: undoing takes neither.

    Args:
        changes: Changes (`SCHEMA`).
        columns: The columns whose values are not to be kept.
    """
    told = pc.invert(
        pc.is_in(changes.column("column").cast(pa.string()), pa.array([*columns], pa.string()))
    )
    for name in ("before", "after"):
        place, values = changes.schema.get_field_index(name), changes.column(name)
        told_alone = pc.if_else(told, values, pa.scalar(None, pa.string()))
        changes = changes.set_column(place, name, told_alone)
    return changes


class Decision(BaseModel):
    """A decision that something is not to be treated.

    Attributes:
        table: In which table.
        treatment: Which treatment.
        column: Of which column; empty for treatments of whole rows.
        row: Of which row, its digest in hex; None for every row.
        at: When it was decided, UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
    treatment: Treatment
    column: Annotated[str, Field(pattern=r"^([a-z][a-z0-9_]{0,63})?$")] = ""
    row: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")] | None = None
    at: str

    @property
    def subject(self) -> tuple[str, str, str, str | None]:
        """What it is about; two decisions about the same are one."""
        return (self.table, self.treatment, self.column, self.row)


@dataclass(frozen=True)
class Undone:
    """What is not to be treated.

    Attributes:
        decisions: The decisions, oldest first.
    """

    decisions: tuple[Decision, ...] = field(default=())

    def covers(self, table: str, treatment: Treatment, column: str, rows: DigestArray) -> BoolArray:
        """bool[n]: which rows are not to be treated so.

        Args:
            table: The table.
            treatment: The treatment.
            column: The column; empty for treatments of whole rows.
            rows: uint64[n], the rows.
        """
        chosen = [
            each.row
            for each in self.decisions
            if (each.table, each.treatment, each.column) == (table, treatment, column)
        ]
        if None in chosen:
            return np.ones(len(rows), dtype=bool)
        named = np.array([int(row, 16) for row in chosen if row is not None], dtype=np.uint64)
        return np.isin(rows, named)

    def with_decision(self, decision: Decision) -> Self:
        """With one more; one about the same takes its place."""
        others = (each for each in self.decisions if each.subject != decision.subject)
        return type(self)((*others, decision))

    def without(self, subject: tuple[str, str, str, str | None]) -> Self:
        """Without the decision about something."""
        return type(self)(tuple(each for each in self.decisions if each.subject != subject))

    def encode(self) -> bytes:
        """As canonical JSON."""
        made: list[JsonValue] = [each.model_dump(mode="json") for each in self.decisions]
        record: dict[str, JsonValue] = {"v": _VERSION, "decisions": made}
        return canonical_json.encode(record, max_bytes=_MAX_BYTES)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Reads what `encode` gave.

        Raises:
            FormatError: It is nothing like it.
        """
        record: Any = canonical_json.decode(data, max_bytes=_MAX_BYTES)
        if not isinstance(record, dict) or record.get("v") != _VERSION:
            raise FormatError(f"These are no decisions ({_VERSION}).")
        made = record.get("decisions")
        if not isinstance(made, list) or len(made) > MAX_DECISIONS:
            raise FormatError(f"These are no decisions, or more than {MAX_DECISIONS}.")
        try:
            found = cls(tuple(Decision.model_validate(each) for each in made))
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            raise FormatError(f"A decision is malformed: {first['msg']}.") from error
        if found.encode() != data:
            raise FormatError("Decisions are not as this program writes them.")
        return found
