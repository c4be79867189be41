"""How purchases are read: what is new, once; what is gone, told; what is wrong, counted."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from client.data.source_config import load_source_config
from client.data.tables.reading import RegionTables
from client.profiles.feeds import OUT_OF_SCOPE, UNKNOWN_ITEM, PurchaseFeed, PurchaseLook
from common.catalogue import Catalogue
from common.errors import FormatError
from tests.support.profiles import CATALOGUE, DAY_MS, ITEMS, NOW_MS, Shop, bought

SQL = """
kind = "sql"
url = "sqlite:///{path}"
table = "sales"
refresh_by = "id"
refresh_overlap = 3
[columns]
customer = "customer"
item = "item"
time = "time"
amount = "paid"
"""


def read(look: PurchaseLook) -> list[tuple[str, int]]:
    """Customer and item of each row."""
    return [
        (rows.customers[customer], item)
        for rows in look.batches()
        for customer, item in zip(rows.customer.tolist(), rows.item.tolist(), strict=True)
    ]


def size_of(name: str) -> str:
    """A file's mark, as if it had been there for a while."""
    return str(Path(name).stat().st_size)


def test_files_are_read_once_and_what_is_gone_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.data.file_source._mark", size_of)
    shop = Shop(tmp_path / "shop")
    path = shop.write("purchases", [bought("ann", 3, item=4), bought("bob", 2, item=5)])
    feed = PurchaseFeed(shop.tables(), CATALOGUE)
    look = feed.look()
    assert sorted(read(look)) == [("ann", 4), ("bob", 5)]
    assert (look.withdrawn, look.anew) == (0, False)
    assert "amount" in look.stated
    assert "returned" not in look.stated
    state = look.state()
    shop.write("purchases", [bought("ann", 1, item=6)])
    look = feed.look(state)
    assert read(look) == [("ann", 6)]
    state = look.state()
    path.unlink()
    look = feed.look(state)
    assert (look.withdrawn, look.anew) == (1, False)


def test_a_tables_newest_rows_are_read_again_and_nothing_is_said_to_be_gone(
    tmp_path: Path,
) -> None:
    path, now = tmp_path / "till.sqlite", [NOW_MS]
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE sales (id INTEGER, customer, item, time, paid REAL)")
        database.executemany("INSERT INTO sales VALUES (?, ?, ?, ?, ?)", sales(range(10)))
    (tmp_path / "source.toml").write_text(SQL.format(path=path))
    store = load_source_config(tmp_path / "source.toml")
    feed = PurchaseFeed(RegionTables({}, store=store, clock_ms=lambda: now[0]), CATALOGUE)
    look = feed.look()
    assert len(read(look)) == 10
    state = look.state()
    assert not feed.look(state).changed
    with sqlite3.connect(path) as database:
        database.executemany("INSERT INTO sales VALUES (?, ?, ?, ?, ?)", sales(range(10, 15)))
    look = feed.look(state)
    assert ("c14", 14) in read(look)
    assert (look.withdrawn, look.anew) == (0, False)
    # Once a day the table is read anew, for what was deleted in it.
    state, now[0] = look.state(), NOW_MS + 2 * DAY_MS
    look = feed.look(state)
    assert look.anew
    assert len(read(look)) == 15


def sales(numbers: range) -> list[tuple[object, ...]]:
    return [(n, f"c{n}", ITEMS[n], f"2024-05-{n + 1:02}T10:00:00Z", 1.5) for n in numbers]


def test_what_is_wrong_is_counted_by_reason(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop")
    rows = [
        ("ann", "item-1", "2024-05-01T10:00:00Z", "2.50", "r1"),
        ("ann", "item-1", "2024-05-32T10:00:00Z", "2.50", "r2"),
        ("ann", "item-1", "2024-05-01T10:00:00Z", "-2.50", "r3"),
        ("ann", "voucher", "2024-05-01T10:00:00Z", "2.50", "r4"),
        ("ann", "unheard-of", "2024-05-01T10:00:00Z", "2.50", "r5"),
        ("", "item-1", "2024-05-01T10:00:00Z", "2.50", "r6"),
        ("ann", "item-1", "2099-05-01T10:00:00Z", "2.50", "r7"),
    ]
    shop.write("purchases", rows)
    catalogue = Catalogue.of(ITEMS, excluded=["voucher"])
    look = PurchaseFeed(shop.tables(), catalogue).look()
    assert read(look) == [("ann", 1)]
    counts = look.counts()
    assert (counts.read, counts.accepted) == (7, 1)
    assert counts.reasons[UNKNOWN_ITEM] == counts.reasons[OUT_OF_SCOPE] == 1
    assert counts.reasons["customer-missing"] == counts.reasons["time-impossible"] == 1
    assert counts.reasons["amount-out-of-range"] == 1


@pytest.mark.parametrize("state", ["{", "[]", '[{"units": 3}]', '[{"units": {}}]', "7"])
def test_a_state_of_something_else_is_refused(state: str, tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop")
    with pytest.raises(FormatError):
        PurchaseFeed(shop.tables(), CATALOGUE).look(state)
