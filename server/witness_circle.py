"""Which regions are asked first to witness a log, so that a phase's cost grows like the regions.

If every region witnessed every log, a round of 256 regions would take 65,000 cosignatures, of which
a log's quorum needs a few. So each log is shown to a number of regions that stand next to it in a
circle; the coordinator and the outside witnesses see all logs all the same. The circle's order
comes from a hash of the run's and the parties' names: no region chooses whose witness it is, and
each run has other neighbours. Where a log's neighbours do not make its quorum, all are asked.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Collection
from itertools import islice

from common.audit.cosigners import MAX_LINES

#: How many regions a log is shown to at least, if there are as many.
LEAST_WITNESSES = 8
# How many of those asked are needed, one in so many: some may be down.
_SPARE = 2


class WitnessCircle:
    """The regions of a phase in the order of a hash.

    Args:
        run: The run's id.
        regions: Who can be asked.
        quorum: How many others must cosign a checkpoint.
    """

    def __init__(self, run: str, regions: Collection[str], quorum: int) -> None:
        self._run = run
        self._places = sorted((self._place(region), region) for region in regions)
        # Of more lines than these none is read.
        asked = min(max(LEAST_WITNESSES, _SPARE * quorum), MAX_LINES)
        self._asked = min(asked, len(self._places))

    @property
    def whole(self) -> bool:
        """Whether every log is shown to every region that there is."""
        return self._asked == len(self._places)

    def witnesses_of(self, party: str) -> list[str]:
        """Whom a party's log is shown to: the regions that follow it in the circle."""
        start = bisect_right(self._places, (self._place(party), party))
        size = len(self._places)
        around = (self._places[(start + step) % size][1] for step in range(size))
        return list(islice((region for region in around if region != party), self._asked))

    def _place(self, party: str) -> bytes:
        return hashlib.sha256(f"{self._run}\n{party}".encode()).digest()
