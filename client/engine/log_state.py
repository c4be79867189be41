"""What a region's own log says, replayed entry by entry: consents, rounds and charges.

The engine reads its log as anyone else would: each consent record counts only if its signature
verifies under a consent key of the registry that was valid when the record was made.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from client.engine.logged_charges import LoggedCharge
from client.engine.policy import RegionPolicy
from common.audit.log import AuditLog
from common.canonical_json import JsonValue
from common.consent import FEDERATED_TRAINING, GIVEN, ConsentRecord, ConsentReplay, parse_consent
from common.envelope import Envelope, verify_envelope
from common.errors import FedprefError, VerificationError
from common.keys import Registry
from common.notice import LoggedNotice, parse_notice
from common.timestamps import parse_time

#: The incident that marks a round whose update was discarded.
DISCARDED = "discarded-for-withdrawal"
#: The incident that marks a round whose update was sealed too long before it could be logged.
OUTDATED = "seal-too-old"

# The field that says when a record was made. A consent has a property for it; a policy or a notice
# only says from when it holds.
_MADE_AT = {
    "permit": "issued_at",
    "query": "issued_at",
    "answer": "end",
    "charge": "time",
    "round": "end",
    "release": "time",
    "mask": "time",
    "unmask": "time",
    "incident": "time",
    # What people sign has their clocks' time.
    "access-expiry": "time",
}


@dataclass(frozen=True)
class LoggedMask:
    """A mask entry as the log has it.

    Attributes:
        index: Its index in the log.
        attempt: The attempt.
        roster: The roster's digest, in hex.
        regions: The roster's regions.
    """

    index: int
    attempt: int
    roster: str
    regions: tuple[str, ...]


class LogState:
    """The state of one region's log at a size that only grows.

    Args:
        log: The region's open log.
        registry: The verified key registry.
        region: The region's party name.

    Attributes:
        lock: Held while the log is replayed. Whoever needs the state to stay at one size, or to
            append what depends on it, holds it meanwhile.
        consents: The consents in force.
        notices: Every notice, in the log's order.
        rounds: The indices of the region's round entries.
        charges: Every logged charge by its id.
        released: The charges under which a round or an answer was logged: each has paid for its
            release.
        purposes: By run what its permit says that customers have to consent to.
        newest_round: By run the number of the last round that the region logged.
        masks: By (run, round) the masks that the region has logged, in order.
        discarded: The (run, round) of each update that was discarded for a withdrawal.
        outdated: The (run, round) of each update that was sealed too long before.
        endings: The index and pseudonym of every consent record that does not allow training:
            whoever had allowed it before has ended it there.
        access: The index and the bytes of every entry about access to sensitive columns.
        policy_sha256: Digest of the policy in force, as the controller signed it.
        notice_graces: The index of each policy, and for how many seconds it keeps consents to a
            superseded notice in force.
        newest_ms: The latest time that an entry says it was made, in milliseconds since the epoch.
        size: How many entries were replayed.
    """

    def __init__(self, log: AuditLog, registry: Registry, region: str) -> None:
        self._log = log
        self._registry = registry
        self._region = region
        self._consent_keys = {
            key.key_id: key.public_key for key in registry.keys_of(region, "consent")
        }
        self._last_round: dict[str, str] = {}
        self._controller_keys = {
            key.key_id: key.public_key for key in registry.keys_of(region, "controller")
        }
        self.lock = threading.RLock()
        self.consents = ConsentReplay()
        self.notices: list[LoggedNotice] = []
        self.rounds: list[int] = []
        self.charges: dict[str, LoggedCharge] = {}
        self.released: set[str] = set()
        self.purposes: dict[str, str] = {}
        self.newest_round: dict[str, int] = {}
        self.masks: dict[tuple[str, int], list[LoggedMask]] = {}
        self.discarded: set[tuple[str, int]] = set()
        self.outdated: set[tuple[str, int]] = set()
        self.endings: list[tuple[int, str]] = []
        self.access: list[tuple[int, bytes]] = []
        self.policy_sha256: str | None = None
        self.notice_graces: list[tuple[int, int]] = []
        self.newest_ms = 0
        self.size = 0

    def refresh(self, *, stop: int | None = None) -> None:
        """Replays what was logged since the last call.

        Args:
            stop: One past the last index to replay; the log's size now if None.

        Raises:
            VerificationError: An entry is not what it claims to be; names the log and the index.
        """
        with self.lock:
            for index, data in self._log.entries(start=self.size, stop=stop):
                try:
                    self._apply(index, data)
                except FedprefError as error:
                    raise VerificationError(
                        f"Entry {index} of the log of {self._region} does not hold: {error}",
                        remedy="Verify the log with fedpref-audit; nothing is trained till then.",
                    ) from error
                self.size = index + 1

    def check_consent_key(self, key_id: str, at_ms: int) -> None:
        """Checks that a key may sign the region's consents at a time, before anything is signed.

        Raises:
            VerificationError: It is not enrolled for that, or not valid then.
        """
        self._registry.find(key_id, party=self._region, role="consent", at_ms=at_ms)

    def take_own(self, records: Sequence[ConsentRecord], entries: Sequence[bytes]) -> bool:
        """Takes consents that the caller has just signed and logged, without reading them back.

        To be called with `lock` held since before they were logged, and with a key that
        `check_consent_key` has admitted.

        Args:
            records: The records, checked.
            entries: Their log entries, the newest of the log.

        Returns:
            Whether they were taken; if not, as the log has others before them, `refresh` does it.
        """
        if self.size + len(entries) != self._log.size:
            return False
        for record, entry in zip(records, entries, strict=True):
            self._take_consent(self.size, record, entry)
            self.size += 1
        return True

    def eligible(self, policy: RegionPolicy, at_ms: int) -> frozenset[str]:
        """The pseudonyms of all whose consent for the policy's purpose is in force.

        Args:
            policy: The region's policy.
            at_ms: When, in milliseconds since the epoch.
        """
        return self.consents.eligible(policy.purpose, at_ms, notice_grace_s=policy.notice_grace_s)

    def last_round(self, run: str) -> str | None:
        """The leaf hash of the region's newest round entry of a run, in hex."""
        return self._last_round.get(run)

    def _apply(self, index: int, data: bytes) -> None:
        envelope = Envelope.decode(data)
        if (field := _MADE_AT.get(envelope.kind)) is not None:
            self.newest_ms = max(self.newest_ms, parse_time(str(envelope.record()[field])))
        if envelope.kind == "consent":
            self._apply_consent(index, data, envelope)
        elif envelope.kind == "round":
            record = envelope.record()
            self.rounds.append(index)
            self._last_round[str(record["run"])] = self._log.leaf_hash(index).hex()
            self.released.add(str(record["charge_id"]))
            run, number = str(record["run"]), int(str(record["round"]))
            self.newest_round[run] = max(number, self.newest_round.get(run, 0))
        elif envelope.kind == "permit":
            record = envelope.record()
            self.purposes[str(record["run"])] = str(record["purpose"])
        elif envelope.kind.startswith("access-"):
            self.access.append((index, data))
        elif envelope.kind == "answer":
            self.released.add(str(envelope.record()["charge_id"]))
        elif envelope.kind == "charge":
            self._apply_charge(envelope.record())
        elif envelope.kind == "mask":
            self._apply_mask(index, envelope.record())
        elif envelope.kind == "incident":
            self._apply_incident(envelope.record())
        elif envelope.kind == "policy":
            verify_envelope(envelope, self._controller_keys)
            self._apply_policy(index, envelope.record())
        elif envelope.kind == "notice":
            verify_envelope(envelope, self._controller_keys)
            notice = LoggedNotice(
                index, hashlib.sha256(data).hexdigest(), parse_notice(envelope.record())
            )
            self.consents.apply_notice(index, notice.notice, notice.sha256)
            self.notices.append(notice)

    def _apply_consent(self, index: int, data: bytes, envelope: Envelope) -> None:
        key_ids = verify_envelope(envelope, self._consent_keys)
        record = parse_consent(envelope.record())
        for key_id in key_ids:
            self._registry.find(key_id, party=self._region, role="consent", at_ms=record.signed_ms)
        self._take_consent(index, record, data)

    def _take_consent(self, index: int, record: ConsentRecord, data: bytes) -> None:
        self.newest_ms = max(self.newest_ms, record.signed_ms)
        self.consents.apply(index, record, hashlib.sha256(data).hexdigest())
        if record.state != GIVEN or record.purposes.get(FEDERATED_TRAINING) is not True:
            self.endings.append((index, record.sid))

    def _apply_policy(self, index: int, record: dict[str, JsonValue]) -> None:
        self.policy_sha256 = str(record["policy_sha256"])
        policy = record["policy"]
        grace_s = policy.get("notice_grace_s") if isinstance(policy, dict) else None
        self.notice_graces.append((index, grace_s if isinstance(grace_s, int) else 0))

    def _apply_incident(self, record: dict[str, JsonValue]) -> None:
        run, server_round = record["run"], record["round"]
        marked = {DISCARDED: self.discarded, OUTDATED: self.outdated}.get(str(record["reason"]))
        if marked is not None and isinstance(run, str) and isinstance(server_round, int):
            marked.add((run, server_round))

    def _apply_charge(self, record: dict[str, JsonValue]) -> None:
        charge = LoggedCharge.of(record)
        self.charges[charge.charge_id] = charge

    def _apply_mask(self, index: int, record: dict[str, JsonValue]) -> None:
        members = record["members"]
        if not isinstance(members, list):
            raise VerificationError("Its roster has no members.")
        mask = LoggedMask(
            index=index,
            attempt=int(str(record["attempt"])),
            roster=str(record["roster"]),
            regions=tuple(str(each["region"]) for each in members if isinstance(each, dict)),
        )
        key = (str(record["run"]), int(str(record["round"])))
        self.masks.setdefault(key, []).append(mask)
