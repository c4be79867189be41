"""How often to look whether something has come: the longer nothing has, the less often.

Flower looks every three seconds, whatever happens. Here a wait adds at most a twentieth of itself,
within bounds: quick while messages follow one another, and no burden on the coordinator between
rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable

_SHARE = 20.0


class Pacing:
    """The pauses of one loop that waits.

    Args:
        least_s: The shortest pause, in seconds.
        most_s: The longest, in seconds.
        clock: Seconds on a clock that never goes back.
    """

    def __init__(
        self, *, least_s: float, most_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._least_s = least_s
        self._most_s = most_s
        self._clock = clock
        self._waiting_since: float | None = None

    def next_pause_s(self) -> float:
        """For how long to pause now, in seconds; the first pause begins a wait."""
        now = self._clock()
        if self._waiting_since is None:
            self._waiting_since = now
        waited_s = now - self._waiting_since
        return min(self._most_s, max(self._least_s, waited_s / _SHARE))

    def arrived(self) -> None:
        """Ends a wait: what was waited for is there."""
        self._waiting_since = None
