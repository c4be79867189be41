"""Whole rounds in process: quorum, faults, and going on after a crash at every stage."""

from __future__ import annotations

import math
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message, MessageType
from flwr.serverapp.strategy import Strategy

from common.errors import BudgetError, FederationError, InputError, VerificationError
from common.messages import decode_message, encode_message
from common.parameters import arrays_digest
from server import app as server_app
from server.aggregation import first_model
from server.audit_trail import AuditTrail
from server.checkpoint import CheckpointStore
from server.power_rounds import factors_after
from server.strategy import RegionSumStrategy
from simulations.in_process_grid import ReplyHook
from tests.support.fake_federation import (
    Arrays,
    FakeFederation,
    Header,
    fake_plan,
    open_federation,
)
from tests.support.given_total import GivenTotal

REGIONS = ("region-1", "region-2", "region-3")
# How long a silent region is waited for: long enough for the others on a machine that stalls.
SILENCE_S = 4


class CrashError(BaseException):
    """Stands for a kill: nothing of ours catches it."""


def expected_model(
    federation: FakeFederation, used: dict[int, Sequence[str]] | None = None
) -> Arrays:
    """The model that these regions' releases give, by the plain mathematics."""
    model: Arrays = {}
    state: Arrays = {}
    for number in range(1, federation.plan.total_rounds + 1):
        regions = (used or {}).get(number, REGIONS)
        releases = [federation.engines[region].release(number) for region in regions]
        total = sum(next(iter(each.values())).astype(np.float64) for each in releases)
        assert isinstance(total, np.ndarray)
        if number == 1:
            model = first_model(total, federation.plan, noise_gain=math.sqrt(len(regions)))
        else:
            given = GivenTotal(len(regions), total)
            model, state = factors_after(number, model, given, federation.plan, state)
    return model


def used_regions(federation: FakeFederation) -> dict[int, list[str]]:
    return {
        record["round"]: [part["region"] for part in record["regions"]]  # type: ignore[misc,index,union-attr]
        for record in federation.records("aggregate")
    }


def refused_regions(federation: FakeFederation, number: int) -> dict[str, str]:
    for record in federation.records("aggregate"):
        if record["round"] == number:
            return {part["region"]: part["reason"] for part in record["refused"]}  # type: ignore[misc,index,union-attr]
    return {}


def test_a_run_of_honest_regions(tmp_path: Path) -> None:
    assert issubclass(RegionSumStrategy, Strategy)
    with open_federation(tmp_path, fake_plan()) as federation:
        federation.run()
        assert arrays_digest(federation.model()) == arrays_digest(expected_model(federation))
        assert used_regions(federation) == {number: list(REGIONS) for number in (1, 2, 3)}
        assert federation.incidents() == []
        aggregates = federation.records("aggregate")
        assert aggregates[0]["model_in"] == arrays_digest({})
        for before, after in pairwise(aggregates):
            assert after["model_in"] == before["model_out"]
        (model,) = federation.records("model")
        assert model["model"] == aggregates[-1]["model_out"] == arrays_digest(federation.model())
        assert model["rounds"] == 3
        assert model["catalogue"] == federation.plan.catalogue
        with federation.trail() as trail:
            leaves = {federation.engines[r].log.leaf_hash(0).hex() for r in REGIONS}
            assert {used.round_entry for used in trail.aggregates[1][1].used} == leaves


def test_what_the_display_is_told(tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan()) as federation:
        federation.engines["region-2"].tamper_arrays = lambda a: {**a, "more": np.ones(1, "<f4")}
        federation.run()
        events = [(e["event"], e.get("round"), e.get("region")) for e in federation.events()]
        assert events[:2] == [("round-started", 1, None), ("log-witnessed", 1, None)]
        assert set(events[2:5]) == {
            ("region-replied", 1, "region-1"),
            ("region-refused", 1, "region-2"),
            ("region-replied", 1, "region-3"),
        }
        assert events[5] == ("round-closed", 1, None)
        last = [name for name, _, _ in events[-3:]]
        assert last == ["model-published", "log-witnessed", "run-finished"]
        replied = next(e for e in federation.events() if e["event"] == "region-replied")
        assert (replied["customers"], replied["epsilon_total"]) == ("8-15", "1")
        refusal = next(e for e in federation.events() if e["event"] == "region-refused")
        assert refusal["reason"] == "wrong-arrays"
        assert refusal["mechanism"] == "popularity"


@pytest.mark.parametrize("stated", ["4711", "4711-9421", {"exact": 4711}, None])
def test_a_number_of_customers_that_is_no_interval_is_not_repeated(
    tmp_path: Path, stated: object
) -> None:
    with open_federation(tmp_path, fake_plan()) as federation:

        def tamper(record: Header) -> None:
            record["train"] = {**record["train"], "n_bucket": stated}  # type: ignore[dict-item]
            record["dp"] = {**record["dp"], "epsilon_total": "customer 4711"}  # type: ignore[dict-item]

        federation.engines["region-2"].tamper_record = tamper
        federation.run()
        replied = [
            (event["customers"], event["epsilon_total"])
            for event in federation.events()
            if (event["event"], event.get("region")) == ("region-replied", "region-2")
        ]
        assert replied == [(None, None)] * 3
        assert b"4711" not in federation.home.events.read_bytes()


def nan_arrays(arrays: Arrays) -> Arrays:
    return {name: np.full_like(array, np.nan) for name, array in arrays.items()}


def test_a_region_that_lies_is_named_and_the_rest_go_on(tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan()) as federation:
        federation.engines["region-2"].tamper_arrays = nan_arrays
        federation.run()
        assert used_regions(federation) == {n: ["region-1", "region-3"] for n in (1, 2, 3)}
        assert refused_regions(federation, 1) == {"region-2": "not-finite"}
        assert federation.incidents() == [(n, "region-2", "not-finite") for n in (1, 2, 3)]
        only = dict.fromkeys((1, 2, 3), ("region-1", "region-3"))
        assert arrays_digest(federation.model()) == arrays_digest(expected_model(federation, only))


def test_a_region_that_raises_refuses_by_code_alone(tmp_path: Path) -> None:
    def refuse(number: int) -> None:
        if number == 2:
            raise BudgetError("region-2 has spent 7.31 of 8")

    with open_federation(tmp_path, fake_plan()) as federation:
        federation.engines["region-2"].before_train = refuse
        federation.run()
        assert refused_regions(federation, 2) == {"region-2": "budget-exhausted"}
        assert used_regions(federation)[3] == list(REGIONS)
        (incident,) = federation.records("incident")
        assert "7.31" not in str(incident)


def test_below_the_quorum_nothing_is_published_and_every_region_is_named(tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan(quorum=2)) as federation:
        engines = federation.engines
        engines["region-1"].tamper_arrays = nan_arrays
        engines["region-3"].before_train = raise_budget
        with pytest.raises(FederationError) as caught:
            federation.run()
        assert "region-1: not-finite" in caught.value.message
        assert "region-3: budget-exhausted" in caught.value.message
        assert "1 of the 2" in caught.value.message
        assert caught.value.exit_code == 9
        assert federation.records("aggregate") == federation.records("model") == []
        assert not federation.home.model.exists()
        assert (1, None, "below-quorum") in federation.incidents()
        assert federation.events()[-1]["event"] == "run-failed"
        # Regions that answered, well or ill, are not asked a second time; the run goes on later.
        assert [engine.asked.count(("train", 1)) for engine in engines.values()] == [1, 1, 1]
        engines["region-1"].tamper_arrays = None
        engines["region-1"].sealed.clear()
        engines["region-3"].before_train = None
        federation.run()
        assert arrays_digest(federation.model()) == arrays_digest(expected_model(federation))


def raise_budget(number: int) -> None:
    raise BudgetError("spent")


class Once:
    """Drops or changes the first replies of one partition to train requests."""

    def __init__(self, partition: int, change: Callable[[Message, Message], list[Message]]) -> None:
        self.partition = partition
        self.change = change
        self.left = 1

    def __call__(self, partition: int, message: Message, reply: Message) -> list[Message]:
        if partition == self.partition and message.metadata.message_type == "train" and self.left:
            self.left -= 1
            return self.change(message, reply)
        return [reply]


def test_a_silent_region_is_asked_once_more_while_the_quorum_is_lacking(tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan(quorum=3, round_timeout_s=SILENCE_S)) as federation:
        federation.run(reply_hook=Once(1, lambda message, reply: []))
        assert federation.engines["region-2"].asked.count(("train", 1)) == 2
        assert federation.engines["region-1"].asked.count(("train", 1)) == 1
        assert len(federation.engines["region-2"].sealed) == 3
        assert used_regions(federation)[1] == list(REGIONS)
        assert federation.incidents() == []
        assert arrays_digest(federation.model()) == arrays_digest(expected_model(federation))


@pytest.mark.parametrize("code", [2, 3, 5])
def test_a_region_whose_node_fails_is_asked_once_more(code: int, tmp_path: Path) -> None:
    def fail(message: Message, reply: Message) -> list[Message]:
        error = Message(Error(code=code, reason="row of data"), reply_to=message)
        # The SuperLink answers for a node in its own name.
        error.metadata.__dict__["_src_node_id"] = 1
        return [error]

    with open_federation(tmp_path, fake_plan(quorum=3)) as federation:
        if code == 2:
            # An app that raises would raise again: its region has answered.
            with pytest.raises(FederationError, match="region-2: node-error"):
                federation.run(reply_hook=Once(1, fail))
            return
        federation.run(reply_hook=Once(1, fail))
        assert used_regions(federation)[1] == list(REGIONS)
        assert refused_regions(federation, 1) == {}
        assert [number for number, *_ in federation.incidents()] == [1]


def test_a_region_that_hangs_costs_one_timeout_and_no_more(tmp_path: Path) -> None:
    release, asked, let_go = threading.Event(), list[int](), list[int]()

    def hang(number: int) -> None:
        asked.append(number)
        release.wait(200)
        let_go.append(number)

    with open_federation(tmp_path, fake_plan(round_timeout_s=SILENCE_S)) as federation:
        federation.engines["region-2"].before_train = hang
        federation.run()
        assert (asked, let_go) == ([1], [])
        assert refused_regions(federation, 1) == {"region-2": "no-reply"}
        assert refused_regions(federation, 3) == {"region-2": "no-node"}
        assert used_regions(federation)[3] == ["region-1", "region-3"]
        release.set()


class Described:
    """A reply hook that knows when a region has said again which one it is.

    Args:
        partition: The region's node.
        then: What happens to replies besides.
    """

    def __init__(self, partition: int, then: ReplyHook | None = None) -> None:
        self._partition = partition
        self._then = then
        self._asked = 0
        self._again = threading.Event()

    def __call__(self, partition: int, message: Message, reply: Message) -> Sequence[Message]:
        described = message.metadata.message_type == f"{MessageType.QUERY}.describe"
        if described and partition == self._partition:
            self._asked += 1
            if self._asked == 2:
                self._again.set()
        return [reply] if self._then is None else self._then(partition, message, reply)

    def wait(self) -> None:
        assert self._again.wait(10)
        # The hook is called just before the reply is put where the server finds it.
        time.sleep(0.2)


def test_a_region_that_comes_back_takes_part_again(tmp_path: Path) -> None:
    release, described = threading.Event(), Described(1)
    with open_federation(tmp_path, fake_plan(round_timeout_s=SILENCE_S)) as federation:
        late, other = federation.engines["region-2"], federation.engines["region-1"]
        late.before_train = lambda number: release.wait(200) and None

        def wait_for_it(number: int) -> None:
            if number == 2:
                release.set()
                described.wait()

        other.before_train = wait_for_it
        federation.run(reply_hook=described)
        assert refused_regions(federation, 1) == {"region-2": "no-reply"}
        assert used_regions(federation)[3] == list(REGIONS)
        # Its late answer to round 1 was nobody's.
        assert 1 in late.sealed


def test_a_region_whose_reply_was_lost_is_found_again_though_rounds_are_short(
    tmp_path: Path,
) -> None:
    described = Described(1, Once(1, lambda message, reply: []))
    with open_federation(tmp_path, fake_plan(round_timeout_s=1)) as federation:
        other = federation.engines["region-1"]
        other.before_train = lambda number: described.wait() if number == 2 else None
        federation.run(reply_hook=described)
        assert refused_regions(federation, 1) == {"region-2": "no-reply"}
        assert used_regions(federation)[3] == list(REGIONS)


def test_an_engine_that_is_just_starting_is_waited_for_while_the_quorum_is_lacking(
    tmp_path: Path,
) -> None:
    with open_federation(tmp_path, fake_plan(quorum=3)) as federation:
        starting = federation.engines["region-2"]

        def down(number: int) -> None:
            starting.before_train = None
            raise InputError("nobody listens at the engine's socket")

        starting.before_train = down
        federation.run()
        assert federation.incidents() == [(1, "region-2", "engine-unreachable")]
        assert used_regions(federation)[1] == list(REGIONS)


def test_a_second_reply_is_refused_and_the_first_stands(tmp_path: Path) -> None:
    def twice(message: Message, reply: Message) -> list[Message]:
        header, arrays = decode_message(reply.content)
        other = {name: array + 1 for name, array in arrays.items()}
        return [reply, Message(encode_message(header, other), reply_to=message)]

    with open_federation(tmp_path, fake_plan()) as federation:
        federation.run(reply_hook=Once(1, twice))
        assert federation.incidents() == [(1, "region-2", "duplicate-reply")]
        assert refused_regions(federation, 1) == {}
        assert used_regions(federation)[1] == list(REGIONS)
        assert arrays_digest(federation.model()) == arrays_digest(expected_model(federation))


def test_a_reply_to_nothing_is_refused(tmp_path: Path) -> None:
    def stray(message: Message, reply: Message) -> list[Message]:
        copy = Message(reply.content, reply_to=message)
        copy.metadata.__dict__["_reply_to_message_id"] = "another"
        return [copy, reply]

    with open_federation(tmp_path, fake_plan()) as federation:
        federation.run(reply_hook=Once(0, stray))
        assert federation.incidents() == [(1, None, "unsolicited-reply")]
        assert used_regions(federation)[1] == list(REGIONS)


def test_a_node_that_is_not_its_region_is_passed_over_from_then_on(tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan()) as federation:
        impostor = federation.engines["region-2"]
        claim = impostor.describe()
        impostor.describe = lambda: claim  # type: ignore[method-assign]
        impostor.trainer = federation.signers["region-1", "trainer"]
        federation.run()
        assert refused_regions(federation, 1) == {"region-2": "wrong-signer"}
        assert refused_regions(federation, 2) == {"region-2": "no-node"}
        assert impostor.asked.count(("train", 2)) == 0


def test_one_bad_signature_does_not_keep_a_run_from_its_end(tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan()) as federation:
        engine = federation.engines["region-2"]
        own, another = engine.trainer, federation.signers["region-1", "trainer"]

        def before(number: int) -> None:
            engine.trainer = another if number == 2 else own

        def after(header: Header, arrays: Arrays) -> tuple[Header, Arrays]:
            engine.trainer = own
            return header, arrays

        engine.before_train, engine.tamper_reply = before, after
        federation.run()
        assert refused_regions(federation, 2) == {"region-2": "wrong-signer"}
        # It is passed over in rounds; the last entries of its log are cosigned all the same.
        assert refused_regions(federation, 3) == {"region-2": "no-node"}
        assert engine.kept
        assert federation.home.ended.is_file()


def test_an_engine_that_is_just_starting_is_waited_for_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.roster._ASK_AGAIN_S", 0.02)
    with open_federation(tmp_path, fake_plan()) as federation:
        engine = federation.engines["region-2"]
        plain, down, asked = engine.call, False, []

        def call(method: str, header: Header, arrays: Any) -> Any:
            nonlocal down
            # Killed as it is to keep its cosignatures, and up again when asked a third time.
            down = (down or (method == "keep" and not asked)) and len(asked) < 2
            if down or (method == "keep" and not asked):
                asked.append(method)
                raise InputError("nobody listens at the engine's socket")
            return plain(method, header, arrays)

        monkeypatch.setattr(engine, "call", call)
        federation.run()
        assert asked == ["keep", "describe"]
        assert engine.kept
        assert federation.home.ended.is_file()


def test_the_order_of_arrival_changes_nothing(tmp_path: Path, uninterrupted: bytes) -> None:
    with open_federation(tmp_path, fake_plan()) as federation:
        for engine, delay in zip(federation.engines.values(), (1.2, 0.6, 0.0), strict=True):
            engine.before_train = lambda number, d=delay: time.sleep(d * (number == 1))
        federation.run()
        replied = [e["region"] for e in federation.events() if e["event"] == "region-replied"]
        assert replied[:3] == ["region-3", "region-2", "region-1"]
        assert used_regions(federation)[1] == list(REGIONS)
        assert federation.home.model.read_bytes() == uninterrupted


Install = Callable[[pytest.MonkeyPatch], None]


def crash_before(
    owner: type[Any] | Any, name: str, at: int
) -> Callable[[pytest.MonkeyPatch], None]:
    """A kill just before the ``at``-th call of a method."""

    def install(patch: pytest.MonkeyPatch) -> None:
        plain, calls = getattr(owner, name), []

        def crashing(*args: Any, **kwargs: Any) -> Any:
            calls.append(None)
            if len(calls) == at:
                raise CrashError
            return plain(*args, **kwargs)

        patch.setattr(owner, name, crashing)

    return install


def crash_after(owner: type[Any] | Any, name: str, at: int) -> Install:
    """A kill just after the ``at``-th call of a method has done its work."""

    def install(patch: pytest.MonkeyPatch) -> None:
        plain, calls = getattr(owner, name), []

        def crashing(*args: Any, **kwargs: Any) -> Any:
            result = plain(*args, **kwargs)
            calls.append(None)
            if len(calls) == at:
                raise CrashError
            return result

        patch.setattr(owner, name, crashing)

    return install


STAGES = {
    f"{stage}-{number}": make(number)
    for number in (1, 2, 3)
    for stage, make in {
        "before-model-kept": lambda n: crash_before(CheckpointStore, "prepare", n),
        "before-aggregate": lambda n: crash_before(AuditTrail, "log_aggregate", n),
        "after-aggregate": lambda n: crash_after(AuditTrail, "log_aggregate", n),
        "before-checkpoint": lambda n: crash_before(CheckpointStore, "write", n),
        "after-checkpoint": lambda n: crash_after(CheckpointStore, "write", n),
    }.items()
}
STAGES |= {
    "before-model-file": crash_before(server_app, "write_durably", 1),
    "after-model-file": crash_after(server_app, "write_durably", 1),
    "before-model-entry": crash_before(AuditTrail, "log_model", 1),
    "after-model-entry": crash_after(AuditTrail, "log_model", 1),
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    with open_federation(tmp_path_factory.mktemp("whole"), fake_plan()) as federation:
        federation.run()
        return federation.home.model.read_bytes()


@pytest.mark.parametrize("stage", STAGES)
def test_a_kill_at_any_stage_changes_nothing_of_the_result(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: bytes
) -> None:
    with open_federation(tmp_path, fake_plan()) as federation:
        with monkeypatch.context() as patch:
            STAGES[stage](patch)
            with pytest.raises(CrashError):
                federation.run()
        federation.run()
        check_whole(federation, uninterrupted)


@pytest.mark.parametrize("stage", ["after-aggregate-1", "after-aggregate-3", "after-checkpoint-2"])
def test_without_its_checkpoint_a_run_is_summed_again_from_the_sealed_bytes(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: bytes
) -> None:
    with open_federation(tmp_path, fake_plan()) as federation:
        with monkeypatch.context() as patch:
            STAGES[stage](patch)
            with pytest.raises(CrashError):
                federation.run()
        shutil.rmtree(federation.home.checkpoint)
        federation.run()
        check_whole(federation, uninterrupted)
        assert federation.engines["region-1"].asked.count(("train", 1)) == 2


def check_whole(federation: FakeFederation, expected: bytes) -> None:
    """The run is finished, as if nothing had happened."""
    assert federation.home.model.read_bytes() == expected
    rounds = [record["round"] for record in federation.records("aggregate")]
    assert rounds == [1, 2, 3]
    assert len(federation.records("model")) == 1
    assert federation.incidents() == []
    for engine in federation.engines.values():
        assert engine.log.size == 3


def test_a_finished_run_is_left_as_it_is(tmp_path: Path, uninterrupted: bytes) -> None:
    with open_federation(tmp_path, fake_plan()) as federation:
        federation.run()
        federation.run_config["nodes-wait-s"] = 0.1
        federation.engines.clear()
        federation.home.model.unlink()
        federation.run()
        assert federation.home.model.read_bytes() == uninterrupted
        assert len(federation.records("model")) == 1
        assert len(federation.records("aggregate")) == 3


def crashed_after_aggregate(
    federation: FakeFederation, monkeypatch: pytest.MonkeyPatch, number: int = 1
) -> None:
    """Leaves a round that is logged, with neither its model nor its checkpoint."""
    with monkeypatch.context() as patch:
        STAGES[f"after-aggregate-{number}"](patch)
        with pytest.raises(CrashError):
            federation.run()
    shutil.rmtree(federation.home.checkpoint)


def test_a_logged_round_is_never_made_of_other_regions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_federation(tmp_path, fake_plan(quorum=2)) as federation:
        crashed_after_aggregate(federation, monkeypatch)
        lost = federation.engines["region-3"]
        lost.before_train = raise_budget
        # Two regions are a quorum, but the log says that the round is of three.
        with pytest.raises(FederationError, match="region-3: budget-exhausted"):
            federation.run()
        assert len(federation.records("aggregate")) == 1
        lost.before_train = None
        federation.run()
        assert arrays_digest(federation.model()) == arrays_digest(expected_model(federation))


def test_a_logged_round_is_never_made_of_other_updates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_federation(tmp_path, fake_plan()) as federation:
        crashed_after_aggregate(federation, monkeypatch)
        changed = federation.engines["region-2"]
        changed.sealed.clear()
        changed.seed = 99
        with pytest.raises(FederationError, match="region-2: other-than-logged"):
            federation.run()
        assert len(federation.records("aggregate")) == 1


def test_a_logged_round_leaves_out_whom_it_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_federation(tmp_path, fake_plan()) as federation:
        federation.engines["region-2"].before_train = raise_budget
        crashed_after_aggregate(federation, monkeypatch)
        federation.engines["region-2"].before_train = None
        federation.run()
        two = ("region-1", "region-3")
        expected = expected_model(federation, {1: two})
        assert used_regions(federation) == {1: list(two), 2: list(REGIONS), 3: list(REGIONS)}
        assert arrays_digest(federation.model()) == arrays_digest(expected)


def test_a_logged_round_that_gives_another_model_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_federation(tmp_path, fake_plan()) as federation:
        crashed_after_aggregate(federation, monkeypatch)
        with monkeypatch.context() as patch:
            patch.setattr("server.parameter_step.first_model", perturbed_model)
            with pytest.raises(VerificationError, match="another model"):
                federation.run()
        assert len(federation.records("aggregate")) == 1


def perturbed_model(total: Any, plan: Any, noise_gain: float) -> Arrays:
    return first_model(total * 1.5, plan, noise_gain=noise_gain)
