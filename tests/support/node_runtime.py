"""A SuperNode's Runtime API as Flower serves it, with messages that a test delivers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectUnavailableError,
    inflate_object_from_contents,
)
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supernode import start_client_internal
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeStateFactory

from client.node.bundle import bundle_digest
from tests.support.flower_messages import NODE

SECRET = b"shared by node and relay"


class NodeRuntime:
    """The state of a SuperNode, and where its Runtime API listens."""

    def __init__(self) -> None:
        self.factory = NodeStateFactory(ObjectStoreFactory())
        self.state = self.factory.state()
        self.store = self.factory.objectstore_factory.store()
        self.state.set_node_id(NODE)
        self.port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def deliver(
        self,
        message: Message,
        bundle: bytes,
        *,
        task_type: str = "flwr-serverapp",
        run_number: int = 1,
        lost: bool = False,
    ) -> bool:
        """Takes a message from a coordinator, as the SuperNode's own loop does.

        A run has one bundle, that of its first message. What is lost was announced and never comes.
        """
        message.metadata.__dict__["_run_id"] = run_number
        run = Run.create_empty(message.metadata.run_id)
        run.fab_hash, run.primary_task_type = bundle_digest(bundle), task_type
        contents = {name: each.deflate() for name, each in get_all_nested_objects(message).items()}
        message.metadata.__dict__["_message_id"] = message.object_id
        tree = get_object_tree(message)

        def pull(_: int, name: str) -> bytes:
            if lost:
                raise ObjectUnavailableError(name)
            return contents[name]

        taken = start_client_internal._pull_and_store_message(
            state=self.state,
            object_store=self.store,
            node_config={},
            receive=lambda: (remove_content_from_message(message), tree),
            get_run=lambda _: run,
            get_fab=lambda name, _: Fab(name, bundle, {}),
            pull_object=pull,
            confirm_message_received=lambda *_: None,
            trusted_entities=None,
        )
        return taken is not None

    def replies(self) -> list[Message]:
        """The replies that the SuperNode would send, put together."""
        found = []
        for reply in self.state.get_messages_legacy(is_reply=True):
            name = reply.metadata.message_id
            tree = self.store.get_object_tree(name)
            ids, waiting = [], [tree]
            while waiting:
                node = waiting.pop()
                ids.append(node.object_id)
                waiting += list(node.children)
            found.append(
                inflate_object_from_contents(name, {each: self._content(each) for each in ids})
            )
        return found

    def _content(self, name: str) -> bytes:
        """An object's content; a reply is announced before all of it is there."""
        for _ in range(1000):
            if content := self.store.get(name):
                return content
            time.sleep(0.005)
        raise AssertionError("a reply's content did not come")


@contextmanager
def node_runtime() -> Iterator[NodeRuntime]:
    """Serves a SuperNode's Runtime API on loopback while the body runs."""
    runtime = NodeRuntime()
    app = create_app(state_factory=runtime.factory, superexec_auth_secret=SECRET)
    server = uvicorn.Server(
        uvicorn.Config(
            app, host="127.0.0.1", port=0, ws="none", log_level="warning", access_log=False
        )
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    runtime.port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield runtime
    finally:
        server.should_exit = True
        thread.join()
