"""Events: counted once, carts that were left, categories looked at."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from client.profiles.events import KIND_NAMES, EventCollector, carts_left_in_a_row
from client.profiles.purchases import Admitted
from client.profiles.tables import BROWSED, DAYS, KINDS, RECENT, Facts, added, collected
from common.errors import InputError
from tests.support.profiles import CATALOGUE, CATEGORIES, LOCAL, NOW_MS, sid_of

HOUR_MS = 3_600_000
ADMITTED = Admitted({"ann": sid_of("ann")})
Event = tuple[str, float, str]


def table(events: list[Event], category: str | None = "TEA") -> pa.Table:
    return pa.table(
        {
            "customer": pa.array([who for who, _, _ in events], pa.string()),
            "time": pa.array(
                [round(NOW_MS - hours * HOUR_MS) for _, hours, _ in events], pa.int64()
            ).cast(pa.timestamp("ms", "UTC")),
            "kind": pa.array([kind for _, _, kind in events], pa.string()),
            "category": pa.array([category] * len(events), pa.string()),
        }
    )


def facts(*tables: pa.Table) -> Facts:
    collector = EventCollector(ADMITTED, CATALOGUE, LOCAL)
    for each in tables:
        collector.add(each)
    (shard,) = collector.shards()
    return collector.facts(shard)


def left(*events: Event, bought_days: tuple[int, ...] = ()) -> int:
    found = facts(table(list(events)))
    if bought_days:
        today = LOCAL.day(NOW_MS)
        ones = [1] * len(bought_days)
        days = [today - ago for ago in bought_days]
        owner = np.zeros(len(ones), int)
        bought = collected(
            DAYS, owner, np.array(days), {"rows": np.array(ones), "cents": np.array(ones)}
        )
        found = added([found, Facts(found.sids, {DAYS: bought})])
    (count,) = carts_left_in_a_row(found, LOCAL, now_ms=NOW_MS, after_ms=24 * HOUR_MS)
    return int(count)


def test_three_carts_days_apart_are_three() -> None:
    assert left(("ann", 100, "cart"), ("ann", 70, "cart"), ("ann", 30, "cart")) == 3


def test_carts_of_one_visit_are_one() -> None:
    assert left(("ann", 100, "cart"), ("ann", 99, "cart"), ("ann", 98.5, "cart")) == 1


def test_a_cart_of_today_is_not_left_yet() -> None:
    assert left(("ann", 100, "cart"), ("ann", 2, "cart")) == 1


@pytest.mark.parametrize("bought_hours_ago", [60, 50])
def test_a_purchase_breaks_the_row(bought_hours_ago: int) -> None:
    events = [("ann", 100, "cart"), ("ann", 70, "cart"), ("ann", 30, "cart")]
    assert left(*events, ("ann", bought_hours_ago, "purchase")) == 1


def test_a_purchase_in_the_store_breaks_it_too() -> None:
    events = [("ann", 100, "cart"), ("ann", 70, "cart"), ("ann", 30, "cart")]
    assert left(*events, bought_days=(1,)) == 0
    assert left(*events, bought_days=(90,)) == 3


def test_an_event_that_says_so_counts_at_once_and_once() -> None:
    assert left(("ann", 1.5, "cart"), ("ann", 1, "abandon")) == 1
    assert left(*(("ann", hours, "abandon") for hours in (3, 2, 1))) == 3


def test_what_is_no_cart_decides_nothing() -> None:
    looks = [("ann", hours, "view") for hours in range(40)]
    assert left(*looks, ("ann", 100, "cart")) == 1


def test_an_event_twice_is_an_event_once_also_in_a_later_file() -> None:
    events = [("ann", 5, "view"), ("ann", 5, "view"), ("ann", 4, "view")]
    found = facts(table(events), table(events[:1]))
    assert found[KINDS].columns["count"].tolist() == [2]
    collector = EventCollector(ADMITTED, CATALOGUE, LOCAL)
    collector.add(table([*events, ("ann", 3, "click")]))
    (shard,) = collector.shards()
    more = collector.facts(shard, found)
    assert more[KINDS].key.tolist() == [KIND_NAMES.index("click")]
    assert len(added([found, more])[RECENT]) == 3


def test_categories_are_told_by_item_or_by_name() -> None:
    by_item = table([("ann", 5, "view")], category=None).append_column(
        "item", pa.array(["item-1"], pa.string())
    )
    found = facts(by_item, table([("ann", 4, "search")], category="WINE"))
    named = [CATEGORIES[key] for key in found[BROWSED].key.tolist()]
    assert named == ["CHEESE", "WINE"]


def test_others_events_unknown_kinds_and_missing_times_are_passed_over() -> None:
    strange = table([("bob", 1, "view"), ("ann", 1, "shout"), ("ann", 2, "view")])
    collector = EventCollector(ADMITTED, CATALOGUE, LOCAL)
    collector.add(strange)
    (shard,) = collector.shards()
    assert collector.facts(shard)[KINDS].columns["count"].tolist() == [1]
    assert collector.unknown_kinds == 1
    nowhere = pa.table({"customer": ["ann"], "kind": ["view"]})
    with pytest.raises(InputError, match="time"):
        collector.add(nowhere)
