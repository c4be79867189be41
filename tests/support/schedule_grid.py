"""Time that passes only when it is waited for, and a grid that carries messages as drawn.

Everything happens in one thread, in an order that the script's seed decides: no run of the same
seed differs from another, and a wait of an hour costs nothing.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from client.app import app as client_app

_FIRST_NODE = 1000
#: Modules of the coordinator that wait.
WAITING = ("server.grid_exchange.time", "server.roster.time")


class VirtualTime:
    """In the place of the module `time` where the coordinator waits."""

    def __init__(self) -> None:
        self.now_s = 0.0
        #: Each wait, in seconds.
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now_s += seconds
        self.slept.append(seconds)

    @contextmanager
    def installed(self) -> Iterator[None]:
        with ExitStack() as stack:
            for module in WAITING:
                stack.enter_context(patch(module, self))
            yield


class Script:
    """Draws what goes wrong, and keeps a list of it.

    Args:
        seed: What it is drawn from.
        keep: The numbers of the faults that happen; None for all that are drawn.
    """

    def __init__(self, seed: int, keep: frozenset[int] | None = None) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        #: What went wrong, by number.
        self.faults: dict[int, str] = {}
        self.quiet = False
        self._drawn = 0
        self._keep = keep

    def happens(self, probability: float, what: str) -> bool:
        """Whether a fault happens now."""
        if self.random.random() >= probability:
            return False
        self._drawn += 1
        if self.quiet or (self._keep is not None and self._drawn not in self._keep):
            return False
        self.faults[self._drawn] = what
        return True


@dataclass
class _Carried:
    message: Message
    arrives_s: float
    lost: bool = False
    reply_lost: bool = False
    twice: bool = False
    failed: int = 0
    replies: list[Message] = field(default_factory=list)


class ScheduledGrid(Grid):
    """Carries messages to relays of this process, as late, as often and as badly as drawn.

    Args:
        n_nodes: How many nodes there are; each has its index for ``partition-id``.
        time: What is waited by.
        script: What goes wrong.
        before: Called with a node's index and a message before it is answered.
    """

    def __init__(
        self,
        n_nodes: int,
        time: VirtualTime,
        script: Script,
        before: Callable[[int, Message], None] = lambda *_: None,
    ) -> None:
        self._time = time
        self._script = script
        self._before = before
        self._run = Run.create_empty(run_id=1)
        self._carried: dict[str, _Carried] = {}
        self._contexts = {
            _FIRST_NODE + index: Context(
                run_id=1,
                node_id=_FIRST_NODE + index,
                node_config={"partition-id": index, "num-partitions": n_nodes},
                state=RecordDict(),
                run_config={},
            )
            for index in range(n_nodes)
        }

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        return sorted(self._contexts)

    def get_nodes(self) -> list[NodeInfo]:
        return [NodeInfo(node_id=node) for node in self.get_node_ids()]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        sent = []
        for message in messages:
            name = uuid.UUID(int=self._script.random.getrandbits(128)).hex
            message.metadata.__dict__["_message_id"] = name
            self._carried[name] = self._drawn(message)
            sent.append(name)
        return sent

    def _drawn(self, message: Message) -> _Carried:
        draw, kind = self._script, message.metadata.message_type
        place = f"{kind} of node {message.metadata.dst_node_id - _FIRST_NODE}"
        carried = _Carried(message, self._time.now_s + draw.random.uniform(0.0, 0.01))
        carried.lost = draw.happens(0.02, f"{place}: request lost")
        carried.reply_lost = draw.happens(0.03, f"{place}: reply lost")
        carried.twice = draw.happens(0.03, f"{place}: reply twice")
        if draw.happens(0.02, f"{place}: late"):
            carried.arrives_s += draw.random.choice((1.0, 30.0, 500.0))
        if draw.happens(0.02, f"{place}: node fails"):
            carried.failed = draw.random.choice(
                (ErrorCode.NODE_UNAVAILABLE, ErrorCode.CLIENT_APP_RAISED_EXCEPTION)
            )
        return carried

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [reply for name in message_ids for reply in self._pull(name)]

    def _pull(self, name: str) -> list[Message]:
        carried = self._carried.get(name)
        if carried is None or carried.lost or carried.arrives_s > self._time.now_s:
            return []
        del self._carried[name]
        replies = self._answer(carried)
        return [] if carried.reply_lost else replies

    def _answer(self, carried: _Carried) -> list[Message]:
        message = carried.message
        node = message.metadata.dst_node_id
        if carried.failed:
            return [self._named(Message(Error(code=carried.failed), reply_to=message))]
        self._before(node - _FIRST_NODE, message)
        reply = self._named(client_app(message, self._contexts[node]))
        if not carried.twice:
            return [reply]
        return [reply, self._named(Message(reply.content, reply_to=message))]

    def _named(self, reply: Message) -> Message:
        reply.metadata.__dict__["_message_id"] = uuid.uuid4().hex
        return reply

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        raise AssertionError("the coordinator waits by its own exchange")
