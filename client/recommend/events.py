"""Live events: what customers have just done, in memory only, the latest of each customer.

Nothing is written down. After a restart they are gone; purchases come back with the store's rows.
Whose consent does not stand has none here: they are not taken in, and what was taken in before is
dropped (`client.recommend.recommender`).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from client.recommend.settings import LiveSettings
from client.recommend.types import EventKind


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """An event of a customer, in the catalogue's numbers.

    Attributes:
        kind: What was done.
        item: The item's number, or None.
        category: What was searched for, as the catalogue names it, or None.
        at_ms: When, milliseconds since the epoch.
    """

    kind: EventKind
    item: int | None
    category: str | None
    at_ms: int


class LiveEvents:
    """The latest events of the customers heard of last. Safe to use from several threads.

    Args:
        settings: How many are kept, and for how long.
    """

    def __init__(self, settings: LiveSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._events: OrderedDict[str, tuple[LiveEvent, ...]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._events)

    def add(self, sid: str, event: LiveEvent) -> None:
        """Takes in an event; it is there when this returns.

        Args:
            sid: The customer's pseudonym.
            event: The event; events that come late are put in their place in time.
        """
        with self._lock:
            known = self._events.pop(sid, ())
            # Stable: of one moment, the one that came first stays first.
            ordered = sorted((*known, event), key=lambda each: each.at_ms)
            self._events[sid] = tuple(ordered[-self._settings.most_events :])
            while len(self._events) > self._settings.most_customers:
                self._events.popitem(last=False)

    def of(self, sid: str, now_ms: int) -> tuple[LiveEvent, ...]:
        """A customer's events that still count, oldest first.

        Args:
            sid: Her pseudonym.
            now_ms: The time.
        """
        since_ms = now_ms - self._settings.keep_s * 1000
        return tuple(each for each in self._events.get(sid, ()) if each.at_ms > since_ms)

    def drop(self, sid: str) -> None:
        """Forgets a customer's events."""
        with self._lock:
            self._events.pop(sid, None)

    def keep_only(self, stands: Callable[[str], bool], *, now_ms: int) -> None:
        """Forgets the events of all others, and those that no longer count.

        Args:
            stands: Whether a customer's consent stands, by pseudonym.
            now_ms: The time.
        """
        for sid in list(self._events):
            if not stands(sid) or not self.of(sid, now_ms):
                self.drop(sid)
