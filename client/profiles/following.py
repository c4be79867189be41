"""Profiles kept current: what is new is looked for again and again, until told to end.

Whatever hinders a look (a store that is down, a file half written, a table that fails the quality
gate) leaves the profiles as they are, and the next look tries again: a process that ended with it
would be started, read everything and end again. Consent is asked for whenever a profile is read, so
nobody's is shown for longer because of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol

from client.profiles.making import Outcome
from client.profiles.region import RegionProfiles
from common.errors import FedprefError

#: After failures the next look waits longer, up to so long (or the usual time, if that is longer):
#: a table that stays wrong is not read whole every few seconds.
LONGEST_WAIT_S = 300.0


class FollowObserver(Protocol):
    """Is told what comes of each look."""

    def refreshed(self, outcome: Outcome) -> None:
        """Profiles are current, or were built anew."""
        ...

    def failed(self, error: FedprefError) -> None:
        """They could not be brought up to date; it is tried again."""
        ...


def keep_current(
    open_profiles: Callable[[], AbstractContextManager[RegionProfiles]],
    told: threading.Event,
    observer: FollowObserver,
    *,
    every_s: float,
    longest_wait_s: float = LONGEST_WAIT_S,
) -> None:
    """Keeps profiles current until told to end; a look that is under way ends first.

    Args:
        open_profiles: Opens the region's profiles; tried again, too, if it fails.
        told: Is set when it is to end.
        observer: Is told what comes of each look.
        every_s: How long to wait between two looks, in seconds.
        longest_wait_s: How long at most after looks that failed, in seconds.
    """
    wait_s, profiles = every_s, None
    with ExitStack() as stack:
        while not told.is_set():
            try:
                if profiles is None:
                    profiles = stack.enter_context(open_profiles())
                for outcome in profiles.look():
                    observer.refreshed(outcome)
                    # A build may be due and take minutes: the next process makes it.
                    if told.is_set():
                        return
                wait_s = every_s
            except FedprefError as error:
                observer.failed(error)
                wait_s = max(every_s, min(2 * wait_s, longest_wait_s))
            told.wait(wait_s)
