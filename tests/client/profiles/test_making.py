"""Builds and refreshes: whose profiles there are, that both come to the same, and what is kept."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.data.source_config import load_source_config
from client.data.standards import load_standards
from client.data.tables.declaration import load_tables
from client.data.tables.reading import RegionTables
from client.engine.storage_key import StorageKey
from client.governance.quality_home import Governance
from client.governance.quality_rows import Surroundings
from client.profiles import tables
from client.profiles.building import build
from client.profiles.judging import Judged, named
from client.profiles.library import load_library
from client.profiles.making import Making
from client.profiles.reading import ProfileReader
from client.profiles.refreshing import Refresher
from client.profiles.rfm import Cuts
from client.profiles.store import DamagedProfilesError, ProfileStore
from client.profiles.tables import Facts, added
from common.consent import FEDERATED_TRAINING
from common.errors import ConsentError, InputError, QualityGateError, StorageError
from tests.support.profiles import (
    CATALOGUE,
    DAY_MS,
    ITEMS,
    LOCAL,
    NOW_MS,
    Shop,
    bought,
    consenting,
    event,
    sid_of,
)

WHO = ("ann", "bob", "cleo")


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    shop = Shop(tmp_path / "shop")
    shop.write(
        "purchases",
        [bought(who, ago, item=ago % 20) for who in WHO for ago in range(3, 200, 9)]
        + [bought("nobody", 5)],
    )
    return shop


def kept(making: Making) -> tuple[dict[str, Any], dict[str, Any]]:
    """All facts and all that is said, whatever the files and layers."""
    manifest = making.store.require()
    facts: dict[str, Any] = {}
    said: dict[str, Any] = {}
    for shard in manifest.shards:
        whole = added([Facts(tables.sids_of([]), {}), *making.store.facts(shard, marks=True)])
        for name, table in whole.tables.items():
            for owner, key, *values in zip(
                table.owner.tolist(), table.key.tolist(), *table.columns.values(), strict=True
            ):
                facts[f"{bytes(whole.sids[owner]).hex()}/{name}/{key}"] = [int(v) for v in values]
        judged = making.store.judged(shard)
        for row, sid in enumerate(judged.sids):
            said[bytes(sid).hex()] = (int(judged.segment[row]), codes(judged, row))
    return facts, said


def codes(judged: Judged, row: int) -> list[tuple[int, int | None]]:
    return [named(int(code)) for code in judged.said[judged.owner == row]]


def reader(shop: Shop, making: Making) -> ProfileReader:
    return ProfileReader(making.store, shop.library, CATALOGUE.category_names, LOCAL, 24)


def tags(shop: Shop, making: Making, who: str, lang: str = "en") -> dict[str, Any]:
    found = reader(shop, making).of(sid_of(who))
    assert found is not None
    record: Any = found.record(lang, "operator")
    return {each["title"]: each for each in (*record["tags"], *record["triggers"])}


def test_only_those_who_consented_have_a_profile(shop: Shop) -> None:
    making = shop.making()
    outcome = build(making, consenting(["ann", "cleo", "never-seen"]), NOW_MS)
    assert outcome.customers == 2
    assert set(kept(making)[1]) == {sid_of("ann"), sid_of("cleo")}
    assert reader(shop, making).of(sid_of("bob")) is None
    assert reader(shop, making).of(sid_of("never-seen")) is None


def test_customers_of_another_purpose_are_refused(shop: Shop) -> None:
    making = shop.making()
    other = consenting(WHO, purpose=FEDERATED_TRAINING, granted=FEDERATED_TRAINING)
    with pytest.raises(ConsentError, match="CustomerProfiling"):
        build(making, other, NOW_MS)
    with pytest.raises(ConsentError):
        Refresher(making).refresh(other, NOW_MS)
    assert making.store.manifest() is None


def test_whoever_withdraws_has_no_profile_after_the_next_refresh(shop: Shop) -> None:
    making = shop.making()
    build(making, consenting(WHO), NOW_MS)
    outcome = Refresher(making).refresh(consenting(["ann", "cleo"]), NOW_MS)
    assert (outcome.taken_out, outcome.customers) == (1, 2)
    facts, said = kept(making)
    assert not any(key.startswith(sid_of("bob")) for key in (*facts, *said))
    assert sid_of("bob") not in {
        bytes(sid).hex() for sid in making.store.admitted(making.store.require())
    }
    # Nor does consenting again bring back half a profile: the next build reads the whole history.
    shop.write("purchases", [bought("bob", 1)])
    outcome = Refresher(shop.making()).refresh(consenting(WHO), NOW_MS)
    assert (outcome.waiting, outcome.customers) == (1, 2)
    assert "wait" in outcome.build_due
    build(making, consenting(WHO), NOW_MS)
    assert tags(shop, making, "bob")


def test_a_table_that_cannot_be_read_keeps_nobodys_profile_who_has_left(shop: Shop) -> None:
    making = shop.making()
    build(making, consenting(WHO), NOW_MS)
    path = shop.write("purchases", [bought("ann", 1)])
    path.write_bytes(b"no table at all")
    with pytest.raises(InputError):
        Refresher(making).refresh(consenting(["ann", "cleo"]), NOW_MS)
    facts, said = kept(making)
    assert not any(key.startswith(sid_of("bob")) for key in (*facts, *said))
    assert set(said) == {sid_of("ann"), sid_of("cleo")}


def test_when_nobody_consents_any_more_nothing_is_left(shop: Shop) -> None:
    making = shop.making()
    build(making, consenting(WHO), NOW_MS)
    Refresher(making).refresh(consenting([]), NOW_MS)
    assert kept(making) == ({}, {})
    build(making, consenting([]), NOW_MS)
    assert kept(making) == ({}, {})


ROWS = st.lists(
    st.tuples(st.sampled_from(WHO), st.integers(0, 300), st.integers(0, 19), st.integers(0, 2)),
    max_size=12,
)
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(WHO),
        st.integers(0, 400),
        st.sampled_from(["view", "cart", "click", "search"]),
        st.sampled_from(["TEA", "WINE"]),
    ),
    max_size=8,
)


@given(st.lists(st.tuples(ROWS, EVENTS), min_size=1, max_size=4), st.booleans())
@settings(
    max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_refreshes_come_to_what_a_build_comes_to(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any], next_day: bool
) -> None:
    shop = Shop(tmp_path_factory.mktemp("shop") / "s")
    shop.write("purchases", [bought(who, 400, receipt="first") for who in WHO])
    making, refresher = shop.making(), Refresher(shop.making())
    build(making, consenting(WHO), NOW_MS)
    for purchases, events in steps:
        # A receipt may be delivered twice, also in a later file.
        rows = [bought(who, ago, item=item, receipt=str(n)) for who, ago, item, n in purchases]
        shop.write("purchases", rows)
        shop.write("events", [event(who, ago, kind, category=of) for who, ago, kind, of in events])
        refresher.refresh(consenting(WHO), NOW_MS)
    now_ms = NOW_MS + next_day * DAY_MS
    refresher.refresh(consenting(WHO), now_ms)
    refreshed = kept(making)
    other = shop.making(store=ProfileStore(shop.folder / "anew", shop.key))
    build(other, consenting(WHO), now_ms)
    anew = kept(other)
    assert refreshed[0] == anew[0]
    # Models are those of the last build: compared is what rests on a customer's own facts.
    own = {n for n, each in enumerate(shop.library.said) if not each.relative}
    for sid, (_, said) in anew[1].items():
        assert [each for each in refreshed[1][sid][1] if each[0] in own] == [
            each for each in said if each[0] in own
        ]


def test_a_receipt_that_comes_twice_counts_once(shop: Shop) -> None:
    rows = [bought("ann", 1, item=7, receipt="again"), bought("ann", 1, item=8, receipt="again")]
    shop.write("purchases", rows)
    shop.write("purchases", rows)
    making, refresher = shop.making(), Refresher(shop.making())
    build(making, consenting(WHO), NOW_MS)
    before = kept(making)
    shop.write("purchases", rows)
    assert refresher.refresh(consenting(WHO), NOW_MS).judged == 0
    assert kept(making) == before
    explained = reader(shop, making).of(sid_of("ann"))
    assert explained is not None
    assert explained.columns.values["items"][0] == 22 + 2


def test_a_customer_with_very_many_rows_is_one_customer(shop: Shop) -> None:
    rows = [bought("bob", 1 + n / 1e5, item=n % 20, receipt=f"n{n}") for n in range(30_000)]
    shop.write("purchases", rows)
    making = shop.making()
    outcome = build(making, consenting(WHO), NOW_MS)
    assert (outcome.customers, outcome.purchases.accepted) == (3, 30_000 + 67)
    explained = reader(shop, making).of(sid_of("bob"))
    assert explained is not None
    assert explained.columns.values["purchase_days_30"][0] <= 5


def test_a_store_that_says_nothing_of_money_has_profiles_without_it(shop: Shop) -> None:
    source = shop.folder / "source.toml"
    source.write_text(source.read_text().replace('amount = "paid"\n', ""))
    making = shop.making()
    assert build(making, consenting(WHO), NOW_MS).customers == 3
    explained = reader(shop, making).of(sid_of("ann"))
    assert explained is not None
    told = {name for name, each in explained.columns.values.items() if np.isfinite(each[0])}
    assert {"recency_score", "frequency_score"} <= told
    assert not {name for name in told if "spend" in name or name == "monetary_score"}


def test_what_is_later_than_the_day_asked_for_does_not_count(shop: Shop) -> None:
    making = shop.making()
    build(making, consenting(WHO), NOW_MS, as_of_ms=NOW_MS - 100 * DAY_MS)
    # On some day of the past, what was bought since is to come.
    earlier = kept(making)[0]
    shop.write("purchases", [bought("ann", 50, receipt="later")])
    shop.write("events", [event("ann", 30, "view", category="TEA")])
    Refresher(making).refresh(consenting(WHO), NOW_MS)
    assert kept(making)[0] == earlier
    explained = reader(shop, making).of(sid_of("ann"))
    assert explained is not None
    assert explained.columns.values["purchase_days"][0] == 11
    assert explained.columns.values["days_since_purchase"][0] == 2


def test_a_region_without_a_row_has_no_profiles(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "empty")
    making = shop.making()
    assert build(making, consenting(WHO), NOW_MS).customers == 0
    assert reader(shop, making).overview().tags["active"] == 0


def test_a_day_that_passes_changes_what_is_true_without_a_row(shop: Shop) -> None:
    making = shop.making()
    build(making, consenting(WHO), NOW_MS)
    assert "Buys regularly" in tags(shop, making, "ann")
    later = NOW_MS + 200 * DAY_MS
    outcome = Refresher(making).refresh(consenting(WHO), later)
    assert outcome.judged == 3
    explained = reader(shop, making).of(sid_of("ann"))
    assert explained is not None
    assert shop.library.segment[int(explained.judged.segment[0])].id == "lapsed"
    assert "Longer away than usual" in tags(shop, making, "ann")


def test_tags_keep_the_day_on_which_they_were_found(shop: Shop) -> None:
    making, refresher = shop.making(), Refresher(shop.making())
    build(making, consenting(WHO), NOW_MS)
    refresher.refresh(consenting(WHO), NOW_MS + DAY_MS)
    shop.now_ms = NOW_MS + 2 * DAY_MS
    shop.write(
        "purchases",
        [bought("ann", n, item=3, receipt=f"t{n}", now_ms=shop.now_ms) for n in (0.1, 0.2)],
    )
    refresher.refresh(consenting(WHO), shop.now_ms)
    found = tags(shop, making, "ann")
    assert found["Buys regularly"]["since"] == "2024-06-01"
    assert found["Active"]["since"] == "2024-06-01"
    build(making, consenting(WHO), shop.now_ms)
    assert tags(shop, making, "ann")["Buys regularly"]["since"] == "2024-06-01"


def test_triggers_are_told_once_and_say_why(shop: Shop) -> None:
    who = [*WHO, "dora"]
    shop.write("purchases", [bought("dora", 100)])
    making, refresher = shop.making(), Refresher(shop.making())
    build(making, consenting(who), NOW_MS)
    shop.write("events", [event("dora", hours, "cart", item="item-0") for hours in (110, 80, 50)])
    # Bob has bought tea before.
    shop.write("events", [event("bob", 2, "view", category="TEA")])
    outcome = refresher.refresh(consenting(who), NOW_MS)
    assert dict(outcome.triggers) == {"three-carts-left": 1, "new-category": 0}
    assert outcome.judged == 2
    (reason,) = tags(shop, making, "dora")["Three carts left in a row"]["because"]
    assert reason == "carts left in a row: 3 (at least 3)"
    shop.write("events", [event("dora", 1, "click", item="item-0")])
    outcome = refresher.refresh(consenting(who), NOW_MS)
    assert (outcome.judged, outcome.triggers["three-carts-left"]) == (1, 0)
    shop.write("events", [event("nobody", 1, "view", category="WINE")])
    assert refresher.refresh(consenting(who), NOW_MS).judged == 0


def test_a_category_looked_at_for_the_first_time_is_told(shop: Shop) -> None:
    shop.write("purchases", [bought("eve", 4, item=0)])
    making = shop.making()
    build(making, consenting(["eve"]), NOW_MS)
    shop.write("events", [event("eve", 1, "view", category="WINE")])
    outcome = Refresher(making).refresh(consenting(["eve"]), NOW_MS)
    assert outcome.triggers["new-category"] == 1
    assert "Looks at WINE for the first time" in tags(shop, making, "eve")
    assert "首次浏览WINE" in tags(shop, making, "eve", "zh")


def test_rows_that_are_gone_are_said_to_need_a_build(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.data.file_source._mark", size_of)
    path = shop.write("purchases", [bought("ann", 2, receipt="gone")])
    making, refresher = shop.making(), Refresher(shop.making())
    build(making, consenting(WHO), NOW_MS)
    path.unlink()
    assert "gone" in refresher.refresh(consenting(WHO), NOW_MS).build_due
    assert "gone" in refresher.refresh(consenting(WHO), NOW_MS).build_due
    assert build(making, consenting(WHO), NOW_MS).build_due == ""
    assert refresher.refresh(consenting(WHO), NOW_MS).build_due == ""


def test_where_all_has_to_be_read_again_it_is_built_at_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Files that were written a moment ago are read again, as they may have grown.
    monkeypatch.setattr("client.data.file_source._mark", partial(unsettled, itertools.count()))
    path = shop.write("purchases", [bought("ann", 2, receipt="gone")])
    build(shop.making(), consenting(WHO), NOW_MS)
    path.unlink()
    assert Refresher(shop.making()).refresh(consenting(WHO), NOW_MS).built


def size_of(name: str) -> str:
    """A file's mark, as if it had been there for a while."""
    return str(Path(name).stat().st_size)


def unsettled(looks: Iterator[int], name: str) -> str:
    """A file's mark at each look, as if it had been written just before."""
    return f"{Path(name).stat().st_size} {next(looks)}"


def test_too_many_wrong_rows_leave_profiles_as_they_were(shop: Shop) -> None:
    making = shop.making()
    build(making, consenting(WHO), NOW_MS)
    before = kept(making)
    shop.write("purchases", [("ann", "no such item", "2024-05-01", 1.0, "r")] * 30)
    with pytest.raises(QualityGateError, match=r"region-1.*item-unknown"):
        Refresher(making).refresh(consenting(WHO), NOW_MS)
    with pytest.raises(QualityGateError):
        build(making, consenting(WHO), NOW_MS)
    assert kept(making) == before


def governed(shop: Shop, table: str, kinds: dict[str, str] | None = None) -> Making:
    """As `Shop.making`, under the data standards that come along."""
    around = Surroundings(lambda: shop.now_ms, known={"catalogue.item": frozenset(ITEMS)})
    accepted = {} if kinds is None else {table: kinds}
    governance = Governance("region-1", load_standards(), around, accepted)
    declared = load_tables(shop.folder / "tables.toml")
    store = load_source_config(shop.folder / "source.toml")
    tables = RegionTables(
        declared, store=store, governance=governance, clock_ms=lambda: shop.now_ms
    )
    return shop.making(tables=tables)


def test_wrong_events_leave_profiles_as_they_were(shop: Shop) -> None:
    shop.write("events", [event("ann", 5, "view", category="TEA")])
    making, refresher = shop.making(), Refresher(shop.making())
    build(making, consenting(WHO), NOW_MS)
    before = kept(making)
    shop.write("events", [event("ann", 3, "teleport", category="TEA")] * 9)
    with pytest.raises(QualityGateError, match=r"rows of events.*kind-unknown"):
        refresher.refresh(consenting(WHO), NOW_MS)
    with pytest.raises(QualityGateError, match="rows of events"):
        build(making, consenting(WHO), NOW_MS)
    assert kept(making) == before


def test_files_of_events_that_are_read_again_are_as_right_as_they_were(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A file that was written a moment ago is read again, and its rows count as repeated.
    monkeypatch.setattr("client.data.file_source._mark", partial(unsettled, itertools.count()))
    shop.write("events", [event("ann", 5 + n, "view", category="TEA") for n in range(60)])
    making, refresher = shop.making(), Refresher(shop.making())
    build(making, consenting(WHO), NOW_MS)
    shop.write("events", [event("ann", 3, "view", category="TEA")])
    assert refresher.refresh(consenting(WHO), NOW_MS).judged == 1


def test_what_the_standards_let_nobody_use_makes_no_profile(shop: Shop) -> None:
    source, columns = shop.folder / "source.toml", 'quantity = "pieces"'
    source.write_text(source.read_text() + columns)
    rows = [(*bought("ann", ago), None if ago % 3 else "2") for ago in range(30)]
    shop.write("purchases", rows)
    for path in sorted((shop.folder / "purchases").iterdir())[:-1]:
        path.unlink()
    with pytest.raises(QualityGateError, match="treatment guessed in"):
        build(governed(shop, "purchases"), consenting(WHO), NOW_MS)
    assert shop.making().store.manifest() is None


@pytest.mark.parametrize("table", ["purchases", "events"])
def test_a_column_that_turned_into_something_else_makes_no_profile(shop: Shop, table: str) -> None:
    shop.write("events", [event("ann", 5, "view", category="TEA")])
    making = governed(shop, table, {"customer": "text", "item": "numbers"})
    with pytest.raises(InputError, match=f"the table {table} is not what it was.*item"):
        build(making, consenting(WHO), NOW_MS)
    assert build(governed(shop, table, {"item": "text"}), consenting(WHO), NOW_MS).customers == 3


def test_members_whose_table_may_not_be_used_make_no_profile(shop: Shop) -> None:
    declared = shop.folder / "tables.toml"
    declared.write_text(declared.read_text() + MEMBERS)
    members = shop.folder / "members.csv"
    members.write_text("who,joined\nann,2024-02-30\nbob,2023-05-01\n")
    with pytest.raises(QualityGateError, match="the table members: 50"):
        build(governed(shop, "members"), consenting(WHO), NOW_MS)
    members.write_text("who,joined\nann,2024-02-28\nbob,2023-05-01\n")
    assert build(governed(shop, "members"), consenting(WHO), NOW_MS).customers == 3


MEMBERS = """
[members]
kind = "files"
path = "members.csv"
[members.columns]
customer = "who"
joined = "joined"
"""


def test_under_another_storage_key_nothing_is_read_and_all_is_built_anew(shop: Shop) -> None:
    build(shop.making(), consenting(WHO), NOW_MS)
    shop.key = StorageKey(bytes([1] * 32))
    making = shop.making()
    with pytest.raises(DamagedProfilesError, match="build"):
        reader(shop, making).of(sid_of("ann"))
    assert Refresher(making).refresh(consenting(WHO), NOW_MS).built
    assert tags(shop, making, "ann")


@pytest.mark.parametrize("keep", [0, 20])
def test_a_damaged_file_is_told_and_built_anew(shop: Shop, keep: int) -> None:
    making = shop.making()
    build(making, consenting(WHO), NOW_MS)
    for path in (shop.folder / "kept").glob("*.profiles"):
        path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamagedProfilesError):
        reader(shop, making).of(sid_of("ann"))
    assert Refresher(making).refresh(consenting(WHO), NOW_MS).built


def test_no_name_and_no_purchase_is_readable_on_disk(shop: Shop) -> None:
    build(shop.making(), consenting(WHO), NOW_MS)
    for path in (shop.folder / "kept").iterdir():
        data = path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0
        for word in (b"ann", b"item-3", bytes.fromhex(sid_of("ann")), sid_of("ann").encode()):
            assert word not in data


def test_a_change_that_fails_leaves_what_was(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    making = shop.making()
    build(making, consenting(WHO), NOW_MS)
    before, files = kept(making), sorted(path.name for path in (shop.folder / "kept").iterdir())
    shop.write("purchases", [bought("ann", 1, receipt="new")])
    monkeypatch.setattr("client.profiles.manifest.write_durably", _full_disk)
    with pytest.raises(StorageError, match="No space"):
        Refresher(making).refresh(consenting(WHO), NOW_MS)
    monkeypatch.undo()
    assert kept(making) == before
    Refresher(making).refresh(consenting(WHO), NOW_MS)
    assert kept(making)[0] != before[0]
    # What the failed change left is gone.
    manifest = making.store.require()
    names = {path.name for path in (shop.folder / "kept").glob("*.profiles")}
    assert names == {f"{name}.profiles" for name in manifest.files}
    assert files


def _full_disk(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_two_processes_do_not_write_at_once(shop: Shop) -> None:
    making = shop.making()
    with making.store.exclusive(), pytest.raises(StorageError, match="Another process"):
        build(shop.making(), consenting(WHO), NOW_MS)


def test_many_refreshes_leave_few_layers(shop: Shop) -> None:
    making, refresher = shop.making(), Refresher(shop.making())
    build(making, consenting(WHO), NOW_MS)
    for number in range(10):
        shop.write("purchases", [bought("ann", 1, receipt=f"n{number}", item=number)])
        refresher.refresh(consenting(WHO), NOW_MS)
    assert max(len(shard.layers) for shard in making.store.require().shards) < 9


def test_another_library_is_applied_by_the_next_refresh(shop: Shop) -> None:
    making = shop.making()
    build(making, consenting(WHO), NOW_MS)
    library = load_library()
    less = library.model_copy(update={"tag": library.tag[5:], "version": "2"})
    shop.library = less
    outcome = Refresher(shop.making()).refresh(consenting(WHO), NOW_MS)
    assert outcome.judged == 3
    assert "Buys regularly" in {*tags(shop, making, "ann")} or less.tag[0].id != "regular"
    assert {each["id"] for each in tags(shop, making, "ann").values()} <= {t.id for t in less.said}


def test_what_a_customer_reads_says_nothing_exact_about_others(shop: Shop) -> None:
    shop.write(
        "purchases",
        [
            bought(f"c{n}", ago, paid=n + 1.0, receipt=f"{n}")
            for n in range(80)
            for ago in (5, n + 9, 90)
        ],
    )
    making = shop.making()
    build(making, consenting([*WHO, *(f"c{n}" for n in range(80))]), NOW_MS)
    found = reader(shop, making).of(sid_of("c79"))
    assert found is not None
    told: Any = found.record("en", "customer")
    known: Any = found.record("en", "operator")
    titles = {each["title"]: each for each in told["tags"]}
    assert titles.keys() == {each["title"] for each in known["tags"]}
    (reason,) = titles["Among the fifth who pay most"]["because"]
    assert reason.startswith("compared with other customers")
    facts = {each["fact"] for each in told["facts"]}
    assert {"lifetime_value", "alive", "group", "monetary_score"} <= {
        each["fact"] for each in known["facts"]
    }
    assert not facts & {"lifetime_value", "alive", "group", "monetary_score"}


def test_a_score_by_the_regions_own_cuts_is_not_told_beside_released_ones(shop: Shop) -> None:
    making = shop.making()
    released = Cuts((5.0, 10.0, 20.0, 60.0), (2.0, 4.0, 8.0, 16.0), (), "all regions", True)
    build(making, consenting(WHO), NOW_MS, cuts=released)
    found = reader(shop, making).of(sid_of("ann"))
    assert found is not None
    told: Any = found.record("en", "customer")
    known: Any = found.record("en", "operator")
    told, known = ({each["fact"] for each in all_["facts"]} for all_ in (told, known))
    assert {"recency_score", "frequency_score"} <= told
    assert "monetary_score" in known - told


def test_the_overview_counts_everybody_once(shop: Shop) -> None:
    making = shop.making()
    build(making, consenting(WHO), NOW_MS)
    overview = reader(shop, making).overview()
    assert sum(line.customers for line in overview.segments) == 3
    assert sum(line.share for line in overview.segments) == pytest.approx(1.0)
    assert overview.tags["regular"] == 3
    assert not np.isnan(
        max(line.medians["spend_365"] for line in overview.segments if line.customers)
    )
