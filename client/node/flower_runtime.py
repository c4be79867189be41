"""The relay's way to its SuperNode: takes tasks, pulls their messages, pushes one answer each.

Flower's own executor starts a program for each task and hands it the task's token. Here the token
stays with the relay. This module uses Flower's internals (pinned to flwr 1.41, see its test).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import httpx
from flwr.app import Context, Message, RecordDict
from flwr.common.constant import SubStatus
from flwr.common.serde import context_from_proto, message_from_proto
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import RetryInvoker, exponential
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import push_message, push_task_output

from common.bounded_inflation import bounded_inflation
from common.engine_frames import MAX_BODY_BYTES
from common.structured_log import say

_log = logging.getLogger("fedpref.relay")

_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
#: The SuperNode gives a task up a minute after its last sign of life.
_HEARTBEAT_S = 10.0
_CALL_TIMEOUT_S = 60.0
_JOIN_S = 1.0
#: A task is handed out while its message's objects are still on their way into the SuperNode, which
#: takes as long as the network does. They are waited for while the task is ours: a SuperNode that
#: has given a message up says so at the next heartbeat. Flower would wait for two hours, and look
#: every second or less.
_PULL_TIMEOUT_S = 900.0
_FIRST_LOOK_S, _LAST_LOOK_S = 0.05, 0.5
#: All that Flower calls a task: what is not a ClientApp's is taken too, to be answered with a no.
_ALL_TYPES = tuple(str(kind) for kind in TaskType)


class RuntimeUnavailableError(Exception):
    """The SuperNode does not answer, or not as one does.

    Args:
        reason: A kebab-case code.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class PulledTask:
    """What a task is of.

    Attributes:
        message: The coordinator's message, not looked into; None if it cannot be put together.
        bundle: The app bundle that it names, not looked into.
    """

    message: Message | None
    bundle: bytes


class Task(Protocol):
    """A task that was taken; it is this relay's until it is finished."""

    @property
    def is_client_app(self) -> bool:
        """Whether it is a ClientApp's; all others are refused."""

    def alive(self, on_lost: Callable[[], None]) -> AbstractContextManager[None]:
        """Tells the SuperNode that the task is worked on while the body runs.

        Args:
            on_lost: Called once, by another thread, if the task is no longer ours.
        """

    def pull(self) -> PulledTask:
        """What the task is of.

        Raises:
            RuntimeUnavailableError: It cannot be pulled.
        """

    def answer(self, content: RecordDict) -> None:
        """Sends the one answer, and finishes the task; it must have been pulled.

        Args:
            content: The answer.

        Raises:
            RuntimeUnavailableError: It cannot be pushed.
        """


class TaskSource(Protocol):
    """Where tasks come from."""

    def acquire(self) -> Task | None:
        """The oldest task that waits, or None.

        Raises:
            RuntimeUnavailableError: The SuperNode does not answer.
        """


class FlowerTasks:
    """The tasks of one SuperNode, from its Runtime API.

    Args:
        address: Host and port, on the loopback interface.
        secret: The SuperExec secret that the SuperNode was started with.
    """

    def __init__(self, address: str, secret: bytes) -> None:
        self._address = address
        self._client = RuntimeHttpClient.from_server_address(
            server_address=address,
            insecure=True,
            root_certificates=None,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperExec"),
                SuperExecAuthHttpInterceptor(
                    master_secret=secret, protected_methods=frozenset({_ACQUIRE})
                ),
            ],
        )

    def acquire(self) -> Task | None:
        """See `TaskSource`."""
        with _unavailable():
            response = self._client.AcquireTask(AcquireTaskRequest(supported_task_types=_ALL_TYPES))
        if not response.HasField("task") or not response.token:
            return None
        return FlowerTask(
            self._address, response.token, is_client_app=response.task.type == TaskType.CLIENT_APP
        )

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()


class FlowerTask:
    """A task taken from a SuperNode; see `Task`."""

    def __init__(self, address: str, token: str, *, is_client_app: bool) -> None:
        self.is_client_app = is_client_app
        self._lost = threading.Event()
        self._message: Message | None = None
        self._context: Context | None = None
        self._client = RuntimeHttpClient.from_server_address(
            server_address=address,
            insecure=True,
            root_certificates=None,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"),
                RuntimeTokenHttpInterceptor(token),
            ],
            # Flower's own invoker interrupts the process at a refusal, and tries for ever else.
            retry_invoker=RetryInvoker(
                lambda: exponential(base_delay=0.2, max_delay=5),
                httpx.TransportError,
                max_tries=None,
                max_time=_CALL_TIMEOUT_S,
            ),
        )

    @contextmanager
    def alive(self, on_lost: Callable[[], None]) -> Iterator[None]:
        """See `Task`."""
        ended = threading.Event()
        beat = threading.Thread(target=self._beat, args=(ended, on_lost), daemon=True)
        beat.start()
        try:
            yield
        finally:
            ended.set()
            # A call under way ends with the connection.
            beat.join(_JOIN_S)
            self._client.close()

    def pull(self) -> PulledTask:
        """See `Task`; arrays that would be larger than any of ours come out empty."""
        with _unavailable():
            given = self._client.PullTaskInput(PullTaskInputRequest())
            self._context = context_from_proto(given.context)
            pulled = self._client.PullMessages(PullAppMessagesRequest())
            announced = message_from_proto(pulled.messages_list[0])
            tree = pulled.message_object_trees[0]
        announced.metadata.__dict__["_message_id"] = tree.object_id
        self._message = announced
        return PulledTask(self._content_of(announced, tree), given.fab.content)

    def _content_of(self, announced: Message, tree: ObjectTree) -> Message | None:
        run, node = announced.metadata.run_id, Node(node_id=announced.metadata.dst_node_id)
        limit = bounded_inflation(MAX_BODY_BYTES, max_total_bytes=MAX_BODY_BYTES)
        pull_object = make_pull_object_fn_protobuf(self._client.PullObject, node, run)

        def pull_while_ours(object_id: str) -> bytes:
            if self._lost.is_set():
                raise RuntimeUnavailableError("task-lost")
            return pull_object(object_id)

        try:
            with limit:
                message = pull_and_inflate_object_from_tree(
                    tree,
                    pull_while_ours,
                    make_confirm_message_received_fn_protobuf(
                        self._client.ConfirmMessageReceived, node, run
                    ),
                    return_type=Message,
                    max_time=_PULL_TIMEOUT_S,
                    max_tries_per_object=None,
                    initial_backoff=_FIRST_LOOK_S,
                    backoff_cap=_LAST_LOOK_S,
                )
        except RuntimeUnavailableError:
            raise
        except httpx.HTTPError as error:
            raise RuntimeUnavailableError(_code_of(error)) from error
        # Flower has no one kind of error for objects that are not what they claim.
        except Exception as error:  # noqa: BLE001
            _log.warning("a message cannot be put together", exc_info=error)
            return None
        message.metadata.__dict__["_message_id"] = tree.object_id
        return message

    def answer(self, content: RecordDict) -> None:
        """See `Task`."""
        if self._message is None or self._context is None:
            raise RuntimeUnavailableError("not-pulled")
        with _unavailable():
            push_message(self._client, Message(content, reply_to=self._message), self._context)
            # Without the context: a bundle's state is not kept from message to message.
            push_task_output(self._client, None, SubStatus.COMPLETED, "")

    def _beat(self, ended: threading.Event, on_lost: Callable[[], None]) -> None:
        while not ended.is_set():
            try:
                with _unavailable():
                    ours = self._client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success
            except RuntimeUnavailableError as error:
                say(_log, logging.WARNING, "heartbeat-unheard", reason=error.reason)
                ours = not isinstance(error.__cause__, httpx.HTTPStatusError)
            if not ours:
                self._lost.set()
                if not ended.is_set():
                    on_lost()
                return
            ended.wait(_HEARTBEAT_S)


@contextmanager
def _unavailable() -> Iterator[None]:
    """Makes whatever can go wrong with the SuperNode one kind of error."""
    try:
        yield
    except httpx.HTTPError as error:
        raise RuntimeUnavailableError(_code_of(error)) from error
    # What Flower raises at content that is not what it sends: kinds of its own and of Python's.
    except Exception as error:
        raise RuntimeUnavailableError("unreadable-answer") from error


def _code_of(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"http-{error.response.status_code}"
    return "unreachable"
