"""A node that is whatever an attacker makes of it: the fleet API without Flower's SuperNode.

Touches Flower's internals: the connection of its SuperNode, and how messages travel as objects
(pinned to flwr 1.41, see the tests).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_private_key,
)
from flwr.app import Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import (
    pull_and_inflate_object_from_tree,
    push_objects,
)
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.fleet_http_connection import http_request_response
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from common.errors import InputError

_LOOK_EVERY_S = 0.2
_HEARTBEAT_S = 30

#: What a node answers to a message; None to leave it unanswered.
Answer = Callable[[Message], RecordDict | None]


@dataclass(frozen=True)
class NodeKey:
    """The key by which a node says who it is."""

    private: ec.EllipticCurvePrivateKey

    @classmethod
    def read(cls, path: Path) -> NodeKey:
        """Reads an OpenSSH key file.

        Raises:
            InputError: It is no elliptic-curve key.
            OSError: It cannot be read.
        """
        key = load_ssh_private_key(path.read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InputError(f"{path} holds no elliptic-curve key.")
        return cls(key)

    @classmethod
    def new(cls) -> NodeKey:
        """A key that nobody has registered."""
        return cls(ec.generate_private_key(ec.SECP384R1()))

    def private_file(self) -> bytes:
        """The private key as Flower reads it from a file."""
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())

    @property
    def public(self) -> bytes:
        """The public key, PEM, as Flower registers it."""
        return public_key_to_bytes(self.private.public_key())


def activate(address: str, ca: bytes, key: NodeKey) -> int:
    """Says hello as a node does; gives the node's id.

    Raises:
        httpx.HTTPError: The SuperLink does not know the key, or is not to be reached.
    """
    with FleetHttpClient.from_server_address(
        address,
        insecure=False,
        root_certificates=ca,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(key.private, key.private.public_key()),
        ],
    ) as client:
        request = ActivateNodeRequest(public_key=key.public, heartbeat_interval=_HEARTBEAT_S)
        return int(client.ActivateNode(request).node_id)


def live_as_node(
    address: str, ca: bytes, key: NodeKey, answer: Answer, *, ended: Callable[[], bool]
) -> None:
    """Lives as a node till it has had enough.

    Args:
        address: The SuperLink's.
        ca: The authority's certificate.
        key: As which node.
        answer: What it answers.
        ended: Says whether it is done.
    """
    with _connection(address, ca, key) as node:
        while not ended():
            message = node.next_message()
            if message is None:
                time.sleep(_LOOK_EVERY_S)
                continue
            content = answer(message)
            if content is not None:
                node.send(Message(content, reply_to=message))


class _Node:
    """One connection; the callbacks are those that Flower's own SuperNode gets."""

    def __init__(self, callbacks: tuple) -> None:  # type: ignore[type-arg] # Flower's own tuple
        (
            self.node_id,
            self._receive,
            self._send,
            _get_run,
            _get_fab,
            self._pull_object,
            self._push_object,
            self._confirm,
        ) = callbacks

    def next_message(self) -> Message | None:
        received = self._receive()
        if received is None:
            return None
        message, tree = received
        run = message.metadata.run_id
        TaskIdentity.task_id, TaskIdentity.run_id = 1, run
        TaskIdentity.node_id = self.node_id
        inflated = pull_and_inflate_object_from_tree(
            tree, partial(self._pull_object, run), partial(self._confirm, run), return_type=Message
        )
        inflated.metadata.__dict__["_message_id"] = tree.object_id
        return inflated

    def send(self, reply: Message) -> None:
        reply.metadata.__dict__["_message_id"] = reply.object_id
        run = reply.metadata.run_id
        wanted, session = self._send(remove_content_from_message(reply), get_object_tree(reply), 0)
        push_objects(
            get_all_nested_objects(reply),
            partial(self._push_object, run, session),
            object_ids_to_push=set(wanted),
        )


@contextmanager
def _connection(address: str, ca: bytes, key: NodeKey) -> Iterator[_Node]:
    keys = (key.private, key.private.public_key())
    with http_request_response(
        address, insecure=False, root_certificates=ca, authentication_keys=keys
    ) as callbacks:
        yield _Node(callbacks)
