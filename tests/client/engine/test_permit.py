"""Permits keep to the policy's bundles, when they are signed and whenever they are used."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from client.engine import permit_desk
from client.engine.home import RegionHome
from client.engine.permit import CodeIdentity, make_permit
from client.engine.permit_desk import only_bundle, sign_permit
from client.engine.permit_files import permit_files
from client.engine.policy import RegionPolicy, read_policy
from client.engine.policy_desk import sign_policy
from client.engine.policy_standing import ended_permits, read_standing
from client.engine.service import open_engine
from common import canonical_json
from common.audit.log import AuditLog
from common.envelope import Envelope
from common.errors import BudgetError, InputError, PolicyError, UsageError
from common.plan import RunPlan
from common.timestamps import format_time, now_ms, parse_time
from tests.client.engine.test_policy import policy_of
from tests.support.cosigning import ask, publish
from tests.support.local_plan import local_plan
from tests.support.small_federation import APP, make_federation

CODE = CodeIdentity(app=APP, engine="e" * 64, deps="d" * 64)
OTHER = "b" * 64


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunPlan]:
    folder, plan, _ = make_federation(
        tmp_path_factory.mktemp("permit") / "run", regions=1, quorum=1
    )
    return folder.root, plan


@pytest.fixture
def home(provisioned: tuple[Path, RunPlan], tmp_path: Path) -> RegionHome:
    shutil.copytree(provisioned[0], tmp_path / "run", symlinks=True)
    return RegionHome.read(tmp_path / "run" / "regions" / "region-1")


@pytest.fixture
def plan(provisioned: tuple[Path, RunPlan]) -> RunPlan:
    return provisioned[1]


def put_in_force(home: RegionHome, **changes: Any) -> RegionPolicy:
    """Signs the region's policy with some fields changed."""
    policy = RegionPolicy.model_validate({**read_policy(home.policy).to_record(), **changes})
    with AuditLog.open(home.log, origin=home.origin, signer=home.signer("log")) as log:
        sign_policy(home, log, policy)
    return policy


def named(plan: RunPlan, run: str) -> RunPlan:
    return RunPlan.from_record({**plan.to_record(), "run_id": run})


def header(plan: RunPlan) -> dict[str, Any]:
    return {
        "run": plan.run_id,
        "round": 1,
        "attempt": 1,
        "mechanism": "popularity",
        "plan": plan.digest,
        "cosignatures": [],
    }


def incidents(home: RegionHome) -> list[dict[str, Any]]:
    with AuditLog.open_read_only(home.log) as log:
        envelopes = [Envelope.decode(data) for _, data in log.entries()]
    return [each.record() for each in envelopes if each.kind == "incident"]


def test_no_permit_is_made_for_a_bundle_that_the_policy_does_not_name() -> None:
    plan = local_plan()
    policy = policy_of(app_bundles=[OTHER])
    with pytest.raises(PolicyError, match="app = aaaaaaaaaaaa…"):
        make_permit(plan, policy, CODE, issued_at_ms=now_ms(), valid_for_s=60)
    permit = make_permit(
        plan, policy_of(app_bundles=[OTHER, APP]), CODE, issued_at_ms=now_ms(), valid_for_s=60
    )
    assert permit["app"] == APP


def test_the_desk_signs_nothing_that_the_policy_does_not_allow(
    home: RegionHome, plan: RunPlan
) -> None:
    put_in_force(home, app_bundles=[OTHER], epsilon_max_per_run=plan.epsilon)
    with open_engine(home) as engine:
        size = engine.log.size
        with pytest.raises(PolicyError, match="does not allow app"):
            sign_permit(engine, named(plan, "run-2"), app=APP, valid_for_s=60)
        assert engine.log.size == size
        sign_permit(engine, named(plan, "run-2"), app=OTHER, valid_for_s=60)
        assert engine.log.size == size + 1
    assert {(each.run, each.app) for each in permit_files(home.permits)} == {
        ("run-1", APP),
        ("run-2", OTHER),
    }


@pytest.mark.parametrize(
    ("caps", "whose"),
    [
        ({"epsilon_cap_per_year": "4"}, "budget of {year} "),
        ({"epsilon_caps_per_model": {"{model}": "4"}}, "budget of {year} for model {model} "),
        ({"epsilon_caps_per_model": {"another": "8"}}, "budget of {year} for model {model} "),
        ({"epsilon_caps_per_purpose": {"{purpose}": "4"}}, "for purpose {purpose} "),
    ],
)
def test_no_permit_is_signed_beyond_a_cap(
    home: RegionHome, plan: RunPlan, caps: dict[str, Any], whose: str
) -> None:
    names = {"model": plan.model, "purpose": plan.purpose, "year": format_time(now_ms())[:4]}
    parts = {
        field: {name.format(**names): each for name, each in cap.items()}
        for field, cap in caps.items()
        if isinstance(cap, dict)
    }
    put_in_force(home, **(caps | parts))
    with open_engine(home) as engine:
        size = engine.log.size
        with pytest.raises(BudgetError, match=whose.format(**names)):
            sign_permit(engine, named(plan, "run-2"), app=APP, valid_for_s=60)
        assert engine.log.size == size
    assert [each.run for each in permit_files(home.permits)] == ["run-1"]
    assert not (home.permits / "run-2.plan.json").exists()


def test_what_is_charged_leaves_no_permit_till_a_new_year_begins(
    home: RegionHome, plan: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A permit holds into the next year, whose budget is a whole one, or it would be worthless."""
    second = named(plan, "run-2")
    with open_engine(home) as engine:
        assert ask(engine, header(plan), {})[0]["status"] == "ok", engine.last_refusal
        (charge,) = engine.ledger.charges
        an_hour_before = parse_time(f"{charge.request.year + 1}-01-01T00:00:00.000Z") - 3_600_000
        monkeypatch.setattr(permit_desk, "now_ms", lambda: an_hour_before)
        with pytest.raises(BudgetError, match=f"budget of {charge.request.year} cannot pay"):
            sign_permit(engine, second, app=APP, valid_for_s=3599)
        sign_permit(engine, second, app=APP, valid_for_s=3601)
    assert {each.run for each in permit_files(home.permits)} == {"run-1", "run-2"}


def test_a_permit_never_outlives_the_policy_and_what_it_was_for_is_refused_and_logged(
    home: RegionHome, plan: RunPlan
) -> None:
    with open_engine(home) as engine:
        assert publish(engine, header(plan))["status"] == "ok"
    put_in_force(home, app_bundles=[OTHER])
    with open_engine(home) as engine:
        reply, arrays = engine.call("train", header(plan), {})
        assert (reply["status"], reply["reason"]) == ("refused", "not-permitted")
        assert arrays == {}
        assert engine.ledger.charges == ()
    (incident,) = incidents(home)
    assert (incident["reason"], incident["run"]) == ("not-permitted", plan.run_id)
    assert "does not allow app = aaaaaaaaaaaa…" in incident["detail"]


def test_work_that_was_never_permitted_is_refused_and_logged(
    home: RegionHome, plan: RunPlan
) -> None:
    other = named(plan, "run-9")
    with open_engine(home) as engine:
        for reply in (publish(engine, header(other)), engine.call("train", header(other), {})[0]):
            assert (reply["status"], reply["reason"]) == ("refused", "not-permitted")
    # Asked twice for the same round: logged once.
    (incident,) = incidents(home)
    assert (incident["reason"], incident["run"]) == ("not-permitted", "run-9")


def test_a_permit_within_the_policy_s_new_bounds_works(home: RegionHome, plan: RunPlan) -> None:
    arrays = [
        {"name": spec.name, "dtype": spec.dtype, "shape_max": list(spec.shape)}
        for mechanism in plan.mechanisms
        for spec in plan.released_arrays(mechanism.name)
    ]
    put_in_force(
        home, app_bundles=[APP], arrays=arrays, epsilon_max_per_run=plan.epsilon, delta_max="0.001"
    )
    with open_engine(home) as engine:
        reply, released = ask(engine, header(plan), {})
        assert reply["status"] == "ok", engine.last_refusal
        assert list(released) == ["popularity"]


@pytest.mark.parametrize(
    "change",
    [{"app": None}, {"app": 5}, {"app": OTHER}],
)
def test_a_forged_permit_s_bundle_is_judged_by_the_policy(
    home: RegionHome, plan: RunPlan, change: dict[str, Any]
) -> None:
    """Even one that the region's own key has signed."""
    from common.envelope import sign_record

    policy = put_in_force(home, app_bundles=[APP])
    path = home.permits / f"{plan.run_id}.json"
    record = {**Envelope.decode(path.read_bytes()).record(), **change}
    path.write_bytes(sign_record(record, home.signer("permit")))
    assert policy.app_bundles == [APP]
    with open_engine(home) as engine:
        reply, _ = engine.call("train", header(plan), {})
        assert reply["reason"] == "not-permitted"


def test_the_only_bundle_of_a_policy_needs_no_naming() -> None:
    assert only_bundle(policy_of(app_bundles=[APP])) == APP
    for policy in (policy_of(), policy_of(app_bundles=[APP, OTHER])):
        with pytest.raises(UsageError, match="--app"):
            only_bundle(policy)


def test_permits_are_told_by_their_files_the_newest_first(home: RegionHome, plan: RunPlan) -> None:
    with open_engine(home) as engine:
        sign_permit(engine, named(plan, "run-2"), app=APP, valid_for_s=60)
    found = permit_files(home.permits)
    assert [each.run for each in found] == ["run-2", "run-1"]
    newest = found[0]
    assert newest.holds(newest.issued_ms)
    assert newest.holds(newest.expires_ms)
    assert not newest.holds(newest.expires_ms + 1)
    assert newest.plan() == named(plan, "run-2")
    # A plan alone permits nothing; a permit that is none is named.
    (home.permits / "run-3.plan.json").write_bytes(b"{}")
    assert len(permit_files(home.permits)) == 2
    (home.permits / "run-3.json").write_bytes(canonical_json.encode({"run": "run-3"}))
    with pytest.raises(InputError, match=r"run-3\.json cannot be read"):
        permit_files(home.permits)


def test_signing_tells_which_permits_it_would_end(home: RegionHome, plan: RunPlan) -> None:
    policy = read_policy(home.policy)
    assert list(ended_permits(home, policy, now_ms())) == []
    stricter = RegionPolicy.model_validate({**policy.to_record(), "app_bundles": [OTHER]})
    (ended,) = ended_permits(home, stricter, now_ms())
    assert ended.run == plan.run_id
    assert "app" in ended.why
    tighter = RegionPolicy.model_validate({**policy.to_record(), "epsilon_max_per_run": "0.1"})
    assert "epsilon" in next(ended_permits(home, tighter, now_ms())).why
    # One that is over is not ended by anything.
    assert list(ended_permits(home, tighter, now_ms() + 10**10)) == []


def test_a_policy_stands_in_three_places(home: RegionHome) -> None:
    policy = read_policy(home.policy)
    declared = RegionPolicy.model_validate({**policy.to_record(), "rounds_max": 5})
    standing = read_standing(home, declared)
    assert standing.is_in_force
    assert not standing.is_as_declared
    assert [(each.field, each.allows_more) for each in standing.changes] == [("rounds_max", False)]
    assert read_standing(home, policy).is_as_declared
    assert read_standing(home, None).changes == []
    home.policy.write_bytes(canonical_json.encode(declared.to_record()))
    assert not read_standing(home, declared).is_in_force
    home.policy.write_bytes(b"{")
    assert read_standing(home, declared).file is None
