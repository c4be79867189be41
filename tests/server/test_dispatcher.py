"""The dispatcher: one run at a time to its end, whatever is killed on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import FederationError
from server import dispatcher as module
from server.control import NodeState, encoded_key
from server.deployment import Deployment
from server.dispatcher import MOST_IDLE_ATTEMPTS, Dispatcher
from server.events import EventWriter
from server.provisioning.enrolment import enrol
from server.provisioning.plans import missing_plans
from server.queue import Queued, read_queue, request_stop, submit
from tests.support.small_deployment import (
    REGIONS,
    declaration,
    installed,
    one_user,  # noqa: F401 - used by itself
    provisioned,
    run_table,
)


class FakeApi:
    """A SuperLink that does what it is told, and says how runs are as the test sets it."""

    def __init__(self) -> None:
        self.registered: dict[int, NodeState] = {}
        self.started: list[dict[str, Any]] = []
        self.stopped: list[int] = []
        self.statuses: dict[int, str] = {}
        self.down = False

    def nodes(self) -> list[NodeState]:
        if self.down:
            raise FederationError("The SuperLink does not answer.")
        return list(self.registered.values())

    def register(self, name: str, public_key: bytes, location: str) -> int:
        number = len(self.registered) + 100
        self.registered[number] = NodeState(number, name, public_key, "registered")
        assert location == ""
        return number

    def unregister(self, node_id: int) -> None:
        del self.registered[node_id]

    def start(self, bundle: bytes, run_config: dict[str, Any]) -> int:
        assert bundle
        self.started.append(run_config)
        self.statuses[len(self.started)] = "running"
        return len(self.started)

    def status(self, run_id: int) -> str:
        return self.statuses[run_id]

    def stop(self, run_id: int) -> None:
        self.stopped.append(run_id)
        self.statuses[run_id] = "finished:stopped"


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("founded")
    tables = declaration(run={"second": run_table()})
    deployment, config = provisioned(folder, tables)
    installed(folder)
    enrol(deployment, config, [folder / "regions" / r / "enrolment.json" for r in REGIONS])
    missing_plans(deployment, config, REGIONS)
    return folder


@pytest.fixture
def deployment(founded: Path) -> Iterator[Deployment]:
    found = Deployment(founded / "deployment")
    yield found
    for path in found.queue.iterdir():
        path.unlink()
    for run in ("first", "second"):
        home = found.home(run)
        home.events.unlink(missing_ok=True)
        home.process.unlink(missing_ok=True)


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
def step(
    deployment: Deployment, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Queued]:
    monkeypatch.setattr(module, "_NODES_EVERY_S", 0.0)
    monkeypatch.setattr(module, "_PAUSE_AFTER_FAILURE_S", 0.0)
    made = Dispatcher(deployment, api)  # type: ignore[arg-type]  # a faithful fake

    def once() -> Queued:
        made.step()
        return read_queue(deployment)[0]

    return once


def fail(deployment: Deployment, error: str, reason: str) -> None:
    home = deployment.home("first")
    with EventWriter(home.events, "x") as events:
        events.write("run-failed", error=error, reason=reason, remedy="")


def test_the_next_run_is_started_with_its_home_and_the_federations_waits(
    deployment: Deployment, api: FakeApi, step: Callable[[], Queued]
) -> None:
    submit(deployment, "first")
    submit(deployment, "second")
    entry = step()
    assert (entry.state, entry.flower_run, entry.attempts) == ("running", 1, 1)
    (config,) = api.started
    assert config["server-home"] == str(deployment.server)
    assert config["run"] == "first"
    assert config["nodes-wait-s"] == 120.0
    step()
    assert len(api.started) == 1
    assert read_queue(deployment)[1].state == "waiting"


def test_nodes_are_kept_as_the_folder_has_them(
    deployment: Deployment, api: FakeApi, step: Callable[[], Queued]
) -> None:
    submit(deployment, "first")
    stranger = NodeState(7, "region-9", b"key", "online")
    api.registered[7] = stranger
    step()
    assert {node.name for node in api.registered.values()} == set(REGIONS)
    path = deployment.nodes / "region-1.pub"
    key = path.read_text()
    path.unlink()
    step()
    assert {node.name for node in api.registered.values()} == {"region-2", "region-3"}
    path.write_text(key)
    step()
    named = {node.name: node.public_key for node in api.registered.values()}
    assert named["region-1"] == encoded_key(key.strip())


def test_a_node_under_anothers_name_is_replaced(
    deployment: Deployment, api: FakeApi, step: Callable[[], Queued]
) -> None:
    submit(deployment, "first")
    key = encoded_key((deployment.nodes / "region-1.pub").read_text().strip())
    api.registered[7] = NodeState(7, "region-2", key, "online")
    step()
    assert 7 not in api.registered


def test_a_coordinator_that_was_killed_is_started_again_at_once(
    deployment: Deployment, api: FakeApi, step: Callable[[], Queued]
) -> None:
    submit(deployment, "first")
    step()
    # Its process noted itself, and is gone without a word; Flower still says that it runs.
    deployment.home("first").process.write_bytes(b'{"pid":4194304,"started":"1"}')
    entry = step()
    assert (entry.state, api.stopped) == ("waiting", [1])
    entry = step()
    assert (entry.state, entry.attempts, entry.flower_run) == ("running", 2, 2)


def test_one_that_failed_for_what_passes_is_started_again(
    deployment: Deployment, api: FakeApi, step: Callable[[], Queued]
) -> None:
    submit(deployment, "first")
    step()
    fail(deployment, "FederationError", "Only 2 of 3 regions are connected.")
    api.statuses[1] = "finished:failed"
    entry = step()
    assert (entry.state, entry.reason) == ("waiting", "Only 2 of 3 regions are connected.")
    assert step().state == "running"


def test_one_that_failed_for_what_stays_has_failed(
    deployment: Deployment, api: FakeApi, step: Callable[[], Queued]
) -> None:
    submit(deployment, "first")
    step()
    fail(deployment, "VerificationError", "Entry 7 of the coordinator's log does not hold.")
    api.statuses[1] = "finished:failed"
    entry = step()
    assert entry.state == "failed"
    assert entry.reason == "Entry 7 of the coordinator's log does not hold."
    assert entry.ended_at is not None


def test_the_last_words_of_an_earlier_attempt_are_not_this_ones(
    deployment: Deployment, api: FakeApi, step: Callable[[], Queued]
) -> None:
    fail(deployment, "VerificationError", "An old failure.")
    submit(deployment, "first")
    step()
    api.statuses[1] = "finished:failed"
    entry = step()
    assert (entry.state, entry.reason) == ("waiting", "Its process ended without a word.")


def test_a_run_that_comes_to_nothing_is_given_up(
    deployment: Deployment, api: FakeApi, step: Callable[[], Queued]
) -> None:
    submit(deployment, "first")
    for _ in range(4 * MOST_IDLE_ATTEMPTS):
        entry = step()
        if not entry.active:
            break
        if entry.flower_run is not None:
            api.statuses[entry.flower_run] = "finished:failed"
    assert entry.state == "failed"
    assert entry.reason is not None
    assert f"{MOST_IDLE_ATTEMPTS} times in vain" in entry.reason
    assert len(api.started) == MOST_IDLE_ATTEMPTS


def test_a_run_is_stopped_when_asked(
    deployment: Deployment, api: FakeApi, step: Callable[[], Queued]
) -> None:
    submit(deployment, "first")
    submit(deployment, "second")
    step()
    request_stop(deployment, "first")
    assert step().state == "stopped"
    assert api.stopped == [1]
    step()
    assert read_queue(deployment)[1].state == "running"


def test_a_run_that_waits_is_stopped_before_it_starts(
    deployment: Deployment, api: FakeApi, step: Callable[[], Queued]
) -> None:
    submit(deployment, "first")
    request_stop(deployment, "first")
    assert step().state == "stopped"
    assert api.started == []


def test_while_the_superlink_is_away_nothing_is_lost(
    deployment: Deployment, api: FakeApi, step: Callable[[], Queued]
) -> None:
    submit(deployment, "first")
    api.down = True
    with pytest.raises(FederationError):
        step()
    api.down = False
    assert step().state == "running"
