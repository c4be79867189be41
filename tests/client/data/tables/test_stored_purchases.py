"""The table of purchases that is made of source.toml."""

from __future__ import annotations

from pathlib import Path

from client.data.source_config import source_from_table
from client.data.tables.reading import RegionTables
from tests.support.further_tables import NOW_MS, write_csv

COLUMNS = ("card", "sku", "at", "n", "paid", "receipt", "shop", "home")
ROWS = [
    ("1", "a", "2024-03-01T10:00:00Z", 2, 3.5, "r1", "s1", "s1"),
    ("2", "a", "2024-03-01T10:00:00Z", 1, 3.5, "r2", "s1", "s9"),
    ("3", "b", "2020-03-01T10:00:00Z", 1, 1.0, "r3", "s1", "s1"),
    ("4", "b", "2024-03-02T10:00:00Z", 1, -1.0, "r4", "s1", "s1"),
]


def tables(folder: Path, **mapped: str) -> RegionTables:
    write_csv(folder / "sales.csv", COLUMNS, ROWS)
    config = source_from_table(
        {
            "kind": "files",
            "path": "sales.csv",
            "home_stores": ["s1"],
            "period_from": "2024-01-01T00:00:00Z",
            "columns": {
                "customer": "card",
                "item": "sku",
                "time": "at",
                "home_store": "home",
                **mapped,
            },
        },
        folder,
        "source.toml",
    )
    return RegionTables({}, store=config, clock_ms=lambda: NOW_MS)


def test_amounts_receipts_and_stores_are_there_and_other_regions_customers_are_not(
    tmp_path: Path,
) -> None:
    found = tables(tmp_path, quantity="n", amount="paid", basket="receipt", store="shop")
    assert found.names == ("purchases",)
    read = found.read("purchases")
    (row,) = read.rows.to_pylist()
    expected = {"customer": "1", "item": "a", "quantity": 2.0, "amount": 3.5, "receipt": "r1"}
    assert {name: row[name] for name in expected} == expected
    assert (row["store"], row["payment"], row["returned"]) == ("s1", None, None)
    assert dict(read.counts.reasons) == {"amount-out-of-range": 1}
    found.check()


def test_a_row_without_a_quantity_is_one_thing(tmp_path: Path) -> None:
    read = tables(tmp_path).read("purchases")
    assert read.rows.column("quantity").to_pylist() == [1.0, 1.0]
    assert read.rows.column("amount").null_count == 2
