"""A way to an engine that is no path: one end of a connected pair of sockets, for one call.

A relay gives it to the process that runs a bundle. That process has the relay's user, whom the
region's engine answers, so it may not be able to connect to anything; what it can ask is what the
relay serves at the other end, once. Frames and checks are those of `common.engine_socket`.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

import numpy as np

from common.canonical_json import JsonValue
from common.engine_socket import CLOSING_WAIT_S, ask, check_engine, converse
from common.errors import FedprefError, FormatError, InputError

if TYPE_CHECKING:
    from common.engine_channel import EngineChannel

_log = logging.getLogger(__name__)
# Calls of one process over descriptors, one at a time: whether one is used is asked before a call.
_calling = threading.Lock()


class DescriptorChannel:
    """A client of `serve_descriptor`; see `common.engine_channel.EngineChannel`.

    Args:
        descriptor: The number of a connected stream socket; it stays open, but serves one call.
        timeout_s: The longest a call may take, in seconds.
        engine_user: The user id that must be at the other end; this process's own if None.
    """

    def __init__(
        self, descriptor: int, *, timeout_s: float, engine_user: int | None = None
    ) -> None:
        self._descriptor = descriptor
        self._timeout_s = timeout_s
        self._engine_user = engine_user

    def call(
        self, method: str, header: dict[str, JsonValue], arrays: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, JsonValue], dict[str, np.ndarray]]:
        """Asks the one thing and waits for the answer.

        Raises:
            InputError: The descriptor is no connected Unix stream socket, the other end did not
                answer in time, or speaks another version of the protocol.
            FormatError: The descriptor has served its call, what came back is not an answer, or
                another user serves at the other end.
            FedprefError: Of the kind that the engine raised, without its words.
        """
        deadline = time.monotonic() + self._timeout_s
        try:
            with _calling, _copy(self._descriptor) as connection:
                self._require_unused(connection)
                connection.settimeout(self._timeout_s)
                check_engine(connection, self._name, self._engine_user)
                try:
                    return ask(connection, method, header, arrays, deadline)
                finally:
                    # For every copy of the descriptor, and whatever came of the call.
                    with suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            raise InputError(
                f"The privacy engine at {self._name} does not answer: {error}.",
                remedy="Look at the log of the relay that gave it.",
            ) from error

    @property
    def _name(self) -> str:
        return f"descriptor {self._descriptor}"

    def _require_unused(self, connection: socket.socket) -> None:
        if (connection.family, connection.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
            raise InputError(f"The engine's {self._name} is no Unix stream socket.")
        with suppress(BlockingIOError):
            # Nobody speaks before the question: what is there is an end, or another call's.
            connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            raise FormatError(
                f"The engine's {self._name} has served its one call, or its other end is gone.",
                remedy="Ask the engine once for a message.",
            )


def _copy(descriptor: int) -> socket.socket:
    """Another number for the same socket: the given one stays taken, never another file's."""
    copy = os.dup(descriptor)
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise


@contextmanager
def serve_descriptor(channel: EngineChannel) -> Iterator[socket.socket]:
    """Serves one call of an engine over a pair of sockets while the body runs.

    Args:
        channel: Who answers.

    Yields:
        The other end, to be given to another process; it is closed here when the body ends.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    thread = threading.Thread(
        target=_serve_one, args=(channel, ours), name="engine-descriptor", daemon=True
    )
    with ours, theirs:
        thread.start()
        try:
            yield theirs
        finally:
            # Ends the wait for a request that never came; an answer under way can still be sent.
            with suppress(OSError):
                ours.shutdown(socket.SHUT_RD)
            thread.join(CLOSING_WAIT_S)


def _serve_one(channel: EngineChannel, connection: socket.socket) -> None:
    try:
        # However long it takes until it asks: its time is limited by whoever started it.
        if not connection.recv(1, socket.MSG_PEEK):
            return
        converse(channel, connection, nullcontext())
    except FedprefError as error:
        _log.warning("a request over a descriptor is none: %s", error)
    except OSError as error:
        _log.warning("a connection over a descriptor ended: %s", error)
    finally:
        # Not closed: its number is freed by whoever waits for this thread.
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
