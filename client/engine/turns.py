"""Who is next: requests of several runs, or several times the same one, take turns at the engine.

An engine trains for one request at a time; what else is asked waits, in the order in which it came,
so that no run can keep another from its turn. Not more than a few may wait, and none for ever: a
relay that is told that the engine is busy asks again, one that waits in vain does not.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from common.reason_codes import EngineBusyError

#: How many requests may wait; two runs have one each, and a repetition perhaps.
MAX_WAITING = 16
#: For how long one waits, in seconds: as long as a relay waits for its engine.
MAX_WAIT_S = 3600.0


class Turns:
    """Lets one thread in at a time, in order of arrival.

    Args:
        max_waiting: How many may wait.
        max_wait_s: For how long each, in seconds.
    """

    def __init__(self, *, max_waiting: int = MAX_WAITING, max_wait_s: float = MAX_WAIT_S) -> None:
        self._max_waiting = max_waiting
        self._max_wait_s = max_wait_s
        self._changed = threading.Condition()
        # Whose turn it is, and who comes after.
        self._queue: deque[object] = deque()

    @contextmanager
    def take(self) -> Iterator[None]:
        """Waits for a turn, and has it while the body runs.

        Raises:
            EngineBusyError: Too many wait already, or the turn did not come in time.
        """
        ticket = object()
        self._wait(ticket)
        try:
            yield
        finally:
            self._leave(ticket)

    def _wait(self, ticket: object) -> None:
        deadline = time.monotonic() + self._max_wait_s
        with self._changed:
            # The first of the queue is at work and does not wait.
            if len(self._queue) > self._max_waiting:
                raise EngineBusyError(
                    f"{self._max_waiting} requests wait for the engine already.",
                    remedy="Ask again when one of the runs under way has ended.",
                )
            self._queue.append(ticket)
            try:
                while self._queue[0] is not ticket:
                    if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                        raise EngineBusyError(
                            f"The engine had no time for the request in {self._max_wait_s:g} s.",
                            remedy="Ask again; a round of another run takes long.",
                        )
            except BaseException:
                self._queue.remove(ticket)
                self._changed.notify_all()
                raise

    def _leave(self, ticket: object) -> None:
        with self._changed:
            self._queue.remove(ticket)
            self._changed.notify_all()
