"""A Flower Grid whose nodes live in this process: the same apps, no network, no Ray.

Each node has a thread that answers its messages in order, as a SuperNode does, so a region that
hangs holds up nobody else. This is the simulations' only touch of Flower's task identity, which
its runtime sets for real nodes (pinned to flwr 1.41, see the test).
"""

from __future__ import annotations

import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import NUM_PARTITIONS_KEY, PARTITION_ID_KEY, ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from server.grid_exchange import exchange

_RUN_ID = 1
_SERVER_NODE = 1
_FIRST_NODE = 1000

# What a region answers without training or masking.
_LIGHT = frozenset(f"query.{action}" for action in ("describe", "publish", "cosign", "keep"))

#: Stands between a node and the grid: given a node's partition id, a request and its reply, says
#: which replies arrive. An empty list drops the reply.
ReplyHook = Callable[[int, Message, Message], Sequence[Message]]


@dataclass
class _Node:
    node_id: int
    context: Context
    inbox: queue.SimpleQueue[Message | None] = field(default_factory=queue.SimpleQueue)


class InProcessGrid(Grid):
    """Carries messages between a ServerApp and ClientApps in one process. Use `in_process_grid`.

    Args:
        client_app: The app every node runs.
        n_nodes: How many nodes there are; each has its index for ``partition-id``.
        parallel: How many nodes may train at once.
        reply_hook: Faults to inject, for tests.
    """

    def __init__(
        self,
        client_app: ClientApp,
        n_nodes: int,
        *,
        parallel: int | None = None,
        reply_hook: ReplyHook | None = None,
    ) -> None:
        self._client_app = client_app
        self._reply_hook = reply_hook
        self._slots = threading.BoundedSemaphore(parallel or 2 * max(2, os.cpu_count() or 1))
        self._arrival = threading.Condition()
        self._replies: dict[str, list[Message]] = {}
        self._run = Run.create_empty(run_id=_RUN_ID)
        self._nodes = {
            node.node_id: node for node in (_make_node(index, n_nodes) for index in range(n_nodes))
        }
        # A region that hangs for ever must not keep the process from ending.
        self._threads = [
            threading.Thread(
                target=self._work, args=(node,), name=f"node-{node.node_id}", daemon=True
            )
            for node in self._nodes.values()
        ]
        for thread in self._threads:
            thread.start()

    def close(self, *, wait_s: float) -> None:
        """Lets every node end after the message it is at.

        Args:
            wait_s: For how long to wait for them, in seconds, all together.
        """
        deadline = time.monotonic() + wait_s
        for node in self._nodes.values():
            node.inbox.put(None)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def set_run(self, run: Run) -> None:
        """Sets the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Makes a message (Flower keeps this for old apps)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """The nodes' ids."""
        return sorted(self._nodes)

    def get_nodes(self) -> list[NodeInfo]:
        """The nodes."""
        return [NodeInfo(node_id=node_id) for node_id in self.get_node_ids()]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Hands each message to its node, and gives the ids of those whose node exists."""
        sent = []
        for message in messages:
            message_id = uuid.uuid4().hex
            message.metadata.__dict__["_message_id"] = message_id
            node = self._nodes.get(message.metadata.dst_node_id)
            if node is not None:
                sent.append(message_id)
                node.inbox.put(message)
        return sent

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Takes the replies that have arrived to some messages."""
        with self._arrival:
            return [reply for name in message_ids for reply in self._replies.pop(name, [])]

    def arrived(self, message_ids: Collection[str], *, timeout_s: float) -> list[str]:
        """Which messages have a reply, once any has; see `server.grid_exchange.AnnouncingGrid`."""
        wanted = set(message_ids)
        with self._arrival:
            self._arrival.wait_for(
                lambda: not wanted.isdisjoint(self._replies),
                min(timeout_s, threading.TIMEOUT_MAX),
            )
            return [name for name in self._replies if name in wanted]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Sends and waits for all replies, as Flower's own strategies do."""
        bound = threading.TIMEOUT_MAX if timeout is None else timeout
        return list(exchange(self, list(messages), timeout_s=bound))

    def _work(self, node: _Node) -> None:
        while (message := node.inbox.get()) is not None:
            with self._slot(message):
                reply = self._answer(node, message)
            partition = int(str(node.context.node_config[PARTITION_ID_KEY]))
            replies = [reply]
            if self._reply_hook is not None:
                replies = list(self._reply_hook(partition, message, reply))
            with self._arrival:
                self._replies.setdefault(message.metadata.message_id, []).extend(replies)
                self._arrival.notify_all()

    def _slot(self, message: Message) -> AbstractContextManager[object]:
        """A turn to work; what mostly waits for the disk needs none."""
        return nullcontext() if message.metadata.message_type in _LIGHT else self._slots

    def _answer(self, node: _Node, message: Message) -> Message:
        try:
            reply = self._client_app(message, node.context)
        # Flower's runtime answers for an app that raises; so does this one, without its words.
        except Exception as error:  # noqa: BLE001
            code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
            reply = Message(Error(code=code, reason=type(error).__name__), reply_to=message)
        reply.metadata.__dict__["_message_id"] = uuid.uuid4().hex
        return reply


def run_in_process(
    server_app: ServerApp,
    client_app: ClientApp,
    *,
    n_nodes: int,
    run_config: dict[str, bool | float | int | str],
    parallel: int | None = None,
    reply_hook: ReplyHook | None = None,
    close_wait_s: float = 10.0,
) -> None:
    """Runs a ServerApp with ClientApps in this process, from start to end.

    Args:
        server_app: The coordinator's app.
        client_app: The regions' app.
        n_nodes: How many regions there are.
        run_config: What the ServerApp reads of Flower's run configuration.
        parallel: How many regions may train at once; by default two a core,
            at least four, for each also waits for the disk.
        reply_hook: Faults to inject, for tests.
        close_wait_s: At the end, for how long to wait for regions still at work, in seconds.

    Raises:
        FedprefError: As the ServerApp raises it.
    """
    context = Context(
        run_id=_RUN_ID, node_id=0, node_config={}, state=RecordDict(), run_config=dict(run_config)
    )
    with task_identity():
        grid = InProcessGrid(client_app, n_nodes, parallel=parallel, reply_hook=reply_hook)
        try:
            server_app(grid, context)
        finally:
            grid.close(wait_s=close_wait_s)


@contextmanager
def task_identity() -> Iterator[None]:
    """Sets what Flower's runtime would while the body runs: messages take their sender from it."""
    before = (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, _RUN_ID, _SERVER_NODE
    try:
        yield
    finally:
        TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before


def _make_node(index: int, n_nodes: int) -> _Node:
    context = Context(
        run_id=_RUN_ID,
        node_id=_FIRST_NODE + index,
        node_config={PARTITION_ID_KEY: index, NUM_PARTITIONS_KEY: n_nodes},
        state=RecordDict(),
        run_config={},
    )
    return _Node(node_id=_FIRST_NODE + index, context=context)
