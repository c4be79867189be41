"""Two runs at once in one region: neither takes anything from the other, nor waits without need."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.engine import round_release
from client.engine.permit_desk import sign_permit
from client.engine.service import open_engine
from client.engine.snapshots import MAX_RUNS, PublishedSnapshots
from client.engine.under_way import IDLE_ROUNDS, IDLE_SLACK_S, RunsUnderWay
from common.canonical_json import JsonValue
from common.envelope import Envelope
from common.plan import RunPlan
from common.timestamps import now_ms
from server.aggregation import first_model
from simulations.provision import OpenRegion, RegionSetUp, open_region
from simulations.run_folder import RunFolder
from tests.support.cosigning import ask, cosignatures, publish, witnessed
from tests.support.secure_regions import train_header
from tests.support.small_federation import APP, home_of, make_federation

Federation = tuple[RunFolder, RunPlan, list[RegionSetUp]]
Header = dict[str, JsonValue]
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    root = tmp_path_factory.mktemp("two-runs") / "run"
    return make_federation(root, regions=1, quorum=1, epsilon="4", epsilon_cap="100")


@pytest.fixture
def region(provisioned: Federation, tmp_path: Path) -> Iterator[OpenRegion]:
    folder, _, set_ups = provisioned
    shutil.copytree(folder.root, tmp_path / "run", symlinks=True)
    with open_region(home_of(RunFolder(tmp_path / "run")), set_ups[0]) as opened:
        yield opened


def another(region: OpenRegion, plan: RunPlan, name: str) -> RunPlan:
    """A plan like another one, permitted too."""
    made = RunPlan.from_record(plan.to_record() | {"run_id": name})
    sign_permit(region.engine, made, app=APP, valid_for_s=3600)
    return made


def rounds_of(region: OpenRegion, run: str) -> list[tuple[int, Header]]:
    entries = [(index, Envelope.decode(data)) for index, data in region.engine.log.entries()]
    records = [(index, each.record()) for index, each in entries if each.kind == "round"]
    return [(index, record) for index, record in records if record["run"] == run]


def model_after(plan: RunPlan, arrays: Mapping[str, np.ndarray]) -> Arrays:
    return first_model(arrays["popularity"].astype(np.float64), plan)


def test_rounds_of_two_runs_interleave_at_every_step(
    provisioned: Federation, region: OpenRegion
) -> None:
    first = provisioned[1]
    second = another(region, first, "run-2")
    models: dict[str, Arrays] = {first.run_id: {}, second.run_id: {}}
    for number in (1, 2):
        asked = {
            plan.run_id: witnessed(region.engine, train_header(plan, number))
            for plan in (first, second)
        }
        for plan in (first, second):
            reply, arrays = region.engine.call("train", asked[plan.run_id], models[plan.run_id])
            assert reply["status"] == "ok", region.engine.last_refusal
            if number == 1:
                models[plan.run_id] = model_after(plan, arrays)
    for plan in (first, second):
        (one, earlier), (two, later) = rounds_of(region, plan.run_id)
        # Each run's chain is its own, and each round saw all that was logged before it published.
        assert earlier["prev_round"] is None
        assert later["prev_round"] == region.engine.log.leaf_hash(one).hex()
        assert one < later["consent"]["size"] <= two  # type: ignore[index,call-overload]
    nonces = {
        record["train"]["nonce"]  # type: ignore[index,call-overload]
        for plan in (first, second)
        for _, record in rounds_of(region, plan.run_id)
    }
    assert len(nonces) == 4
    assert len(region.engine.ledger.charges) == 4


def test_what_one_run_publishes_takes_nothing_from_another(
    provisioned: Federation, region: OpenRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = provisioned[1]
    second = another(region, first, "run-2")
    waiting = witnessed(region.engine, train_header(first))
    for number in (1, None):
        publish(region.engine, {"run": second.run_id, "round": number})
    assert region.engine.call("train", waiting, {})[0]["status"] == "ok"
    # With one place for all of them, as it was, the first run would have to begin anew.
    waiting = witnessed(region.engine, train_header(second))
    keep = PublishedSnapshots.publish

    def only_one(self: PublishedSnapshots, published: Any) -> None:
        self._newest.clear()
        keep(self, published)

    monkeypatch.setattr(PublishedSnapshots, "publish", only_one)
    publish(region.engine, train_header(another(region, first, "run-3")))
    assert region.engine.call("train", waiting, {})[0]["reason"] == "not-witnessed"


def test_cosignatures_of_one_runs_checkpoint_do_not_serve_another(
    provisioned: Federation, region: OpenRegion
) -> None:
    first = provisioned[1]
    second = another(region, first, "run-2")
    root = region.engine.home.root.parent.parent
    note = str(publish(region.engine, train_header(first))["checkpoint"])
    lines = [*cosignatures(root, note)]
    third = another(region, first, "run-3")  # The log grows, and the next checkpoint is another.
    publish(region.engine, train_header(second))
    request = {**train_header(second), "cosignatures": lines}
    assert region.engine.call("train", request, {})[0]["reason"] == "not-witnessed"
    request = {**train_header(third), "cosignatures": lines}
    assert region.engine.call("train", request, {})[0]["reason"] == "not-witnessed"
    assert region.engine.ledger.charges == ()


class Held:
    """Training that goes on till it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        release = round_release.release

        def held(*given: Any, **named: Any) -> Arrays:
            self.begun.set()
            assert self.go_on.wait(120)
            return release(*given, **named)

        monkeypatch.setattr(round_release, "release", held)


def test_while_one_run_trains_another_is_witnessed_and_then_has_its_turn(
    provisioned: Federation, region: OpenRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = provisioned[1]
    second = another(region, first, "run-2")
    held, answers = Held(monkeypatch), dict[str, Header]()
    requests = {first.run_id: witnessed(region.engine, train_header(first))}

    def train(run: str) -> None:
        answers[run] = region.engine.call("train", requests[run], {})[0]

    threads = [threading.Thread(target=train, args=(first.run_id,))]
    threads[0].start()
    assert held.begun.wait(120)
    # In this thread, beside the one that trains: none of it waits.
    assert region.engine.call("describe", {}, {})[0]["region"] == "region-1"
    requests[second.run_id] = witnessed(region.engine, train_header(second))
    cosign: Header = {"run": second.run_id, "checkpoints": []}
    assert region.engine.call("cosign", cosign, {})[0]["status"] == "ok"
    keep: Header = {"run": second.run_id, "size": 1, "cosignatures": []}
    assert region.engine.call("keep", keep, {})[0]["status"] == "ok"
    threads.append(threading.Thread(target=train, args=(second.run_id,)))
    threads[1].start()
    for _ in range(2000):
        if len(region.engine._turns._queue) == 2:
            break
        time.sleep(0.005)
    assert answers == {}
    held.go_on.set()
    for thread in threads:
        thread.join(120)
    assert [answer["status"] for answer in answers.values()] == ["ok", "ok"]
    assert list(answers) == [first.run_id, second.run_id]


def test_two_coordinators_at_once_finish_their_runs(
    provisioned: Federation, region: OpenRegion
) -> None:
    plans = [provisioned[1], another(region, provisioned[1], "run-2")]
    failed: list[object] = []

    def coordinate(plan: RunPlan) -> None:
        model: Arrays = {}
        for number in (1, 2):
            reply, arrays = ask(region.engine, train_header(plan, number), model)
            if reply["status"] != "ok":
                failed.append(reply)
                return
            if number == 1:
                model = model_after(plan, arrays)

    threads = [threading.Thread(target=coordinate, args=(plan,)) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failed == []
    assert [len(rounds_of(region, plan.run_id)) for plan in plans] == [2, 2]
    # The log replays as one, and the ledger agrees with it.
    region.engine.state.refresh()
    assert len(region.engine.state.charges) == len(region.engine.ledger.charges) == 4


def test_more_runs_than_there_is_room_for_wait_till_one_has_trained(
    provisioned: Federation, region: OpenRegion
) -> None:
    first = provisioned[1]
    plans = [another(region, first, f"run-{number}") for number in range(2, MAX_RUNS + 3)]
    requests = [witnessed(region.engine, train_header(plan)) for plan in plans[:MAX_RUNS]]
    one_more = train_header(plans[MAX_RUNS])
    assert publish(region.engine, one_more)["reason"] == "too-many-runs"
    # Whoever has a place may publish again, and a run's end needs none.
    assert publish(region.engine, train_header(plans[0]))["status"] == "ok"
    assert publish(region.engine, {**one_more, "round": None})["status"] == "ok"
    assert region.engine.call("train", requests[1], {})[0]["status"] == "ok"
    assert publish(region.engine, one_more)["status"] == "ok"


def test_a_snapshot_that_nobody_trains_on_makes_room_when_it_is_old(
    provisioned: Federation, tmp_path: Path
) -> None:
    folder, first, set_ups = provisioned
    shutil.copytree(folder.root, tmp_path / "run", symlinks=True)
    home = home_of(RunFolder(tmp_path / "run"))
    with open_region(home, set_ups[0]):
        pass  # Its customers have chosen.
    # Permits are signed by the right clock, and must not be of later.
    clock = [now_ms() + 60_000]
    with open_engine(home, clock_ms=lambda: clock[0]) as engine:
        for number in range(2, MAX_RUNS + 2):
            plan = RunPlan.from_record(first.to_record() | {"run_id": f"run-{number}"})
            sign_permit(engine, plan, app=APP, valid_for_s=3600)
            assert publish(engine, train_header(plan))["status"] == "ok"
        assert publish(engine, train_header(first))["reason"] == "too-many-runs"
        clock[0] += (engine.policy.consent_age_max_s + 1) * 1000
        assert publish(engine, train_header(first))["status"] == "ok"


# The budget: a run that has begun is not broken off because another began later.


@pytest.fixture
def tight(tmp_path: Path) -> Iterator[tuple[OpenRegion, RunPlan]]:
    """A cap that pays for one run, and for the first round of another beside it."""
    folder, plan, set_ups = make_federation(
        tmp_path / "tight", regions=1, quorum=1, epsilon="4", epsilon_cap="5.9"
    )
    with open_region(home_of(folder), set_ups[0]) as opened:
        yield opened, plan


def test_a_second_run_that_would_outgrow_the_cap_is_refused_before_it_begins(
    tight: tuple[OpenRegion, RunPlan],
) -> None:
    region, first = tight
    second = another(region, first, "run-2")
    reply, arrays = ask(region.engine, train_header(first), {})
    assert reply["status"] == "ok"
    assert ask(region.engine, train_header(second), {})[0]["reason"] == "budget-exhausted"
    assert {charge.request.run for charge in region.engine.ledger.charges} == {first.run_id}
    model = model_after(first, arrays)
    assert ask(region.engine, train_header(first, 2), model)[0]["status"] == "ok"


def test_without_the_reservation_a_run_that_has_begun_would_be_broken_off(
    tight: tuple[OpenRegion, RunPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both begin within the cap, and both cannot end within it."""
    monkeypatch.setattr(RunsUnderWay, "reserved", lambda *_, **__: [])
    region, first = tight
    second = another(region, first, "run-2")
    models: dict[str, Arrays] = {}
    for plan in (first, second):
        reply, arrays = ask(region.engine, train_header(plan), {})
        assert reply["status"] == "ok", region.engine.last_refusal
        models[plan.run_id] = model_after(plan, arrays)
    reasons = [
        ask(region.engine, train_header(plan, 2), models[plan.run_id])[0].get("reason")
        for plan in (first, second)
    ]
    assert reasons == [None, "budget-exhausted"]


def test_a_run_that_ended_early_or_was_abandoned_reserves_nothing(
    tight: tuple[OpenRegion, RunPlan],
) -> None:
    region, first = tight
    assert ask(region.engine, train_header(first), {})[0]["status"] == "ok"
    now = now_ms()
    under_way = RunsUnderWay(region.engine.ledger, region.engine._permits)
    (reserved,) = under_way.reserved(but="run-2", now_ms=now)
    assert (reserved.run, len(reserved.events)) == (first.run_id, len(first.privacy_events()))
    assert under_way.reserved(but=first.run_id, now_ms=now) == []
    idle_ms = (IDLE_ROUNDS * first.round_timeout_s + IDLE_SLACK_S + 5) * 1000
    assert under_way.reserved(but="run-2", now_ms=now + idle_ms) == []
    under_way.end(first.run_id)
    assert under_way.reserved(but="run-2", now_ms=now) == []
    # A coordinator that says so and goes on all the same has its reservation back.
    another_view = RunsUnderWay(region.engine.ledger, region.engine._permits)
    assert len(another_view.reserved(but="run-2", now_ms=now)) == 1


def test_the_end_of_a_run_gives_its_budget_back(tight: tuple[OpenRegion, RunPlan]) -> None:
    region, first = tight
    second = another(region, first, "run-2")
    assert ask(region.engine, train_header(first), {})[0]["status"] == "ok"
    assert ask(region.engine, train_header(second), {})[0]["reason"] == "budget-exhausted"
    publish(region.engine, {"run": first.run_id, "round": None})
    assert ask(region.engine, train_header(second), {})[0]["status"] == "ok"


def test_a_permit_that_is_gone_reserves_nothing(tight: tuple[OpenRegion, RunPlan]) -> None:
    region, first = tight
    assert ask(region.engine, train_header(first), {})[0]["status"] == "ok"
    (region.engine.home.permits / f"{first.run_id}.json").unlink()
    under_way = RunsUnderWay(region.engine.ledger, region.engine._permits)
    assert under_way.reserved(but="run-2", now_ms=now_ms()) == []
