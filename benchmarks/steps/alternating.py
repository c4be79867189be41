"""Times things in turn, in one process and one thread, so that what slows one slows all.

Processor time is taken, not the clock's: on a machine that others use too, waiting for a core is
not work. With one thread the two agree where nobody else works.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

Work = Callable[[], object]
Named = TypeVar("Named")


@dataclass(frozen=True)
class Times:
    """Processor seconds of each thing in each turn.

    Attributes:
        seconds: By name; every list has one figure a turn, in the same order.
    """

    seconds: Mapping[str, list[float]]

    def median_s(self, name: str) -> float:
        """The median over the turns."""
        return median(self.seconds[name])

    def ratio(self, name: str, to: str) -> float:
        """The median over the turns of the ratio within a turn."""
        pairs = zip(self.seconds[name], self.seconds[to], strict=True)
        return median(one / other for one, other in pairs)


def alternate(things: Mapping[str, Work], *, turns: int) -> Times:
    """Does each thing once unmeasured, then all of them in turn, there and back.

    What comes after something that has filled memory and caches is slowed by it: every other turn
    goes backwards, so that this is not always the same one.

    Args:
        things: What to do, by name.
        turns: How often each is measured.
    """
    for work in things.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in things}
    order = list(things)
    for turn in range(turns):
        for name in order if turn % 2 == 0 else reversed(order):
            seconds[name].append(cpu_s(things[name]))
    return Times(seconds)


def quickest(candidates: Mapping[str, Work]) -> str:
    """The name of the thing that took least in two measured turns: how a baseline is chosen."""
    times = alternate(candidates, turns=2)
    return min(candidates, key=lambda name: min(times.seconds[name]))


def cpu_s(work: Work) -> float:
    """Processor seconds of one call."""
    started = time.process_time()
    work()
    return time.process_time() - started
