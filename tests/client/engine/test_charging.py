"""Charges are made and logged at a time that the region's own records allow."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from client.engine import charging as charging_module
from client.engine.home import RegionHome
from client.engine.ledger_store import read_charges
from client.engine.service import PrivacyEngine, open_engine
from common.audit.log import AuditLog
from common.envelope import Envelope
from common.plan import RunPlan
from common.timestamps import format_time, now_ms, parse_time
from server.aggregation import first_model
from tests.support.cosigning import witnessed
from tests.support.small_federation import make_federation

HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunPlan]:
    root = tmp_path_factory.mktemp("charging") / "run"
    folder, plan, _ = make_federation(root, regions=1, quorum=1)
    return folder.root, plan


@pytest.fixture
def home(provisioned: tuple[Path, RunPlan], tmp_path: Path) -> RegionHome:
    shutil.copytree(provisioned[0], tmp_path / "run", symlinks=True)
    return RegionHome.read(tmp_path / "run" / "regions" / "region-1")


@pytest.fixture
def plan(provisioned: tuple[Path, RunPlan]) -> RunPlan:
    return provisioned[1]


def train(
    engine: PrivacyEngine, plan: RunPlan, number: int, model: dict[str, Any], at_ms: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """One round, its checkpoint cosigned at a time."""
    header = {
        "run": plan.run_id,
        "round": number,
        "attempt": 1,
        "mechanism": plan.mechanism_of(number).name,
        "plan": plan.digest,
        "cosignatures": [],
    }
    return engine.call("train", witnessed(engine, header, time_s=at_ms // 1000), model)


def records(home: RegionHome, kind: str) -> list[dict[str, Any]]:
    with AuditLog.open_read_only(home.log) as log:
        envelopes = [Envelope.decode(data) for _, data in log.entries()]
    return [each.record() for each in envelopes if each.kind == kind]


def first_round(home: RegionHome, plan: RunPlan, at_ms: int) -> dict[str, Any]:
    """The model after a round that was trained at a time."""
    with open_engine(home, clock_ms=lambda: at_ms) as engine:
        reply, arrays = train(engine, plan, 1, {}, at_ms)
    assert reply["status"] == "ok"
    return first_model(arrays["popularity"].astype("f8"), plan)


def second_round_at(home: RegionHome, plan: RunPlan, model: dict[str, Any], at_ms: int) -> str:
    """What is answered: the status, or the reason of a refusal."""
    with open_engine(home, clock_ms=lambda: at_ms) as engine:
        reply, _ = train(engine, plan, 2, model, at_ms)
    return str(reply.get("reason", reply["status"]))


def test_a_charge_is_booked_on_its_model_and_purpose(home: RegionHome, plan: RunPlan) -> None:
    first_round(home, plan, now_ms() + HOUR_MS)
    (charge,) = records(home, "charge")
    (row,) = read_charges(home.ledger)
    assert (charge["model"], charge["purpose"]) == (plan.model, plan.purpose)
    assert (row.request.model, row.request.purpose) == (plan.model, plan.purpose)


def test_a_clock_behind_the_log_charges_nothing_and_is_logged(
    home: RegionHome, plan: RunPlan
) -> None:
    late_ms = now_ms() + 2 * HOUR_MS
    model = first_round(home, plan, late_ms)
    assert second_round_at(home, plan, model, late_ms - HOUR_MS) == "clock-behind"
    assert len(read_charges(home.ledger)) == len(records(home, "charge")) == 1
    (incident,) = records(home, "incident")
    assert incident["reason"] == "clock-behind"
    assert f"The clock says {format_time(late_ms - HOUR_MS)}" in incident["detail"]
    # It stands after the round, and says no earlier time than the round does.
    assert parse_time(incident["time"]) == late_ms
    assert second_round_at(home, plan, model, late_ms) == "ok"


def test_without_the_log_s_check_the_ledger_s_own_refuses(
    home: RegionHome, plan: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    late_ms = now_ms() + 2 * HOUR_MS
    model = first_round(home, plan, late_ms)
    monkeypatch.setattr(
        charging_module.Charging, "_now", lambda self: format_time(self._clock_ms())
    )
    assert second_round_at(home, plan, model, late_ms - HOUR_MS) == "clock-behind"
    (incident,) = records(home, "incident")
    assert "before the ledger's newest charge" in incident["detail"]


def test_what_is_no_charge_dates_the_log_as_well(home: RegionHome, plan: RunPlan) -> None:
    """The ledger is empty and has nothing to say: the year may be one that is over all the same."""
    late_ms = now_ms() + 2 * HOUR_MS
    with open_engine(home, clock_ms=lambda: late_ms) as engine:
        assert engine.call("nonsense", {}, {})[0]["reason"] == "malformed-request"
    with open_engine(home, clock_ms=lambda: late_ms - HOUR_MS) as engine:
        reply, _ = train(engine, plan, 1, {}, late_ms - HOUR_MS)
        assert reply["reason"] == "clock-behind"
        assert engine.ledger.charges == ()
    assert "before the log's newest entry" in records(home, "incident")[-1]["detail"]


def test_a_clock_that_stands_still_goes_on(home: RegionHome, plan: RunPlan) -> None:
    at_ms = now_ms() + HOUR_MS
    model = first_round(home, plan, at_ms)
    assert second_round_at(home, plan, model, at_ms) == "ok"
    times = [parse_time(each["time"]) for each in records(home, "charge")]
    assert times == sorted(times)
