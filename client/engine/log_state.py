"""What a region's own log says, replayed entry by entry: consents, rounds and charges.

The engine reads its log as anyone else would: each consent record counts only if its signature
verifies under a consent key of the registry that was valid when the record was made.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from common.audit.log import AuditLog
from common.canonical_json import JsonValue
from common.consent import ConsentReplay, parse_consent
from common.envelope import Envelope, verify_envelope
from common.errors import FedprefError, VerificationError
from common.keys import Registry
from common.timestamps import parse_time


@dataclass(frozen=True)
class LoggedCharge:
    """A charge entry as the log has it."""

    charge_id: str
    ledger_seq: int
    ledger_head: str


class LogState:
    """The state of one region's log at a size that only grows.

    Args:
        log: The region's open log.
        registry: The verified key registry.
        region: The region's party name.

    Attributes:
        consents: The consents in force.
        charges: Every logged charge by its id.
        released: The charges under which a round was logged: each has paid for its release.
        policy_sha256: Digest of the policy in force, as the controller signed it.
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
        self.consents = ConsentReplay()
        self.charges: dict[str, LoggedCharge] = {}
        self.released: set[str] = set()
        self.policy_sha256: str | None = None
        self.size = 0

    def refresh(self) -> None:
        """Replays what was logged since the last call.

        Raises:
            VerificationError: An entry is not what it claims to be; names the log and the index.
        """
        for index, data in self._log.entries(start=self.size):
            try:
                self._apply(index, data)
            except FedprefError as error:
                raise VerificationError(
                    f"Entry {index} of the log of {self._region} does not hold: {error}",
                    remedy="Verify the log with fedpref-audit; nothing is trained till then.",
                ) from error
            self.size = index + 1

    def last_round(self, run: str) -> str | None:
        """The leaf hash of the region's newest round entry of a run, in hex."""
        return self._last_round.get(run)

    def _apply(self, index: int, data: bytes) -> None:
        envelope = Envelope.decode(data)
        if envelope.kind == "consent":
            self._apply_consent(index, data, envelope)
        elif envelope.kind == "round":
            record = envelope.record()
            self._last_round[str(record["run"])] = self._log.leaf_hash(index).hex()
            self.released.add(str(record["charge_id"]))
        elif envelope.kind == "charge":
            self._apply_charge(envelope.record())
        elif envelope.kind == "policy":
            verify_envelope(envelope, self._controller_keys)
            self.policy_sha256 = str(envelope.record()["policy_sha256"])

    def _apply_consent(self, index: int, data: bytes, envelope: Envelope) -> None:
        key_ids = verify_envelope(envelope, self._consent_keys)
        record = parse_consent(envelope.record())
        for key_id in key_ids:
            self._registry.find(
                key_id,
                party=self._region,
                role="consent",
                at_ms=parse_time(record.event_time),
            )
        self.consents.apply(index, record, hashlib.sha256(data).hexdigest())

    def _apply_charge(self, record: dict[str, JsonValue]) -> None:
        charge = LoggedCharge(
            charge_id=str(record["charge_id"]),
            ledger_seq=int(str(record["ledger_seq"])),
            ledger_head=str(record["ledger_head"]),
        )
        self.charges[charge.charge_id] = charge
