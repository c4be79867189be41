"""Training only on witnessed consents, discards, and the region as a witness of others."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from client.consent_service.registrar import Choice
from client.engine import service as service_module
from client.engine.policy import RegionPolicy
from client.engine.seal import SealStore
from client.engine.sealed_rounds import SealedRounds
from client.engine.service import open_engine
from common.audit.checkpoint import NoteKey, open_checkpoint
from common.audit.cosigners import Cosigners
from common.audit.log import AuditLog
from common.audit.witness.store import SPLIT_VIEW, UNPROVEN, CosignatureStore, WitnessStore
from common.canonical_json import JsonValue
from common.envelope import Envelope
from common.plan import RunPlan
from common.timestamps import now_ms
from server.aggregation import first_model
from simulations.provision import OpenRegion, RegionSetUp, open_region
from simulations.run_folder import RunFolder
from tests.support.cosigning import ask, cosignatures, publish, witness_signer, witnessed
from tests.support.memory_signer import MemorySigner
from tests.support.small_federation import home_of, make_federation

Federation = tuple[RunFolder, RunPlan, list[RegionSetUp]]


@pytest.fixture(scope="session")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    root = tmp_path_factory.mktemp("federation") / "run"
    return make_federation(root, regions=2, quorum=1)


@pytest.fixture(scope="session")
def provisioned_discarding(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    root = tmp_path_factory.mktemp("discarding") / "run"
    return make_federation(root, regions=1, quorum=1, withdrawal_in_round="discard")


def copied(provisioned: Federation, target: Path) -> Federation:
    folder, plan, set_ups = provisioned
    shutil.copytree(folder.root, target, symlinks=True)
    return RunFolder(target), plan, set_ups


@pytest.fixture
def federation(provisioned: Federation, tmp_path: Path) -> Federation:
    return copied(provisioned, tmp_path / "run")


@pytest.fixture
def region(federation: Federation) -> Iterator[OpenRegion]:
    folder, _, set_ups = federation
    with open_region(home_of(folder), set_ups[0]) as opened:
        yield opened


@pytest.fixture
def discarding(provisioned_discarding: Federation, tmp_path: Path) -> Federation:
    return copied(provisioned_discarding, tmp_path / "run")


def header(plan: RunPlan, server_round: int = 1, **changes: JsonValue) -> dict[str, JsonValue]:
    request: dict[str, JsonValue] = {
        "run": plan.run_id,
        "round": server_round,
        "attempt": 1,
        "mechanism": "popularity" if server_round == 1 else "factors",
        "plan": plan.digest,
        "cosignatures": [],
    }
    return request | changes


def kinds(log: AuditLog) -> list[str]:
    return [Envelope.decode(data).kind for _, data in log.entries()]


def records(log: AuditLog, kind: str) -> list[dict[str, JsonValue]]:
    envelopes = [Envelope.decode(data) for _, data in log.entries()]
    return [each.record() for each in envelopes if each.kind == kind]


def consenting(region: OpenRegion) -> str:
    return next(each for each in region.customers if region.registrar.consents(each))


def refused(region: OpenRegion, request: dict[str, JsonValue]) -> bool:
    """Whether it is refused for lack of witnesses, before any charge."""
    reply, arrays = region.engine.call("train", request, {})
    assert arrays == {}
    assert region.engine.ledger.charges == ()
    return reply.get("reason") == "not-witnessed"


# What counts as witnessed.


def test_nothing_is_trained_before_the_quorum_has_cosigned(
    federation: Federation, region: OpenRegion
) -> None:
    _, plan, _ = federation
    assert refused(region, header(plan))
    for parties in ((), ("server",), ("witness",)):
        assert refused(region, witnessed(region.engine, header(plan), parties))
    assert ask(region.engine, header(plan), {})[0]["status"] == "ok"


def test_the_regions_own_cosignature_does_not_count(
    federation: Federation, region: OpenRegion
) -> None:
    _, plan, _ = federation
    assert refused(region, witnessed(region.engine, header(plan), ("server", "region-1")))
    both = witnessed(region.engine, header(plan), ("server", "region-2"))
    assert region.engine.call("train", both, {})[0]["status"] == "ok"


def test_one_party_counts_once(federation: Federation, region: OpenRegion) -> None:
    folder, plan, _ = federation
    note = str(publish(region.engine, header(plan))["checkpoint"])
    now = int(time.time())
    lines = [
        line
        for back in (0, 1, 2)
        for line in cosignatures(folder.root, note, ("server",), time_s=now - back)
    ]
    assert refused(region, header(plan, cosignatures=[*lines]))


def test_cosignatures_of_another_size_do_not_count(
    federation: Federation, region: OpenRegion
) -> None:
    _, plan, _ = federation
    earlier = witnessed(region.engine, header(plan))
    region.registrar.record([Choice.withdraw(consenting(region))])
    publish(region.engine, header(plan))
    assert refused(region, earlier)


def test_cosignatures_by_nobodys_key_do_not_count(
    federation: Federation, region: OpenRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, plan, _ = federation
    with monkeypatch.context() as patch:
        patch.setattr(
            "tests.support.cosigning.witness_signer", lambda run, party: MemorySigner(party)
        )
        request = witnessed(region.engine, header(plan))
    assert refused(region, request)


@pytest.mark.parametrize(
    ("off_s", "counts"), [(-3000, False), (-602, False), (-598, True), (58, True), (120, False)]
)
def test_cosignatures_count_for_as_long_as_the_policy_says(
    federation: Federation, off_s: int, counts: bool
) -> None:
    folder, plan, _ = federation
    # An hour on: nothing but their age is against the older ones.
    now = now_ms() + 3_600_000
    with open_engine(home_of(folder), clock_ms=lambda: now) as engine:
        request = witnessed(engine, header(plan), time_s=now // 1000 + off_s)
        reply, _ = engine.call("train", request, {})
        assert reply.get("reason") == (None if counts else "not-witnessed")


@pytest.mark.parametrize("line", ["", "rubbish\n", "— server AAAA\n", "— server\n\n", "x" * 1024])
def test_lines_that_are_no_signatures_are_worth_nothing(
    federation: Federation, region: OpenRegion, line: str
) -> None:
    _, plan, _ = federation
    publish(region.engine, header(plan))
    assert refused(region, header(plan, cosignatures=[line, line]))
    assert region.engine.last_refusal is not None
    assert "0 of the 2" in region.engine.last_refusal.message


def test_a_snapshot_lapses_though_its_cosignatures_are_fresh(federation: Federation) -> None:
    folder, plan, _ = federation
    clock = [now_ms()]
    with open_engine(home_of(folder), clock_ms=lambda: clock[0]) as engine:
        note = str(publish(engine, header(plan))["checkpoint"])
        clock[0] += 601_000
        lines = cosignatures(folder.root, note, time_s=clock[0] // 1000)
        reply, _ = engine.call("train", header(plan, cosignatures=[*lines]), {})
        assert reply["reason"] == "not-witnessed"
        assert "snapshot is 601 s old" in str(engine.last_refusal)
        # Asked again, it publishes anew.
        note = str(publish(engine, header(plan))["checkpoint"])
        lines = cosignatures(folder.root, note, time_s=clock[0] // 1000)
        assert engine.call("train", header(plan, cosignatures=[*lines]), {})[0]["status"] == "ok"


def test_a_restart_between_publishing_and_training_is_witnessed_anew(
    federation: Federation,
) -> None:
    folder, plan, _ = federation
    with open_engine(home_of(folder)) as engine:
        request = witnessed(engine, header(plan))
    with open_engine(home_of(folder)) as engine:
        reply, _ = engine.call("train", request, {})
        assert reply["reason"] == "not-witnessed"
        assert ask(engine, header(plan), {})[0]["status"] == "ok"


def test_what_was_published_for_one_round_serves_no_other(
    federation: Federation, region: OpenRegion
) -> None:
    _, plan, _ = federation
    reply, arrays = ask(region.engine, header(plan), {})
    assert reply["status"] == "ok"
    model = first_model(arrays["popularity"].astype(np.float64), plan)
    request = witnessed(region.engine, header(plan, 3))
    second = region.engine.call("train", {**request, "round": 2}, model)
    assert second[0]["reason"] == "not-witnessed"
    end: dict[str, JsonValue] = {"run": plan.run_id, "round": None, "since": []}
    note = str(region.engine.call("publish", end, {})[0]["checkpoint"])
    lines = cosignatures(region.engine.home.root.parent.parent, note)
    third, _ = region.engine.call("train", header(plan, 2, cosignatures=[*lines]), model)
    assert third["reason"] == "not-witnessed"


def test_a_snapshot_and_its_nonce_serve_one_sealed_update(
    federation: Federation, region: OpenRegion
) -> None:
    _, plan, _ = federation
    request = witnessed(region.engine, header(plan))
    assert region.engine._snapshots.published(plan.run_id, 1) is not None
    assert region.engine.call("train", request, {})[0]["status"] == "ok"
    assert region.engine._snapshots.published(plan.run_id, 1) is None


def test_the_snapshot_is_of_the_published_size(
    federation: Federation, region: OpenRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, plan, _ = federation
    seen: list[frozenset[str]] = []
    dataset_of = service_module.RegionData.dataset

    def watch(self, plan, eligible):  # type: ignore[no-untyped-def]
        seen.append(eligible.sids)
        return dataset_of(self, plan, eligible)

    monkeypatch.setattr(service_module.RegionData, "dataset", watch)
    leaving = consenting(region)
    sid = region.engine.subjects.pseudonyms()[leaving]
    published = region.engine.log.size
    request = witnessed(region.engine, header(plan))
    region.registrar.record([Choice.withdraw(leaving)])
    reply, arrays = region.engine.call("train", request, {})
    assert reply["status"] == "ok"
    model = first_model(arrays["popularity"].astype(np.float64), plan)
    assert ask(region.engine, header(plan, 2), model)[0]["status"] == "ok"
    assert sid in seen[0]
    assert sid not in seen[1]
    first, second = records(region.engine.log, "round")
    assert first["consent"]["size"] == published  # type: ignore[index,call-overload]
    assert first["consent"]["root"] == region.engine.log.root_at(published).hex()  # type: ignore[index,call-overload]
    assert second["consent"]["size"] > published  # type: ignore[index,call-overload,operator]


# A round under way when someone in it withdraws.


def withdraw_in_round(
    region: OpenRegion, plan: RunPlan, who: str | None = None
) -> dict[str, JsonValue]:
    """A round is published and cosigned; then someone withdraws. Gives the train request."""
    request = witnessed(region.engine, header(plan))
    region.registrar.record([Choice.withdraw(who or consenting(region))])
    return request


def test_discard_keeps_the_update_in_the_region_for_good(discarding: Federation) -> None:
    folder, plan, set_ups = discarding
    home = home_of(folder)
    with open_region(home, set_ups[0]) as region:
        request = withdraw_in_round(region, plan)
        size = region.engine.log.size
        for _ in range(3):
            reply, arrays = region.engine.call("train", request, {})
            assert (reply["status"], reply["reason"]) == ("refused", "discarded-for-withdrawal")
            assert arrays == {}
        assert kinds(region.engine.log)[size:] == ["charge", "incident"]
        (incident,) = records(region.engine.log, "incident")
        assert (incident["run"], incident["round"]) == (plan.run_id, 1)
        assert incident["reason"] == "discarded-for-withdrawal"
        assert SealStore(home.seals).read(plan.run_id, 1) is None
        assert len(region.engine.ledger.charges) == 1
    # Nor is it trained again by an engine that knows only the log, however it is witnessed.
    with open_region(home, set_ups[0]) as region:
        reply, _ = ask(region.engine, header(plan), {})
        assert reply["reason"] == "discarded-for-withdrawal"
        assert len(region.engine.ledger.charges) == 1
        assert len(records(region.engine.log, "incident")) == 1


def test_discard_holds_over_a_kill_between_seal_and_log(
    discarding: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(self: SealedRounds, *_: object, **__: object) -> int:
        raise KeyboardInterrupt

    folder, plan, set_ups = discarding
    with open_region(home_of(folder), set_ups[0]) as region:
        request = witnessed(region.engine, header(plan))
        with monkeypatch.context() as patch:
            patch.setattr(SealedRounds, "log", crash)
            with pytest.raises(KeyboardInterrupt):
                region.engine.call("train", request, {})
    assert SealStore(home_of(folder).seals).read(plan.run_id, 1) is not None
    with open_region(home_of(folder), set_ups[0]) as region:
        region.registrar.record([Choice.withdraw(consenting(region))])
        reply, arrays = ask(region.engine, header(plan), {})
        assert (reply["reason"], arrays) == ("discarded-for-withdrawal", {})
        assert "round" not in kinds(region.engine.log)
    assert SealStore(home_of(folder).seals).read(plan.run_id, 1) is None


def test_discard_holds_over_a_kill_between_incident_and_removal(
    discarding: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(self: SealStore, *_: object) -> None:
        raise KeyboardInterrupt

    folder, plan, set_ups = discarding
    with open_region(home_of(folder), set_ups[0]) as region:
        request = withdraw_in_round(region, plan)
        with monkeypatch.context() as patch:
            patch.setattr(SealStore, "remove", crash)
            with pytest.raises(KeyboardInterrupt):
                region.engine.call("train", request, {})
    assert SealStore(home_of(folder).seals).read(plan.run_id, 1) is not None
    with open_region(home_of(folder), set_ups[0]) as region:
        reply, arrays = ask(region.engine, header(plan), {})
        assert (reply["reason"], arrays) == ("discarded-for-withdrawal", {})
        assert len(records(region.engine.log, "incident")) == 1
    assert SealStore(home_of(folder).seals).read(plan.run_id, 1) is None


def test_a_withdrawal_between_check_and_append_is_seen(
    discarding: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, plan, set_ups = discarding
    judge = SealedRounds._someone_left
    with open_region(home_of(folder), set_ups[0]) as region:
        judged: list[bool] = []

        def late(self: SealedRounds, *arguments: object) -> bool:
            judged.append(judge(self, *arguments))  # type: ignore[arg-type]
            if len(judged) == 1:
                region.registrar.record([Choice.withdraw(consenting(region))])
            return judged[-1]

        monkeypatch.setattr(SealedRounds, "_someone_left", late)
        reply, _ = ask(region.engine, header(plan), {})
        assert judged == [False, True]
        assert reply["reason"] == "discarded-for-withdrawal"
        assert "round" not in kinds(region.engine.log)


def test_only_someone_in_the_round_makes_it_be_discarded(
    discarding: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, plan, set_ups = discarding
    with open_region(home_of(folder), set_ups[0]) as region:
        newcomer, leaver = "someone-new", consenting(region)
        region.registrar.record([Choice.withdraw(leaver)])
        request = witnessed(region.engine, header(plan))
        # In after the snapshot and out again, and one who had left before.
        region.registrar.record([Choice.give(newcomer, {"fedpref:FederatedTraining": True})])
        region.registrar.record([Choice.withdraw(newcomer), Choice.withdraw(leaver)])
        with monkeypatch.context() as patch:
            patch.setattr(SealedRounds, "log", lambda *_, **__: 0)
            region.engine.call("train", request, {})
    # The set is the same whether the engine still knows it or takes it from the log.
    with open_region(home_of(folder), set_ups[0]) as region:
        reply, _ = ask(region.engine, header(plan), {})
        assert reply["status"] == "ok"
        assert kinds(region.engine.log)[-2:] == ["round", "release"]


def test_a_withdrawal_after_the_update_was_logged_changes_nothing(discarding: Federation) -> None:
    folder, plan, set_ups = discarding
    with open_region(home_of(folder), set_ups[0]) as region:
        _, first = ask(region.engine, header(plan), {})
        region.registrar.record([Choice.withdraw(consenting(region))])
        reply, again = ask(region.engine, header(plan), {})
        assert reply["status"] == "ok"
        np.testing.assert_array_equal(first["popularity"], again["popularity"])


def test_finish_ends_the_round_that_was_lawful_when_it_began(
    federation: Federation, region: OpenRegion
) -> None:
    _, plan, _ = federation
    assert region.engine.policy.withdrawal_in_round == "finish"
    reply, arrays = region.engine.call("train", withdraw_in_round(region, plan), {})
    assert reply["status"] == "ok"
    assert set(arrays) == {"popularity"}
    assert "incident" not in kinds(region.engine.log)


def test_the_policy_says_which_of_the_two(discarding: Federation) -> None:
    assert RegionPolicy.model_fields["withdrawal_in_round"].is_required()
    with open_engine(home_of(discarding[0])) as engine:
        assert engine.policy.withdrawal_in_round == "discard"
        (policy,) = records(engine.log, "policy")
        assert policy["policy"]["withdrawal_in_round"] == "discard"  # type: ignore[index,call-overload]


# The region's log before others, and others' logs before the region.


def test_a_published_log_proves_its_way_from_every_size_asked_for(
    federation: Federation, region: OpenRegion
) -> None:
    _, plan, _ = federation
    size = region.engine.log.size
    answer, _ = region.engine.call(
        "publish", {"run": plan.run_id, "round": 1, "since": [0, 3, size, size + 1]}, {}
    )
    assert set(answer) == {"status", "region", "checkpoint", "proofs"}
    expected = [node.hex() for node in region.engine.log.consistency_proof(3, size)]
    # It has no way from a size that it never had.
    assert answer["proofs"] == {"0": [], "3": expected, str(size): []}


def test_what_others_cosigned_is_kept(federation: Federation, region: OpenRegion) -> None:
    folder, plan, _ = federation
    engine = region.engine
    size = engine.log.size
    assert ask(engine, header(plan), {})[0]["status"] == "ok"
    note = str(publish(engine, header(plan, 2))["checkpoint"])
    lines = cosignatures(folder.root, note, ("server", "witness", "region-1"))
    request: dict[str, JsonValue] = {"run": plan.run_id, "size": engine.log.size}
    answer, _ = engine.call("keep", {**request, "cosignatures": [*lines]}, {})
    # One's own is none.
    assert answer["kept"] == 2
    with WitnessStore.open(engine.home.witness) as store:
        kept = CosignatureStore(store, engine.home.origin)
        assert kept.sizes() == [size, engine.log.size]
        merged = kept.note(size, engine.log.checkpoint_at(size)).decode()
    names = {each.party for each in _cosigned(engine.registry, merged)}
    assert names == {"server", "witness"}
    answer, _ = engine.call("keep", {**request, "size": 9999, "cosignatures": []}, {})
    assert answer["status"] == "refused"


def test_what_a_round_was_trained_on_keeps_its_first_cosignatures(
    federation: Federation, region: OpenRegion
) -> None:
    """Later ones in their place would leave the round without evidence that it was fresh."""
    folder, plan, _ = federation
    engine = region.engine
    size = engine.log.size
    assert ask(engine, header(plan), {})[0]["status"] == "ok"
    note = engine.log.checkpoint_at(size)

    def times() -> dict[str, int]:
        with WitnessStore.open(engine.home.witness) as store:
            merged = CosignatureStore(store, engine.home.origin).note(size, note).decode()
        return {each.party: each.time_s for each in _cosigned(engine.registry, merged)}

    before = times()
    late = cosignatures(folder.root, note.decode(), ("server", "witness"), time_s=2_000_000_000)
    engine.call("keep", {"run": plan.run_id, "size": size, "cosignatures": [*late]}, {})
    assert times() == before
    assert before


def _cosigned(registry, note: str):  # type: ignore[no-untyped-def]
    lines = [line for line in note.splitlines(keepends=True) if line.startswith("— ")]
    return Cosigners(registry).verified(note.encode(), lines, party="region-1")


@pytest.fixture
def other_log(federation: Federation) -> Iterator[AuditLog]:
    """The log of another region, open."""
    home = home_of(federation[0], "region-2")
    with AuditLog.open(home.log, origin=home.origin, signer=home.signer("log")) as log:
        yield log


def cosign(region: OpenRegion, log: AuditLog, old: int, size: int | None = None) -> JsonValue:
    at = log.size if size is None else size
    proof = [x.hex() for x in log.consistency_proof(old, at)] if 0 < old < at else []
    item: dict[str, JsonValue] = {
        "origin": log.origin,
        "note": log.checkpoint_at(at).decode(),
        "old": old,
        "proof": [*proof],
    }
    request: dict[str, JsonValue] = {"run": "run-1", "checkpoints": [item]}
    (answer,) = region.engine.call("cosign", request, {})[0]["cosignatures"]  # type: ignore[misc]
    return answer  # type: ignore[no-any-return]


def test_a_region_cosigns_what_continues_what_it_holds(
    federation: Federation, region: OpenRegion, other_log: AuditLog
) -> None:
    size = other_log.size
    answer = cosign(region, other_log, 0, size - 1)
    assert isinstance(answer, dict)
    assert (answer["origin"], answer["size"]) == (other_log.origin, size - 1)
    note = other_log.checkpoint_at(size - 1).decode() + str(answer["line"])
    keys = Cosigners(region.engine.registry).keys(but="region-2")
    (log_key,) = [k.public_key for k in region.engine.registry.keys_of("region-2", "log")]
    opened = open_checkpoint(note.encode(), NoteKey(other_log.origin, log_key), keys)
    assert set(opened.cosigned_at_s) == {"region-1"}
    stale = cosign(region, other_log, 3)
    assert stale == {"origin": other_log.origin, "refused": "stale", "size": size - 1}
    assert isinstance(current := cosign(region, other_log, size - 1), dict)
    assert current["size"] == size


def test_two_histories_are_kept_as_evidence_and_told_in_the_regions_log(
    federation: Federation, region: OpenRegion, other_log: AuditLog, tmp_path: Path
) -> None:
    home = home_of(federation[0], "region-2")
    size = other_log.size
    cosign(region, other_log, 0)
    with AuditLog.open(
        tmp_path / "fork", origin=home.origin, signer=home.signer("log"), create=True
    ) as fork:
        fork.append([b"another history %d" % number for number in range(size + 2)])
        conflicts = [cosign(region, fork, size, size), cosign(region, fork, size)]
    for answer in conflicts:
        assert answer == {"origin": other_log.origin, "refused": "conflict", "size": size}
    with WitnessStore.open(region.engine.home.witness) as store:
        assert [each.kind for each in store.evidence()] == [SPLIT_VIEW, UNPROVEN]
    incidents = records(region.engine.log, "incident")
    assert [each["reason"] for each in incidents] == ["split-view"] * 2


def test_a_region_witnesses_neither_itself_nor_strangers(
    federation: Federation, region: OpenRegion, tmp_path: Path
) -> None:
    own = region.engine.log
    assert cosign(region, own, 0) == {"origin": own.origin, "refused": "invalid", "size": 0}
    signer = MemorySigner("stranger")
    for origin in ("small.example/region-9", "small.example/region-2"):
        name = tmp_path / origin.replace("/", "-")
        with AuditLog.open(name, origin=origin, signer=signer, create=True) as log:
            assert cosign(region, log, 0) == {"origin": origin, "refused": "invalid", "size": 0}


@pytest.mark.parametrize("method", ["publish", "cosign", "keep"])
def test_a_run_that_the_region_permitted_nothing_for_is_not_served(
    region: OpenRegion, method: str
) -> None:
    fields: dict[str, dict[str, JsonValue]] = {
        "publish": {"round": None, "since": []},
        "cosign": {"checkpoints": []},
        "keep": {"size": 0, "cosignatures": []},
    }
    answer, _ = region.engine.call(method, {"run": "unheard-of", **fields[method]}, {})
    assert (answer["status"], answer["reason"]) == ("refused", "not-permitted")


def test_the_witness_key_is_one_of_the_regions_own(federation: Federation) -> None:
    folder, _, _ = federation
    with open_engine(home_of(folder)) as engine:
        (entry,) = engine.registry.keys_of("region-1", "witness")
        assert entry.public_key == witness_signer(folder.root, "region-1").public_key
