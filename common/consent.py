"""Consent records (see ``common/consent_record.py``), and who consents after how many of them.

A subject's records form a chain (``seq``, ``prev``) and the newest one counts; order is the order
of the log, never a clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from common.consent_record import (
    FEDERATED_ANALYTICS,
    FEDERATED_TRAINING,
    GIVEN,
    LEGAL_BASES,
    RECOMMENDATIONS,
    REFUSED,
    STATES,
    WITHDRAWN,
    ConsentForm,
    ConsentRecord,
    Guardian,
    parse_consent,
)
from common.errors import VerificationError
from common.identifiers import SUBJECT_KEY_BYTES, new_ulid, subject_id
from common.timestamps import MAX_TIME_MS, parse_time
from common.validate import SHA256_HEX

__all__ = [
    "FEDERATED_ANALYTICS",
    "FEDERATED_TRAINING",
    "GIVEN",
    "LEGAL_BASES",
    "RECOMMENDATIONS",
    "REFUSED",
    "STATES",
    "SUBJECT_KEY_BYTES",
    "WITHDRAWN",
    "ConsentForm",
    "ConsentRecord",
    "ConsentReplay",
    "Guardian",
    "new_ulid",
    "parse_consent",
    "subject_id",
]


# Later than any time that a record can state.
_FOREVER = MAX_TIME_MS + 1


class ConsentReplay:
    """Replays the consent records of one log and knows at each point whose consent is in force.

    The caller verifies envelopes, signers and roles, and applies records in the log's order. Per
    purpose the consenting subjects are kept up to date with each record, so that asking costs no
    walk through all records.
    """

    def __init__(self) -> None:
        self._next_index = 0
        self._latest: dict[str, tuple[ConsentRecord, bytes]] = {}
        self._record_ids: set[str] = set()
        # For each purpose: consenting subjects, and until when.
        self._granted: dict[str, dict[str, int]] = {}
        self._answers: dict[str, _Answer] = {}

    def __len__(self) -> int:
        return len(self._latest)

    def apply(self, index: int, record: ConsentRecord, envelope_sha256: str) -> None:
        """Takes the next consent record of the log; a refused record changes nothing.

        Args:
            index: Its index in the log, above that of every record applied before.
            record: The record.
            envelope_sha256: The digest of its envelope, the log's entry, in hex.

        Raises:
            VerificationError: The index goes back, the record's id was used before, or it does
                not continue its subject's chain (a replayed, left out or reordered record).
        """
        if index < self._next_index:
            raise VerificationError(f"Log entry {index} was applied already, or out of order.")
        if SHA256_HEX.fullmatch(envelope_sha256) is None:
            raise VerificationError("The envelope's digest is not a SHA-256 in lower-case hex.")
        if record.record_id in self._record_ids:
            raise VerificationError(f"The record id {record.record_id} was used before.")
        latest = self._latest.get(record.sid)
        expected_seq = 1 if latest is None else latest[0].seq + 1
        if record.seq != expected_seq:
            raise VerificationError(
                f"The consent record is number {record.seq} of its subject; {expected_seq} is next."
            )
        if record.prev != (None if latest is None else latest[1].hex()):
            raise VerificationError("The consent record does not name its subject's last envelope.")
        until_ms = _FOREVER if record.expires is None else parse_time(record.expires)
        if latest is not None:
            for purpose in latest[0].purposes:
                if self._granted.get(purpose, {}).pop(record.sid, None) is not None:
                    self._answers.pop(purpose, None)
        if record.state == GIVEN:
            for purpose, granted in record.purposes.items():
                if granted:
                    self._granted.setdefault(purpose, {})[record.sid] = until_ms
                    self._answers.pop(purpose, None)
        self._next_index = index + 1
        self._record_ids.add(record.record_id)
        self._latest[record.sid] = (record, bytes.fromhex(envelope_sha256))

    def eligible(self, purpose: str, at_ms: int) -> frozenset[str]:
        """The pseudonyms of all whose consent for a purpose is in force.

        In force: the subject's newest record has the state `GIVEN`, names the purpose with true,
        and does not expire at or before ``at_ms``.

        Args:
            purpose: The purpose, such as `FEDERATED_TRAINING`.
            at_ms: When expiry is judged, in milliseconds since the epoch.
        """
        answer = self._answers.get(purpose)
        if answer is None or not answer.since_ms <= at_ms < answer.until_ms:
            answer = _judge(self._granted.get(purpose, {}), at_ms)
            self._answers[purpose] = answer
        return answer.sids

    def latest(self, sid: str) -> ConsentRecord | None:
        """The subject's newest record, or None."""
        found = self._latest.get(sid)
        return None if found is None else found[0]

    def latest_digest(self, sid: str) -> str | None:
        """The digest of the subject's newest envelope in hex (the next ``prev``), or None."""
        found = self._latest.get(sid)
        return None if found is None else found[1].hex()


@dataclass(frozen=True, slots=True)
class _Answer:
    """Who consents, true for every time from ``since_ms`` until just before ``until_ms``."""

    sids: frozenset[str]
    since_ms: int
    until_ms: int


def _judge(granted: Mapping[str, int], at_ms: int) -> _Answer:
    ends = set(granted.values())
    past = [end for end in ends if end <= at_ms]
    sids = (sid for sid, until_ms in granted.items() if until_ms > at_ms) if past else granted
    return _Answer(
        frozenset(sids),
        since_ms=max(past, default=-1),
        until_ms=min((end for end in ends if end > at_ms), default=_FOREVER),
    )
