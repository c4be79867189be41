"""How profiles read a region's tables: what is new of purchases and events, and the members.

Purchases may be many, so they are read unit by unit and batch by batch, and rows that come twice
are known by their marks (`client.profiles.tables`). Events are followed as everybody follows them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from client.data.sql_ranges import is_read_again
from client.data.store_units import StoreUnit, merge_kinds
from client.data.tables.finishing import row_digests
from client.data.tables.following import Fresh, TableFollower
from client.data.tables.places import TablePlace
from client.data.tables.reading import RegionTables
from client.data.tables.rows import TableCounts
from client.data.tables.schema import EVENTS, PURCHASES
from client.profiles.purchases import DAY_MS, Admitted, PurchaseRows
from client.profiles.tables import MEMBER, MEMBER_FACTS, Facts, collected
from common.catalogue import Catalogue
from common.errors import FormatError

#: Rows of products that are not in the public catalogue, and of those that it excludes.
UNKNOWN_ITEM, OUT_OF_SCOPE = "item-unknown", "item-out-of-scope"


@dataclass(frozen=True)
class PurchaseLook:
    """What is new of the purchases.

    Attributes:
        batches: Reads the new rows; to be read once, to its end, before `state` is asked.
        state: Gives what to keep of how far they were read.
        withdrawn: How many units are gone that were read before: what was built on them is wrong.
        anew: Whether all units are gone, as when a table is read anew as a whole.
        changed: Whether there is anything new.
        counts: What was read so far, and what was left out.
        stated: The columns that rows of every place have, such as ``amount``.
    """

    batches: Callable[[], Iterator[PurchaseRows]] = field(repr=False)
    state: Callable[[], str] = field(repr=False)
    withdrawn: int
    anew: bool
    changed: bool
    counts: Callable[[], TableCounts] = field(repr=False)
    stated: frozenset[str]


class PurchaseFeed:
    """Reads a region's purchases.

    Args:
        tables: The region's tables.
        catalogue: The public catalogue.
    """

    def __init__(self, tables: RegionTables, catalogue: Catalogue) -> None:
        self._tables = tables
        self._catalogue = catalogue

    def look(self, state: str = "") -> PurchaseLook:
        """Looks for what is new.

        Args:
            state: How far they were read before; empty: all of them are new.

        Raises:
            InputError: The purchases cannot be reached.
            FormatError: The state is of another declaration.
        """
        places, at_ms = self._tables.places(PURCHASES), self._tables.clock_ms()
        taken, kinds = _read_state(state, len(places))
        plan: list[tuple[int, StoreUnit]] = []
        withdrawn, anew = 0, False
        for number, place in enumerate(places):
            changes = place.source.changes(taken[number], at_ms)
            again = {unit.name for unit in changes.fresh}
            gone = [taken[number][name] for name in changes.gone - again]
            withdrawn += sum(not is_read_again(unit) for unit in gone)
            anew = anew or (bool(changes.gone) and changes.gone == taken[number].keys())
            taken[number] = {
                name: unit for name, unit in taken[number].items() if name not in changes.gone
            }
            plan += [(number, unit) for unit in changes.fresh]
        reading = _Reading(self._tables, self._catalogue, places, taken, kinds, at_ms)
        return PurchaseLook(
            batches=lambda: reading.batches(plan),
            state=reading.state,
            withdrawn=withdrawn,
            anew=anew and bool(withdrawn),
            changed=bool(plan),
            counts=lambda: reading.counts,
            stated=frozenset.intersection(*(frozenset(each.config.columns) for each in places)),
        )


@dataclass
class _Reading:
    """One look at the purchases, being read."""

    tables: RegionTables
    catalogue: Catalogue
    places: list[TablePlace]
    taken: list[dict[str, StoreUnit]]
    kinds: list[dict[str, str]]
    at_ms: int
    counts: TableCounts = field(default_factory=TableCounts)

    def batches(self, plan: list[tuple[int, StoreUnit]]) -> Iterator[PurchaseRows]:
        keys = self.tables.keys_of(PURCHASES)
        for number, unit in plan:
            place = self.places[number]
            held = place.source.kinds(unit)
            self.kinds[number] = merge_kinds(
                self.kinds[number], held, place.config.columns, unit.name
            )
            tables, counts = place.read(unit, keys, self.at_ms)
            self.counts += counts
            for table in tables:
                rows, left_out = self._rows(table)
                for reason, number_of in left_out.items():
                    self.counts = self.counts.without(reason, number_of)
                yield rows
            self.taken[number][unit.name] = unit

    def state(self) -> str:
        """How far purchases were read."""
        record = [
            {
                "kinds": kinds,
                "units": {name: [each.mark, each.taken_ms] for name, each in units.items()},
            }
            for kinds, units in zip(self.kinds, self.taken, strict=True)
        ]
        return json.dumps(record, separators=(",", ":"))

    def _rows(self, table: pa.Table) -> tuple[PurchaseRows, dict[str, int]]:
        names, code = _dictionary(table, "item")
        number = np.append(self.catalogue.positions(names), -1)[code]
        excluded = np.append([name in self.catalogue.excluded for name in names], False)[code]
        customers, customer = _dictionary(table, "customer")
        kept = np.flatnonzero(number >= 0)
        unknown = int((number < 0).sum()) - int(excluded.sum())
        returned = np.nan_to_num(table["returned"].to_numpy(zero_copy_only=False)) > 0
        times = table["time"].cast(pa.int64()).to_numpy(zero_copy_only=False)
        amount = table["amount"].to_numpy(zero_copy_only=False).astype(np.float64)
        rows = PurchaseRows(
            customers=customers,
            customer=customer[kept].astype(np.int32),
            item=number[kept].astype(np.int32),
            time_ms=times[kept].astype(np.int64),
            amount=amount[kept],
            rest=row_digests(table)[kept],
            returned=returned[kept],
        )
        return rows, {UNKNOWN_ITEM: unknown, OUT_OF_SCOPE: int(excluded.sum())}


class EventFeed:
    """Follows a region's events; gives none if it declares no such table.

    Args:
        tables: The region's tables.
        state: What `state` gave before.

    Raises:
        FormatError: The state is of another declaration.
    """

    def __init__(self, tables: RegionTables, state: bytes = b"") -> None:
        known = state or None
        self._follower = TableFollower(tables, EVENTS, known) if EVENTS in tables.names else None

    def poll(self) -> Fresh | None:
        """What is new; None if the region declares no events.

        Raises:
            InputError: They cannot be read.
        """
        return None if self._follower is None else self._follower.poll()

    def state(self) -> bytes:
        """What to keep of how far they were followed; as secret as the events are."""
        return b"" if self._follower is None else self._follower.state()


def member_facts(rows: pa.Table, admitted: Admitted) -> Facts:
    """What members' records state of those who may have a profile.

    Args:
        rows: The rows of the table `members`.
        admitted: Whose records count.
    """
    names, code = _dictionary(rows, "customer")
    rank = np.append(admitted.ranks(names), -1)[code]
    joined = rows["joined"].cast(pa.int64()).cast(pa.float64()).to_numpy(zero_copy_only=False)
    values = {
        "joined_day": np.floor(joined / DAY_MS),
        "birth_year": rows["birth_year"].to_numpy(zero_copy_only=False).astype(np.float64),
    }
    owners, keys, stated = [], [], []
    for key, name in enumerate(MEMBER_FACTS):
        known = (rank >= 0) & np.isfinite(values[name])
        owners.append(rank[known])
        keys.append(np.full(int(known.sum()), key))
        stated.append(values[name][known].astype(np.int64))
    owner = np.concatenate(owners)
    present, place = np.unique(owner, return_inverse=True)
    table = collected(
        MEMBER, place.reshape(-1), np.concatenate(keys), {"value": np.concatenate(stated)}
    )
    return Facts(admitted.sids[present], {MEMBER: table})


def _dictionary(table: pa.Table, name: str) -> tuple[list[str], np.ndarray]:
    """A column's distinct texts, and each row's as a place among them; past the end for null."""
    column = table[name].unify_dictionaries().combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    names = column.dictionary.to_pylist()
    return names, column.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)


def _read_state(state: str, places: int) -> tuple[list[dict[str, StoreUnit]], list[dict[str, str]]]:
    if not state:
        return [{} for _ in range(places)], [{} for _ in range(places)]
    try:
        record: list[Mapping[str, Mapping[str, list[object]]]] = json.loads(state)
        taken = [
            {
                name: StoreUnit(name, str(mark), int(str(taken_ms)))
                for name, (mark, taken_ms) in each["units"].items()
            }
            for each in record
        ]
        kinds = [{name: str(kind) for name, kind in each["kinds"].items()} for each in record]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"How far purchases were read is malformed: {error!r}.") from error
    if len(taken) != places:
        raise FormatError("How far purchases were read is of another declaration.")
    return taken, kinds
