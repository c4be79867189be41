"""How the relay reaches its region's privacy engine: in the same process, or over a Unix socket.

The relay knows only `EngineChannel`. Which one it gets depends on where it runs: a simulation in
one process registers the engines themselves; a bundle that is run confined gets a connected socket
for its one call (`common.engine_descriptor`); everywhere else the engine listens on a socket that
only its own user can open, or the users that it names (`common.engine_socket`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from common.canonical_json import JsonValue
from common.engine_descriptor import DescriptorChannel, serve_descriptor
from common.engine_socket import SocketChannel, serve_channel
from common.errors import InputError
from common.peers import user_id

__all__ = [
    "DESCRIPTOR_VARIABLE",
    "ENGINE_USER_VARIABLE",
    "SOCKET_DIR_VARIABLE",
    "SOCKET_VARIABLE",
    "TIMEOUT_VARIABLE",
    "EngineChannel",
    "engine_user",
    "register_channel",
    "resolve_channel",
    "serve_channel",
    "serve_descriptor",
    "socket_name",
]

#: The number of a connected socket of this process's, by which the engine answers one call.
DESCRIPTOR_VARIABLE = "FEDPREF_ENGINE_DESCRIPTOR"
#: Names the one engine's socket on this machine.
SOCKET_VARIABLE = "FEDPREF_ENGINE_SOCKET"
#: Names a folder of sockets, one for each simulated region: ``<partition-id>.sock``.
SOCKET_DIR_VARIABLE = "FEDPREF_ENGINE_SOCKET_DIR"
#: Whose process the engine must be, by name or number; the relay's own user by default.
ENGINE_USER_VARIABLE = "FEDPREF_ENGINE_USER"
#: For how long the relay waits for its engine, in seconds.
TIMEOUT_VARIABLE = "FEDPREF_ENGINE_TIMEOUT_S"

_DEFAULT_TIMEOUT_S = 3600.0
_PARTITION_KEY = "partition-id"


class EngineChannel(Protocol):
    """What a relay may ask of a privacy engine."""

    def call(
        self, method: str, header: dict[str, JsonValue], arrays: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, JsonValue], dict[str, np.ndarray]]:
        """Asks one thing and waits for the answer.

        Args:
            method: ``describe``, ``publish``, ``cosign``, ``keep``, ``mask``, ``execute`` or
                ``train``.
            header: The request, as canonical JSON has it.
            arrays: The current model; empty before the first round.

        Returns:
            The answer's header and what leaves the region, which is empty for a refusal.

        Raises:
            FedprefError: The engine, or the way to it, failed.
        """


_channels: dict[int, EngineChannel] = {}
_lock = threading.Lock()


@contextmanager
def register_channel(region_index: int, channel: EngineChannel) -> Iterator[None]:
    """Lets relays in this process reach an engine in this process, while the body runs.

    Args:
        region_index: The simulated node's partition id.
        channel: The engine.

    Raises:
        InputError: There is a channel for this partition already.
    """
    with _lock:
        if region_index in _channels:
            raise InputError(f"Partition {region_index} has an engine in this process already.")
        _channels[region_index] = channel
    try:
        yield
    finally:
        with _lock:
            del _channels[region_index]


def socket_name(region_index: int) -> str:
    """The name of a simulated region's socket in the folder of sockets."""
    return f"{region_index}.sock"


def resolve_channel(node_config: Mapping[str, object]) -> EngineChannel:
    """The way to the engine of the node whose configuration this is.

    Args:
        node_config: The node's own configuration, never the coordinator's; ``partition-id`` is
            the index of a simulated region.

    Raises:
        InputError: Nothing says where the engine is, or what is said is not well formed.
    """
    partition = node_config.get(_PARTITION_KEY)
    if type(partition) is int:
        with _lock:
            if partition in _channels:
                return _channels[partition]
    timeout_s = _timeout_s()
    if (number := os.environ.get(DESCRIPTOR_VARIABLE)) is not None:
        return DescriptorChannel(
            _descriptor(number), timeout_s=timeout_s, engine_user=engine_user()
        )
    if path := os.environ.get(SOCKET_VARIABLE):
        return SocketChannel(Path(path), timeout_s=timeout_s, engine_user=engine_user())
    if (folder := os.environ.get(SOCKET_DIR_VARIABLE)) and type(partition) is int:
        return SocketChannel(Path(folder) / socket_name(partition), timeout_s=timeout_s)
    raise InputError(
        "Nothing says where this node's privacy engine is.",
        remedy=f"Set {SOCKET_VARIABLE} to the engine's socket.",
    )


def engine_user() -> int | None:
    """Whose process the engine must be, by the environment; None for this process's own user's.

    Raises:
        InputError: The machine has no such user.
    """
    user = os.environ.get(ENGINE_USER_VARIABLE)
    return None if user is None else user_id(user)


def _descriptor(text: str) -> int:
    # Three are the standard streams; more than this no process has.
    if not (text.isascii() and text.isdecimal() and len(text) <= 7 and int(text) > 2):
        raise InputError(f"{DESCRIPTOR_VARIABLE} is not the number of an open socket.")
    return int(text)


def _timeout_s() -> float:
    text = os.environ.get(TIMEOUT_VARIABLE)
    if text is None:
        return _DEFAULT_TIMEOUT_S
    try:
        timeout_s = float(text)
    except ValueError:
        timeout_s = -1.0
    if not 0 < timeout_s <= 7 * 24 * 3600:
        raise InputError(f"{TIMEOUT_VARIABLE} is not a number of seconds between 0 and a week.")
    return timeout_s
