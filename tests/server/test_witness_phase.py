"""Rounds whose logs are witnessed, not witnessed, forked, rolled back; and the end of a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.audit.checkpoint import NoteKey, open_checkpoint
from common.audit.cosigners import Cosigners
from common.audit.log import AuditLog
from common.audit.witness.channel import LocalWitness
from common.audit.witness.errors import ConflictError, StaleSizeError, UnreachableWitnessError
from common.audit.witness.registry_logs import RegistryLogs
from common.audit.witness.store import CosignatureStore, WitnessStore
from common.audit.witness.witness import Witness
from common.errors import FederationError, InputError
from common.parameters import arrays_digest
from server import app as server_app
from server.config import ServerHome
from server.outside_witnesses import offer_witnesses, outside_witnesses
from server.strategy import RegionSumStrategy
from server.witness_circle import WitnessCircle
from tests.support.fake_federation import (
    FEDERATION,
    FakeEngine,
    FakeFederation,
    Header,
    fake_plan,
    open_federation,
)

REGIONS = ("region-1", "region-2", "region-3")


class CrashError(BaseException):
    """Stands for a kill: nothing of ours catches it."""


def used_regions(federation: FakeFederation) -> dict[object, list[str]]:
    return {
        record["round"]: [part["region"] for part in record["regions"]]  # type: ignore[misc,index,union-attr]
        for record in federation.records("aggregate")
    }


def refused_regions(federation: FakeFederation, number: int) -> dict[str, str]:
    for record in federation.records("aggregate"):
        if record["round"] == number:
            return {part["region"]: part["reason"] for part in record["refused"]}  # type: ignore[misc,index,union-attr]
    return {}


def answering(
    method: str, change: Callable[[Header], Header | None]
) -> Callable[[str, Header], Header]:
    """An engine's hook that changes its answers to one method; None leaves one as it is."""
    return lambda asked, answer: (change(answer) or answer) if asked == method else answer


REFUSAL: Header = {"status": "refused", "region": "region-2", "reason": "storage-failure"}


# What the phase sees to.


def test_every_region_trains_under_cosignatures_of_all_others(tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan(), witness_quorum=3) as federation:
        federation.run()
        cosigners = Cosigners(federation.home.read_registry())
        for name, engine in federation.engines.items():
            for number in (1, 2, 3):
                note = engine.log.checkpoint_at(engine.published[number])
                held = cosigners.verified(note, engine.cosigned[number], party=name)
                assert {each.party for each in held} == {"server", *REGIONS} - {name}
        assert federation.incidents() == []
        assert used_regions(federation) == {number: [*REGIONS] for number in (1, 2, 3)}


def test_at_the_end_every_entry_of_every_log_is_cosigned_and_kept(tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan(), witness_quorum=3) as federation:
        federation.run()
        cosigners = Cosigners(federation.home.read_registry())
        for name, engine in federation.engines.items():
            note = engine.log.checkpoint_at(engine.log.size)
            held = cosigners.verified(note, engine.kept[engine.log.size], party=name)
            assert len(held) == 3
        own = f"{FEDERATION}/server"
        with (
            AuditLog.open_read_only(federation.home.log) as log,
            WitnessStore.open(federation.home.witness) as store,
        ):
            kept = CosignatureStore(store, own)
            assert kept.sizes()[-1] == log.size
            signed = open_checkpoint(
                kept.note(log.size, log.checkpoint_at(log.size)),
                NoteKey(own, federation.signers["server", "log"].public_key),
                cosigners.keys(but="server"),
            )
        assert set(signed.cosigned_at_s) == set(REGIONS)


def test_the_outside_witness_counts_as_another_party(tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan(), witness_quorum=4) as federation:
        with pytest.raises(FederationError, match="region-1: not-witnessed"):
            federation.run()
        with outside(federation, tmp_path):
            federation.run()
        assert used_regions(federation) == {number: [*REGIONS] for number in (1, 2, 3)}


@contextmanager
def outside(federation: FakeFederation, folder: Path) -> Iterator[Witness]:
    """The federation's outside witness, offered to its coordinator."""
    with WitnessStore.open(folder / "outside.sqlite", create=True) as store:
        witness = Witness(
            store,
            name="witness",
            signer=federation.signers["witness", "witness"],
            log_keys=RegistryLogs(federation.home.read_registry),
        )
        with offer_witnesses(federation.home, {"witness": LocalWitness(witness)}):
            yield witness


# Regions that do not take part, and quorums that are not reached.


def test_a_region_that_publishes_nothing_is_refused_by_its_own_reason(tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan()) as federation:
        engine = federation.engines["region-2"]
        engine.tamper_answer = answering("publish", lambda answer: REFUSAL)
        federation.run()
        assert refused_regions(federation, 1) == {"region-2": "storage-failure"}
        assert used_regions(federation)[3] == ["region-1", "region-3"]
        assert ("train", 1) not in engine.asked


def test_of_many_regions_a_log_is_shown_to_a_few_and_to_all_only_if_these_fail(
    tmp_path: Path,
) -> None:
    plan = fake_plan(11)
    with open_federation(tmp_path, plan, witness_quorum=3) as federation:
        federation.run()
        for name, engine in federation.engines.items():
            assert {len(lines) for lines in engine.cosigned.values()} == {8 + 1}, name
            assert engine.asked.count(("cosign", None)) == 4
    # The coordinator cosigns as well; so with one neighbour a log lacks one more.
    with open_federation(tmp_path / "again", plan, witness_quorum=3) as federation:
        lame = WitnessCircle(plan.run_id, plan.regions, 3).witnesses_of("region-1")[1:]
        for name in lame:
            federation.engines[name].tamper_answer = answering("cosign", lambda answer: REFUSAL)
        federation.run()
        assert used_regions(federation) == {n: sorted(plan.regions) for n in (1, 2, 3)}
        assert len(federation.engines["region-1"].cosigned[1]) == 3 + 1


def test_a_region_that_cosigns_nothing_stops_nobody(tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan(), witness_quorum=2) as federation:
        engine = federation.engines["region-2"]
        engine.tamper_answer = answering("cosign", lambda answer: REFUSAL)
        federation.run()
        assert used_regions(federation) == {number: [*REGIONS] for number in (1, 2, 3)}
        assert federation.incidents() == [(None, "region-2", "storage-failure")]


def test_a_log_without_the_quorum_is_not_trained_on(tmp_path: Path) -> None:
    def without_region_1(answer: Header) -> Header:
        items = answer["cosignatures"]
        assert isinstance(items, list)
        return {
            **answer,
            "cosignatures": [
                item
                for item in items
                if isinstance(item, dict) and item["origin"] != f"{FEDERATION}/region-1"
            ],
        }

    with open_federation(tmp_path, fake_plan(), witness_quorum=2) as federation:
        for name in ("region-2", "region-3"):
            federation.engines[name].tamper_answer = answering("cosign", without_region_1)
        federation.run()
        assert refused_regions(federation, 1) == {"region-1": "not-witnessed"}
        assert used_regions(federation)[3] == ["region-2", "region-3"]
        assert ("train", 1) not in federation.engines["region-1"].asked


def test_cosignatures_that_do_not_hold_are_not_counted(tmp_path: Path) -> None:
    def rubbish(answer: Header) -> Header:
        items = answer["cosignatures"]
        assert isinstance(items, list)
        false = [
            {**item, "line": "— region-2 " + "A" * 104 + "\n"}
            for item in items
            if isinstance(item, dict)
        ]
        return {**answer, "cosignatures": [*false]}

    with open_federation(tmp_path, fake_plan(), witness_quorum=3) as federation:
        engine = federation.engines["region-2"]
        engine.tamper_answer = answering("cosign", rubbish)
        with pytest.raises(FederationError, match="region-1: not-witnessed, region-3: not-witn"):
            federation.run()


def test_a_region_cannot_cosign_its_own_log(tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan(), witness_quorum=3) as federation:
        engine = federation.engines["region-1"]
        store = engine.witness._store
        # A witness that does cosign its own log, and a third party that does not.
        engine.witness = Witness(
            store,
            name="region-1",
            signer=federation.signers["region-1", "witness"],
            log_keys=RegistryLogs(federation.home.read_registry),
        )

        def own_too(answer: Header) -> Header:
            note = engine.log.checkpoint().decode()
            old = engine.witness.heads().get(f"{FEDERATION}/region-1")
            size = old.size if old else 0
            proof = engine.log.consistency_proof(size, engine.log.size) if size else []
            line = engine.witness.cosign(note.encode(), size, proof)
            item = {"origin": f"{FEDERATION}/region-1", "size": engine.log.size, "line": line}
            return {**answer, "cosignatures": [*answer["cosignatures"], item]}  # type: ignore[dict-item,list-item,misc]

        engine.tamper_answer = answering("cosign", own_too)
        federation.engines["region-2"].tamper_answer = answering("cosign", lambda answer: REFUSAL)
        with pytest.raises(FederationError, match="region-1: not-witnessed"):
            federation.run()


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint": "rubbish"},
        {"checkpoint": 7},
        {"proofs": []},
        {"proofs": {"-1": []}},
        {"proofs": {"01": []}},
        {"proofs": {"0": ["short"]}},
        {"proofs": {"0": ["0" * 64] * 65}},
        {"more": 1},
    ],
)
def test_a_published_checkpoint_is_read_strictly(change: Header, tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan()) as federation:
        engine = federation.engines["region-2"]
        engine.tamper_answer = answering("publish", lambda answer: {**answer, **change})
        federation.run()
        (reason,) = refused_regions(federation, 1).values()
        assert reason == (
            "wrong-signer" if change == {"checkpoint": "rubbish"} else "malformed-reply"
        )


@pytest.mark.parametrize(
    "items",
    [
        7,
        [7],
        [{"origin": "x", "size": "1", "line": "y"}],
        [{"origin": "x", "size": -1, "line": "y"}],
        [{"origin": "x", "size": 1, "line": "y" * 2000}],
        [{"origin": "x", "size": 1, "refused": "whatever"}],
        [{"origin": "x", "size": 1, "line": "y", "refused": "stale"}],
    ],
)
def test_cosignatures_are_read_strictly(items: object, tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan(), witness_quorum=2) as federation:
        engine = federation.engines["region-2"]
        engine.tamper_answer = answering(
            "cosign",
            lambda answer: {**answer, "cosignatures": items},  # type: ignore[dict-item]
        )
        federation.run()
        assert federation.incidents() == [(None, "region-2", "malformed-reply")]
        assert used_regions(federation)[3] == [*REGIONS]


# Witnesses that hold something else than was thought.


def test_a_witness_that_is_ahead_is_served_in_the_same_round(tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan(), witness_quorum=3) as federation:
        log = federation.engines["region-1"].log
        log.append([b"entry %d" % number for number in range(5)])
        note = log.checkpoint_at(5)
        log.append([b"one more"])
        federation.engines["region-2"].witness.cosign(note, 0, [])
        federation.run()
        assert used_regions(federation) == {number: [*REGIONS] for number in (1, 2, 3)}
        assert federation.incidents() == []
        # One log was asked once more, in the first round alone.
        asked = [engine.asked.count(("publish", 1)) for engine in federation.engines.values()]
        assert asked == [2, 1, 1]
        assert federation.engines["region-1"].asked.count(("publish", 2)) == 1


def test_a_witness_that_is_behind_is_served_in_the_same_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_federation(tmp_path, fake_plan(), witness_quorum=3) as federation:
        with monkeypatch.context() as patch:
            patch.setattr(RegionSumStrategy, "configure_train", crash_at(3, CrashError()))
            with pytest.raises(CrashError):
                federation.run()
        # A coordinator that knows no sizes, and a witness under a new key that holds nothing.
        with WitnessStore.open(tmp_path / "new.sqlite", create=True) as store:
            federation.engines["region-2"].witness = Witness(
                store,
                name="region-2",
                signer=federation.signers["region-2", "witness"],
                log_keys=RegistryLogs(federation.home.read_registry, but="region-2"),
            )
            federation.run()
        assert used_regions(federation) == {number: [*REGIONS] for number in (1, 2, 3)}
        assert federation.incidents() == []


def test_exactly_the_proofs_that_witnesses_need_are_asked_for(tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan()) as federation:
        wanted: list[object] = []
        engine = federation.engines["region-1"]
        plain = engine.publish

        def publish(header: Header) -> Header:
            wanted.append(header["since"])
            return plain(header)

        engine.publish = publish  # type: ignore[method-assign]
        federation.run()
        sizes = [engine.published[number] for number in (1, 2, 3)]
        assert wanted == [[0], *([*{0, size}] for size in sizes)]


def fork_at(engine: FakeEngine, server_round: int, fork: AuditLog) -> None:
    """From a round on, an engine shows another history of the same log."""
    plain = engine.publish

    def publish(header: Header) -> Header:
        if header["round"] == server_round:
            engine.log = fork
        return plain(header)

    engine.publish = publish  # type: ignore[method-assign]


@pytest.mark.parametrize("length", [3, 9], ids=["same-size", "longer"])
def test_a_log_that_forks_is_refused_from_then_on_and_evidence_is_kept(
    length: int, tmp_path: Path
) -> None:
    origin = f"{FEDERATION}/region-2"
    with open_federation(tmp_path, fake_plan(), witness_quorum=2) as federation:
        engine = federation.engines["region-2"]
        true_log = engine.log
        true_log.append([b"history %d" % number for number in range(3)])
        with AuditLog.open(
            tmp_path / "fork.sqlite",
            origin=origin,
            signer=federation.signers["region-2", "log"],
            create=True,
        ) as fork:
            fork.append([b"another history %d" % number for number in range(length)])
            fork_at(engine, 2, fork)
            federation.run()
            assert used_regions(federation) == {
                1: [*REGIONS],
                2: ["region-1", "region-3"],
                3: ["region-1", "region-3"],
            }
            assert refused_regions(federation, 2) == {"region-2": "split-view"}
            assert refused_regions(federation, 3) == {"region-2": "split-view"}
            assert (None, "region-2", "split-view") in federation.incidents()
            assert [asked for asked in engine.asked if asked[1] == 3] == []
            with WitnessStore.open(federation.home.witness) as store:
                (evidence,) = store.evidence()
            assert evidence.origin == origin
            roots = {note.splitlines()[2] for note in (evidence.known, evidence.other)}
            assert len(roots) == 2
        engine.log = true_log


def test_a_coordinator_that_is_restarted_still_refuses_a_forked_region(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_federation(tmp_path, fake_plan(), witness_quorum=2) as federation:
        engine = federation.engines["region-2"]
        true_log = engine.log
        true_log.append([b"history %d" % number for number in range(3)])
        with AuditLog.open(
            tmp_path / "fork.sqlite",
            origin=true_log.origin,
            signer=federation.signers["region-2", "log"],
            create=True,
        ) as fork:
            fork.append([b"another history %d" % number for number in range(3)])
            fork_at(engine, 2, fork)
            with monkeypatch.context() as patch:
                patch.setattr(RegionSumStrategy, "configure_train", crash_at(2, CrashError()))
                with pytest.raises(CrashError):
                    federation.run()
        # It shows the true history again, as if nothing had been.
        del engine.publish
        engine.log = true_log
        federation.run()
        assert used_regions(federation)[2] == ["region-1", "region-3"]
        assert refused_regions(federation, 3) == {"region-2": "split-view"}


def crash_at(server_round: int, error: BaseException) -> Callable[..., object]:
    plain = RegionSumStrategy.configure_train

    def configure_train(self: RegionSumStrategy, number: int, *rest: object) -> object:
        if number == server_round:
            raise error
        return plain(self, number, *rest)  # type: ignore[arg-type]

    return configure_train


def test_what_one_region_says_of_another_bars_nobody(tmp_path: Path) -> None:
    def slander(answer: Header) -> Header:
        items = answer["cosignatures"]
        assert isinstance(items, list)
        said = [
            {"origin": item["origin"], "size": 1, "refused": "conflict"}
            for item in items
            if isinstance(item, dict)
        ]
        return {**answer, "cosignatures": [*said]}

    with open_federation(tmp_path, fake_plan(), witness_quorum=2) as federation:
        federation.engines["region-2"].tamper_answer = answering("cosign", slander)
        federation.run()
        assert used_regions(federation) == {number: [*REGIONS] for number in (1, 2, 3)}
        assert {reason for _, _, reason in federation.incidents()} == {"conflict-claimed"}


def test_a_log_that_was_rolled_back_is_told_and_not_trained_on(tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan(), witness_quorum=2) as federation:
        engine = federation.engines["region-2"]
        true_log = engine.log
        with AuditLog.open(
            tmp_path / "old.sqlite",
            origin=true_log.origin,
            signer=federation.signers["region-2", "log"],
            create=True,
        ) as backup:
            fork_at(engine, 3, backup)
            with pytest.raises(FederationError, match="region-2: not-witnessed"):
                federation.run()
            assert refused_regions(federation, 3) == {"region-2": "not-witnessed"}
            assert (None, "region-2", "log-rolled-back") in federation.incidents()
        # The model is published; once the newest log is back, the same command ends the run.
        del engine.publish
        engine.log = true_log
        federation.run()
        assert federation.events()[-1]["event"] == "run-finished"


# A region that was restarted between publishing and training.


def forget(engine: FakeEngine, times: int) -> None:
    """An engine that answers some requests to train as one that was restarted does."""
    left = [times]

    def refuse(reply: Header, arrays: object) -> tuple[Header, dict[str, object]]:
        if left[0]:
            left[0] -= 1
            return {"status": "refused", "region": engine.region, "reason": "not-witnessed"}, {}
        return reply, dict(arrays)  # type: ignore[call-overload]

    engine.tamper_reply = refuse  # type: ignore[assignment]


def test_a_region_that_was_restarted_is_witnessed_anew_in_the_same_round(tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan(), witness_quorum=2) as federation:
        engine = federation.engines["region-2"]
        forget(engine, 1)
        federation.run()
        assert used_regions(federation) == {number: [*REGIONS] for number in (1, 2, 3)}
        assert engine.asked.count(("publish", 1)) == engine.asked.count(("train", 1)) == 2
        # The others had answered.
        assert federation.engines["region-1"].asked.count(("train", 1)) == 1
        assert federation.engines["region-1"].asked.count(("publish", 1)) == 1


def test_a_region_that_is_never_ready_is_asked_twice_and_no_more(tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan(), witness_quorum=2) as federation:
        engine = federation.engines["region-2"]
        forget(engine, 99)
        federation.run()
        assert refused_regions(federation, 1) == {"region-2": "not-witnessed"}
        assert [engine.asked.count(("train", number)) for number in (1, 2, 3)] == [2, 2, 2]


# The end of a run.


def test_a_run_that_crashed_before_its_end_was_witnessed_completes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(self: RegionSumStrategy, grid: object) -> None:
        raise CrashError

    with open_federation(tmp_path, fake_plan(), witness_quorum=3) as federation:
        with monkeypatch.context() as patch:
            patch.setattr(RegionSumStrategy, "witness_end", crash)
            with pytest.raises(CrashError):
                federation.run()
        engine = federation.engines["region-1"]
        assert engine.log.size not in engine.kept
        model = arrays_digest(federation.model())
        federation.run()
        for each in federation.engines.values():
            assert len(each.kept[each.log.size]) == 3
        assert arrays_digest(federation.model()) == model
        assert len(federation.records("model")) == 1
        # And a finished run asks nobody again.
        asked = len(engine.asked)
        federation.run()
        assert len(engine.asked) == asked


def test_a_region_that_keeps_nothing_is_asked_again_and_named(tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan(), nodes_wait_s=0.5) as federation:
        engine = federation.engines["region-2"]
        engine.tamper_answer = answering("keep", lambda answer: {**answer, "kept": 0})
        with pytest.raises(FederationError, match=r"not cosigned \(region-2: not-kept\)"):
            federation.run()
        assert federation.events()[-1]["event"] == "run-failed"
        engine.tamper_answer = None
        federation.run()
        assert federation.events()[-1]["event"] == "run-finished"


def test_the_coordinators_own_log_needs_the_quorum_too(tmp_path: Path) -> None:
    def not_the_server(answer: Header) -> Header:
        items = answer["cosignatures"]
        assert isinstance(items, list)
        others = [
            item
            for item in items
            if isinstance(item, dict) and item["origin"] != f"{FEDERATION}/server"
        ]
        return {**answer, "cosignatures": [*others]}

    with open_federation(tmp_path, fake_plan(), witness_quorum=2) as federation:
        for engine in federation.engines.values():
            engine.tamper_answer = answering("cosign", not_the_server)
        with pytest.raises(FederationError, match=r"not cosigned \(server: not-witnessed\)"):
            federation.run()
        assert used_regions(federation)[3] == [*REGIONS]


def test_a_region_without_part_in_the_model_is_not_waited_for(tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan(), nodes_wait_s=0.5) as federation:
        federation.engines["region-2"].tamper_answer = answering("publish", lambda answer: REFUSAL)
        federation.run()
        assert federation.events()[-1]["event"] == "run-finished"


# Outside witnesses.


class Unreachable:
    """A witness that nobody reaches."""

    def __init__(self) -> None:
        self.asked = 0

    def add_checkpoint(self, note: bytes, old_size: int, proof: object) -> list[str]:
        self.asked += 1
        raise UnreachableWitnessError("The witness is asleep.")


def test_an_outside_witness_that_is_gone_is_told_once_and_stops_nobody(tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan(), witness_quorum=3) as federation:
        gone = Unreachable()
        with offer_witnesses(federation.home, {"witness": gone}):
            federation.run()
        assert federation.incidents() == [(None, None, "witness-unreachable")]
        assert used_regions(federation) == {number: [*REGIONS] for number in (1, 2, 3)}
        # Once a phase, not once a log.
        assert gone.asked == 4


def test_an_outside_witness_that_was_ahead_is_served_at_once(tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan(), witness_quorum=4) as federation:
        log = federation.engines["region-1"].log
        log.append([b"entry %d" % number for number in range(5)])
        with outside(federation, tmp_path) as witness:
            witness.cosign(log.checkpoint(), 0, [])
            log.append([b"one more"])
            federation.run()
        assert used_regions(federation) == {number: [*REGIONS] for number in (1, 2, 3)}


class Convicting:
    """A witness that holds another history of one log."""

    def __init__(self, party: str, error: Exception) -> None:
        self.party = party
        self.error = error

    def add_checkpoint(self, note: bytes, old_size: int, proof: object) -> list[str]:
        if note.startswith(f"{FEDERATION}/{self.party}\n".encode()):
            raise self.error
        return []


@pytest.mark.parametrize(
    "error",
    [
        ConflictError("It signed two roots."),
        StaleSizeError("It holds another.", known_size=9, split_view=True),
    ],
)
def test_an_outside_witness_that_says_it_holds_another_history_convicts_nobody(
    error: Exception, tmp_path: Path
) -> None:
    with open_federation(tmp_path, fake_plan(), witness_quorum=2) as federation:
        with offer_witnesses(federation.home, {"witness": Convicting("region-3", error)}):
            federation.run()
        assert refused_regions(federation, 1) == {}
        assert (None, "region-3", "conflict-claimed") in federation.incidents()


@pytest.mark.parametrize("content", ["{}", "[1]", "no json", '["ftp://x"]', '["nonsense"]'])
def test_a_list_of_witnesses_that_is_none_is_refused(content: str, tmp_path: Path) -> None:
    home = ServerHome(tmp_path)
    home.witnesses.write_text(content)
    with pytest.raises(InputError):
        outside_witnesses(home, timeout_s=10.0)


def test_outside_witnesses_are_those_of_the_home(tmp_path: Path) -> None:
    home = ServerHome(tmp_path)
    assert outside_witnesses(home, timeout_s=10.0) == {}
    home.witnesses.write_text(json.dumps(["https://witness.example/a"]))
    assert set(outside_witnesses(home, timeout_s=10.0)) == {"https://witness.example/a"}
    with offer_witnesses(home, {"witness": Unreachable()}):
        assert set(outside_witnesses(home, timeout_s=10.0)) == {
            "witness",
            "https://witness.example/a",
        }
        with pytest.raises(InputError), offer_witnesses(home, {}):
            pass
    assert set(outside_witnesses(home, timeout_s=10.0)) == {"https://witness.example/a"}


def test_a_coordinator_without_its_memory_does_not_start(tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan()) as federation:
        federation.home.witness.unlink()
        with pytest.raises(InputError, match="no witness file"):
            federation.run()


def test_the_phase_waits_no_longer_than_a_round(tmp_path: Path) -> None:
    plan = fake_plan(round_timeout_s=1)
    with open_federation(tmp_path, plan) as federation:
        seen: list[float] = []
        plain = server_app.open_witness_phase

        def opened(*arguments: object, timeout_s: float, **bounds: float) -> object:
            seen.append(timeout_s)
            return plain(*arguments, timeout_s=timeout_s, **bounds)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(server_app, "open_witness_phase", opened)
            federation.run()
        assert seen == [1]
