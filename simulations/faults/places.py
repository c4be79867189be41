"""What happens at a place of a process: it ends, stops, or its disk is full.

A place is a failpoint (`common.failpoints`), a write, sync, truncation or deletion of SQLite, or
one that the hosting process names itself, such as the moment after a payload has left. This is the
one module beside tests that sets the failpoints' hook. It does so in processes that were forked for
nothing else, and simulations alone can import it.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import apsw

from common import failpoints
from common.failpoints import AnyPoint, CoordinatorPoint, Point
from simulations.faults.children import Teller
from simulations.faults.disk import fault_vfs

#: A payload has left the region, and its judge has looked.
LEFT = "left"
Act = Literal["kill", "stop", "full"]


@dataclass(frozen=True)
class Trap:
    """What happens where.

    Attributes:
        place: The place's name; SQLite's are such as ``write ledger.sqlite-wal``.
        act: ``kill`` is SIGKILL, ``stop`` is SIGSTOP, ``full`` answers that the disk is full.
        server_round: In which round; None for whatever round.
        passing: At which passing of the place in that round, from 1; 0 for every one.
    """

    place: str
    act: Act = "kill"
    server_round: int | None = None
    passing: int = 1


class Places:
    """Counts a process's places and springs its traps. Use `watched_places`.

    Args:
        teller: Who is told before the process is killed or stopped.
        traps: What is to happen.
        read_round: At a coordinator, gives the round that has just started.
    """

    def __init__(
        self, teller: Teller, traps: Sequence[Trap], read_round: Callable[[], int] | None
    ) -> None:
        self.server_round = 0
        self._teller = teller
        self._traps = traps
        self._read_round = read_round
        self._passed: Counter[tuple[str, int]] = Counter()
        self._lock = threading.Lock()

    def at(self, place: str) -> None:
        """A place is passed."""
        if place == CoordinatorPoint.ROUND_STARTED and self._read_round is not None:
            self.server_round = self._read_round()
            self._teller.tell(started=self.server_round)
        if place == Point.NOISED:
            self._teller.tell(trained=self.server_round)
        with self._lock:
            now = self.server_round
            self._passed[place, now] += 1
            count = self._passed[place, now]
        for trap in self._traps:
            if (
                trap.place == place
                and trap.server_round in (None, now)
                and trap.passing in (0, count)
            ):
                self._spring(trap, place)

    def _spring(self, trap: Trap, place: str) -> None:
        self._teller.tell(sprung=trap.act, place=str(place), round=self.server_round)
        if trap.act == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif trap.act == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif " " in place and ".sqlite" in place:
            raise apsw.FullError("the disk is full")
        else:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def watched_places(
    teller: Teller, traps: Sequence[Trap], *, read_round: Callable[[], int] | None = None
) -> Iterator[Places]:
    """Sets this process's traps while the body runs; the process must be forked for it.

    Args:
        teller: Who is told.
        traps: What is to happen.
        read_round: At a coordinator, gives the round that has just started.
    """
    places = Places(teller, traps, read_round)

    def hook(point: AnyPoint) -> None:
        places.at(point)

    with fault_vfs() as disk:
        disk.fault = lambda _: places.at(disk.operation)
        failpoints.hook = hook
        try:
            yield places
        finally:
            failpoints.hook = None
            disk.fault = lambda _: None
