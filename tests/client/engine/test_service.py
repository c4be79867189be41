"""The engine's order of a round, its refusals, its recovery; each defence with its attack."""

from __future__ import annotations

import base64
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from client.consent_service.registrar import Choice
from client.engine import service as service_module
from client.engine.charging import Charging
from client.engine.ledger import open_ledger
from client.engine.permit_desk import sign_permit
from client.engine.policy import read_policy
from client.engine.policy_desk import sign_policy
from client.engine.request import TrainRequest
from client.engine.seal import SealStore
from client.engine.sealed_rounds import SealedRounds
from client.engine.service import open_engine
from client.engine.spending import EpsilonCaps
from common import canonical_json
from common.audit.entry import make_entry
from common.audit.log import AuditLog
from common.canonical_json import JsonValue
from common.envelope import Envelope, sign_record
from common.errors import FormatError, PolicyError, StorageError
from common.keys import load_key
from common.parameters import arrays_digest
from common.plan import RunPlan
from common.timestamps import format_time, now_ms
from server.aggregation import first_model
from simulations.customers import CustomerChoices
from simulations.provision import OpenRegion, RegionSetUp, open_region
from simulations.run_folder import RunFolder
from tests.support.cosigning import ask, publish
from tests.support.small_federation import home_of, make_federation

Federation = tuple[RunFolder, RunPlan, list[RegionSetUp]]


@pytest.fixture(scope="session")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation") / "run", regions=1, quorum=1)


@pytest.fixture
def federation(provisioned: Federation, tmp_path: Path) -> Federation:
    folder, plan, set_ups = provisioned
    shutil.copytree(folder.root, tmp_path / "run", symlinks=True)
    return RunFolder(tmp_path / "run"), plan, set_ups


@pytest.fixture
def region(federation: Federation) -> Iterator[OpenRegion]:
    folder, _, set_ups = federation
    with open_region(home_of(folder), set_ups[0]) as opened:
        yield opened


def header(of_plan: RunPlan, server_round: int = 1, **changes: JsonValue) -> dict[str, JsonValue]:
    request: dict[str, JsonValue] = {
        "run": of_plan.run_id,
        "round": server_round,
        "attempt": 1,
        "mechanism": "popularity" if server_round == 1 else "factors",
        "plan": of_plan.digest,
        "cosignatures": [],
    }
    return request | changes


def changed(plan: RunPlan, **changes: JsonValue) -> RunPlan:
    return RunPlan.from_record(plan.to_record() | changes)


def kinds(log: AuditLog) -> list[str]:
    return [Envelope.decode(data).kind for _, data in log.entries()]


def model_after(plan: RunPlan, popularity: np.ndarray) -> dict[str, np.ndarray]:
    return first_model(popularity.astype(np.float64), plan)


def test_a_round_is_charged_sealed_and_logged_in_this_order(
    federation: Federation, region: OpenRegion
) -> None:
    _, plan, _ = federation
    before = region.engine.log.size
    reply, arrays = ask(region.engine, header(plan), {})
    assert reply["status"] == "ok"
    assert kinds(region.engine.log)[before:] == ["charge", "round", "release"]
    entries = [Envelope.decode(data).record() for _, data in region.engine.log.entries(before)]
    charge, entry, release = entries
    assert charge["charge_id"] == entry["charge_id"] == release["charge_id"]
    assert entry["update"] == release["update"] == arrays_digest(arrays) == reply["update"]
    assert entry["consent"]["size"] == before
    assert entry["consent"]["root"] == region.engine.log.root_at(before).hex()
    assert (
        base64.b64decode(str(reply["round_entry"]))
        == dict(region.engine.log.entries())[reply["leaf_index"]]
    )


def test_only_the_declared_array_leaves(federation: Federation, region: OpenRegion) -> None:
    _, plan, _ = federation
    reply, arrays = ask(region.engine, header(plan), {})
    (spec,) = plan.released_arrays("popularity")
    assert {name: array.shape for name, array in arrays.items()} == {spec.name: spec.shape}
    text = canonical_json.encode(reply).decode()
    assert not any(customer in text for customer in region.customers)


def test_a_repeated_request_gets_the_same_sealed_bytes_and_no_second_charge(
    federation: Federation, region: OpenRegion
) -> None:
    _, plan, _ = federation
    _, first = ask(region.engine, header(plan), {})
    size = region.engine.log.size
    _, second = ask(region.engine, header(plan, attempt=1), {})
    np.testing.assert_array_equal(first["popularity"], second["popularity"])
    assert len(region.engine.ledger.charges) == 1
    assert region.engine.log.size == size


def test_another_model_for_a_sealed_round_is_refused(
    federation: Federation, region: OpenRegion
) -> None:
    _, plan, _ = federation
    _, first = ask(region.engine, header(plan), {})
    model = model_after(plan, first["popularity"])
    assert ask(region.engine, header(plan, 2), model)[0]["status"] == "ok"
    other = dict(model, item_factors=-model["item_factors"])
    reply, arrays = ask(region.engine, header(plan, 2), other)
    assert (reply["status"], reply["reason"], arrays) == ("refused", "not-permitted", {})


@pytest.mark.parametrize(
    "changes",
    [
        {"run": "another-run"},
        {"plan": "0" * 64},
        {"mechanism": "factors"},
        {"round": 99, "mechanism": "factors"},
    ],
)
def test_what_the_permit_does_not_cover_is_refused_and_logged(
    federation: Federation, region: OpenRegion, changes: dict[str, JsonValue]
) -> None:
    _, plan, _ = federation
    reply, arrays = region.engine.call("train", header(plan, **changes), {})
    assert reply == {"status": "refused", "region": "region-1", "reason": "not-permitted"}
    assert arrays == {}
    assert region.engine.ledger.charges == ()
    assert kinds(region.engine.log)[-1] == "incident"


@pytest.mark.parametrize(
    "changes",
    [{"round": True}, {"round": "1"}, {"extra": 1}, {"attempt": None}],
)
def test_a_malformed_request_is_refused(
    federation: Federation, region: OpenRegion, changes: dict[str, JsonValue]
) -> None:
    _, plan, _ = federation
    reply, _ = region.engine.call("train", header(plan, **changes), {})
    assert (reply["status"], reply["reason"]) == ("refused", "malformed-request")
    with pytest.raises(FormatError):
        TrainRequest.parse(header(plan, **changes))


def test_a_model_of_wrong_shape_is_refused_before_any_charge(
    federation: Federation, region: OpenRegion
) -> None:
    _, plan, _ = federation
    _, first = ask(region.engine, header(plan), {})
    model = model_after(plan, first["popularity"])
    for wrong in (
        dict(model, item_factors=model["item_factors"][:, :1]),
        dict(model, extra=np.zeros(3, np.float32)),
        {name: value for name, value in model.items() if name != "vocabulary"},
        dict(model, item_factors=np.full_like(model["item_factors"], np.nan)),
    ):
        reply, _ = ask(region.engine, header(plan, 2), wrong)
        assert reply["status"] == "refused"
    assert len(region.engine.ledger.charges) == 1


def test_without_a_permit_nothing_works(federation: Federation) -> None:
    folder, plan, set_ups = federation
    (home_of(folder).permits / f"{plan.run_id}.json").unlink()
    with open_region(home_of(folder), set_ups[0]) as region:
        assert region.engine.call("train", header(plan), {})[0]["reason"] == "not-permitted"
        with pytest.raises(PolicyError, match="no permit"):
            region.engine.preflight(plan)


def test_a_permit_altered_by_a_byte_or_for_another_plan_is_refused(
    federation: Federation, region: OpenRegion
) -> None:
    folder, plan, _ = federation
    path = home_of(folder).permits / f"{plan.run_id}.json"
    permit = path.read_bytes()
    path.write_bytes(permit.replace(b"keyid", b"keyiD"))
    assert region.engine.call("train", header(plan), {})[0]["reason"] == "not-permitted"
    path.write_bytes(permit)
    plan_path = home_of(folder).permits / f"{plan.run_id}.plan.json"
    laxer = changed(plan, round_timeout_s=plan.round_timeout_s + 1)
    plan_path.write_bytes(canonical_json.encode(laxer.to_record()))
    reply, _ = region.engine.call("train", header(plan, plan=laxer.digest), {})
    assert reply["reason"] == "not-permitted"


def test_a_permit_signed_by_another_role_is_refused(
    federation: Federation, region: OpenRegion
) -> None:
    folder, plan, _ = federation
    home = home_of(folder)
    path = home.permits / f"{plan.run_id}.json"
    record = Envelope.decode(path.read_bytes()).record()
    path.write_bytes(make_entry(record, home.signer("trainer")))
    assert region.engine.call("train", header(plan), {})[0]["reason"] == "not-permitted"


def test_an_expired_permit_is_refused(federation: Federation) -> None:
    folder, plan, _ = federation
    late = now_ms() + 30 * 24 * 3600 * 1000
    with open_engine(home_of(folder), clock_ms=lambda: late) as engine:
        assert engine.call("train", header(plan), {})[0]["reason"] == "not-permitted"
        assert "is valid from" in str(engine.last_refusal)


def test_a_withdrawal_takes_effect_in_the_next_round(
    federation: Federation, region: OpenRegion
) -> None:
    _, plan, _ = federation
    _, first = ask(region.engine, header(plan), {})
    leaving = next(c for c in region.customers if region.registrar.consents(c))
    sid = region.engine.subjects.pseudonyms()[leaving]
    seen: list[frozenset[str]] = []
    dataset_of = service_module.RegionData.dataset

    def watch(self, plan, eligible):  # type: ignore[no-untyped-def]
        seen.append(eligible.sids)
        return dataset_of(self, plan, eligible)

    region.registrar.record([Choice.withdraw(leaving)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service_module.RegionData, "dataset", watch)
        model = model_after(plan, first["popularity"])
        assert ask(region.engine, header(plan, 2), model)[0]["status"] == "ok"
    assert sid not in seen[0]
    assert len(seen[0]) > 0


def test_nobody_consenting_means_no_training(tmp_path: Path) -> None:
    def all_refuse(customers):  # type: ignore[no-untyped-def]
        return CustomerChoices(refusing=frozenset(customers), withdrawing={})

    folder, plan, set_ups = make_federation(
        tmp_path / "run", regions=1, quorum=1, choose=all_refuse
    )
    with open_region(home_of(folder), set_ups[0]) as region:
        assert publish(region.engine, header(plan))["reason"] == "no-consent"
        assert region.engine.ledger.charges == ()


def test_a_budget_too_small_for_the_plan_is_refused_before_the_first_charge(
    tmp_path: Path,
) -> None:
    folder, plan, set_ups = make_federation(tmp_path / "run", regions=1, quorum=1)
    home = home_of(folder)
    # No permit would be signed under it: it is lowered afterwards.
    lowered = read_policy(home.policy).model_copy(update={"epsilon_cap_per_year": "4"})
    with AuditLog.open(home.log, origin=home.origin, signer=home.signer("log")) as log:
        sign_policy(home, log, lowered)
    with open_region(home, set_ups[0]) as region:
        assert ask(region.engine, header(plan), {})[0]["reason"] == "budget-exhausted"
        assert region.engine.ledger.charges == ()


def test_a_crash_between_charge_and_seal_wastes_no_second_charge(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, plan, _ = federation

    def crash(self: SealStore, *_: object) -> None:
        raise KeyboardInterrupt

    with open_engine(home_of(folder)) as engine, monkeypatch.context() as patch:
        patch.setattr(SealStore, "write", crash)
        with pytest.raises(KeyboardInterrupt):
            ask(engine, header(plan), {})
        assert kinds(engine.log)[-1] == "charge"
    with open_engine(home_of(folder)) as engine:
        assert ask(engine, header(plan), {})[0]["status"] == "ok", engine.last_refusal
        assert len(engine.ledger.charges) == 1
        assert kinds(engine.log)[-3:] == ["charge", "round", "release"]


def test_a_crash_between_ledger_and_log_is_mended_when_the_engine_opens(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, plan, _ = federation

    def crash(self: Charging, charge: object) -> None:
        raise KeyboardInterrupt

    with open_engine(home_of(folder)) as engine, monkeypatch.context() as patch:
        patch.setattr(Charging, "log", crash)
        with pytest.raises(KeyboardInterrupt):
            ask(engine, header(plan), {})
        assert len(engine.ledger.charges) == 1
        assert "charge" not in kinds(engine.log)
    with open_engine(home_of(folder)) as engine:
        assert kinds(engine.log)[-1] == "charge"


def test_a_crash_between_seal_and_log_logs_the_sealed_entries_once(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, plan, _ = federation

    def crash(self: SealedRounds, *_: object, **__: object) -> int:
        raise KeyboardInterrupt

    with open_engine(home_of(folder)) as engine, monkeypatch.context() as patch:
        patch.setattr(SealedRounds, "log", crash)
        with pytest.raises(KeyboardInterrupt):
            ask(engine, header(plan), {})
    sealed = SealStore(home_of(folder).seals).read(plan.run_id, 1)
    assert sealed is not None
    with open_engine(home_of(folder)) as engine:
        for _ in range(2):
            _, arrays = ask(engine, header(plan), {})
            np.testing.assert_array_equal(arrays["popularity"], sealed.arrays["popularity"])
        assert kinds(engine.log).count("round") == kinds(engine.log).count("release") == 1


@pytest.mark.parametrize(("waited_s", "sent"), [(590, True), (610, False)])
def test_a_seal_that_a_crash_kept_from_the_log_too_long_is_given_up(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, waited_s: int, sent: bool
) -> None:
    """Logged as of then, it would stand after withdrawals that it does not know."""
    folder, plan, _ = federation

    def crash(self: SealedRounds, *_: object, **__: object) -> int:
        raise KeyboardInterrupt

    with open_engine(home_of(folder)) as engine, monkeypatch.context() as patch:
        patch.setattr(SealedRounds, "log", crash)
        with pytest.raises(KeyboardInterrupt):
            ask(engine, header(plan), {})
    later = now_ms() + waited_s * 1000
    for _ in range(2):
        with open_engine(home_of(folder), clock_ms=lambda: later) as engine:
            reply, arrays = engine.call("train", {**header(plan), "cosignatures": []}, {})
            logged = kinds(engine.log)
            if sent:
                assert (reply["status"], set(arrays)) == ("ok", {"popularity"})
                assert logged.count("round") == logged.count("release") == 1
                continue
            assert (reply["reason"], arrays) == ("seal-too-old", {})
            assert {"round", "release"} & set(logged) == set()
            assert (logged.count("charge"), logged.count("incident")) == (1, 1)
            assert SealStore(home_of(folder).seals).read(plan.run_id, 1) is None


def test_a_ledger_restored_from_before_a_charge_is_noticed(federation: Federation) -> None:
    folder, plan, _ = federation
    home = home_of(folder)
    with open_engine(home):
        pass
    shutil.copy(home.ledger, home.root / "backup")
    with open_engine(home) as engine:
        assert ask(engine, header(plan), {})[0]["status"] == "ok", engine.last_refusal
    for suffix in ("-wal", "-shm"):
        home.ledger.with_name(home.ledger.name + suffix).unlink(missing_ok=True)
    shutil.copy(home.root / "backup", home.ledger)
    with pytest.raises(StorageError, match="old or foreign copy"), open_engine(home):
        pass


def test_a_lost_seal_is_not_replaced_by_a_second_draw(federation: Federation) -> None:
    folder, plan, _ = federation
    home = home_of(folder)
    with open_engine(home) as engine:
        assert ask(engine, header(plan), {})[0]["status"] == "ok"
    for path in home.seals.iterdir():
        path.unlink()
    with open_engine(home) as engine:
        reply, arrays = ask(engine, header(plan), {})
        assert (reply["reason"], arrays) == ("storage-failure", {})
        assert "seal of round 1 is gone" in str(engine.last_refusal)


def test_a_policy_that_the_controller_did_not_log_is_refused(federation: Federation) -> None:
    folder, _, _ = federation
    home = home_of(folder)
    lax = read_policy(home.policy).model_copy(update={"epsilon_cap_per_year": "100"})
    home.policy.write_bytes(canonical_json.encode(lax.to_record()))
    with pytest.raises(PolicyError, match="not the one that the region's controller signed"):
        with open_engine(home):
            pass


def test_what_a_region_holds_is_for_its_owner_alone(federation: Federation) -> None:
    folder, _, _ = federation
    home = home_of(folder)
    assert home.root.stat().st_mode & 0o077 == 0
    private = [home.ledger, home.subjects, home.stored_key, *home.keys.iterdir()]
    assert [path for path in private if path.stat().st_mode & 0o077] == []


def test_a_missing_ledger_is_not_silently_begun_anew(federation: Federation) -> None:
    folder, plan, _ = federation
    home = home_of(folder)
    with open_engine(home) as engine:
        assert ask(engine, header(plan), {})[0]["status"] == "ok", engine.last_refusal
    home.ledger.unlink()
    with pytest.raises(StorageError, match=r"ledger\.sqlite is missing"), open_engine(home):
        pass


def test_two_engines_of_one_region_do_not_run_at_once(federation: Federation) -> None:
    folder, _, _ = federation
    with open_engine(home_of(folder)), pytest.raises(StorageError):
        with open_engine(home_of(folder)):
            pass


def test_budget_holds_across_runs(federation: Federation) -> None:
    """A second run in the same region, permitted and all, is refused by the ledger."""
    folder, plan, _ = federation
    second = changed(plan, run_id="run-2")
    with open_engine(home_of(folder)) as engine:
        # While there is budget for either of them.
        sign_permit(engine, second, app="a" * 64, valid_for_s=3600)
        reply, arrays = ask(engine, header(plan), {})
        assert reply["status"] == "ok"
        model = model_after(plan, arrays["popularity"])
        for server_round in plan.mechanisms[1].rounds:
            reply, arrays = ask(engine, header(plan, server_round), model)
            assert reply["status"] == "ok"
        spent = engine.ledger.spending(plan.run_id, int(engine.ledger.charges[0].request.time[:4]))
        assert spent.year <= float(plan.epsilon) <= spent.cap
        reply, arrays = ask(engine, header(second), {})
        assert (reply["reason"], arrays) == ("budget-exhausted", {})
        assert kinds(engine.log)[-1] == "incident"
    path, delta = home_of(folder).ledger, float(plan.delta)
    with open_ledger(path, caps=EpsilonCaps(8), delta=delta) as ledger:
        assert {charge.request.run for charge in ledger.charges} == {plan.run_id}


def test_refusals_tell_nothing_but_a_reason_code(
    federation: Federation, region: OpenRegion
) -> None:
    _, plan, _ = federation
    reply, _ = region.engine.call("train", header(plan, run="nowhere"), {})
    assert set(reply) == {"status", "region", "reason"}


def test_an_unknown_method_is_refused(region: OpenRegion) -> None:
    assert region.engine.call("read-everything", {}, {})[0]["reason"] == "malformed-request"


def test_noise_multiplier_below_the_policy_floor_is_not_permitted(
    federation: Federation, region: OpenRegion
) -> None:
    _, plan, _ = federation
    strict = region.engine.policy.model_copy(update={"noise_multiplier_min": "50"})
    with pytest.raises(PolicyError, match="noise_multiplier"):
        strict.check_plan(plan)


@pytest.mark.parametrize(
    "changes",
    [
        {"run": "../run-1"},
        {"round": -5},
        {"round": 0},
        {"attempt": -1},
        {"attempt": 0},
        {"run": ""},
        {"run": "x" * 129},
    ],
)
def test_a_request_out_of_range_leaves_no_entry_that_could_not_verify(
    federation: Federation, region: OpenRegion, changes: dict[str, JsonValue]
) -> None:
    _, plan, _ = federation
    reply, _ = region.engine.call("train", header(plan, **changes), {})
    assert reply["reason"] == "malformed-request"
    assert region.engine.ledger.charges == ()
    (incident,) = [
        envelope.record()
        for envelope in (Envelope.decode(data) for _, data in region.engine.log.entries())
        if envelope.kind == "incident"
    ]
    assert incident["round"] in (1, None)
    assert incident["run"] in (plan.run_id, None)


def test_the_same_refusal_is_logged_once_and_their_number_is_bounded(
    federation: Federation, region: OpenRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, plan, _ = federation
    monkeypatch.setattr("client.engine.incidents.MAX_INCIDENTS", 3)
    for _ in range(5):
        region.engine.call("train", header(plan, run="nowhere"), {})
    assert kinds(region.engine.log).count("incident") == 1
    for number in range(10):
        region.engine.call("train", header(plan, run=f"nowhere-{number}"), {})
    assert kinds(region.engine.log).count("incident") == 3


def test_a_charge_is_not_spent_under_another_permit(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A charge made under one plan must not pay for a release with less noise under another."""

    def crash(self: SealStore, *_: object) -> None:
        raise KeyboardInterrupt

    folder, plan, _ = federation
    laxer = changed(plan, round_timeout_s=plan.round_timeout_s + 1)
    with open_engine(home_of(folder)) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(SealStore, "write", crash)
            with pytest.raises(KeyboardInterrupt):
                ask(engine, header(plan), {})
        with pytest.raises(PolicyError, match="was charged already"):
            sign_permit(engine, laxer, app="a" * 64, valid_for_s=3600)
        # Not even if the permit is put there past the desk.
        with monkeypatch.context() as patch:
            patch.setattr(type(engine.ledger), "charges", ())
            sign_permit(engine, laxer, app="a" * 64, valid_for_s=3600)
        reply, arrays = ask(engine, header(laxer), {})
        assert (reply["reason"], arrays) == ("not-permitted", {})
        assert "under another permit" in str(engine.last_refusal)
        assert len(engine.ledger.charges) == 1


def test_a_round_states_the_delta_that_its_epsilon_is_at(tmp_path: Path) -> None:
    folder, plan, set_ups = make_federation(
        tmp_path / "run", regions=1, quorum=1, delta="0.0000001", delta_max="0.000001"
    )
    with open_region(home_of(folder), set_ups[0]) as region:
        assert ask(region.engine, header(plan), {})[0]["status"] == "ok"
        charge, entry = (
            next(
                envelope.record()
                for envelope in (Envelope.decode(data) for _, data in region.engine.log.entries())
                if envelope.kind == kind
            )
            for kind in ("charge", "round")
        )
    assert entry["dp"]["delta"] == charge["delta"] == "0.000001"
    assert entry["dp"]["epsilon_total"] == charge["epsilon_total"]


def test_an_installed_registry_version_is_logged_when_the_engine_opens(
    federation: Federation,
) -> None:
    folder, _, set_ups = federation
    home = home_of(folder)
    first = (home.registry / "1.json").read_bytes()
    record = Envelope.decode(first).record() | {
        "registry_version": 2,
        "prev": hashlib.sha256(first).hexdigest(),
        "issued_at": format_time(now_ms()),
    }
    passphrase = (folder.offline_root / "passphrase").read_bytes().strip()
    roots = [load_key(folder.offline_root / f"root-{number}.pem", passphrase) for number in (1, 2)]
    second = sign_record(record, *roots)
    (home.registry / "2.json").write_bytes(second)
    for _ in range(2):
        with open_region(home, set_ups[0]) as region:
            logged = [data for _, data in region.engine.log.entries()]
            assert logged.count(second) == 1
