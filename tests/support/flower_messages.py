"""Flower messages outside of Flower's runtime, which would set who sends them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from common.canonical_json import JsonValue
from common.messages import encode_message

NODE = 7


@contextmanager
def as_server() -> Iterator[None]:
    """Lets messages be made as the ServerApp makes them."""
    before = (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    try:
        yield
    finally:
        TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before


def request(
    header: Mapping[str, JsonValue],
    arrays: Mapping[str, np.ndarray] | None = None,
    *,
    message_type: str = "train",
    node: int = NODE,
    message_id: str = "m1",
) -> Message:
    """A request to a node, as it is once it was sent."""
    with as_server():
        message = Message(encode_message(header, arrays or {}), node, message_type, ttl=60.0)
    message.metadata.__dict__["_message_id"] = message_id
    return message


def node_context(node_config: Mapping[str, bool | float | int | str] | None = None) -> Context:
    """The context of a node."""
    return Context(
        run_id=1,
        node_id=NODE,
        node_config=dict(node_config or {"partition-id": 0}),
        state=RecordDict(),
        run_config={},
    )
