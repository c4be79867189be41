"""What an entry says of the consents that it rests on, held against its log.

A round and an answer to a query both name a size of the region's log, and the root of the set of
customers whose consents were in force there.
"""

from __future__ import annotations

from collections.abc import Collection

from common.audit.sparse_merkle import position, sparse_root
from common.audit.verify.fields import Record
from common.audit.verify.records import FEDERATED_TRAINING
from common.audit.verify.replay import CLOCK_TOLERANCE_MS, Entry, Evidence, LogReplay
from common.audit.verify.verdict import ROUNDS
from common.timestamps import parse_time

# The greatest age of a consent snapshot when its round starts; a region's policy may ask for less.
MAX_CONSENT_AGE_MS = 600_000


class SnapshotChecks:
    """The consent snapshots of one region's log, in its order.

    Args:
        evidence: The verified content.
        replay: The region's log.
    """

    def __init__(self, evidence: Evidence, replay: LogReplay) -> None:
        self._evidence = evidence
        self._replay = replay
        self._policies: list[Entry] = []
        self._nonces: set[str] = set()

    def take_policy(self, entry: Entry) -> None:
        """Takes the next policy of the log."""
        self._policies.append(entry)

    def policy_at(self, size: int) -> Record:
        """The policy in force when the log had this size."""
        held = [entry for entry in self._policies if entry.index < size]
        return held[-1].part("policy") if held else {}

    def max_age_ms(self, entry: Entry) -> int:
        """How old an entry's snapshot may be: the policy's bound, 10 minutes at most."""
        age_s = self.policy_at(snapshot_size(entry)).get("consent_age_max_s")
        if type(age_s) is not int or age_s < 0:
            return MAX_CONSENT_AGE_MS
        return min(MAX_CONSENT_AGE_MS, age_s * 1000)

    def is_in_place(self, entry: Entry) -> bool:
        """Whether an entry's snapshot is of this log, before the entry, under a signed root."""
        consent = entry.part("consent")
        if consent["origin"] != self._replay.origin:
            self._fail("consent-origin", entry, "It names the consents of another log.")
            return False
        size = snapshot_size(entry)
        if size > entry.index:
            self._fail(
                "consent-size", entry, f"It names {size} entries of a log that had {entry.index}."
            )
            return False
        root = self._replay.roots.get(size)
        if root is None:
            self._fail(
                "consent-checkpoint", entry, f"There is no valid signed checkpoint of size {size}."
            )
            return False
        if root != consent["root"]:
            self._fail("consent-root", entry, f"The log's root at size {size} is another.")
            return False
        return True

    def take_nonce(self, entry: Entry, nonce: str) -> None:
        """Checks that a nonce is nobody else's: under one nonce, customers would link."""
        if nonce in self._nonces:
            self._fail("nonce-reused", entry, "Its nonce is an earlier entry's: customers link.")
        self._nonces.add(nonce)

    def check_included(
        self,
        entry: Entry,
        included: Record,
        purposes: Collection[str] = (FEDERATED_TRAINING,),
    ) -> frozenset[bytes]:
        """Checks that exactly the customers whose consents were in force are in an entry's set.

        Args:
            entry: The entry.
            included: What it says of the set: root, nonce, number and time.
            purposes: What they must have consented to.

        Returns:
            Those customers' pseudonyms.
        """
        at_ms, size = parse_time(str(included["at"])), snapshot_size(entry)
        sids = self.eligible(entry, size, at_ms, purposes)
        nonce = bytes.fromhex(str(included["nonce"]))
        positions = [position(nonce, sid) for sid in sids]
        self._evidence.findings.count(ROUNDS, "eligible customers", len(positions))
        if not positions:
            self._fail("no-consent", entry, "Nobody's consent was in force.")
            return frozenset()
        # Subjects are distinct, so their positions are: the tree exists.
        if sparse_root(positions).hex() != included["root"]:
            self._fail(
                "eligible-set",
                entry,
                f"It was computed on another set of customers than the {len(positions)} whose "
                f"consent was in force at size {size}.",
            )
        low = 1 << (len(positions).bit_length() - 1)
        if included["n_bucket"] != f"{low}-{2 * low - 1}":
            self._fail("size-bucket", entry, "Its stated number of customers is wrong.")
        return frozenset(sids)

    def eligible(
        self, entry: Entry, size: int, at_ms: int, purposes: Collection[str]
    ) -> list[bytes]:
        """Whose consents were in force at a size of the log, under the policy of an entry."""
        grace_s = self.policy_at(snapshot_size(entry)).get("notice_grace_s")
        # Without a policy that says otherwise, a superseded notice has no grace.
        grace_ms = grace_s * 1000 if type(grace_s) is int else 0
        return list(self._replay.consents.eligible(size, at_ms, grace_ms, purposes))

    def check_age(self, entry: Entry, at_ms: int) -> None:
        """Checks that a snapshot was fresh when the entry's work began, by clocks and by order."""
        size = snapshot_size(entry)
        start_ms, end_ms = entry.time_ms("start"), entry.time_ms("end")
        max_age_ms, latest_ms = self.max_age_ms(entry), end_ms + CLOCK_TOLERANCE_MS
        if not (start_ms - max_age_ms <= at_ms <= latest_ms and start_ms <= latest_ms):
            self._fail(
                "consent-age",
                entry,
                f"Its consent snapshot was not taken within {max_age_ms // 1000} s before "
                "its start and its end.",
            )
        if at_ms + CLOCK_TOLERANCE_MS < self._replay.times_ms.get(size, 0):
            self._fail(
                "clock-rollback", entry, "Its clock is behind the entries that it builds upon."
            )
        if latest_ms + max_age_ms < entry.after_ms:
            # Withdrawals could stand before it that it says came after.
            self._fail("clock-rollback", entry, "It was logged long after it says that it ended.")

    def _fail(self, code: str, entry: Entry, message: str) -> None:
        self._evidence.fail(ROUNDS, code, entry, message)


def snapshot_size(entry: Entry) -> int:
    """At how many entries of its log an entry's consents end."""
    size = entry.part("consent")["size"]
    return size if isinstance(size, int) else 0
