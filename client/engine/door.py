"""The engine's door: its Unix socket, who may come to it, and what is noted of those who may not.

The relay's user and the engine's are two, so that code which a coordinator ships reads neither the
region's files nor the engine's memory. The socket's file has a group of both, and the kernel's word
on who is there decides. Whoever is turned away leaves a count, and now and then an incident in the
region's log: one an hour and user, so that turning up often fills no disk.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from client.engine.service import PrivacyEngine
from common.engine_socket import FRAME_REFUSED, PEER_REFUSED, serve_channel
from common.peers import Peers, group_id

#: How often the region's log is told of one user's attempts, in seconds.
TELL_EVERY_S = 3600.0

_MAX_USERS = 64
_WORDS = {
    PEER_REFUSED: "A process of user {user} tried to use the engine's socket; it was turned away "
    "({count} times since the engine was opened).",
    FRAME_REFUSED: "A process of user {user} sent the engine what is no request; it got no answer "
    "({count} times since the engine was opened).",
}


class DoorBook:
    """Counts those who were turned away, and tells the engine of them.

    Args:
        engine: The engine, whose log takes incidents.
        tell_every_s: How often its log is told of one user, in seconds.
    """

    def __init__(self, engine: PrivacyEngine, *, tell_every_s: float = TELL_EVERY_S) -> None:
        self._engine = engine
        self._tell_every_s = tell_every_s
        self._counts: Counter[tuple[str, int]] = Counter()
        self._told: dict[tuple[str, int], float] = {}
        self._lock = threading.Lock()

    def refused(self, reason: str, user: int) -> None:
        """Notes one who was turned away.

        Args:
            reason: `PEER_REFUSED` or `FRAME_REFUSED`.
            user: The user id of the process.

        Raises:
            StorageError: The log refuses; it is told the next time.
        """
        self._engine.tell_refused(reason)
        now = time.monotonic()
        with self._lock:
            key = (reason, user)
            if key not in self._counts and len(self._counts) >= _MAX_USERS:
                return
            self._counts[key] += 1
            told = self._told.get(key)
            if told is not None and now - told < self._tell_every_s:
                return
            self._told[key] = now
            count = self._counts[key]
        try:
            self._engine.note_peer(reason, _WORDS[reason].format(user=user, count=count))
        except BaseException:
            with self._lock:
                self._told.pop(key, None)
            raise


@contextmanager
def open_door(
    engine: PrivacyEngine,
    socket_path: Path,
    *,
    relay_users: Sequence[str] = (),
    group: str | None = None,
) -> Iterator[None]:
    """Offers an engine to its relay while the body runs.

    Args:
        engine: The engine.
        socket_path: Where its socket is made; the folder must exist.
        relay_users: The users that the relay may run as, by name or number, besides the engine's
            own.
        group: The group that may open the socket's file, by name or number: the engine's user must
            be in it. None for the engine's user alone.

    Raises:
        InputError: A user or the group is unknown, or there can be no socket there.
        StorageError: Another process is serving there.
    """
    with serve_channel(
        engine,
        socket_path,
        admitted=Peers.with_own(relay_users),
        group=None if group is None else group_id(group),
        on_refused=DoorBook(engine).refused,
    ):
        yield
