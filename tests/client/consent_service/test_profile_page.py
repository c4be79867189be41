"""A customer reads her profile, and withdrawing deletes it: whole, on a region's home."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from client.consent_service.desk_socket import SocketDesk, serve_desk
from client.consent_service.region_records import read_records
from client.consent_service.subject_export import export_subject
from client.engine.home import RegionHome
from client.profiles.region import RegionProfiles, open_profiles, profile_store
from client.profiles.store import ProfileStore
from common.consent import PROFILING, RECOMMENDATIONS, Standing
from common.errors import ConsentError
from tests.support.consent_service import Service, Visit, open_service
from tests.support.html_page import parse_page
from tests.support.profiles import CATALOGUE, NOW_MS, Shop, bought, event
from tests.support.region_home import notice_record

ANN, BOB, CAROL = "ann", "bob", "carol"


@dataclass
class Region:
    """A home with a store, a consent service, and customers who agreed to a profile."""

    service: Service
    home: RegionHome
    shop: Shop

    def visit(self, who: str, *, lang: str = "en") -> Visit:
        visit = Visit(self.service.app(), lang=lang)
        assert visit.log_in(self.service.issuer.token(who)).status_code == 200
        return visit

    def agree(self, who: str, *purposes: str) -> Visit:
        visit = self.visit(who)
        visit.give(*purposes)
        return visit

    def build(self) -> RegionProfiles:
        with open_profiles(self.home, clock_ms=lambda: NOW_MS) as profiles:
            profiles.build()
        return profiles

    @property
    def store(self) -> ProfileStore:
        return profile_store(self.home, lock_wait_s=0.2)


@pytest.fixture
def region(tmp_path: Path) -> Iterator[Region]:
    notices = [
        notice_record(purposes=[RECOMMENDATIONS, PROFILING]),
        notice_record(notice_id="pn-zh", lang="zh", purposes=[RECOMMENDATIONS, PROFILING]),
    ]
    with open_service(tmp_path / "region", notices=notices) as service:
        home = service.opened.home
        shop = Shop(tmp_path / "shop")
        shop.write(
            "purchases",
            [bought(who, ago, item=ago % 20) for who in (ANN, BOB) for ago in range(6, 200, 8)],
        )
        shop.write("events", [event(ANN, hours, "cart", item="item-3") for hours in (90, 60, 30)])
        home.source.parent.mkdir()
        for name in ("source.toml", "tables.toml"):
            text = (
                (shop.folder / name)
                .read_text()
                .replace('"purchases/', f'"{shop.folder}/purchases/')
            )
            (home.source.parent / name).write_text(
                text.replace('"events/', f'"{shop.folder}/events/')
            )
        CATALOGUE.save(home.catalogue)
        yield Region(service, home, shop)


def text(visit: Visit, path: str = "/profile") -> str:
    answer = visit.http.get(path)
    assert answer.status_code == 200
    return parse_page(answer.text).text


def test_who_agreed_reads_what_is_said_and_why(region: Region) -> None:
    visit = region.agree(ANN, PROFILING)
    assert "There is no profile of you yet" in text(visit)
    region.build()
    page = text(visit)
    for told in (
        "Buys regularly",
        "days between two purchases, on average: 8 (at most 21)",
        "Three carts left in a row",
        "carts left in a row: 3 (at least 3)",
        "Nothing is decided about you by it alone",
    ):
        assert told in page
    assert "定期购买" in text(region.visit(ANN, lang="zh"))


def test_who_did_not_agree_has_none_and_reads_why(region: Region) -> None:
    region.agree(ANN, PROFILING)
    bob = region.agree(BOB, RECOMMENDATIONS)
    region.build()
    assert "You have no profile" in text(bob)
    assert len(region.store.admitted(region.store.require())) == 1


@pytest.mark.parametrize("how", ["all", "one"])
def test_withdrawing_deletes_the_profile_at_once(how: str, region: Region) -> None:
    visit = region.agree(ANN, RECOMMENDATIONS, PROFILING)
    region.agree(BOB, PROFILING)
    region.build()
    assert len(region.store.admitted(region.store.require())) == 2
    visit.choose("withdraw" if how == "all" else f"drop {PROFILING}")
    assert "You have no profile" in text(visit)
    manifest = region.store.require()
    assert len(region.store.admitted(manifest)) == 1
    assert sum(len(region.store.judged(shard)) for shard in manifest.shards) == 1
    kept = [facts for shard in manifest.shards for facts in region.store.facts(shard)]
    assert sum(map(len, kept)) == 1


def test_a_withdrawal_waits_for_nobody_who_writes_profiles(region: Region) -> None:
    visit = region.agree(ANN, PROFILING)
    region.build()
    with region.store.exclusive():
        visit.choose("withdraw")
    # Logged, and not read any more; the next refresh deletes it.
    assert "You have no profile" in text(visit)
    with open_profiles(region.home, clock_ms=lambda: NOW_MS) as profiles:
        assert profiles.refresh().taken_out == 1
        with pytest.raises(ConsentError, match="no consent"):
            profiles.explained(ANN)


def test_consent_is_asked_at_every_reading(region: Region) -> None:
    visit = region.agree(ANN, PROFILING)
    region.build()
    with open_profiles(region.home, clock_ms=lambda: NOW_MS) as profiles:
        assert profiles.explained(ANN).judged.sids.shape == (1,)
        with region.store.exclusive():
            visit.choose("withdraw")
        with pytest.raises(ConsentError, match="no consent"):
            profiles.explained(ANN)
        with pytest.raises(ConsentError, match="knows no customer"):
            profiles.explained("nobody")


def test_the_page_in_another_process_reads_it_through_the_desks_socket(region: Region) -> None:
    region.agree(ANN, PROFILING)
    region.build()
    path = region.shop.folder / "desk.sock"
    with serve_desk(region.service.desk, path):
        shown = SocketDesk(path).profile(ANN, "en")
        assert shown.profile is not None
        assert shown.profile["segment"]["title"]
        assert SocketDesk(path).profile(BOB, "en").standing is Standing.NO_RECORD


def test_the_profile_is_in_the_persons_export(region: Region) -> None:
    region.agree(ANN, PROFILING)
    region.build()
    with read_records(region.home) as records:
        exported: Any = export_subject(records, ANN)
    assert b"Three carts left in a row" in exported.files["tags.json"]
    assert "连续三次放弃购物车".encode() in exported.files["tags.json"]


def test_followed_an_event_is_in_the_profile_at_the_next_look(region: Region) -> None:
    visit = region.agree(BOB, PROFILING)
    region.build()
    assert "Looks at TEA" not in text(visit)
    with open_profiles(region.home, clock_ms=lambda: NOW_MS) as profiles:
        (outcome,) = profiles.look()
        assert outcome.judged == 0
        region.shop.write("events", [event(BOB, 1, "view", category="TEA")] * 3)
        (outcome,) = profiles.look()
        assert outcome.judged == 1
        assert outcome.latency.rows == 1
    with open_profiles(region.home, clock_ms=lambda: NOW_MS) as profiles:
        found = profiles.explained(BOB).columns.values
        assert found["views"][0] == 1


def test_followed_whoever_consents_has_a_whole_profile_soon(region: Region) -> None:
    region.agree(ANN, PROFILING)
    region.build()
    bob = region.agree(BOB, PROFILING)
    with open_profiles(region.home, clock_ms=lambda: NOW_MS) as profiles:
        outcomes = list(profiles.look())
        # Who consents every minute does not have everything read every minute.
        region.agree(CAROL, PROFILING)
        outcomes += profiles.look()
    assert [outcome.built for outcome in outcomes] == [False, True, False]
    assert "Buys regularly" in text(bob)
