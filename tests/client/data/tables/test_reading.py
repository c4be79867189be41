"""Tables are read: mixed types, bad values counted by reason, repeats, unification, bounds."""

from __future__ import annotations

import gzip
import random
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from client.data.tables import finishing
from client.data.tables.rows import TIME, arrow_schema
from client.data.tables.schema import TABLES
from common.errors import InputError
from tests.support.further_tables import TableFolder, declared, required, write_csv

EVENT = ("customer", "time", "kind", "item", "value")


@pytest.fixture
def folder(tmp_path: Path) -> TableFolder:
    return TableFolder(tmp_path)


def column(rows: pa.Table, name: str) -> list[object]:
    return rows.column(name).to_pylist()


def by_customer(rows: pa.Table) -> pa.Table:
    return rows.take(np.argsort(column(rows, "customer")))  # type: ignore[arg-type] # texts


@pytest.mark.parametrize("name", TABLES)
def test_an_empty_table_has_all_columns_and_no_row(folder: TableFolder, name: str) -> None:
    folder.put(name, required(name), [])
    found = folder.tables().read(name)
    assert found.rows.schema == arrow_schema(TABLES[name])
    assert (found.rows.num_rows, found.counts.read, found.counts.score) == (0, 0, 1.0)


def test_rows_get_canonical_types_and_what_is_not_mapped_is_null(folder: TableFolder) -> None:
    folder.put(
        "events",
        EVENT,
        [
            ("7", "2024-03-01 10:00", "pv", "007", ""),
            ("8", "2024-03-01T12:00:00+02:00", "cart", "", 2),
        ],
        codes={"kind": {"pv": "view"}},
        time_zone="Europe/Berlin",
    )
    found = folder.tables().read("events")
    assert found.counts.reasons == {}
    rows = by_customer(found.rows)
    assert rows.schema.field("time").type == TIME
    assert column(rows, "kind") == ["view", "cart"]
    assert column(rows, "item") == ["007", None]
    assert column(rows, "value") == [None, 2.0]
    assert column(rows, "channel") == [None, None]
    hours = [each.hour for each in column(rows, "time")]  # type: ignore[attr-defined]
    assert hours == [9, 10]


BAD = [
    (("", "2024-03-01", "view", "a", 1), {"customer-missing": 1}),
    (("c", "", "view", "a", 1), {"time-missing": 1}),
    (("c", "yesterday", "view", "a", 1), {"time-unreadable": 1}),
    (("c", "2024-02-31", "view", "a", 1), {"time-unreadable": 1}),
    (("c", "2099-01-01", "view", "a", 1), {"time-impossible": 1}),
    (("c", "1066-10-14", "view", "a", 1), {"time-impossible": 1}),
    (("c", "2024-03-01", "stare", "a", 1), {"kind-unknown": 1}),
    (("c", "2024-03-01", "", "a", 1), {"kind-missing": 1}),
    (("c", "2024-03-01", "view", "a", "much"), {"value-unreadable": 1}),
    (("c", "2024-03-01", "view", "a", -1), {"value-out-of-range": 1}),
    (
        ("", "never", "stare", "a", -1),
        {
            "customer-missing": 1,
            "time-unreadable": 1,
            "kind-unknown": 1,
            "value-out-of-range": 1,
        },
    ),
]


@pytest.mark.parametrize(("row", "reasons"), BAD)
def test_a_bad_row_is_left_out_and_counted(
    folder: TableFolder, row: tuple[object, ...], reasons: dict[str, int]
) -> None:
    folder.put("events", EVENT, [row, ("c", "2024-03-01", "view", "a", 1)])
    found = folder.tables().read("events")
    assert dict(found.counts.reasons) == reasons
    assert (found.counts.read, found.counts.accepted, found.rows.num_rows) == (2, 1, 1)
    assert found.counts.score == 0.5


def test_a_score_that_its_kind_has_no_place_for_is_left_out(folder: TableFolder) -> None:
    rows = [
        ("c", "2024-03-01", "nps", 10),
        ("c", "2024-03-01", "csat", 10),
        ("d", "2024-03-01", "csat", 2.5),
    ]
    folder.put("feedback", ("customer", "time", "kind", "score"), rows)
    found = folder.tables().read("feedback")
    assert dict(found.counts.reasons) == {"score-off-scale": 1, "score-unreadable": 1}
    assert column(found.rows, "kind") == ["nps"]


def test_negative_prices_and_unknown_currencies_are_named(folder: TableFolder) -> None:
    folder.put(
        "purchases",
        (*required("purchases"), "amount", "currency"),
        [
            ("c", "2024-03-01", "a", -1, "EUR"),
            ("c", "2024-03-01", "a", 1, "XXX"),
            ("c", "2024-03-02", "a", 1, "EUR"),
        ],
        codes={"currency": {"EUR": "EUR"}},
    )
    found = folder.tables().read("purchases")
    assert dict(found.counts.reasons) == {"amount-out-of-range": 1, "currency-unknown": 1}


def test_repeats_count_once_whichever_file_and_order_they_are_in(tmp_path: Path) -> None:
    folder, generator = TableFolder(tmp_path), random.Random(4)
    rows = [(f"c{n % 3}", f"2024-03-{1 + n % 9:02}", "view", "a", n % 2) for n in range(40)]
    folder.declare("events", declared("events", EVENT) | {"path": "e*.csv"})
    seen = set()
    for _ in range(3):
        generator.shuffle(rows)
        write_csv(tmp_path / "e1.csv", EVENT, rows[:15])
        write_csv(tmp_path / "e2.csv", EVENT, rows[15:])
        found = folder.tables().read("events")
        distinct = {str(row) for row in found.rows.to_pylist()}
        assert len(distinct) == found.rows.num_rows == len(set(rows))
        assert found.counts.reasons == {"row-repeated": len(rows) - len(set(rows))}
        seen.add(frozenset(distinct))
    assert len(seen) == 1


def test_channels_are_unified_by_the_regions_own_keys(folder: TableFolder) -> None:
    folder.put(
        "keys",
        ("channel", "key", "customer"),
        [("web", "w1", "1"), ("web", "w2", "2"), ("web", "w2", "3"), ("app", "d1", "1")],
    )
    web = declared("web", EVENT) | {"channel": "web"}
    app = declared("app", EVENT) | {"channel": "app"}
    folder.declare("events", [web, app])
    day = "2024-03-01"
    write_csv(
        folder.folder / "web.csv",
        EVENT,
        [("w1", day, "view", "a", 1), ("w2", day, "view", "a", 1), ("w9", day, "view", "a", 1)],
    )
    write_csv(folder.folder / "app.csv", EVENT, [("d1", day, "cart", "a", 1)])
    tables = folder.tables()
    found = tables.read("events")
    assert column(found.rows, "customer") == ["1", "1"]
    assert sorted(column(found.rows, "kind")) == ["cart", "view"]  # type: ignore[type-var]
    # Whom nobody has registered is no mistake; whom two are registered as is one.
    assert found.counts.unmatched == 1
    assert dict(found.counts.reasons) == {"customer-ambiguous": 1}
    assert found.counts.score == pytest.approx(2 / 3)
    assert tables.names == ("events",)


def test_members_are_merged_and_contradictions_become_null(folder: TableFolder) -> None:
    folder.put(
        "members",
        ("customer", "birth_year", "level", "city"),
        [("1", 1980, "gold", ""), ("1", 1980, "basic", "york"), ("2", "", "gold", "")],
    )
    found = folder.tables().read("members")
    rows = by_customer(found.rows)
    assert column(rows, "customer") == ["1", "2"]
    assert column(rows, "birth_year") == [1980.0, None]
    assert column(rows, "level") == [None, "gold"]
    assert column(rows, "city") == ["york", None]
    assert found.counts.reasons["customer-repeated"] == 1
    assert found.counts.reasons["customer-values-contradict"] == 1


def test_of_a_customer_with_very_many_rows_the_latest_stay(
    folder: TableFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finishing, "MAX_ROWS_PER_CUSTOMER", 5)
    rows = [("busy", f"2024-03-01T10:{n:02}:00Z", "view", "a", n) for n in range(20)]
    folder.put("events", EVENT, [*rows, ("other", "2024-03-01", "view", "a", 1)])
    found = folder.tables().read("events")
    assert found.counts.reasons == {"customer-beyond-cap": 15}
    assert sorted(column(found.rows, "value")) == [1.0, 15.0, 16.0, 17.0, 18.0, 19.0]  # type: ignore[type-var]


def test_parquet_sql_and_compressed_text_say_the_same(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "customer": [1, 2],
            "time": pd.to_datetime(["2024-03-01T09:00Z", "2024-03-02T09:00Z"]),
            "kind": ["view", "cart"],
            "item": ["7", None],
            "value": [1.5, None],
        }
    )
    (tmp_path / "parquet").mkdir()
    pq.write_table(pa.Table.from_pandas(frame), tmp_path / "parquet" / "e.parquet")
    text = frame.assign(time=frame["time"].astype("str"))
    with gzip.open(tmp_path / "e.csv.gz", "wt") as file:
        text.to_csv(file, index=False)
    with sqlite3.connect(tmp_path / "e.db") as database:
        text.to_sql("e", database, index=False)
    places = (
        {"kind": "files", "path": "parquet"},
        {"kind": "files", "path": "e.csv.gz"},
        {"kind": "sql", "url": "sqlite:///e.db", "table": "e"},
    )
    found = []
    for place in places:
        folder = TableFolder(tmp_path)
        folder.declare("events", {**place, "columns": {name: name for name in EVENT}})
        found.append(by_customer(folder.tables().read("events").rows).to_pylist())
    assert found[0] == found[1] == found[2]
    assert [row["customer"] for row in found[0]] == ["1", "2"]


def test_a_store_whose_columns_drift_is_refused(tmp_path: Path) -> None:
    folder = TableFolder(tmp_path)
    folder.declare("events", declared("events", required("events")) | {"path": "*.parquet"})
    moment = pd.to_datetime(["2024-03-01T09:00Z"])
    for name, customer in (("a", "007"), ("b", 7)):
        frame = pd.DataFrame({"customer": [customer], "time": moment, "kind": ["view"]})
        pq.write_table(pa.Table.from_pandas(frame), tmp_path / f"{name}.parquet")
    with pytest.raises(InputError, match="holds numbers, where the store held text before"):
        folder.tables().read("events")


def test_other_encodings_are_refused_without_the_row(tmp_path: Path) -> None:
    folder = TableFolder(tmp_path)
    folder.put("events", required("events"), [])
    with (tmp_path / "events.csv").open("ab") as file:
        file.write("Zoë,2024-03-01,view\n".encode("latin-1"))
    with pytest.raises(InputError) as caught:
        folder.tables().read("events")
    assert "cannot be read" in str(caught.value)
    assert "Zo" not in str(caught.value)


def test_a_missing_column_or_table_is_named(folder: TableFolder) -> None:
    folder.put("events", required("events"), [])
    (folder.folder / "events.csv").write_text("customer,time,what\n")
    tables = folder.tables()
    with pytest.raises(InputError, match="has no column 'kind'"):
        tables.read("events")
    with pytest.raises(InputError, match="has no column 'kind'"):
        tables.check()
    with pytest.raises(InputError, match="declares no table feedback; it declares events"):
        tables.read("feedback")


def test_digests_tell_rows_apart_and_do_not_depend_on_the_batch(folder: TableFolder) -> None:
    rows = [(f"c{n}", "2024-03-01", "view", f"i{n % 7}", n % 5) for n in range(200)]
    folder.put("events", EVENT, rows)
    table = folder.tables().read("events").rows
    whole = finishing.row_digests(table)
    assert len(np.unique(whole)) == 200
    halves = [finishing.row_digests(table.slice(100 * n, 100)) for n in range(2)]
    np.testing.assert_array_equal(whole, np.concatenate(halves))
