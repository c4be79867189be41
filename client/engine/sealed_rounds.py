"""What happens to a sealed update: it is logged and may leave, or it is given up and stays.

Which of the two a withdrawal in the middle of a round brings about is the policy's choice, named in
the log. ``finish``: the round was lawful when it began, and ends. ``discard``: if anyone in the
round has withdrawn by the time it would be logged, an incident takes the place of the round and its
release, and the seal is removed; the charge stays. The check and the append are one: a withdrawal
that comes between them makes the append fail, and the check is done again.

A seal that a crash kept from the log is given up as well once it is older than a consent snapshot
may be: logged as of then, it would stand after choices that it does not know. So it is if the
region has logged another round of the run since: each round entry names the one before it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Set

from client.engine.incidents import incident_record
from client.engine.log_state import DISCARDED, OUTDATED, LogState
from client.engine.policy import RegionPolicy
from client.engine.refusals import DiscardedError, OutdatedError
from client.engine.seal import Seal, SealStore
from common.audit.entry import make_entry
from common.audit.log import AuditLog, LogMovedError
from common.audit.merkle import leaf_hash
from common.canonical_json import JsonValue
from common.consent import FEDERATED_TRAINING
from common.envelope import Envelope
from common.errors import FormatError, PolicyError
from common.failpoints import Point, reach
from common.keys import Registry, Signer
from common.timestamps import parse_time


class SealedRounds:
    """A region's sealed updates on their way into its log.

    Args:
        log: The region's open log.
        state: What the log says.
        seals: The folder of seals.
        registry: The verified key registry.
        policy: The policy in force.
        purpose_of: The purpose that a run's customers consented to, by the run's permit.
        signer: The region's ``trainer`` key.
        clock_ms: Now, in milliseconds since the epoch.
    """

    def __init__(
        self,
        log: AuditLog,
        state: LogState,
        seals: SealStore,
        *,
        purpose_of: Callable[[str], str],
        registry: Registry,
        policy: RegionPolicy,
        signer: Signer,
        clock_ms: Callable[[], int],
    ) -> None:
        self._log = log
        self._state = state
        self._seals = seals
        self._purpose_of = purpose_of
        self._registry = registry
        self._policy = policy
        self._signer = signer
        self._clock_ms = clock_ms

    def read(self, run: str, server_round: int) -> Seal | None:
        """Reads a round's seal back, or None if the round was never sealed.

        Raises:
            DiscardedError, OutdatedError: The round was given up; the log says so.
            PolicyError: It was never sealed, and a later round of the run is logged.
            StorageError: The seal was altered.
        """
        self._state.refresh()
        if (run, server_round) in self._state.discarded:
            # A crash may have come between the incident and this.
            self._seals.remove(run, server_round)
            raise self._discarded(server_round)
        if (run, server_round) in self._state.outdated:
            self._seals.remove(run, server_round)
            raise self._outdated(server_round)
        seal = self._seals.read(run, server_round)
        if seal is None and server_round < self._state.newest_round.get(run, 0):
            raise PolicyError(
                f"{self._policy.region}: round {server_round} is over; a later one is in its log.",
                remedy="The coordinator goes on with the round after the newest.",
            )
        return seal

    def log(
        self, run: str, server_round: int, seal: Seal, *, included: Set[str] | None = None
    ) -> int:
        """Logs a seal's two entries once, and gives the round entry's index.

        Args:
            run: The run.
            server_round: The round.
            seal: The seal.
            included: The pseudonyms it was trained on; None to take them from the log.

        Raises:
            DiscardedError: Someone in it has withdrawn, and the policy is ``discard``.
            OutdatedError: It was sealed longer ago than a consent snapshot may be old, or another
                round of the run was logged since.
        """
        logged = self.logged(seal)
        if logged is None and (self._too_old(seal) or self._overtaken(run, seal)):
            self._give_up(run, server_round, OUTDATED, self._outdated(server_round))
        while logged is None:
            self._state.refresh()
            judged = self._state.size
            if self._discards() and self._someone_left(run, seal, included):
                self._give_up(run, server_round, DISCARDED, self._discarded(server_round))
            try:
                entries = [seal.round_entry, seal.release_entry]
                logged = self._log.append(entries, expected_size=judged)[0]
            except LogMovedError:
                continue
            self._state.refresh()
        return logged

    def must_discard(self, run: str, seal: Seal) -> bool:
        """Whether someone in a logged round has withdrawn, and the policy is ``discard``."""
        return self._discards() and self._someone_left(run, seal, None)

    def proof(self, index: int) -> dict[str, JsonValue]:
        """What shows that an entry is in the log: a checkpoint, and the way from the entry."""
        size = self._log.size
        return {
            "leaf_index": index,
            "checkpoint": self._log.checkpoint_at(size).decode(),
            "inclusion_proof": [node.hex() for node in self._log.inclusion_proof(index, size)],
        }

    def logged(self, seal: Seal) -> int | None:
        """The index of a seal's round entry in the log; None if a crash kept it from there."""
        wanted = leaf_hash(seal.round_entry)
        for index in range(seal.log_size, self._log.size):
            if self._log.leaf_hash(index) == wanted:
                return index
        return None

    def _discards(self) -> bool:
        return self._policy.withdrawal_in_round == "discard"

    def _someone_left(self, run: str, seal: Seal, included: Set[str] | None) -> bool:
        size, at_ms = _consent_of(Envelope.decode(seal.round_entry).record())
        purpose = self._purpose_of(run)
        if purpose != FEDERATED_TRAINING:
            return self._someone_left_purpose(purpose, size, at_ms, included)
        endings = self._state.endings
        left = {sid for _, sid in endings[bisect_left(endings, (size, "")) :]}
        if not left:
            return False
        if included is None:
            # After a restart only the log still knows who was in the round.
            then = LogState(self._log, self._registry, self._policy.region)
            then.refresh(stop=size)
            included = then.eligible(self._policy, at_ms)
        return not left.isdisjoint(included)

    def _someone_left_purpose(
        self, purpose: str, size: int, at_ms: int, included: Set[str] | None
    ) -> bool:
        """The same for another purpose than training, whose endings the state does not list."""
        if included is None:
            then = LogState(self._log, self._registry, self._policy.region)
            then.refresh(stop=size)
            included = self._consenting(then, purpose, at_ms)
        return not included <= self._consenting(self._state, purpose, at_ms)

    def _consenting(self, state: LogState, purpose: str, at_ms: int) -> frozenset[str]:
        grace_s = self._policy.notice_grace_s
        return frozenset(state.consents.eligible(purpose, at_ms, notice_grace_s=grace_s))

    def _too_old(self, seal: Seal) -> bool:
        """Whether a crash left it so long ago that whoever withdrew since would stand before it."""
        end_ms = parse_time(str(Envelope.decode(seal.round_entry).record()["end"]))
        return self._clock_ms() - end_ms > self._policy.consent_age_max_s * 1000

    def _overtaken(self, run: str, seal: Seal) -> bool:
        """Whether another round of the run was logged since: the chain of rounds would fork."""
        named = Envelope.decode(seal.round_entry).record()["prev_round"]
        return named != self._state.last_round(run)

    def _give_up(
        self, run: str, server_round: int, reason: str, error: DiscardedError | OutdatedError
    ) -> None:
        record = incident_record(
            run=run,
            server_round=server_round,
            region=self._policy.region,
            reason=reason,
            detail=error.message,
            time_ms=self._clock_ms(),
        )
        # The incident marks the round for good; only then may the seal go.
        self._log.append([make_entry(record, self._signer)])
        self._state.refresh()
        reach(Point.GIVEN_UP)
        self._seals.remove(run, server_round)
        raise error

    def _discarded(self, server_round: int) -> DiscardedError:
        return DiscardedError(
            f"{self._policy.region}: the update of round {server_round} was discarded, for a "
            "customer in it withdrew before it was sent; its charge stays.",
            remedy="The next round is without that customer.",
        )

    def _outdated(self, server_round: int) -> OutdatedError:
        return OutdatedError(
            f"{self._policy.region}: the update of round {server_round} was sealed, and not logged "
            f"within {self._policy.consent_age_max_s} s or before another round; it stays, and its "
            "charge too.",
            remedy="The region takes part again in the next round.",
        )


def _consent_of(record: dict[str, JsonValue]) -> tuple[int, int]:
    """The size and the time of the consent snapshot that a round entry names."""
    consent, train = record["consent"], record["train"]
    if not isinstance(consent, dict) or not isinstance(train, dict):
        raise FormatError("The sealed round entry names no consent snapshot.")
    return int(str(consent["size"])), parse_time(str(train["at"]))
