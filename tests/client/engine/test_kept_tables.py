"""The engine uses a table only if the region's standards let it be used."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from client.data.consent_filter import EligibleCustomers
from client.engine.home import RegionHome
from client.engine.kept_tables import KeptTables
from common.errors import QualityGateError
from tests.support.governed_home import make_governed_home, put_tables

EVENT = ("customer", "time", "kind", "value")
#: Of no table but the recommender's own log is it asked who may be counted.
NOBODY = cast("EligibleCustomers", None)


def events(**changed: object) -> list[tuple[object, ...]]:
    return [
        tuple(
            {
                "customer": f"c{n}",
                "time": "2024-03-01",
                "kind": "view",
                "value": "",
                **changed,
            }.values()
        )
        for n in range(50)
    ]


@pytest.fixture
def home(tmp_path: Path) -> RegionHome:
    return make_governed_home(tmp_path / "home", events=(EVENT, events()))


def test_a_table_that_keeps_the_standards_is_used(home: RegionHome) -> None:
    assert KeptTables(home, 0.98).rows(["events"], NOBODY)["events"].num_rows == 50


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([*events(), *events(kind="stare")[:2]], "of the table events 2 of 52 rows are wrong"),
        (events(kind="dwell", value=3600), "treatment guessed in 100.0000% of its rows"),
    ],
)
def test_one_that_does_not_is_not(
    home: RegionHome, rows: list[tuple[object, ...]], said: str
) -> None:
    put_tables(home, {"events": (EVENT, rows)})
    with pytest.raises(QualityGateError, match=said):
        KeptTables(home, 0.98).rows(["events"], NOBODY)


def test_an_empty_one_is_no_broken_one(home: RegionHome) -> None:
    put_tables(home, {"events": (EVENT, [])})
    assert KeptTables(home, 0.98).rows(["events"], NOBODY)["events"].num_rows == 0
