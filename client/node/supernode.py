"""The region's SuperNode: Flower's own, started so that it cannot be talked into anything.

It runs no app (isolation ``process``, with the secret that only the relay shares), installs and
reports nothing, and looks into no bundle: what a coordinator sends is passed to the relay as bytes.
Its waits follow `client.node.pacing`, what it takes is bounded, and when its connection ends, it
ends, for its supervisor to start it again. This module patches Flower's internals (pinned to flwr
1.41, see its test).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.cli.flower_supernode import flower_supernode
from flwr.supernode.fleet_http_client import FleetHttpClient

from client.node.pacing import Pacing
from common.errors import FormatError
from common.structured_log import say

_log = logging.getLogger("fedpref.node")

LOOPBACK = "127.0.0.1"
#: The most bytes of one answer of the coordinator's, and of all objects of one message.
MAX_RESPONSE_BYTES = 64 << 20
MAX_MESSAGE_BYTES = 320 << 20
#: For how long an object that was announced may be away, in seconds: Flower waits for two hours and
#: takes no other message meanwhile. And how often it is looked for.
OBJECT_TIMEOUT_S = 60.0
_FIRST_LOOK_S, _LAST_LOOK_S = 0.1, 2.0

#: Flower's pauses: for a message, and for the answer to one.
_FLOWER_IDLE_S, _FLOWER_BUSY_S = 3, 0.5
_LEAST_IDLE_S, _MOST_IDLE_S = 0.2, 3.0
_LEAST_BUSY_S, _MOST_BUSY_S = 0.02, 0.5


@dataclass(frozen=True)
class NodeOptions:
    """What a SuperNode needs.

    Attributes:
        superlink: Host and port of the coordinator's port for regions.
        root_certificates: The federation's certificate authority, PEM.
        key: The node's private key (OpenSSH format, NIST P-384).
        secret_file: The secret that it shares with the relay.
        runtime_port: The loopback port at which the relay takes tasks.
    """

    superlink: str
    root_certificates: Path
    key: Path
    secret_file: Path
    runtime_port: int

    def arguments(self) -> list[str]:
        """The command line of Flower's SuperNode."""
        return [
            "flower-supernode",
            "--superlink",
            self.superlink,
            "--root-certificates",
            str(self.root_certificates),
            "--auth-supernode-private-key",
            str(self.key),
            "--isolation",
            "process",
            "--superexec-auth-secret-file",
            str(self.secret_file),
            "--host",
            LOOPBACK,
            "--port",
            str(self.runtime_port),
        ]


def run_supernode(options: NodeOptions) -> int:
    """Runs the SuperNode until it is told to end, or its connection ends.

    Args:
        options: What it needs.

    Returns:
        The exit code, if Flower did not end the process itself: its server's thread would otherwise
        keep up a node that is connected to nothing.
    """
    sys.argv = options.arguments()
    harden()
    flower_supernode()
    return 1


def harden() -> None:
    """Patches Flower's SuperNode in this process, for good."""
    node: Any = start_client_internal
    node.time = _PacedTime()
    # Flower opens the bundle, unasked, to read the run's settings out of it.
    node.get_fused_config_from_fab = _no_run_config
    node.pull_objects = _bounded(node.pull_objects)
    connection: Any = fleet_http_connection
    connection.HeartbeatSender = _VitalHeartbeat
    connection.FleetHttpClient = _BoundedClient


def _no_run_config(_bundle: bytes, _run: object) -> dict[str, object]:
    """A run's settings as they are for a region: none. What is allowed is the region's to say."""
    return {}


class _PacedTime:
    """Stands for the module ``time`` where the SuperNode waits."""

    def __init__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sleep = sleep
        self._idle = Pacing(least_s=_LEAST_IDLE_S, most_s=_MOST_IDLE_S)
        self._busy = Pacing(least_s=_LEAST_BUSY_S, most_s=_MOST_BUSY_S)

    def sleep(self, seconds: float) -> None:
        """Pauses for as long as the wait so far suggests."""
        if seconds >= _FLOWER_IDLE_S:
            self._busy.arrived()
            self._sleep(self._idle.next_pause_s())
        else:
            self._idle.arrived()
            self._sleep(min(seconds, self._busy.next_pause_s()))


class _VitalHeartbeat(HeartbeatSender):
    """A heartbeat whose end is the process's: Flower's would leave a node that seems to run."""

    def _run(self) -> None:
        try:
            super()._run()
        except Exception as error:  # noqa: BLE001 - whatever ended it, the node must start anew
            _log.error("the coordinator does not take this node's heartbeat", exc_info=error)
            os.kill(os.getpid(), signal.SIGTERM)


class _BoundedClient(FleetHttpClient):
    """A client that takes answers up to `MAX_RESPONSE_BYTES`, as they were sent."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # Hooks run when the headers are there and before anything of the body is read.
        self._client.event_hooks = {"response": [_bound_response]}


class _BoundedStream(httpx.SyncByteStream):
    """A body that breaks off when it becomes too long."""

    def __init__(self, stream: httpx.SyncByteStream, most: int) -> None:
        self._stream = stream
        self._left = most

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._stream:
            self._left -= len(piece)
            if self._left < 0:
                raise FormatError(f"The coordinator's answer is over {MAX_RESPONSE_BYTES} bytes.")
            yield piece

    def close(self) -> None:
        self._stream.close()


def _bound_response(response: httpx.Response) -> None:
    # Decompressed, few bytes may become any number.
    if response.headers.get("content-encoding", "identity") != "identity":
        raise FormatError("The coordinator's answer is compressed, which it never is.")
    stream: Any = response.stream
    response.stream = _BoundedStream(stream, MAX_RESPONSE_BYTES)


def _bounded(
    pull_objects: Callable[..., Mapping[str, bytes]],
) -> Callable[..., Mapping[str, bytes]]:
    """Flower's pulling of a message's objects: so many bytes together, and so long, and no more."""

    def bounded(
        object_ids: list[str], pull_object_fn: Callable[[str], bytes]
    ) -> Mapping[str, bytes]:
        lock, left = threading.Lock(), MAX_MESSAGE_BYTES

        def pull(object_id: str) -> bytes:
            nonlocal left
            content = pull_object_fn(object_id)
            with lock:
                left -= len(content)
                if left < 0:
                    say(_log, logging.ERROR, "oversized-message", bytes=MAX_MESSAGE_BYTES)
                    raise FormatError(f"A message is over {MAX_MESSAGE_BYTES} bytes.")
            return content

        return pull_objects(
            object_ids,
            pull,
            max_time=OBJECT_TIMEOUT_S,
            max_tries_per_object=None,
            initial_backoff=_FIRST_LOOK_S,
            backoff_cap=_LAST_LOOK_S,
        )

    return bounded
