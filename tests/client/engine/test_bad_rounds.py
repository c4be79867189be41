"""What a region is given that it must not release from: nothing leaves uncharged, or unbounded."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.data.dataset import PreferenceDataset
from client.engine import preparation
from client.engine.home import RegionHome
from client.engine.ledger_store import read_charges
from client.engine.permit_desk import sign_permit
from client.engine.preparation import RegionData
from client.engine.service import PrivacyEngine, open_engine
from common.audit.log import AuditLog
from common.envelope import Envelope
from common.errors import PolicyError
from common.plan import RunPlan
from tests.support.cosigning import ask
from tests.support.local_plan import local_plan
from tests.support.small_federation import APP, make_federation


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunPlan]:
    root = tmp_path_factory.mktemp("bad-rounds") / "run"
    folder, plan, _ = make_federation(root, regions=1, quorum=1)
    return folder.root, plan


@pytest.fixture
def home(provisioned: tuple[Path, RunPlan], tmp_path: Path) -> RegionHome:
    shutil.copytree(provisioned[0], tmp_path / "run", symlinks=True)
    return RegionHome.read(tmp_path / "run" / "regions" / "region-1")


@pytest.fixture
def plan(provisioned: tuple[Path, RunPlan]) -> RunPlan:
    return provisioned[1]


def first_round(engine: PrivacyEngine, plan: RunPlan) -> tuple[dict[str, Any], dict[str, Any]]:
    header = {
        "run": plan.run_id,
        "round": 1,
        "attempt": 1,
        "mechanism": "popularity",
        "plan": plan.digest,
        "cosignatures": [],
    }
    return ask(engine, header, {})


def kinds(home: RegionHome) -> list[str]:
    with AuditLog.open_read_only(home.log) as log:
        return [Envelope.decode(data).kind for _, data in log.entries()]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_data_that_are_not_finite_release_nothing_and_the_charge_serves_once_they_are(
    home: RegionHome, plan: RunPlan, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    honest = RegionData.dataset

    def spoilt(self: RegionData, *arguments: Any) -> PreferenceDataset:
        found = honest(self, *arguments)
        values = found.counts.values.copy()
        values[0] = value
        return replace(found, counts=replace(found.counts, values=values))

    before = len(kinds(home))
    with open_engine(home) as engine, monkeypatch.context() as patch:
        patch.setattr(RegionData, "dataset", spoilt)
        reply, arrays = first_round(engine, plan)
        assert (reply["reason"], arrays) == ("configuration", {})
        assert "not finite" in str(engine.last_refusal)
    assert kinds(home)[before:] == ["charge", "incident"]
    assert list(home.seals.glob("*")) == []
    with open_engine(home) as engine:
        assert first_round(engine, plan)[0]["status"] == "ok"
    assert len(read_charges(home.ledger)) == 1
    assert kinds(home)[before:] == ["charge", "incident", "round", "release"]


@pytest.mark.parametrize(
    ("bounds", "named"),
    [
        ({"noise_multiplier_min": "1.01"}, "noise_multiplier"),
        ({"sampling_probability_min": "0.51"}, "sampling_probability"),
        ({"sampling_probability_max": "0.49"}, "sampling_probability"),
        ({"steps_max": 4}, "steps"),
    ],
)
def test_a_plan_outside_the_policy_gets_no_permit(
    home: RegionHome, bounds: dict[str, Any], named: str
) -> None:
    asked = local_plan(run_id="run-2", regions=["region-1"], quorum=1)
    before = kinds(home)
    with open_engine(home) as engine:
        engine.policy = engine.policy.model_copy(
            update={"delta_max": "1e-3", "clipping_norm_max": "10", **bounds}
        )
        with pytest.raises(PolicyError, match=rf"does not allow [a-z-]+\.{named}"):
            sign_permit(engine, asked, app=APP, valid_for_s=60)
    assert kinds(home) == before
    assert not list(home.permits.glob(f"*{asked.run_id}*"))


def test_a_customer_with_very_many_purchases_is_bounded_and_counted_in_the_region_s_own_log(
    home: RegionHome,
    plan: RunPlan,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(preparation, "MAX_ROWS_PER_CUSTOMER", 5)
    with open_engine(home) as engine, caplog.at_level(logging.WARNING, "fedpref.engine"):
        reply, arrays = first_round(engine, plan)
    assert reply["status"] == "ok"
    (told,) = [each.getMessage() for each in caplog.records if "left out" in each.getMessage()]
    assert "customers have more purchases in the window than 5" in told
    assert "customer-0" not in told
    assert np.isfinite(arrays["popularity"]).all()
