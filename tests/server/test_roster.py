"""Which node is which region: claims, conflicts, comings and goings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest
from flwr.app import Error, Message
from flwr.proto.node_pb2 import NodeInfo

from common.canonical_json import JsonValue
from common.errors import FederationError
from common.messages import encode_message
from server import roster as roster_module
from server.roster import Roster
from simulations.in_process_grid import InProcessGrid
from tests.support.clock import Clock
from tests.support.fake_federation import FakeFederation, Header, fake_plan, open_federation
from tests.support.flower_messages import as_server

Answer = Header | Error | None


class NodesGrid(InProcessGrid):
    """Nodes that answer who they are, from a table that tests change."""

    def __init__(self, answers: dict[int, Answer]) -> None:
        super().__init__(None, 0)  # type: ignore[arg-type]  # no node is ever asked
        self.answers = answers
        self.names: dict[int, str] = {}
        self.sent: dict[str, Message] = {}
        self.asked: list[int] = []

    def get_nodes(self) -> list[NodeInfo]:
        return [
            NodeInfo(node_id=node, name=self.names.get(node, "")) for node in sorted(self.answers)
        ]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            name = f"id-{len(self.sent)}"
            message.metadata.__dict__["_message_id"] = name
            assert message.metadata.message_type == "query.describe"
            self.asked.append(message.metadata.dst_node_id)
            self.sent[name] = message
            ids.append(name)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        replies = []
        for name in message_ids:
            message = self.sent[name]
            answer = self.answers.get(message.metadata.dst_node_id)
            if isinstance(answer, Error):
                replies.append(Message(answer, reply_to=message))
            elif answer is not None:
                replies.append(Message(encode_message(answer, {}), reply_to=message))
        return replies


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeFederation]:
    with open_federation(tmp_path_factory.mktemp("roster"), fake_plan()) as federation:
        yield federation


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    monkeypatch.setattr(roster_module, "_ASK_AGAIN_S", 0.1)
    with as_server():
        yield Clock.set_in(monkeypatch, roster_module)


Refusals = list[tuple[str | None, str, str]]


@pytest.fixture
def refusals() -> Refusals:
    return []


@pytest.fixture
def roster(federation: FakeFederation, refusals: Refusals) -> Roster:
    return Roster(
        federation.plan,
        federation.home.read_registry(),
        describe_timeout_s=0.3,
        on_refused=lambda *refusal: refusals.append(refusal),
    )


def claim(federation: FakeFederation, region: str, /, **fields: JsonValue) -> Header:
    return {**federation.engines[region].describe(), **fields}


def everyone(federation: FakeFederation) -> dict[int, Answer]:
    return {10 + n: claim(federation, f"region-{n}") for n in (1, 2, 3)}


def test_every_region_finds_its_node(
    federation: FakeFederation, roster: Roster, refusals: Refusals
) -> None:
    grid = NodesGrid(everyone(federation))
    roster.wait(grid, timeout_s=2.0)
    assert roster.nodes == {"region-1": 11, "region-2": 12, "region-3": 13}
    assert refusals == []
    roster.refresh(grid)
    assert sorted(grid.asked) == [11, 12, 13]


def test_a_quorum_is_enough_but_only_after_the_wait(
    federation: FakeFederation, roster: Roster, clock: Clock
) -> None:
    answers = everyone(federation)
    answers[13] = None
    start = clock.monotonic()
    roster.wait(NodesGrid(answers), timeout_s=0.4)
    assert 0.4 <= clock.monotonic() - start < 0.45
    assert list(roster.nodes) == ["region-1", "region-2"]


def test_the_wait_for_nodes_ends_and_names_who_is_missing(
    federation: FakeFederation, roster: Roster, clock: Clock
) -> None:
    start = clock.monotonic()
    with pytest.raises(FederationError, match=r"1 of the 2.*missing: region-2, region-3"):
        roster.wait(NodesGrid({11: claim(federation, "region-1")}), timeout_s=0.3)
    assert 0.3 <= clock.monotonic() - start < 0.35
    with pytest.raises(FederationError, match="0 of the 2"):
        Roster(
            federation.plan,
            federation.home.read_registry(),
            describe_timeout_s=1,
            on_refused=lambda *_: None,
        ).wait(NodesGrid({}), timeout_s=0.1)


Lie = Callable[[FakeFederation], Answer]
LIES: dict[str, Lie] = {
    "unknown-region": lambda f: claim(f, "region-1", region="region-9"),
    "region-type": lambda f: claim(f, "region-1", region=1),
    "another-key": lambda f: claim(
        f, "region-1", trainer_key=f.signers["region-2", "trainer"].key_id
    ),
    "no-key": lambda f: claim(f, "region-1", trainer_key=None),
    "log-key": lambda f: claim(f, "region-1", trainer_key=f.signers["region-1", "log"].key_id),
    "protocol": lambda f: claim(f, "region-1", protocol=2),
    "extra-field": lambda f: claim(f, "region-1", weight=9),
    "refused": lambda f: {"status": "refused", "reason": "engine-unreachable"},
    "nothing": lambda f: {},
    "error": lambda f: Error(code=2, reason="a row of data"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_claim_that_does_not_hold_is_refused_once_and_harms_nobody(
    lie: str, federation: FakeFederation, roster: Roster, refusals: Refusals
) -> None:
    answers: dict[int, Answer] = {**everyone(federation), 10: LIES[lie](federation)}
    del answers[13]
    grid = NodesGrid(answers)
    roster.wait(grid, timeout_s=0.35)
    assert roster.nodes == {"region-1": 11, "region-2": 12}
    # It is asked again, in case its engine was only starting, but neither often nor told again.
    assert 2 <= grid.asked.count(10) <= 4
    ((region, reason, detail),) = refusals
    assert (region, reason) == (None, "node-not-a-region")
    assert "row of data" not in detail


def test_a_region_of_the_federation_that_is_not_in_the_plan_takes_no_part(
    federation: FakeFederation, refusals: Refusals
) -> None:
    roster = Roster(
        fake_plan(2),
        federation.home.read_registry(),
        describe_timeout_s=1.0,
        on_refused=lambda *refusal: refusals.append(refusal),
    )
    answers = {13: claim(federation, "region-3"), 11: claim(federation, "region-1")}
    with pytest.raises(FederationError, match="1 of the 2"):
        roster.wait(NodesGrid(dict(answers)), timeout_s=0.2)
    assert roster.nodes == {"region-1": 11}
    assert refusals[0][:2] == (None, "node-not-a-region")


def test_a_registered_name_must_be_the_regions(
    federation: FakeFederation, roster: Roster, refusals: Refusals
) -> None:
    grid = NodesGrid(everyone(federation))
    grid.names = {11: "region-1", 12: "region-3", 13: "region-3"}
    roster.wait(grid, timeout_s=0.3)
    assert roster.nodes == {"region-1": 11, "region-3": 13}
    assert refusals[0][1] == "node-not-a-region"


def test_a_second_node_of_a_region_waits_for_the_first_to_go(
    federation: FakeFederation, roster: Roster, refusals: Refusals, clock: Clock
) -> None:
    answers = everyone(federation)
    answers[21] = claim(federation, "region-1")
    del answers[13]
    grid = NodesGrid(answers)
    roster.wait(grid, timeout_s=0.3)
    assert roster.nodes == {"region-1": 11, "region-2": 12}
    assert refusals[0][:2] == ("region-1", "second-node")
    del answers[11]
    clock.sleep(0.15)
    roster.refresh(grid)
    roster.settle(grid, timeout_s=1.0)
    assert roster.nodes["region-1"] == 21


def test_a_node_that_was_found_out_makes_room(
    federation: FakeFederation, roster: Roster, clock: Clock
) -> None:
    answers = everyone(federation)
    answers[9] = claim(federation, "region-1")
    grid = NodesGrid(answers)
    roster.wait(grid, timeout_s=1.0)
    assert roster.nodes["region-1"] == 9
    roster.drop("region-1", bar=True)
    clock.sleep(0.15)
    for _ in range(3):
        roster.settle(grid, timeout_s=1.0)
    assert roster.nodes["region-1"] == 11


def test_a_node_that_leaves_is_forgotten_and_known_again_when_it_is_back(
    federation: FakeFederation, roster: Roster
) -> None:
    answers = everyone(federation)
    grid = NodesGrid(answers)
    roster.wait(grid, timeout_s=1.0)
    answer = answers.pop(12)
    roster.refresh(grid)
    assert "region-2" not in roster.nodes
    answers[12] = answer
    roster.settle(grid, timeout_s=1.0)
    roster.settle(grid, timeout_s=1.0)
    assert roster.nodes["region-2"] == 12


def test_a_silent_node_is_asked_again_only_after_its_time(
    federation: FakeFederation, roster: Roster, clock: Clock
) -> None:
    answers = {**everyone(federation), 13: None}
    grid = NodesGrid(answers)
    roster.wait(grid, timeout_s=0.2)
    assert grid.asked.count(13) == 1
    clock.sleep(0.2)
    roster.refresh(grid)
    assert grid.asked.count(13) == 2


def test_settling_does_not_wait_for_a_node_longer_than_it_may(
    federation: FakeFederation, roster: Roster, clock: Clock
) -> None:
    grid = NodesGrid({**everyone(federation), 13: None})
    start = clock.monotonic()
    roster.settle(grid, timeout_s=0.2)
    assert 0.2 <= clock.monotonic() - start < 0.25
