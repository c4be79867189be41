"""The numbers about customers, against a plain count of the same rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import mean

import numpy as np
import pandas as pd
import pytest

from client.profiles.columns import CUSTOMER_FACTS, Columns, Moment, columns_of
from client.profiles.events import EventCollector
from client.profiles.feeds import PurchaseFeed, member_facts
from client.profiles.purchases import Admitted, PurchaseCollector
from client.profiles.tables import Facts, added
from tests.support.profiles import (
    CATALOGUE,
    CATEGORIES,
    DAY_MS,
    ITEMS,
    LOCAL,
    NOW_MS,
    Shop,
    bought,
    event,
    sid_of,
)

ADMITTED = Admitted({"ann": sid_of("ann")})
TODAY = LOCAL.day(NOW_MS)
Rows = list[tuple[object, ...]]


def moment(*stated: str) -> Moment:
    return Moment(NOW_MS, LOCAL, frozenset(stated), DAY_MS)


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Facts]:
    def facts(purchases: Rows = (), events: Rows = ()) -> Facts:  # type: ignore[assignment]
        shop = Shop(tmp_path / "shop")
        shop.write("purchases", purchases)
        shop.write("events", events)
        collector = PurchaseCollector(ADMITTED, CATALOGUE, LOCAL)
        for batch in PurchaseFeed(shop.tables(), CATALOGUE).look().batches():
            collector.add(batch)
        found = [collector.facts(shard) for shard in collector.shards()]
        rows = shop.tables().read("events").rows
        events_of = EventCollector(ADMITTED, CATALOGUE, LOCAL)
        events_of.add(rows)
        return added([*found, *(events_of.facts(shard) for shard in events_of.shards())])

    return facts


def value(columns: Columns, name: str) -> float:
    return float(columns.values[name][0])


def test_all_numbers_are_those_of_a_plain_count(read: Callable[..., Facts]) -> None:
    generator = np.random.default_rng(3)
    days = np.sort(generator.integers(0, 500, 60))
    rows = [
        bought("ann", int(ago) + 0.1, item=int(item), paid=float(paid), receipt=str(number))
        for number, (ago, item, paid) in enumerate(
            zip(days, generator.integers(0, 20, 60), generator.integers(1, 90, 60), strict=True)
        )
    ]
    columns = columns_of(read(rows), moment("amount", "returned"))
    table = pd.DataFrame(rows, columns=["customer", "item", "time", "paid", "receipt"])
    local = pd.to_datetime(table["time"]).dt.tz_convert("Europe/Berlin")
    day = (local.dt.tz_localize(None) - pd.Timestamp(0)).dt.days
    ago = TODAY - day
    distinct = sorted(set(day))
    category = [CATEGORIES[ITEMS.index(item) % 5] for item in table["item"]]
    most = pd.Series(category).value_counts()
    expected = {
        "customer_for_days": TODAY - distinct[0],
        "days_since_purchase": TODAY - distinct[-1],
        "purchase_days": len(distinct),
        "purchase_days_30": len({each for each in day if TODAY - each < 30}),
        "purchase_days_90": len({each for each in day if TODAY - each < 90}),
        "purchase_days_365": len({each for each in day if TODAY - each < 365}),
        "items": 60,
        "mean_gap_days": mean(np.diff(distinct).tolist()),
        "spend": table["paid"].sum(),
        "spend_90": table["paid"][ago < 90].sum(),
        "spend_365": table["paid"][ago < 365].sum(),
        "spend_per_day": table["paid"].sum() / len(distinct),
        "spend_change": table["paid"][ago < 90].sum()
        / table["paid"][(ago >= 90) & (ago < 180)].sum(),
        "categories": len(most),
        "top_category_share": most.iloc[0] / 60,
        "weekend_share": (local.dt.day_of_week >= 5).mean(),
        "share_afternoon": local.dt.hour.between(14, 17).mean(),
        "returned_share": 0.0,
    }
    assert {name: value(columns, name) for name in expected} == pytest.approx(expected)
    pairs = {CATEGORIES[key]: place for place, key in enumerate(columns.category.tolist())}
    assert set(pairs) == set(most.index)
    for name, place in pairs.items():
        assert columns.pairs["category_items"][place] == most[name]
        newest = min(each for each, of in zip(ago, category, strict=True) if of == name)
        assert columns.pairs["category_days_since"][place] == newest


def test_whoever_has_only_events_has_no_numbers_of_purchases(read: Callable[..., Facts]) -> None:
    columns = columns_of(
        read(events=[event("ann", 30, "view", category="TEA"), event("ann", 3, "click")]), moment()
    )
    known = {name for name, each in columns.values.items() if np.isfinite(each[0])}
    assert known == {
        "views", "clicks", "searches", "carts", "favourites", "days_since_event",
        "carts_left_in_a_row", "categories_browsed",
    }  # fmt: skip
    assert value(columns, "views") == 1
    assert columns.pairs["category_first_view_days"].tolist() == [1]


def test_looking_before_buying_is_told_from_looking_after(read: Callable[..., Facts]) -> None:
    facts = read(
        [bought("ann", 10, item=3), bought("ann", 1, item=0)],
        [event("ann", 48, "view", category="TEA"), event("ann", 72, "view", category="BREAD")],
    )
    columns = columns_of(facts, moment())
    before = {
        CATEGORIES[key]: columns.pairs["category_bought_before"][place]
        for place, key in enumerate(columns.category.tolist())
    }
    assert before == {"TEA": 1.0, "BREAD": 0.0}


def test_without_amounts_nothing_is_said_of_money(read: Callable[..., Facts]) -> None:
    columns = columns_of(read([bought("ann", 3)]), moment())
    assert all(np.isnan(value(columns, name)) for name in CUSTOMER_FACTS if "spend" in name)


def test_the_members_record_is_read(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop")
    (tmp_path / "shop/members.csv").write_text(
        "customer,joined,birth_year\nann,2024-01-01,1990\nbob,2024-01-01,1990\n"
    )
    with (tmp_path / "shop/tables.toml").open("a") as file:
        file.write(
            '[members]\nkind = "files"\npath = "members.csv"\n[members.columns]\n'
            'customer = "customer"\njoined = "joined"\nbirth_year = "birth_year"\n'
        )
    facts = member_facts(shop.tables().read("members").rows, ADMITTED)
    columns = columns_of(facts, moment())
    assert len(facts) == 1
    assert (value(columns, "member_for_days"), value(columns, "age_years")) == (152, 34)
