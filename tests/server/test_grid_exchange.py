"""Replies one by one, each wait bounded."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable

import flwr
import pytest
from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import (
    UnexpectedObjectContentError,
)
from google.protobuf.message import DecodeError

from common.messages import encode_message
from server import grid_exchange
from server.grid_exchange import (
    UNDECODABLE_REPLY,
    exchange,
    push,
)
from simulations.in_process_grid import InProcessGrid
from tests.support.clock import Clock
from tests.support.flower_messages import as_server, request


class ScriptedGrid(InProcessGrid):
    """A grid whose replies come from a script: for each node, what each pull gives."""

    # Like Flower's own it does not say what has arrived.
    arrived = None  # type: ignore[assignment]

    def __init__(self, script: dict[int, list[object]]) -> None:
        super().__init__(None, 0)  # type: ignore[arg-type]  # no node is ever asked
        self.script = script
        self.sent: dict[str, Message] = {}
        self.pulls: list[list[str]] = []

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            name = f"id-{message.metadata.dst_node_id}"
            message.metadata.__dict__["_message_id"] = name
            if message.metadata.dst_node_id in self.script:
                self.sent[name] = message
                ids.append(name)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        names = list(message_ids)
        self.pulls.append(names)
        replies: list[Message] = []
        for name in names:
            steps = self.script[self.sent[name].metadata.dst_node_id]
            step = steps.pop(0) if steps else None
            if isinstance(step, Exception):
                raise step
            if step is not None:
                replies += [
                    Message(encode_message({"n": step}, {}), reply_to=self.sent[name])
                    for _ in range(2 if step == "twice" else 1)
                ]
        return replies


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock.set_in(monkeypatch, grid_exchange)


def run(grid: ScriptedGrid, *, timeout_s: float = 2.0) -> list[Message]:
    messages = [request({}, node=node) for node in grid.script]
    with as_server():
        return list(exchange(grid, messages, timeout_s=timeout_s))


def nodes(replies: list[Message]) -> list[int]:
    return [reply.metadata.src_node_id for reply in replies]


def test_replies_come_in_the_order_of_arrival() -> None:
    grid = ScriptedGrid({1: [None, None, "late"], 2: ["early"], 3: [None, "next"]})
    assert nodes(run(grid)) == [2, 3, 1]


def test_each_reply_is_pulled_by_itself() -> None:
    grid = ScriptedGrid({1: ["a"], 2: ["b"]})
    run(grid)
    assert all(len(names) == 1 for names in grid.pulls)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        TypeError("x"),
        KeyError("x"),
        IndexError("x"),
        AttributeError("x"),
        RecursionError("x"),
        DecodeError("x"),
        UnexpectedObjectContentError("id", "x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_reply_that_cannot_be_read_harms_no_other(error: Exception) -> None:
    grid = ScriptedGrid({1: ["good"], 2: [error], 3: ["good"]})
    replies = {reply.metadata.src_node_id: reply for reply in run(grid)}
    assert replies[1].has_content()
    assert replies[3].has_content()
    assert replies[2].error.code == UNDECODABLE_REPLY
    assert replies[2].metadata.reply_to_message_id == "id-2"


def test_a_lost_connection_is_not_a_regions_fault() -> None:
    with pytest.raises(ConnectionError):
        run(ScriptedGrid({1: [ConnectionError("the SuperLink is gone")]}))


def test_who_does_not_answer_is_waited_for_till_the_timeout_only(clock: Clock) -> None:
    start = clock.monotonic()
    assert nodes(run(ScriptedGrid({1: [], 2: ["b"]}), timeout_s=0.3)) == [2]
    assert 0.3 <= clock.monotonic() - start < 0.35


def test_a_message_that_was_not_accepted_is_not_waited_for(clock: Clock) -> None:
    grid = ScriptedGrid({1: ["a"]})
    messages = [request({}, node=1), request({}, node=99)]
    start = clock.monotonic()
    with as_server():
        assert nodes(list(exchange(grid, messages, timeout_s=5.0))) == [1]
        assert list(push(grid, messages)) == ["id-1"]
    assert clock.monotonic() - start < 0.05


def test_both_of_two_replies_to_one_message_are_given() -> None:
    assert nodes(run(ScriptedGrid({1: ["twice"]}))) == [1, 1]


def test_this_is_the_flower_that_the_internals_were_read_in() -> None:
    assert flwr.__version__.startswith("1.41.")


def test_a_grid_that_says_what_arrived_is_asked_for_nothing_else() -> None:
    class Announcing(ScriptedGrid):
        waited: list[tuple[set[str], float]] = []  # noqa: RUF012 - one object in one test

        def arrived(self, message_ids: Collection[str], *, timeout_s: float) -> list[str]:
            self.waited.append((set(message_ids), timeout_s))
            return ["id-2"] if len(self.waited) < 3 else ["id-1"]

    grid = Announcing({1: [None, "late"], 2: [None, None, "early"]})
    assert nodes(run(grid)) == [2, 1]
    # Both once at first, in case they are there already; then only what was announced.
    assert [name for (name,) in grid.pulls] == ["id-1", "id-2", "id-2", "id-2", "id-1"]
    assert [wanted for wanted, _ in grid.waited] == [{"id-1", "id-2"}] * 2 + [{"id-1"}]
    assert all(0 < timeout_s <= 2.0 for _, timeout_s in grid.waited)


def test_a_grid_that_announces_nothing_is_waited_for_no_longer_than_the_bound(
    clock: Clock,
) -> None:
    class Silent(ScriptedGrid):
        def arrived(self, message_ids: Collection[str], *, timeout_s: float) -> list[str]:
            clock.sleep(timeout_s)
            return []

    assert run(Silent({1: []}), timeout_s=0.05) == []


def test_a_reply_is_not_kept_once_it_was_given() -> None:
    grid = ScriptedGrid({1: ["a"], 2: [None, "b"], 3: [None, None, "c"]})
    kept: list[weakref.ref[Message]] = []
    with as_server():
        for reply in exchange(grid, [request({}, node=node) for node in grid.script], timeout_s=2):
            assert [each for each in kept if each() is not None] == []
            kept.append(weakref.ref(reply))
            del reply
    assert len(kept) == 3
