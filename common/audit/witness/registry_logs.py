"""The logs that a witness watches, as the federation's key registry has them at the moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from common.audit.checkpoint import NoteKey
from common.keys import Registry
from common.timestamps import now_ms


class RegistryLogs(Mapping[str, Sequence[NoteKey]]):
    """By the origin of each party's log, the keys it may sign with now.

    A log whose keys are all revoked or expired is still a known one: it has no keys. The registry
    and the clock are asked at each look-up, so that a revocation takes effect at once.

    Args:
        registry: Gives the newest registry.
        but: A party whose log is left out: nobody is their own witness.
        clock_ms: Gives the time in milliseconds since the epoch.
    """

    def __init__(
        self,
        registry: Callable[[], Registry],
        *,
        but: str | None = None,
        clock_ms: Callable[[], int] = now_ms,
    ) -> None:
        self._registry = registry
        self._but = but
        self._clock_ms = clock_ms

    def __getitem__(self, origin: str) -> tuple[NoteKey, ...]:
        registry, at_ms = self._registry(), self._clock_ms()
        federation, _, party = origin.rpartition("/")
        entries = registry.keys_of(party, "log")
        if federation != registry.federation or party == self._but or not entries:
            raise KeyError(origin)
        return tuple(
            NoteKey(origin, entry.public_key)
            for entry in entries
            if entry.not_before_ms <= at_ms < entry.not_after_ms
            and (entry.revoked_at_ms is None or at_ms < entry.revoked_at_ms)
        )

    def __iter__(self) -> Iterator[str]:
        registry = self._registry()
        parties = {entry.party for entry in registry.entries if entry.role == "log"}
        return (f"{registry.federation}/{party}" for party in sorted(parties - {self._but}))

    def __len__(self) -> int:
        return sum(1 for _ in self)
