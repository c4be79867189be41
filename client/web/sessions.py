"""Visitors who are signed in: short sessions, in memory, each bound to one of them.

A session's id is known to the browser alone; the process keeps its hash. A login always makes a
new id, so that an id from before it is worth nothing (session fixation).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

Who = TypeVar("Who")
_ID_BYTES = 32


@dataclass(frozen=True)
class Session(Generic[Who]):
    """One signed-in visitor.

    Attributes:
        identity: Who.
        csrf: The secret that every form of this session carries.
        ends_s: When it ends at the latest, on the monotonic clock.
        used_s: When it was last used.
    """

    identity: Who
    csrf: str
    ends_s: float
    used_s: float

    def accepts(self, csrf: str) -> bool:
        """Whether a form came from a page of this session."""
        return hmac.compare_digest(self.csrf.encode(), csrf.encode("utf-8", "surrogatepass"))


class Sessions(Generic[Who]):
    """All sessions of the process; safe to use from several threads.

    Args:
        lifetime_s: How long a session lasts.
        idle_s: How long it lasts without a request.
        limit: How many there may be; the one unused for longest gives way to a new one.
        clock_s: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        *,
        lifetime_s: float,
        idle_s: float,
        limit: int,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lifetime_s = lifetime_s
        self._idle_s = idle_s
        self._limit = limit
        self._clock_s = clock_s
        # The one unused for longest first.
        self._sessions: OrderedDict[bytes, Session[Who]] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, identity: Who) -> str:
        """Signs a visitor in and returns the new session's id."""
        session_id = secrets.token_urlsafe(_ID_BYTES)
        now_s = self._clock_s()
        session = Session(
            identity=identity,
            csrf=secrets.token_urlsafe(_ID_BYTES),
            ends_s=now_s + self._lifetime_s,
            used_s=now_s,
        )
        with self._lock:
            self._drop_ended(now_s)
            while len(self._sessions) >= self._limit:
                self._sessions.popitem(last=False)
            self._sessions[_key(session_id)] = session
        return session_id

    def find(self, session_id: str | None) -> Session[Who] | None:
        """The session of that id, if it has not ended."""
        if not session_id:
            return None
        key, now_s = _key(session_id), self._clock_s()
        with self._lock:
            session = self._sessions.get(key)
            if session is None:
                return None
            if self._ended(session, now_s):
                del self._sessions[key]
                return None
            session = self._sessions[key] = replace(session, used_s=now_s)
            self._sessions.move_to_end(key)
            return session

    def end(self, session_id: str | None) -> None:
        """Signs out; an unknown id does nothing."""
        if session_id:
            with self._lock:
                self._sessions.pop(_key(session_id), None)

    def _ended(self, session: Session[Who], now_s: float) -> bool:
        return now_s >= min(session.ends_s, session.used_s + self._idle_s)

    def _drop_ended(self, now_s: float) -> None:
        # In order of last use: behind the first that is not idle, none is.
        while self._sessions:
            key, session = next(iter(self._sessions.items()))
            if not self._ended(session, now_s):
                return
            del self._sessions[key]


def _key(session_id: str) -> bytes:
    return hashlib.sha256(session_id.encode("utf-8", "surrogatepass")).digest()
