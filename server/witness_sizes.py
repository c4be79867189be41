"""What each witness holds of each log, as far as the coordinator knows."""

from __future__ import annotations

from collections.abc import Callable

from server.witness_replies import PublishedLog


class WitnessSizes:
    """The size of the newest checkpoint that each witness cosigned, by log.

    Args:
        guess: What a witness not heard of yet probably holds of a log, by origin: what the
            coordinator itself holds, for all are asked at the same times.
    """

    def __init__(self, guess: dict[str, int]) -> None:
        self._guess = guess
        # By origin, then by witness.
        self._known: dict[str, dict[str, int]] = {}

    def learn(self, witness: str, origin: str, size: int) -> None:
        """Notes what a witness holds."""
        self._known.setdefault(origin, {})[witness] = size

    def held_of(self, origin: str) -> list[int]:
        """The sizes that witnesses hold of a log, ascending: it must prove its way from each."""
        known = self._known.get(origin, {}).values()
        return sorted({0, self._guess.get(origin, 0), *known})

    def way_to(self, witness: str, log: PublishedLog) -> tuple[int, tuple[bytes, ...]]:
        """The size to name to a witness, and the log's proof from there.

        Without a proof from what it holds, size 0 is named: the witness then says what it holds.
        """
        known = self._known.get(log.origin, {})
        old = known.get(witness, self._guess.get(log.origin, 0))
        proof = log.proofs.get(old)
        return (0, ()) if proof is None or old > log.size else (old, proof)

    def corrected(
        self,
        witness: str,
        log: PublishedLog,
        size: int,
        trouble: Callable[[str, str, str], None],
    ) -> bool:
        """Notes what a witness says it holds; whether the log can now be shown to continue it.

        Args:
            witness: The witness.
            log: What it was shown.
            size: The size it holds.
            trouble: Told of a rollback: the witness holds more than there is.
        """
        self.learn(witness, log.origin, size)
        if size <= log.size:
            return True
        trouble(
            log.party,
            "log-rolled-back",
            f"{witness} holds {size} entries of the log of {log.party}, which now shows "
            f"{log.size}.",
        )
        return False
