"""A table read whole under the region's data standards.

Its rows are treated and judged as the quality report does it (`client.governance.quality_table`),
so what is used is what the report counts; then customers are unified and the table is finished as
any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from client.data.customer_keys import CustomerKeys
from client.data.source_config import Reading
from client.data.tables.finishing import TableRead, finished
from client.data.tables.places import TablePlace
from client.data.tables.rows import RowReader, TableCounts
from client.data.tables.schema import schema_of
from client.governance.quality_home import Governance
from client.governance.quality_rows import TreatedRows
from client.governance.quality_score import shortfalls
from client.governance.quality_table import Examined, RawPlace, TableExamination


@dataclass(frozen=True)
class GovernedPlace:
    """One place of a table, as quality governance reads it.

    Attributes:
        place: The place.
        at_ms: The time, milliseconds since the epoch.
    """

    place: TablePlace
    at_ms: int

    @property
    def origin(self) -> str:
        """What messages call it."""
        return self.place.source.origin

    @property
    def reading(self) -> Reading:
        """How its times are written."""
        return self.place.config

    def batches(self) -> Iterator[pa.Table]:
        """Its rows, under canonical names, as the store wrote them."""
        return self.place.raw_batches(self.at_ms)


def examination_of(name: str, governance: Governance) -> TableExamination:
    """The examination of a table that has a standard.

    Raises:
        InputError: It has none.
    """
    standards = governance.standards
    return TableExamination(
        name,
        standards.table(name),
        standards.threshold_of(name),
        governance.around,
        {term: each for term, each in standards.definitions.items() if each.table == name},
    )


def problems_of(name: str, counts: TableCounts, governance: Governance) -> tuple[str, ...]:
    """Why the standards let nobody use a table of which rows were taken in as they came.

    Args:
        name: The table; one without a standard has no problems.
        counts: What was read of it, and what of it is right.
        governance: The region's rules.
    """
    standard = governance.standards.tables.get(name)
    if standard is None:
        return ()
    found = shortfalls(
        counts.score,
        counts.guessed / counts.accepted if counts.accepted else 0.0,
        threshold=governance.standards.threshold_of(name),
        changed_most=standard.changed_most,
    )
    return tuple(found)


def governed_read(
    name: str,
    places: Sequence[TablePlace],
    governance: Governance,
    keys: CustomerKeys | None,
    at_ms: int,
) -> TableRead:
    """Reads a table.

    Args:
        name: The table.
        places: Where its rows are.
        governance: The region's rules.
        keys: The region's map of keys, if the table needs it.
        at_ms: The time, milliseconds since the epoch.

    Raises:
        InputError: It cannot be read, is not what its standard says of its columns, or a column
            holds something else than when that was last accepted.
        QualityGateError: The standard cannot be applied.
    """
    read: list[tuple[TablePlace, pa.Table]] = []

    def sink(place: RawPlace, treated: TreatedRows) -> None:
        if isinstance(place, GovernedPlace):
            read.append((place.place, treated.table()))

    examined = examination_of(name, governance).examine(
        (GovernedPlace(place, at_ms) for place in places), sink
    )
    governance.require_kinds(name, examined.quality.kinds)
    found = _unified(name, read, examined, keys, at_ms)
    # A table without rows is no broken one: what is asked of it says that there is nothing.
    return replace(found, problems=tuple(examined.quality.problems if found.counts.read else ()))


def _unified(
    name: str,
    read: Sequence[tuple[TablePlace, pa.Table]],
    examined: Examined,
    keys: CustomerKeys | None,
    at_ms: int,
) -> TableRead:
    """The rows that are used, of the region's own customers, finished as any table."""
    schema, quality = schema_of(name), examined.quality
    # Rows beyond the bound are right, and many: they are counted, and lower no score.
    counts = TableCounts(quality.in_scope - quality.accepted, reasons=quality.reasons)
    ordinary, spared, begin = list[pa.Table](), list[pa.Table](), 0
    for place, table in read:
        end = begin + table.num_rows
        reader = RowReader(schema, place.canonical_config, keys)
        used, alike = examined.accepted[begin:end], examined.spared[begin:end]
        for rows, into in ((used & ~alike, ordinary), (alike, spared)):
            if rows.any():
                chosen = table.filter(pa.array(rows))
                unified, found = reader.read(chosen, place.source.origin, at_ms)
                into.append(unified)
                counts += found
        begin = end
    if schema.once is not None:
        return finished(schema, [*ordinary, *spared], counts)
    whole = finished(schema, ordinary, counts)
    if not spared:
        return whole
    rows = pa.concat_tables([whole.rows, *spared]).unify_dictionaries().combine_chunks()
    return TableRead(rows, whole.counts)
