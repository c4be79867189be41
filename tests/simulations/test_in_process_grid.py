"""Flower's Grid with its nodes in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.task_identity import TaskIdentity

from common.messages import decode_message, encode_message
from simulations.in_process_grid import InProcessGrid, run_in_process
from tests.support.flower_messages import as_server


def echo_app(before: dict[int, threading.Event] | None = None) -> ClientApp:
    """An app that says which partition it is, after an event if it has one to wait for."""
    app = ClientApp()

    @app.query("who")
    def who(message: Message, context: Context) -> Message:
        partition = context.node_config["partition-id"]
        assert isinstance(partition, int)
        if before and partition in before:
            before[partition].wait(200)
        header = {
            "partition": partition,
            "of": context.node_config["num-partitions"],
            "asked": decode_message(message.content)[0],
        }
        return Message(encode_message(header, {}), reply_to=message)  # type: ignore[arg-type]

    @app.query("fail")
    def fail(message: Message, context: Context) -> Message:
        raise ValueError("row of Jane Doe")

    return app


def ask(grid: Grid, action: str = "who", nodes: list[int] | None = None) -> list[Message]:
    chosen = grid.get_node_ids() if nodes is None else nodes
    return [
        Message(encode_message({"n": node}, {}), node, f"query.{action}", ttl=60.0)
        for node in chosen
    ]


@pytest.fixture(autouse=True)
def _as_server() -> Iterator[None]:
    with as_server():
        yield


def test_every_node_answers_for_itself() -> None:
    grid = InProcessGrid(echo_app(), 3)
    replies = grid.send_and_receive(ask(grid), timeout=60)
    grid.close(wait_s=60)
    answers = {r.metadata.src_node_id: decode_message(r.content)[0] for r in replies}
    assert answers == {
        node: {"partition": index, "of": 3, "asked": {"n": node}}
        for index, node in enumerate(grid.get_node_ids())
    }
    assert [info.node_id for info in grid.get_nodes()] == grid.get_node_ids()


def test_replies_are_pulled_once_and_by_id() -> None:
    grid = InProcessGrid(echo_app(), 2)
    first, second = grid.push_messages(ask(grid))
    deadline = time.monotonic() + 60
    while not (pulled := grid.pull_messages([first])) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [reply.metadata.reply_to_message_id for reply in pulled] == [first]
    assert grid.pull_messages([first]) == []
    grid.close(wait_s=60)
    assert len(grid.pull_messages([second, "unknown"])) == 1


def test_an_app_that_raises_answers_with_an_error_without_its_words() -> None:
    grid = InProcessGrid(echo_app(), 1)
    (reply,) = grid.send_and_receive(ask(grid, "fail"), timeout=60)
    grid.close(wait_s=60)
    assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert "Jane" not in str(reply.error.reason)


def test_a_node_that_hangs_holds_up_nobody_and_the_timeout_holds() -> None:
    release = threading.Event()
    grid = InProcessGrid(echo_app({1: release}), 4, parallel=2)
    replies = grid.send_and_receive(ask(grid), timeout=3)
    assert len(replies) == 3
    grid.close(wait_s=0.1)
    # It hangs still: neither the timeout nor the end waited for it.
    name = f"node-{grid.get_node_ids()[1]}"
    (hanging,) = (each for each in threading.enumerate() if each.name == name)
    release.set()
    hanging.join(timeout=20)
    assert not hanging.is_alive()


def test_an_unknown_node_is_not_sent_to() -> None:
    grid = InProcessGrid(echo_app(), 1)
    assert len(grid.push_messages(ask(grid, nodes=[5, *grid.get_node_ids()]))) == 1
    grid.close(wait_s=60)


def test_no_more_nodes_work_at_once_than_allowed() -> None:
    at_work, most, lock, full = [0], [0], threading.Lock(), threading.Event()
    app = ClientApp()

    @app.query("who")
    def who(message: Message, context: Context) -> Message:
        with lock:
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])
            if at_work[0] == 3:
                full.set()
        full.wait(20)
        time.sleep(0.02)  # in which a fourth would be seen
        with lock:
            at_work[0] -= 1
        return Message(encode_message({}, {}), reply_to=message)

    grid = InProcessGrid(app, 8, parallel=3)
    assert len(grid.send_and_receive(ask(grid), timeout=60)) == 8
    grid.close(wait_s=60)
    assert most[0] == 3


def test_faults_can_be_injected() -> None:
    def drop_second(partition: int, message: Message, reply: Message) -> list[Message]:
        return [] if partition == 1 else [reply, reply]

    grid = InProcessGrid(echo_app(), 2, reply_hook=drop_second)
    replies = grid.send_and_receive(ask(grid), timeout=3)
    grid.close(wait_s=60)
    assert [reply.metadata.src_node_id for reply in replies] == [grid.get_node_ids()[0]] * 2


def test_a_run_gets_its_configuration_and_its_errors_come_out() -> None:
    seen: dict[str, object] = {}
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        seen.update(context.run_config)
        seen["nodes"] = len(list(grid.get_node_ids()))
        seen["node"] = TaskIdentity.node_id
        raise ZeroDivisionError

    TaskIdentity.node_id = 77
    with pytest.raises(ZeroDivisionError):
        run_in_process(app, echo_app(), n_nodes=2, run_config={"server-home": "/x"})
    assert seen == {"server-home": "/x", "nodes": 2, "node": 1}
    # What was set for the run is as it was before.
    assert TaskIdentity.node_id == 77
