"""A region's home with tables, for quality governance: no keys but the storage key, no log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import tomli_w

from client.engine.home import RegionHome
from client.engine.storage_key import make_storage_key
from common.catalogue import Catalogue
from tests.support.further_tables import declared, write_csv

Rows = Sequence[Sequence[object]]
ITEMS = ("milk", "bread", "tea")
PURCHASES = ("customer", "item", "time", "quantity", "amount", "basket")


def good_purchases(count: int = 100) -> list[tuple[object, ...]]:
    """Rows without a fault: ten customers, each on days of her own."""
    return [
        (
            f"c{n % 10}",
            ITEMS[n % 3],
            f"2024-03-{1 + n % 28:02d} 10:{n % 60:02d}:00",
            1,
            2.5,
            f"b{n}",
        )
        for n in range(count)
    ]


def make_governed_home(
    root: Path,
    purchases: Rows | None = None,
    **tables: tuple[Sequence[str], Rows],
) -> RegionHome:
    """Makes the home.

    Args:
        root: Where.
        purchases: The rows of its store; without, good ones.
        tables: By name, a further table's columns and rows.
    """
    home = RegionHome(root=root, region="region-1", federation="small.example")
    home.keys.mkdir(parents=True)
    make_storage_key(home.stored_key)
    home.write_identity()
    Catalogue.of(list(ITEMS), category=["dairy", "bakery", None], excluded=["fuel"]).save(
        home.catalogue
    )
    folder = home.source.parent
    folder.mkdir()
    columns = {name: name for name in PURCHASES}
    source = {"kind": "files", "path": "purchases.csv", "columns": columns}
    home.source.write_text(tomli_w.dumps(source), encoding="utf-8")
    write_csv(
        folder / "purchases.csv", PURCHASES, good_purchases() if purchases is None else purchases
    )
    put_tables(home, tables)
    return home


def put_tables(home: RegionHome, tables: Mapping[str, tuple[Sequence[str], Rows]]) -> None:
    """Writes further tables, and declares these and no others."""
    folder = home.source.parent
    stated = {}
    for name, (columns, rows) in tables.items():
        write_csv(folder / f"{name}.csv", columns, rows)
        stated[name] = declared(name, columns)
    if stated:
        (folder / "tables.toml").write_text(tomli_w.dumps(stated), encoding="utf-8")
