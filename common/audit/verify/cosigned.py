"""Step 2, its witnesses' half: which other parties cosigned which sizes of a log, and when.

What a party's own witness key says of its own log counts for nothing: a cosignature is worth
something because someone else would have had to take part in a lie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator


class CosignedSizes:
    """The cosignatures of one log's checkpoints by other parties, each valid at its time."""

    def __init__(self) -> None:
        self._times: dict[int, dict[str, set[int]]] = {}

    def add(self, size: int, cosignatures: Iterable[tuple[str, int]]) -> None:
        """Takes (party, time in milliseconds since the epoch) pairs of one checkpoint."""
        parties = self._times.setdefault(size, {})
        for party, time_ms in cosignatures:
            parties.setdefault(party, set()).add(time_ms)

    def __iter__(self) -> Iterator[tuple[int, str, tuple[int, ...]]]:
        """Every size and party, with the times of its cosignatures, in order."""
        for size, parties in sorted(self._times.items()):
            for party, times in sorted(parties.items()):
                yield size, party, tuple(sorted(times))

    def count(self, size: int, *, earliest_ms: int = 0, latest_ms: int = 2**63 * 1000) -> int:
        """How many distinct parties cosigned a size within a span of time, its ends included."""
        return sum(
            any(earliest_ms <= time_ms <= latest_ms for time_ms in times)
            for times in self._times.get(size, {}).values()
        )

    def newest(self, quorum: int, *, latest_ms: int = 2**63 * 1000) -> int:
        """The largest size that enough parties cosigned, no later than a time; 0 if none."""
        return max(
            (size for size in self._times if self.count(size, latest_ms=latest_ms) >= quorum),
            default=0,
        )


class SettledEntries:
    """Which entries of a log stand although their key was revoked later.

    An entry signed with a revoked key counts only if a checkpoint that covers it was cosigned by
    enough other parties before the revocation: whoever has the stolen key can state any time.

    Args:
        cosigned: The cosignatures of the log's checkpoints.
        quorum_at: How many parties must cosign, at a time in milliseconds since the epoch.
    """

    def __init__(self, cosigned: CosignedSizes, quorum_at: Callable[[int], int]) -> None:
        self._cosigned = cosigned
        self._quorum_at = quorum_at
        self._sizes: dict[int, int | None] = {}

    def covers(self, index: int, revoked_ms: int) -> bool:
        """Whether an entry was covered before a revocation; where no one need cosign, it is."""
        if revoked_ms not in self._sizes:
            quorum = self._quorum_at(revoked_ms)
            newest = self._cosigned.newest(quorum, latest_ms=revoked_ms - 1)
            self._sizes[revoked_ms] = newest if quorum else None
        size = self._sizes[revoked_ms]
        return size is None or index < size
