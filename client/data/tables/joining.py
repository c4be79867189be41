"""Puts rows of further tables beside the purchases of the customers who consent, and no others.

Customers are admitted as purchases are (`client.data.consent_filter`): by the pseudonym that
`EligibleCustomers` has of the region's own reference. Whoever is in a table and has bought nothing
comes in a part of her own kind, behind the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from client.data.consent_filter import EligibleCustomers
from client.data.table_rows import NONE, TableRows, Texts
from client.data.transactions import Purchases
from common.errors import ConsentError, InputError

LongArray = npt.NDArray[np.int64]


def join_consented(
    parts: Iterator[Purchases], tables: Mapping[str, pa.Table], eligible: EligibleCustomers
) -> Iterator[Purchases]:
    """Consenting customers' purchases with their rows of some tables.

    Args:
        parts: What the consent filter lets through, under pseudonyms.
        tables: Canonical tables of facts, by name, of the region's own references.
        eligible: The customers whose consent is in force: those that the parts are of.

    Yields:
        Each part with the rows of its customers; at the end, customers with rows and no purchase.

    Raises:
        ConsentError: `eligible` is something else.
        InputError: A table has no customer or no time.
    """
    if type(eligible) is not EligibleCustomers:
        raise ConsentError(
            "Tables were to be joined past the consent filter.",
            remedy="Pass what EligibleCustomers.from_replay returns.",
        )
    held = {name: _Held.of(name, each, eligible.pseudonyms) for name, each in tables.items()}
    return _joined(parts, held)


def _joined(parts: Iterator[Purchases], held: Mapping[str, _Held]) -> Iterator[Purchases]:
    for part in parts:
        yield _beside(part, held)
    rest = sorted({sid for each in held.values() for sid in each.number_of})
    if rest:
        none = np.zeros(0, dtype=np.int32)
        yield _beside(Purchases(tuple(rest), none, none, np.zeros(0, dtype=np.int64)), held)


def _beside(part: Purchases, held: Mapping[str, _Held]) -> Purchases:
    further = {name: each.give(part.owners) for name, each in held.items()}
    return Purchases(part.owners, part.owner, part.item, part.time_ms, further)


@dataclass(frozen=True, eq=False)
class _Held:
    """A table's rows of consenting customers, customer after customer.

    Attributes:
        number_of: By pseudonym, the customer's number; taken out once her rows were given.
        begins: int64[customers + 1], where each customer's rows begin.
        rows: The rows; their owners are these numbers.
    """

    number_of: dict[str, int] = field(repr=False)
    begins: LongArray = field(repr=False)
    rows: TableRows = field(repr=False)

    @classmethod
    def of(cls, name: str, table: pa.Table, pseudonyms: Mapping[str, str]) -> _Held:
        if not {"customer", "time"} <= set(table.column_names):
            raise InputError(f"The table {name} is no table of what customers did when.")
        customers = _texts(table.column("customer"))
        sids = [pseudonyms.get(each) for each in customers.labels]
        admitted = [number for number, sid in enumerate(sids) if sid is not None]
        number = np.full(len(sids) + 1, NONE, dtype=np.int32)
        number[admitted] = np.arange(len(admitted), dtype=np.int32)
        owner = number[customers.codes]
        rows = np.flatnonzero(owner >= 0)
        rows = rows[np.argsort(owner[rows], kind="stable")]
        counts = np.bincount(owner[rows], minlength=len(admitted))
        taken = table.take(pa.array(rows))
        return cls(
            {str(sids[place]): at for at, place in enumerate(admitted)},
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            _rows(taken, owner[rows]),
        )

    def give(self, owners: tuple[str, ...]) -> TableRows:
        """The rows of some customers, who then are given."""
        numbers, places = [], []
        for place, sid in enumerate(owners):
            number = self.number_of.pop(sid, None)
            if number is not None:
                numbers.append(number)
                places.append(place)
        given = np.array(numbers, dtype=np.int64)
        counts = self.begins[given + 1] - self.begins[given]
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        at = np.repeat(self.begins[given] - (ends - counts), counts) + np.arange(total)
        owner = np.repeat(np.array(places, dtype=np.int32), counts)
        rows = self.rows
        return TableRows(
            owner,
            rows.time_ms[at],
            {name: Texts(each.codes[at], each.labels) for name, each in rows.texts.items()},
            {name: each[at] for name, each in rows.numbers.items()},
        )


def _rows(table: pa.Table, owner: npt.NDArray[np.int32]) -> TableRows:
    texts, numbers = {}, {}
    for name in table.column_names:
        column = table.column(name)
        if pa.types.is_dictionary(column.type) and name != "customer":
            texts[name] = _texts(column)
        elif pa.types.is_floating(column.type):
            numbers[name] = column.to_numpy(zero_copy_only=False)
    time_ms = table.column("time").cast(pa.int64()).to_numpy(zero_copy_only=False)
    return TableRows(owner, time_ms, texts, numbers)


def _texts(column: pa.ChunkedArray) -> Texts:
    whole = column.unify_dictionaries().combine_chunks()
    array = whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
    codes = array.indices.fill_null(NONE).to_numpy(zero_copy_only=False).astype(np.int32)
    return Texts(codes, tuple(array.dictionary.to_pylist()))
