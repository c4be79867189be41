"""The doors of a federation, and what may be done at them with Flower's own clients.

Touches Flower's internals: its HTTP clients of the control, runtime and fleet APIs are what its own
programs use, and what an attacker would (pinned to flwr 1.41, see the tests).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from flwr.common.serde import fab_to_proto, run_from_proto, user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import (
    ProtobufCall,
    ProtobufClientInterceptor,
    ProtobufRequestContext,
)
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from common.errors import FederationError
from server.control import TOKEN_HEADER

_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
# Flower's own executor looks once a second; whoever looks more often comes first.
_LOOK_EVERY_S = 0.01
_LOOK_FOR_S = 20.0
_MOST_RUNS = 5
_COMPLETED = "completed"

Config = Mapping[str, float | str]


@dataclass(frozen=True)
class Door:
    """A port of a SuperLink or a SuperNode, and what one holds to get in by it.

    Attributes:
        address: ``host:port``.
        ca: The certificate of the authority that signed the port's own; None for plain HTTP.
        secret: The SuperExec secret; None without.
        token: What this system's admin port asks for; None without.
    """

    address: str
    ca: bytes | None
    secret: bytes | None = None
    token: str | None = None

    def control(self) -> ControlHttpClient:
        """A client of the control API: runs are started there, and nodes registered."""
        interceptors: list[ProtobufClientInterceptor] = [
            RuntimeVersionHttpInterceptor(component_name="flwr CLI")
        ]
        if self.token is not None:
            interceptors.append(_Token(self.token))
        return ControlHttpClient.from_server_address(
            server_address=self.address,
            insecure=self.ca is None,
            root_certificates=self.ca,
            interceptors=interceptors,
        )

    def executor(self) -> RuntimeHttpClient:
        """A client of the runtime API that takes tasks."""
        more: list[ProtobufClientInterceptor] = []
        if self.secret is not None:
            more.append(
                SuperExecAuthHttpInterceptor(
                    master_secret=self.secret, protected_methods={_ACQUIRE}
                )
            )
        return self._runtime("SuperExec", more)

    def task(self, token: str, component: str) -> RuntimeHttpClient:
        """A client of the runtime API that carries out one task.

        Args:
            token: What came with the task.
            component: As which of Flower's programs, such as ``flwr-clientapp``.
        """
        return self._runtime(component, [RuntimeTokenHttpInterceptor(token)])

    def _runtime(self, component: str, more: list[ProtobufClientInterceptor]) -> RuntimeHttpClient:
        return RuntimeHttpClient.from_server_address(
            server_address=self.address,
            insecure=self.ca is None,
            root_certificates=self.ca,
            interceptors=[RuntimeVersionHttpInterceptor(component_name=component), *more],
        )


class _Token:
    """Adds the admin port's token to each request (Flower's ``ProtobufClientInterceptor``)."""

    def __init__(self, token: str) -> None:
        self._token = token

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers[TOKEN_HEADER] = self._token
        return call_next(context)


def start_run(door: Door, bundle: bytes, config: Config) -> int:
    """Starts a run of a bundle; gives its id.

    Raises:
        httpx.HTTPError: The door is closed.
        FederationError: The bundle is not accepted.
    """
    request = StartRunRequest(
        fab=fab_to_proto(Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})),
        override_config=user_config_to_proto(dict(config)),
    )
    with door.control() as control:
        response = control.StartRun(request)
    if not response.HasField("run_id"):
        raise FederationError("The SuperLink did not start the run.")
    return int(response.run_id)


def take_task(door: Door, kind: TaskType, *, run: int | None, look_for_s: float) -> str | None:
    """Takes a task before Flower's own executor does; gives its token, or None if it came late.

    Args:
        door: Where tasks are handed out.
        kind: Which tasks.
        run: Only this run's; None for whichever comes.
        look_for_s: For how long to look, in seconds.

    Raises:
        httpx.HTTPError: The door is closed.
    """
    until = time.monotonic() + look_for_s
    with door.executor() as executor:
        while time.monotonic() < until:
            answer = executor.AcquireTask(AcquireTaskRequest(supported_task_types=[kind]))
            if answer.token and run in (None, answer.task.run_id):
                return str(answer.token)
            time.sleep(_LOOK_EVERY_S)
    return None


@contextmanager
def coordinator(door: Door, bundle: bytes, config: Config) -> Iterator[HttpGrid]:
    """Acts as the coordinator of a new run while the body runs: the ServerApp is whoever calls.

    Args:
        door: A port with the control and the runtime API.
        bundle: What nodes are to run.
        config: What the run's configuration is overridden with.

    Raises:
        httpx.HTTPError: The door is closed.
        FederationError: The run, or its task, was not to be had.
    """
    token = None
    for _ in range(_MOST_RUNS):
        run = start_run(door, bundle, config)
        token = take_task(door, TaskType.SERVER_APP, run=run, look_for_s=_LOOK_FOR_S)
        if token is not None:
            break
    if token is None:
        raise FederationError("Flower's own executor was quicker each time.")
    grid = HttpGrid(door.address, insecure=door.ca is None, root_certificates=door.ca, token=token)
    with door.task(token, "flwr-serverapp") as task:
        beats = HeartbeatSender(make_task_heartbeat_fn_http(task))
        beats.start()
        given = task.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id, TaskIdentity.run_id = given.task_id, given.run.run_id
        TaskIdentity.node_id = given.context.node_id
        grid.set_run(run_from_proto(given.run))
        try:
            yield grid
        finally:
            beats.stop()
            task.PushTaskOutput(PushTaskOutputRequest(sub_status=_COMPLETED, details=""))
            grid.close()


def refusal(error: httpx.HTTPError) -> str:
    """How a door was closed: the status of its answer, or that there was none."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP {error.response.status_code}"
    return type(error).__name__


def read_door(given: Mapping[str, Any]) -> Door:
    """A door with what an attacker holds, from the files that it is in.

    Args:
        given: ``address``, as ``host:port``; ``ca``, the authority's certificate, PEM; ``secret``
            and ``token``, each a file; what is missing is not held.

    Raises:
        OSError: A file cannot be read.
    """

    def held(name: str) -> bytes | None:
        return Path(given[name]).read_bytes() if given.get(name) else None

    token = held("token")
    return Door(
        given["address"],
        held("ca"),
        held("secret"),
        token.decode("ascii").strip() if token is not None else None,
    )
