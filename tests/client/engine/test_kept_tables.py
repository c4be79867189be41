"""Further tables for what is asked: read when it is time, refused below the threshold."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.data.consent_filter import EligibleCustomers
from client.engine.home import RegionHome
from client.engine.kept_tables import KeptTables
from common.consent import FEDERATED_ANALYTICS, ConsentReplay
from common.errors import InputError, QualityGateError
from tests.support.further_tables import write_csv

EVENT = ("customer", "time", "kind")
GOOD = ("c", "2024-03-01T10:00:00Z", "view")
BAD = ("c", "never", "view")


@pytest.fixture
def home(tmp_path: Path) -> RegionHome:
    found = RegionHome(tmp_path / "home", "north", "shop.example")
    data = found.source.parent
    data.mkdir(parents=True)
    write_csv(data / "sales.csv", ("c", "i", "t"), [("1", "a", "2024-03-01")])
    found.source.write_text(
        'kind = "files"\npath = "sales.csv"\n[columns]\ncustomer = "c"\nitem = "i"\ntime = "t"\n'
    )
    (data / "tables.toml").write_text(
        '[events]\nkind = "files"\npath = "events.csv"\nrefresh_after_s = 30\n'
        'columns = { customer = "customer", time = "time", kind = "kind" }\n'
    )
    write_csv(data / "events.csv", EVENT, [GOOD])
    return found


@pytest.fixture
def nobody() -> EligibleCustomers:
    return EligibleCustomers.from_replay(ConsentReplay(), FEDERATED_ANALYTICS, 0, 0, {})


def test_a_table_is_read_again_when_it_is_time(home: RegionHome, nobody: EligibleCustomers) -> None:
    clock = [0.0]
    kept = KeptTables(home, 0.98, clock_s=lambda: clock[0])
    first = kept.rows(["events"], nobody)["events"]
    write_csv(home.source.parent / "events.csv", EVENT, [GOOD, ("d", *GOOD[1:])])
    assert kept.rows(["events"], nobody)["events"] is first
    clock[0] = 30.0
    assert kept.rows(["events"], nobody)["events"].num_rows == 2


def test_below_the_threshold_there_are_no_rows_until_it_is_mended(
    home: RegionHome, nobody: EligibleCustomers
) -> None:
    clock = [0.0]
    kept = KeptTables(home, 0.98, clock_s=lambda: clock[0])
    kept.rows(["events"], nobody)
    write_csv(home.source.parent / "events.csv", EVENT, [GOOD, BAD])
    clock[0] = 30.0
    for _ in range(2):
        with pytest.raises(QualityGateError, match="events"):
            kept.rows(["events"], nobody)
    write_csv(home.source.parent / "events.csv", EVENT, [GOOD])
    assert kept.rows(["events"], nobody)["events"].num_rows == 1


def test_an_empty_table_has_no_rows_and_a_missing_one_is_named(
    home: RegionHome, nobody: EligibleCustomers
) -> None:
    write_csv(home.source.parent / "events.csv", EVENT, [])
    kept = KeptTables(home, 0.98)
    assert kept.rows(["events"], nobody)["events"].num_rows == 0
    with pytest.raises(InputError, match="declares no table feedback"):
        kept.rows(["feedback"], nobody)
    with pytest.raises(InputError, match="runs no experiment"):
        kept.rows(["exposures"], nobody)
