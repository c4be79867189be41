"""The consent snapshot of a round, from the checkpoint's publication till the update is sealed.

A round trains on who consented at the very size of the log that the others have cosigned. The
snapshot is taken when that size is published, and lies only in memory: an engine that was restarted
in between has none, and asks to be witnessed anew rather than train on a set it cannot vouch for.

Each run has its own: what one run publishes takes nothing from another that is between its own
checkpoint and its training. A snapshot may hold every customer's pseudonym, so there are a few at
most, and one that is too old to be trained on makes room.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from client.engine.policy import RegionPolicy
from client.engine.preparation import ConsentSnapshot
from client.engine.refusals import NotWitnessedError, TooManyRunsError
from common.audit.cosigners import Cosigners, within

# Another party's clock may be a little ahead of ours; the verifier allows the same.
CLOCK_SLACK_S = 60
#: How many runs may be between a checkpoint and a sealed round at a time.
MAX_RUNS = 4


@dataclass(frozen=True)
class Published:
    """A published checkpoint.

    Attributes:
        run: The run it was published for.
        server_round: The round; None once the last one is over.
        size: The checkpoint's size.
        note: The signed checkpoint.
        snapshot: Who consents at that size; None where no training follows.
    """

    run: str
    server_round: int | None
    size: int
    note: bytes
    snapshot: ConsentSnapshot | None


@dataclass(frozen=True)
class Witnessed:
    """A snapshot that may be trained on.

    Attributes:
        snapshot: Who consents.
        cosigned_s: When the oldest of the cosignatures that make the quorum was given, in seconds
            since the epoch; None where none are asked for.
    """

    snapshot: ConsentSnapshot
    cosigned_s: int | None


class PublishedSnapshots:
    """The newest published checkpoint of each run, and when it may be trained on.

    Safe to use from several threads.

    Args:
        region: The region's party name.
        policy: Its policy, which bounds the snapshot's and the cosignatures' age.
        cosigners: Who may cosign.
    """

    def __init__(self, region: str, policy: RegionPolicy, cosigners: Cosigners) -> None:
        self._region = region
        self._policy = policy
        self._cosigners = cosigners
        self._newest: dict[str, Published] = {}
        self._lock = threading.Lock()

    def make_room(self, run: str, now_ms: int) -> None:
        """Makes sure that a run can have a snapshot, before one is taken.

        Args:
            run: The run.
            now_ms: Now, in milliseconds since the epoch.

        Raises:
            TooManyRunsError: As many other runs are about to train.
        """
        oldest_ms = now_ms - self._policy.consent_age_max_s * 1000
        latest_ms = now_ms + CLOCK_SLACK_S * 1000
        with self._lock:
            for name, each in list(self._newest.items()):
                taken_ms = -1 if each.snapshot is None else each.snapshot.at_ms
                # A clock that was wrong for a while leaves none that nobody can use or remove.
                if not oldest_ms <= taken_ms <= latest_ms:
                    del self._newest[name]
            if len(self._newest.keys() - {run}) >= MAX_RUNS:
                raise TooManyRunsError(
                    f"{self._region}: {MAX_RUNS} other runs are about to train.",
                    remedy="Wait till one of them has ended its round.",
                )

    def publish(self, published: Published) -> None:
        """Takes the place of what was published for the same run before."""
        with self._lock:
            if published.snapshot is None:
                # Nothing is trained on it; it only ends what was before.
                self._newest.pop(published.run, None)
            else:
                self._newest[published.run] = published

    def published(self, run: str, server_round: int) -> Published | None:
        """The newest published checkpoint of a run, if it was for this round."""
        with self._lock:
            newest = self._newest.get(run)
        if newest is None or newest.server_round != server_round:
            return None
        return newest

    def spend(self, run: str) -> None:
        """Forgets a run's snapshot: a nonce serves one sealed update."""
        with self._lock:
            self._newest.pop(run, None)

    def use(self, run: str, server_round: int, lines: Sequence[str], *, start_ms: int) -> Witnessed:
        """The snapshot to train on.

        Args:
            run: The run.
            server_round: The round.
            lines: The cosignatures of the published checkpoint.
            start_ms: When training starts, in milliseconds since the epoch.

        Raises:
            NotWitnessedError: Nothing was published for this round since the engine was opened, it
                is too old by now, or too few other parties cosigned it in time.
        """
        published = self.published(run, server_round)
        if published is None or published.snapshot is None:
            raise self._error(f"no checkpoint was published for round {server_round}", "")
        age_max_s = self._policy.consent_age_max_s
        age_s = (start_ms - published.snapshot.at_ms) / 1000
        if not -CLOCK_SLACK_S <= age_s <= age_max_s:
            raise self._error(
                f"the consent snapshot is {age_s:.0f} s old; its policy allows {age_max_s} s", ""
            )
        counted = within(
            self._cosigners.verified(published.note, lines, party=self._region),
            earliest_s=start_ms / 1000 - age_max_s,
            latest_s=start_ms / 1000 + CLOCK_SLACK_S,
        )
        quorum = self._cosigners.quorum
        if len(counted) < quorum:
            raise self._error(
                f"{len(counted)} of the {quorum} other parties needed have "
                f"cosigned its checkpoint of size {published.size} in time",
                "Bring the missing witnesses back.",
            )
        times = sorted((each.time_s for each in counted.values()), reverse=True)
        return Witnessed(published.snapshot, times[quorum - 1] if quorum else None)

    def _error(self, what: str, remedy: str) -> NotWitnessedError:
        return NotWitnessedError(
            f"{self._region}: {what}.",
            remedy=remedy or "The coordinator publishes and has it cosigned once more.",
        )
