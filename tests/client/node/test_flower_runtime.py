"""Tasks of a real SuperNode's Runtime API, and the version of Flower that this is written for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta

import flwr
import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, RecordDict

from client.node import flower_runtime
from client.node.flower_runtime import FlowerTasks, RuntimeUnavailableError
from common.bounded_inflation import OVERSIZE_STYPE
from common.messages import decode_message, encode_message
from tests.support.app_bundles import relay_bundle
from tests.support.flower_messages import request
from tests.support.node_runtime import SECRET, NodeRuntime, node_runtime


@pytest.fixture
def runtime() -> Iterator[NodeRuntime]:
    with node_runtime() as runtime:
        yield runtime


@pytest.fixture
def tasks(runtime: NodeRuntime) -> Iterator[FlowerTasks]:
    tasks = FlowerTasks(runtime.address, SECRET)
    yield tasks
    tasks.close()


def nobody() -> None:
    raise AssertionError("the task was lost")


def test_flower_is_the_version_whose_internals_are_used() -> None:
    assert flwr.__version__.startswith("1.41.")


def test_a_task_is_pulled_and_answered_once(runtime: NodeRuntime, tasks: FlowerTasks) -> None:
    assert tasks.acquire() is None
    model = {"model": np.arange(4, dtype="<f4")}
    content = relay_bundle()
    assert runtime.deliver(request({"run": "r"}, model), content)
    task = tasks.acquire()
    assert task is not None
    assert task.is_client_app
    with task.alive(nobody):
        pulled = task.pull()
        assert pulled.bundle == content
        assert isinstance(pulled.message, Message)
        header, arrays = decode_message(pulled.message.content)
        assert header == {"run": "r"}
        np.testing.assert_array_equal(arrays["model"], model["model"])
        task.answer(encode_message({"status": "ok"}, {"update": np.ones(2, "<f8")}))
    (reply,) = runtime.replies()
    assert decode_message(reply.content)[0] == {"status": "ok"}
    assert reply.metadata.reply_to_message_id == pulled.message.metadata.message_id
    # The bundle's state of Flower's is not kept.
    context = runtime.state.get_run_series_context(0)
    assert context is not None
    assert not context.state
    assert tasks.acquire() is None


def test_without_the_secret_nobody_takes_a_task(runtime: NodeRuntime) -> None:
    runtime.deliver(request({}), relay_bundle())
    with pytest.raises(RuntimeUnavailableError, match="http-4"):
        FlowerTasks(runtime.address, b"another").acquire()
    assert FlowerTasks(runtime.address, SECRET).acquire() is not None


def test_a_task_of_another_kind_is_taken_and_said_to_be_so(
    runtime: NodeRuntime, tasks: FlowerTasks
) -> None:
    runtime.deliver(request({}), relay_bundle(), task_type="flwr-agentapp")
    task = tasks.acquire()
    assert task is not None
    assert not task.is_client_app
    with task.alive(nobody):
        task.pull()
        task.answer(encode_message({"status": "refused", "reason": "not-permitted"}, {}))
    assert len(runtime.replies()) == 1


def test_an_array_that_would_be_too_large_is_empty_and_the_task_can_be_answered(
    runtime: NodeRuntime, tasks: FlowerTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flower_runtime, "MAX_BODY_BYTES", 1000)
    runtime.deliver(request({}, {"model": np.ones(1000, "<f4")}), relay_bundle())
    task = tasks.acquire()
    assert task is not None
    with task.alive(nobody):
        message = task.pull().message
        assert message is not None
        record = message.content["arrays"]
        assert isinstance(record, ArrayRecord)
        assert record["model"].stype == OVERSIZE_STYPE
        task.answer(encode_message({"status": "refused", "reason": "malformed-request"}, {}))
    assert len(runtime.replies()) == 1


def test_a_message_that_cannot_be_put_together_can_be_answered(
    runtime: NodeRuntime, tasks: FlowerTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("a chunk is missing")

    monkeypatch.setattr(flower_runtime, "pull_and_inflate_object_from_tree", broken)
    runtime.deliver(request({}), relay_bundle())
    task = tasks.acquire()
    assert task is not None
    with task.alive(nobody):
        assert task.pull().message is None
        task.answer(encode_message({"status": "refused", "reason": "malformed-request"}, {}))
    assert len(runtime.replies()) == 1


def test_a_task_that_is_no_longer_ours_is_told_of(
    runtime: NodeRuntime, tasks: FlowerTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flower_runtime, "_HEARTBEAT_S", 0.01)
    runtime.deliver(request({}), relay_bundle())
    task = tasks.acquire()
    assert task is not None
    lost = threading.Event()
    with task.alive(lost.set):
        task.pull()
        (known,) = runtime.state.get_tasks()
        runtime.state.finish_task(known.task_id, sub_status="stopped", details="")
        assert lost.wait(10)
        with pytest.raises(RuntimeUnavailableError):
            task.answer(RecordDict())


def test_a_task_that_was_not_pulled_is_not_answered(
    runtime: NodeRuntime, tasks: FlowerTasks
) -> None:
    runtime.deliver(request({}), relay_bundle())
    task = tasks.acquire()
    assert task is not None
    with pytest.raises(RuntimeUnavailableError, match="not-pulled"):
        task.answer(RecordDict())


def test_a_node_that_is_away_is_unavailable() -> None:
    with node_runtime() as runtime:
        tasks = FlowerTasks(runtime.address, SECRET)
    with pytest.raises(RuntimeUnavailableError, match="unreachable"):
        tasks.acquire()


def test_the_node_answers_for_a_relay_that_was_killed(
    runtime: NodeRuntime, tasks: FlowerTasks
) -> None:
    """Flower's own, which the relay counts on: a task without a sign of life is an error."""
    runtime.deliver(request({}), relay_bundle())
    task = tasks.acquire()
    assert task is not None
    with task.alive(nobody):
        task.pull()
    for record in runtime.state.task_token_store.values():
        record.active_until -= timedelta(hours=1)
    (reply,) = runtime.state.get_messages_legacy(is_reply=True)
    assert reply.has_error()


def test_a_messages_objects_are_waited_for_while_the_task_is_ours(
    runtime: NodeRuntime, tasks: FlowerTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the coordinator ends in the middle of sending: they never come."""
    monkeypatch.setattr(flower_runtime, "_HEARTBEAT_S", 0.05)
    monkeypatch.setattr(flower_runtime, "_FIRST_LOOK_S", 0.01)
    runtime.deliver(request({}, {"x": np.ones(3, "<f4")}), relay_bundle())
    task = tasks.acquire()
    assert task is not None
    monkeypatch.setattr(runtime.state, "get_object", lambda *_: b"")
    lost = threading.Event()

    def give_up() -> None:
        """What the SuperNode does then."""
        (known,) = runtime.state.get_tasks()
        runtime.state.finish_task(known.task_id, sub_status="failed", details="")

    threading.Timer(0.3, give_up).start()
    with task.alive(lost.set):
        with pytest.raises(RuntimeUnavailableError):
            task.pull()
        assert lost.wait(10)


def test_objects_that_come_a_little_later_are_found_soon(
    runtime: NodeRuntime, tasks: FlowerTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime.deliver(request({"a": 1}), relay_bundle())
    task = tasks.acquire()
    assert task is not None
    plain, looks = runtime.state.get_object, []

    def late(run: int, name: str) -> bytes | None:
        looks.append(name)
        return b"" if len(looks) < 4 else plain(run, name)

    monkeypatch.setattr(runtime.state, "get_object", late)
    with task.alive(nobody):
        message = task.pull().message
    assert message is not None
    assert decode_message(message.content)[0] == {"a": 1}
