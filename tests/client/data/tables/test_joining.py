"""Rows of further tables beside purchases: consenting customers' rows, each with its customer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from client.data.consent_filter import EligibleCustomers
from client.data.table_rows import NONE, TableRows, Texts
from client.data.tables.joining import join_consented
from client.data.tables.rows import arrow_schema
from client.data.tables.schema import TABLES
from client.data.transactions import Purchases
from common.errors import ConsentError, InputError

MakeEligible = Callable[[Mapping[str, str]], EligibleCustomers]


def sid(name: str) -> str:
    return name.encode().hex().ljust(64, "f")


def events(*rows: tuple[str, int, str | None]) -> pa.Table:
    """Events as (customer, time, item)."""
    schema = arrow_schema(TABLES["events"])
    records = [
        {"customer": who, "time": at, "kind": "view", "item": item, "value": float(at)}
        for who, at, item in rows
    ]
    whole = [{name: each.get(name) for name in schema.names} for each in records]
    return pa.Table.from_pylist(whole, schema=schema)


def part(*customers: str) -> Purchases:
    """A purchase of each customer."""
    n = len(customers)
    return Purchases(
        tuple(sid(each) for each in customers),
        np.arange(n, dtype=np.int32),
        np.zeros(n, dtype=np.int32),
        np.zeros(n, dtype=np.int64),
    )


def told(parts: Iterator[Purchases]) -> Counter[tuple[str, int, str | None]]:
    found: Counter[tuple[str, int, str | None]] = Counter()
    for each in parts:
        rows = each.further["events"]
        items = rows.text("item")
        for owner, time_ms, code, value in zip(
            rows.owner, rows.time_ms, items.codes, rows.number("value"), strict=True
        ):
            name = bytes.fromhex(each.owners[owner].rstrip("f")).decode()
            assert value == time_ms
            found[name, int(time_ms), None if code == NONE else items.labels[code]] += 1
    return found


def test_rows_lie_beside_the_purchases_of_their_customers(eligible: MakeEligible) -> None:
    who = eligible({each: sid(each) for each in "abcd"})
    table = events(("b", 1, "x"), ("a", 2, None), ("b", 3, "y"), ("d", 4, "x"), ("z", 5, "x"))
    joined = list(join_consented(iter([part("a", "c"), part("b")]), {"events": table}, who))
    assert [len(each.owners) for each in joined] == [2, 1, 1]
    assert told(iter(joined)) == Counter(
        [("b", 1, "x"), ("a", 2, None), ("b", 3, "y"), ("d", 4, "x")]
    )
    # Whoever has rows and no purchase comes by herself.
    assert joined[2].owners == (sid("d"),)
    assert len(joined[2]) == 0


def test_whose_consent_is_not_in_force_has_no_row(eligible: MakeEligible) -> None:
    table = events(("a", 1, "x"), ("b", 2, "x"))
    joined = join_consented(iter([part("a")]), {"events": table}, eligible({"a": sid("a")}))
    assert told(joined) == Counter([("a", 1, "x")])


def test_nothing_but_eligible_customers_opens_the_way() -> None:
    with pytest.raises(ConsentError, match="past the consent filter"):
        join_consented(iter([]), {}, object())  # type: ignore[arg-type] # that is the test


def test_a_table_without_customers_is_refused(eligible: MakeEligible) -> None:
    table = arrow_schema(TABLES["promotions"]).empty_table()
    with pytest.raises(InputError, match="no table of what customers did"):
        join_consented(iter([]), {"promotions": table}, eligible({"a": sid("a")}))


def test_many_rows_of_many_customers_are_all_there(eligible: MakeEligible) -> None:
    generator = np.random.default_rng(1)
    names = [f"k{n}" for n in range(40)]
    rows = [(names[n], int(at), None) for at, n in enumerate(generator.integers(0, 40, 500))]
    who = eligible({each: sid(each) for each in names[:30]})
    parts = iter([part(*names[:10]), part(*names[10:20])])
    found = told(join_consented(parts, {"events": events(*rows)}, who))
    assert found == Counter(row for row in rows if row[0] in names[:30])


def test_texts_are_found_among_public_names() -> None:
    texts = Texts(np.array([1, NONE, 0, 2], dtype=np.int32), ("a", "b", "c"))
    assert texts.among(["b", "a"]).tolist() == [0, NONE, 1, NONE]
    assert Texts(np.array([NONE], dtype=np.int32), ()).among(["b"]).tolist() == [NONE]
    empty = np.zeros(0)
    rows = TableRows(empty.astype(np.int32), empty.astype(np.int64), {}, {})
    for ask in (rows.text, rows.number):
        with pytest.raises(InputError, match="no column 'x'"):
            ask("x")


def test_rows_know_their_columns(eligible: MakeEligible) -> None:
    frame: dict[str, Any] = {"customer": ["a"], "time": pd.to_datetime(["2024-03-01T09:00Z"])}
    table = pa.Table.from_pandas(pd.DataFrame(frame))
    schema = pa.schema(
        [("customer", pa.dictionary(pa.int32(), pa.string())), ("time", pa.timestamp("ms", "UTC"))]
    )
    who = eligible({"a": sid("a")})
    (joined,) = join_consented(iter([part("a")]), {"t": table.cast(schema)}, who)
    rows = joined.further["t"]
    assert (len(rows), list(rows.texts), list(rows.numbers)) == (1, [], [])
    assert rows.time_ms.tolist() == [1_709_283_600_000]
