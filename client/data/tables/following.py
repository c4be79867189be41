"""Follows a table: gives each of its rows once, soon after it was written.

Files that are new or have grown and rows that were added to a database are found as the store's
own are (`client.data.store_units`). Whatever has to be read again to find them (a file that grew, a
range of newest rows), each row comes out once: those given before are known by their digests, eight
bytes a row. The same digests tell if rows that were given are gone at their source, after which
whoever has built on them has to build anew.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from client.data.store_units import StoreUnit, merge_kinds
from client.data.tables.declaration import FileTable
from client.data.tables.digest_runs import DigestArray, DigestRuns, among, joined
from client.data.tables.finishing import REPEATED, row_digests
from client.data.tables.latency import Latency
from client.data.tables.places import TablePlace
from client.data.tables.reading import RegionTables
from client.data.tables.rows import TableCounts, arrow_schema
from client.data.tables.schema import schema_of
from common.errors import FormatError, InputError

_VERSION = b"fedpref-followed/1"
# A line that was begun is left until it ends; after so long it counts as it is.
_UNFINISHED_S = 5.0


@dataclass(frozen=True, eq=False)
class Fresh:
    """What is new since the last look.

    Attributes:
        rows: The new rows, as `client.data.tables.reading.TableRead` has them.
        counts: What was read for it, and what was left out and why; of files that grew, the rows
            that were known count as repeated.
        latency: From each event to this look; empty for the first look, whose rows are history.
        withdrawn: Rows that were given before and are no longer there, or were altered: more than
            none, and whatever was built has to be built anew.
        units: How many files or ranges were read.
    """

    rows: pa.Table = field(repr=False)
    counts: TableCounts
    latency: Latency
    withdrawn: int
    units: int


@dataclass(frozen=True, eq=False)
class _Taken:
    """A unit that was read, and the rows that it gave."""

    unit: StoreUnit
    digests: DigestArray = field(repr=False)


@dataclass(eq=False)
class _Look:
    """What one look has read: batches, their rows' digests by unit, and counts."""

    tables: list[pa.Table] = field(default_factory=list)
    digests: list[DigestArray] = field(default_factory=list)
    counts: TableCounts = field(default_factory=TableCounts)


class TableFollower:
    """Follows one table of facts.

    Args:
        tables: The region's tables.
        name: Which one.
        state: What `state` gave before; without, all rows are new at the first look.

    Raises:
        InputError: The table is not declared, has no column ``time``, or the state is of another.
    """

    def __init__(self, tables: RegionTables, name: str, state: bytes | None = None) -> None:
        self._tables = tables
        self._name = name
        self._schema = schema_of(name)
        if "time" not in self._schema.columns:
            raise InputError(
                f"The table {name} says nothing of when, so it cannot be followed.",
                remedy="Follow a table of events; read this one whole.",
            )
        self._places = tables.places(name)
        self._taken: list[dict[str, _Taken]] = [{} for _ in self._places]
        self._kinds: list[dict[str, str]] = [{} for _ in self._places]
        self._known = DigestRuns()
        self._begun = False
        if state is not None:
            self._restore(state)

    def poll(self) -> Fresh:
        """Looks at the table now.

        Raises:
            InputError: It cannot be read, or a column holds something else than before; the next
                look begins where this one did.
        """
        at_ms = self._tables.clock_ms()
        keys = self._tables.keys_of(self._name)
        look = _Look()
        taken = [dict(each) for each in self._taken]
        kinds = [dict(each) for each in self._kinds]
        for number, place in enumerate(self._places):
            known = {name: each.unit for name, each in taken[number].items()}
            changes = place.source.changes(known, at_ms)
            fresh = [unit for unit in changes.fresh if not _unfinished(place, unit)]
            left = {unit.name for unit in changes.fresh} - {unit.name for unit in fresh}
            for name in changes.gone - left:
                del taken[number][name]
            for unit in fresh:
                held = place.source.kinds(unit)
                kinds[number] = merge_kinds(kinds[number], held, place.config.columns, unit.name)
                found, counted = place.read(unit, keys, at_ms)
                digests = joined([row_digests(each) for each in found])
                taken[number][unit.name] = _Taken(unit, np.unique(digests))
                look.tables += found
                look.digests.append(digests)
                look.counts += counted
        return self._settle(look, taken, kinds)

    def state(self) -> bytes:
        """What to keep, so that a later follower goes on from here.

        It has digests of customers' rows, without a key: whoever keeps it keeps it as their data
        are kept, encrypted and gone with an erasure.
        """
        rows = [
            {
                "place": number,
                "name": each.unit.name,
                "mark": each.unit.mark,
                "taken_ms": each.unit.taken_ms,
                "digests": each.digests.tobytes(),
            }
            for number, units in enumerate(self._taken)
            for each in units.values()
        ]
        table = pa.Table.from_pylist(rows, schema=_STATE)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        data: bytes = sink.getvalue().to_pybytes()
        return _VERSION + b" " + self._name.encode() + b"\n" + data

    def _settle(
        self,
        look: _Look,
        taken: list[dict[str, _Taken]],
        kinds: list[dict[str, str]],
    ) -> Fresh:
        rows = pa.concat_tables([arrow_schema(self._schema).empty_table(), *look.tables])
        digests = joined(look.digests)
        _, first = np.unique(digests, return_index=True)
        first.sort()
        new = first[~self._known.has(digests[first])]
        counts = look.counts.without(REPEATED, len(digests) - len(new))
        gone = self._gone(taken)
        rows = rows.take(pa.array(new)).unify_dictionaries().combine_chunks()
        happened = rows.column("time").cast(pa.int64()).to_numpy()
        latency = Latency.of(happened, self._tables.clock_ms()) if self._begun else Latency()
        self._known.remove(gone)
        self._known.add(digests[new])
        self._taken, self._kinds, self._begun = taken, kinds, True
        return Fresh(rows, counts, latency, len(gone), len(look.digests))

    def _gone(self, taken: list[dict[str, _Taken]]) -> DigestArray:
        """Digests, ascending, of rows that were given and that no unit has any more."""
        pairs = list(zip(taken, self._taken, strict=True))
        lost = [
            each for now, then in pairs for name, each in then.items() if now.get(name) is not each
        ]
        gone = np.unique(joined([each.digests for each in lost]))
        for now, then in pairs:
            # What was read in this look first: it mostly has the same rows.
            for name in sorted(now, key=lambda name: now[name] is then.get(name)):
                if not len(gone):
                    return gone
                gone = gone[~among(gone, now[name].digests)]
        return gone

    def _restore(self, state: bytes) -> None:
        head, _, data = state.partition(b"\n")
        if head != _VERSION + b" " + self._name.encode():
            raise FormatError(f"What was kept of a followed table is not of {self._name}.")
        try:
            with pa.ipc.open_stream(pa.py_buffer(data)) as stream:
                rows = stream.read_all().cast(_STATE).to_pylist()
        except pa.ArrowException as error:
            raise FormatError(f"What was kept of the table {self._name} is damaged.") from error
        for each in rows:
            if not 0 <= each["place"] < len(self._places):
                raise FormatError(f"What was kept of {self._name} is of another declaration.")
            unit = StoreUnit(each["name"], each["mark"], each["taken_ms"])
            digests = np.frombuffer(each["digests"], dtype=np.uint64)
            self._taken[each["place"]][unit.name] = _Taken(unit, digests)
        held = [each.digests for part in self._taken for each in part.values()]
        self._known = DigestRuns(joined(held))
        self._begun = True


_STATE = pa.schema(
    [
        ("place", pa.int32()),
        ("name", pa.string()),
        ("mark", pa.string()),
        ("taken_ms", pa.int64()),
        ("digests", pa.large_binary()),
    ]
)


def _unfinished(place: TablePlace, unit: StoreUnit) -> bool:
    """Whether a line of a text file is still being written."""
    if not isinstance(place.config, FileTable) or not unit.name.lower().endswith(".csv"):
        return False
    path = Path(unit.name)
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size == 0:
                return False
            file.seek(-1, os.SEEK_END)
            ended = file.read(1) in (b"\n", b"\r", b"\0")
        lately = time.time() - path.stat().st_mtime < _UNFINISHED_S
    except OSError as error:
        raise InputError(
            f"The file {unit.name} cannot be read: {error.strerror}.",
            remedy="Check that it is there, and that the engine's user may read it.",
        ) from error
    return lately and not ended
