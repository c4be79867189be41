"""The consent snapshot of a round, from the checkpoint's publication till the update is sealed.

A round trains on who consented at the very size of the log that the others have cosigned. The
snapshot is taken when that size is published, and lies only in memory: an engine that was restarted
in between has none, and asks to be witnessed anew rather than train on a set it cannot vouch for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from client.engine.policy import RegionPolicy
from client.engine.preparation import ConsentSnapshot
from client.engine.refusals import NotWitnessedError
from common.audit.cosigners import Cosigners, within

# Another party's clock may be a little ahead of ours; the verifier allows the same.
CLOCK_SLACK_S = 60


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


class PublishedSnapshots:
    """The newest published checkpoint, and when it may be trained on.

    Args:
        region: The region's party name.
        policy: Its policy, which bounds the snapshot's and the cosignatures' age.
        cosigners: Who may cosign.
    """

    def __init__(self, region: str, policy: RegionPolicy, cosigners: Cosigners) -> None:
        self._region = region
        self._policy = policy
        self._cosigners = cosigners
        self._newest: Published | None = None

    def publish(self, published: Published) -> None:
        """Takes the place of whatever was published before."""
        self._newest = published

    def published(self, run: str, server_round: int | None) -> Published | None:
        """The newest published checkpoint, if it was for this round."""
        newest = self._newest
        if newest is None or (newest.run, newest.server_round) != (run, server_round):
            return None
        return newest

    def spend(self) -> None:
        """Forgets the snapshot: a nonce serves one sealed update."""
        self._newest = None

    def use(
        self, run: str, server_round: int, lines: Sequence[str], *, start_ms: int
    ) -> ConsentSnapshot:
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
        if len(counted) < self._cosigners.quorum:
            raise self._error(
                f"{len(counted)} of the {self._cosigners.quorum} other parties needed have "
                f"cosigned its checkpoint of size {published.size} in time",
                "Bring the missing witnesses back.",
            )
        return published.snapshot

    def _error(self, what: str, remedy: str) -> NotWitnessedError:
        return NotWitnessedError(
            f"{self._region}: {what}.",
            remedy=remedy or "The coordinator publishes and has it cosigned once more.",
        )
