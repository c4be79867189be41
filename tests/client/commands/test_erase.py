"""What ``fedpref-region erase`` tells the operator to do."""

from __future__ import annotations

from pathlib import Path

from client.commands.erase import describe
from client.consent_service.erasure import Erasure
from client.engine.home import RegionHome


def test_what_is_outside_the_table_is_named(tmp_path: Path) -> None:
    home = RegionHome(root=tmp_path, region="region-1", federation="federation")
    told = describe(home, Erasure(withdrawal=7, records=2, rounds=0, runs=(), evidence=1))
    assert "entry 7" in told
    for named in (
        home.stored_key.resolve(),
        tmp_path.resolve() / "recommend" / "exposures.sqlite",
        "recommend batch",
        "backup",
        "store",
    ):
        assert str(named) in told
