"""The coordinator's side of Flower's control API: nodes and runs, on the loopback admin port.

The open-source SuperLink lets anyone who reaches this API do anything; the guard in
`server.superlink` lets in only who knows the admin port's token. This module and that one are the
deployment's only touch of Flower's internals (pinned to flwr 1.41, see their tests).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from common.enrolment import node_public_key
from common.errors import FederationError, InputError
from common.key_files import read_private

LOOPBACK = "127.0.0.1"
TOKEN_HEADER = "x-fedpref-admin"  # noqa: S105 - the name of a header
#: What Flower says of a run that ended well, and how it begins for every run that ended.
COMPLETED = "finished:completed"
FINISHED = "finished"
ONLINE = "online"

_UNREGISTERED = "unregistered"
_MAX_WORDS = 300


@dataclass(frozen=True)
class NodeState:
    """A node as the SuperLink has it.

    Attributes:
        node_id: Flower's id of it.
        name: The region that it was registered for.
        public_key: Its key, as `encoded_key` gives it.
        status: ``registered`` (never seen), ``online`` or ``offline``.
    """

    node_id: int
    name: str
    public_key: bytes
    status: str


class ControlApi:
    """An open connection to the control API. Use `open_control`."""

    def __init__(self, client: ControlHttpClient) -> None:
        self._client = client

    def nodes(self) -> list[NodeState]:
        """The nodes that are registered, by name."""
        with _own_words("list the nodes"):
            answer = self._client.ListNodes(ListNodesRequest())
        found = [
            NodeState(each.node_id, each.name, each.public_key, each.status)
            for each in answer.nodes_info
            if each.status != _UNREGISTERED
        ]
        return sorted(found, key=lambda node: (node.name, node.node_id))

    def register(self, name: str, public_key: bytes, location: str) -> int:
        """Registers a node, so that whoever has its private key may connect; gives its id."""
        request = RegisterNodeRequest(public_key=public_key, name=name, location=location or None)
        with _own_words(f"register the node of {name}"):
            return int(self._client.RegisterNode(request).node_id)

    def unregister(self, node_id: int) -> None:
        """Takes a node's registration back: it is refused from then on."""
        with _own_words(f"unregister the node {node_id}"):
            self._client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))

    def start(self, bundle: bytes, run_config: Mapping[str, bool | float | int | str]) -> int:
        """Starts a run of an app bundle; gives Flower's id of it.

        Raises:
            FederationError: The SuperLink does not take it.
        """
        fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
        request = StartRunRequest(
            fab=fab_to_proto(fab), override_config=user_config_to_proto(dict(run_config))
        )
        with _own_words("start the run"):
            run_id = int(self._client.StartRun(request).run_id)
        if run_id == 0:
            raise FederationError("The SuperLink does not take the app bundle: it is too large.")
        return run_id

    def status(self, run_id: int) -> str:
        """How a run is: ``pending``, ``running``, ``finished:…`` and so on; empty if it is gone."""
        try:
            with _own_words("ask for the run"):
                answer = self._client.ListRuns(ListRunsRequest(run_id=run_id))
        except FederationError as error:
            cause = error.__cause__
            if isinstance(cause, httpx.HTTPStatusError) and cause.response.status_code in (
                404,
                400,
            ):
                return ""
            raise
        status = answer.run_dict[run_id].status
        return f"{status.status}:{status.sub_status}" if status.sub_status else str(status.status)

    def stop(self, run_id: int) -> None:
        """Stops a run; one that has ended stays as it is."""
        with _own_words("stop the run"):
            self._client.StopRun(StopRunRequest(run_id=run_id))


class _WithToken:
    """Adds the admin port's token to each request (Flower's ``ProtobufClientInterceptor``)."""

    def __init__(self, token: str) -> None:
        self._token = token

    def intercept(self, context: Any, call_next: Any) -> Any:
        """Passes a request on with the token."""
        context.request.headers[TOKEN_HEADER] = self._token
        return call_next(context)


@contextmanager
def open_control(port: int, token: Path) -> Iterator[ControlApi]:
    """Connects to the control API on this machine; nothing is sent before it is asked something.

    Args:
        port: The admin port.
        token: The file of its token.

    Raises:
        InputError: The token is missing, or others can read it.
    """
    secret = _read_token(token)
    client = ControlHttpClient.from_server_address(
        server_address=f"{LOOPBACK}:{port}",
        insecure=True,
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor("fedpref-server"), _WithToken(secret)],
    )
    try:
        yield ControlApi(client)
    finally:
        client.close()


def _read_token(path: Path) -> str:
    """The token; root reads the file of whoever it was given to."""
    try:
        data = path.read_bytes() if os.geteuid() == 0 else read_private(path, "admin port's token")
    except OSError as error:
        raise InputError(
            f"The admin port's token {path} cannot be read: {error.strerror}.",
            remedy="Make new secrets: fedpref-server rotate DEPLOYMENT secrets.",
        ) from error
    return data.decode("ascii", "replace").strip()


def encoded_key(text: str) -> bytes:
    """A node's public key as Flower stores it.

    Args:
        text: The key as OpenSSH writes it.

    Raises:
        FormatError: It is none, or of another curve.
    """
    return public_key_to_bytes(node_public_key(text))


@contextmanager
def _own_words(what: str) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPStatusError as error:
        words = error.response.text[:_MAX_WORDS]
        raise FederationError(
            f"The SuperLink does not {what}: {error.response.status_code} {words}",
            remedy="See its log: fedpref-server logs DEPLOYMENT superlink.",
        ) from error
    except (httpx.HTTPError, ValueError) as error:
        raise FederationError(
            f"The SuperLink does not answer when asked to {what}: {type(error).__name__}.",
            remedy="Start it: fedpref-server start DEPLOYMENT.",
        ) from error
