"""Inside the child: runs a bundle's ClientApp for one message, confined, and hands its reply back.

What is installed is forgotten before the bundle is loaded: the bytes that run are those of the
bundle, whose digest is what the region permitted, although its packages have the names of ours.
"""

from __future__ import annotations

import gc
import importlib
import os
import socket
import sys
import time
from typing import Any

import numpy as np
from flwr.app import Context, Message, Metadata, RecordDict
from flwr.clientapp import ClientApp

from client.node.bundle_job import BundleJob
from client.node.confinement import confine
from common.canonical_json import JsonValue
from common.engine_channel import (
    DESCRIPTOR_VARIABLE,
    SOCKET_DIR_VARIABLE,
    SOCKET_VARIABLE,
    TIMEOUT_VARIABLE,
)
from common.engine_frames import receive_frame, send_frame
from common.errors import FormatError
from common.messages import decode_message, encode_message
from common.process_control import end_with_parent

#: The packages whose names a bundle's have too.
_OURS = frozenset({"client", "common", "server", "simulations"})
_MOST_DESCRIPTORS = 4096
# The number of the node that sends: the coordinator's, which has always been this one.
_COORDINATOR_NODE = 1
_TTL_S = 3600.0


def run_child(job: BundleJob, descriptor: int, engine: int, parent: int) -> None:
    """Works on one message, and ends the process: with code 0 if a reply was handed back.

    Args:
        job: What to run.
        descriptor: A connected socket: the request comes in by it, and the reply goes out.
        engine: A connected socket: by it the bundle asks the engine, once.
        parent: The process id of the warm parent.
    """
    code = 1
    try:
        end_with_parent(parent)
        _run(job, descriptor, engine)
        code = 0
    # Whatever a bundle raises ends here: its text may be anything, and only its type is told, to
    # the region's own log.
    except BaseException as error:  # noqa: BLE001
        _say(f"the bundle failed: {type(error).__name__}")
    finally:
        # No exit handler of a bundle's or of a library's runs: they are the parent's.
        os._exit(code)


def _run(job: BundleJob, descriptor: int, engine: int) -> None:
    _keep_open(descriptor, engine)
    deadline = time.monotonic() + job.limits.wall_s
    with socket.socket(fileno=descriptor) as connection:
        header, arrays = receive_frame(connection, deadline)
        message = _message(job, header, arrays)
        del arrays
        _prepare(job, engine)
        reply = _load(job.app)(message, _context(job))
        if not isinstance(reply, Message) or not reply.has_content():
            raise FormatError("The bundle's reply has no content.")
        answer, answered = decode_message(reply.content)
        send_frame(connection, answer, answered, deadline)


def _message(
    job: BundleJob, header: dict[str, JsonValue], arrays: dict[str, np.ndarray]
) -> Message:
    """The request, with nothing of the coordinator's but its type, its header and its arrays."""
    metadata = Metadata(
        run_id=job.run_id,
        message_id="request",
        src_node_id=_COORDINATOR_NODE,
        dst_node_id=job.node_id,
        reply_to_message_id="",
        group_id="",
        created_at=time.time(),
        ttl=_TTL_S,
        message_type=job.message_type,
    )
    # Flower's own way of making a message that was received.
    received: Any = Message
    message: Message = received(content=encode_message(header, arrays), metadata=metadata)
    return message


def _context(job: BundleJob) -> Context:
    """The bundle's context: nothing of the coordinator's run configuration, and no state."""
    return Context(
        run_id=job.run_id, node_id=job.node_id, node_config={}, state=RecordDict(), run_config={}
    )


def _keep_open(*descriptors: int) -> None:
    """Closes whatever came from the parent, but the standard streams and these."""
    least = 3
    for kept in sorted(descriptors):
        os.closerange(least, kept)
        least = kept + 1
    os.closerange(least, _MOST_DESCRIPTORS)


def _prepare(job: BundleJob, engine: int) -> None:
    """Lets the bundle's packages be found in place of ours, and confines the process."""
    for name in [name for name in sys.modules if name.partition(".")[0] in _OURS]:
        del sys.modules[name]
    # Of a checkout that is installed in place, whose finder looks past the bundle's packages.
    sys.meta_path[:] = [each for each in sys.meta_path if not _is_editable(each)]
    sys.path.insert(0, str(job.folder))
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    for name in (SOCKET_DIR_VARIABLE, SOCKET_VARIABLE):
        os.environ.pop(name, None)
    os.environ[DESCRIPTOR_VARIABLE] = str(engine)
    os.environ[TIMEOUT_VARIABLE] = str(job.limits.wall_s)
    os.chdir(job.folder)
    # What was loaded before the fork is shared with the parent as long as nobody touches it.
    gc.freeze()
    confine(job.folder, job.limits)


def _is_editable(finder: object) -> bool:
    kind = finder if isinstance(finder, type) else type(finder)
    return kind.__module__.startswith("__editable__")


def _load(reference: str) -> ClientApp:
    module, _, name = reference.partition(":")
    loaded = getattr(importlib.import_module(module), name)
    if not isinstance(loaded, ClientApp):
        raise FormatError("The bundle's ClientApp is none.")
    return loaded


def _say(words: str) -> None:
    os.write(2, f"fedpref.relay: {words}\n".encode())
