"""Consent records (see ``common/consent_record.py``), and who consents after how many of them.

A subject's records form a chain (``seq``, ``prev``) and the newest one counts; order is the order
of the log, never a clock.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from common.consent_record import (
    ERASURE,
    FEDERATED_ANALYTICS,
    FEDERATED_TRAINING,
    GIVEN,
    IMPORTED,
    LEGAL_BASES,
    PROFILING,
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
from common.notice import Notice
from common.timestamps import MAX_TIME_MS, parse_time
from common.validate import SHA256_HEX

__all__ = [
    "ERASURE",
    "FEDERATED_ANALYTICS",
    "FEDERATED_TRAINING",
    "GIVEN",
    "IMPORTED",
    "LEGAL_BASES",
    "PROFILING",
    "RECOMMENDATIONS",
    "REFUSED",
    "STATES",
    "SUBJECT_KEY_BYTES",
    "WITHDRAWN",
    "ConsentForm",
    "ConsentRecord",
    "ConsentReplay",
    "Guardian",
    "Standing",
    "SubjectState",
    "new_ulid",
    "parse_consent",
    "subject_id",
]


# Later than any time that a record can state.
_FOREVER = MAX_TIME_MS + 1
_DIGEST_BYTES = 32


class Standing(StrEnum):
    """Whether a subject's consent for a purpose is in force, or why it is not."""

    IN_FORCE = "in-force"
    NO_RECORD = "no-record"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"
    PURPOSE_REFUSED = "purpose-refused"
    EXPIRED = "expired"
    NOTICE_SUPERSEDED = "notice-superseded"


@dataclass(frozen=True, slots=True)
class SubjectState:
    """One subject's state for one purpose at one time.

    Attributes:
        standing: Whether consent is in force, or why not.
        until_ms: From when on a consent that is in force lapses unless renewed, in milliseconds
            since the epoch; None if nothing ends it yet, or it is not in force.
    """

    standing: Standing
    until_ms: int | None = None

    @property
    def in_force(self) -> bool:
        """Whether the subject's data may be used for the purpose."""
        return self.standing is Standing.IN_FORCE


class ConsentReplay:
    """Replays the consent records and notices of one log: whose consent is in force, and why not.

    The caller verifies envelopes, signers and roles, and applies records in the log's order. Per
    purpose the consenting subjects are kept up to date with each record, so that asking costs no
    walk through all records. Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._next_index = 0
        # Each subject's newest record, and each record's place in the journal by its id.
        self._latest: dict[str, ConsentRecord] = {}
        self._places: dict[str, int] = {}
        # The journal: each record's log index, the digest of its envelope, and the place of its
        # subject's record before.
        self._indices = array("Q")
        self._digests = bytearray()
        self._before = array("q")
        # For each choice of purposes and each notice: consenting subjects, and until when. Of many
        # subjects, who make few choices, each stands in one of them only.
        self._granted: dict[frozenset[str], dict[str, dict[str, int]]] = {}
        # For each superseded notice: from when the one that supersedes it first is in force.
        self._superseded: dict[str, int] = {}
        self._answers: dict[tuple[str, int], _Answer] = {}

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
        with self._lock:
            self._check_next(index, envelope_sha256)
            if record.record_id in self._places:
                raise VerificationError(f"The record id {record.record_id} was used before.")
            latest = self._latest.get(record.sid)
            expected_seq = 1 if latest is None else latest.seq + 1
            if record.seq != expected_seq:
                raise VerificationError(
                    f"The consent record is number {record.seq} of its subject; {expected_seq} is"
                    " next."
                )
            if record.prev != self.latest_digest(record.sid):
                raise VerificationError(
                    "The consent record does not name its subject's last envelope."
                )
            if latest is not None:
                _check_import(record, latest)
            until_ms = _FOREVER if record.expires is None else parse_time(record.expires)
            if latest is not None:
                self._revoke(latest)
            self._grant(record, until_ms)
            place = len(self._indices)
            self._next_index = index + 1
            self._places[record.record_id] = place
            self._indices.append(index)
            self._digests += bytes.fromhex(envelope_sha256)
            self._before.append(self._place_of(latest))
            self._latest[record.sid] = record

    def apply_notice(self, index: int, notice: Notice, envelope_sha256: str) -> None:
        """Takes the next notice of the log: consents to what it supersedes will lapse.

        Args:
            index: Its index in the log, above that of everything applied before.
            notice: The notice.
            envelope_sha256: The digest of its envelope, in hex.

        Raises:
            VerificationError: The index goes back, or the notice supersedes itself.
        """
        with self._lock:
            self._check_next(index, envelope_sha256)
            older = notice.supersedes
            if older == envelope_sha256:
                raise VerificationError("The notice supersedes itself.")
            self._next_index = index + 1
            if older is not None:
                first = self._superseded.get(older, notice.in_force_from_ms)
                self._superseded[older] = min(first, notice.in_force_from_ms)
                self._answers.clear()

    def eligible(self, purpose: str, at_ms: int, *, notice_grace_s: int = 0) -> frozenset[str]:
        """The pseudonyms of all whose consent for a purpose is in force.

        In force: the subject's newest record has the state `GIVEN`, names the purpose with true,
        does not expire at or before ``at_ms``, and names a notice that no other has superseded for
        ``notice_grace_s``.

        Args:
            purpose: The purpose, such as `FEDERATED_TRAINING`.
            at_ms: When expiry and notices are judged, in milliseconds since the epoch.
            notice_grace_s: For how long consents to a superseded notice stay in force; 0, the
                strictest, if the region's policy is not given.
        """
        with self._lock:
            key = (purpose, notice_grace_s)
            answer = self._answers.get(key)
            if answer is None or not answer.since_ms <= at_ms < answer.until_ms:
                groups = [
                    (granted, self._lapse_ms(notice, notice_grace_s))
                    for purposes, notices in self._granted.items()
                    if purpose in purposes
                    for notice, granted in notices.items()
                ]
                answer = _judge(groups, at_ms)
                self._answers[key] = answer
            return answer.sids

    def state_of(
        self, sid: str, purpose: str, at_ms: int, *, notice_grace_s: int = 0
    ) -> SubjectState:
        """One subject's state for a purpose: `eligible` has them exactly if it is in force.

        Args:
            sid: The subject's pseudonym.
            purpose: The purpose.
            at_ms: As for `eligible`.
            notice_grace_s: As for `eligible`.
        """
        with self._lock:
            record = self.latest(sid)
            if record is None:
                return SubjectState(Standing.NO_RECORD)
            if record.state == WITHDRAWN:
                return SubjectState(Standing.WITHDRAWN)
            if record.state != GIVEN:
                return SubjectState(Standing.REFUSED)
            if record.purposes.get(purpose) is not True:
                return SubjectState(Standing.PURPOSE_REFUSED)
            expires_ms = _FOREVER if record.expires is None else parse_time(record.expires)
            lapse_ms = self._lapse_ms(record.form.notice_sha256, notice_grace_s)
            if expires_ms <= at_ms:
                return SubjectState(Standing.EXPIRED)
            if lapse_ms <= at_ms:
                return SubjectState(Standing.NOTICE_SUPERSEDED)
            until_ms = min(expires_ms, lapse_ms)
            return SubjectState(Standing.IN_FORCE, None if until_ms == _FOREVER else until_ms)

    def latest(self, sid: str) -> ConsentRecord | None:
        """The subject's newest record, or None."""
        return self._latest.get(sid)

    def latest_digest(self, sid: str) -> str | None:
        """The digest of the subject's newest envelope in hex (the next ``prev``), or None."""
        with self._lock:
            start = self._place_of(self._latest.get(sid)) * _DIGEST_BYTES
            return None if start < 0 else self._digests[start : start + _DIGEST_BYTES].hex()

    def indices(self, sid: str) -> list[int]:
        """The log indices of the subject's records, oldest first."""
        with self._lock:
            place = self._place_of(self._latest.get(sid))
            indices = []
            while place >= 0:
                indices.append(self._indices[place])
                place = self._before[place]
            return indices[::-1]

    def index_of(self, record_id: str) -> int | None:
        """The log index of a record, or None if there is none of this id."""
        with self._lock:
            place = self._places.get(record_id)
            return None if place is None else self._indices[place]

    def _place_of(self, record: ConsentRecord | None) -> int:
        """A record's place in the journal; −1 for none."""
        return -1 if record is None else self._places[record.record_id]

    def _check_next(self, index: int, envelope_sha256: str) -> None:
        if index < self._next_index:
            raise VerificationError(f"Log entry {index} was applied already, or out of order.")
        if SHA256_HEX.fullmatch(envelope_sha256) is None:
            raise VerificationError("The envelope's digest is not a SHA-256 in lower-case hex.")

    def _revoke(self, record: ConsentRecord) -> None:
        purposes = _granted_purposes(record)
        granted = self._granted.get(purposes, {}).get(record.form.notice_sha256, {})
        if granted.pop(record.sid, None) is not None:
            self._forget_answers(purposes)

    def _grant(self, record: ConsentRecord, until_ms: int) -> None:
        purposes = _granted_purposes(record)
        if purposes:
            notices = self._granted.setdefault(purposes, {})
            notices.setdefault(record.form.notice_sha256, {})[record.sid] = until_ms
            self._forget_answers(purposes)

    def _forget_answers(self, purposes: frozenset[str]) -> None:
        if self._answers:
            self._answers = {
                key: answer for key, answer in self._answers.items() if key[0] not in purposes
            }

    def _lapse_ms(self, notice: str, grace_s: int) -> int:
        superseded_ms = self._superseded.get(notice)
        if superseded_ms is None:
            return _FOREVER
        return min(superseded_ms + grace_s * 1000, _FOREVER)


@dataclass(frozen=True, slots=True)
class _Answer:
    """Who consents, true for every time from ``since_ms`` until just before ``until_ms``."""

    sids: frozenset[str]
    since_ms: int
    until_ms: int


def _judge(groups: Sequence[tuple[Mapping[str, int], int]], at_ms: int) -> _Answer:
    """Judges groups of (subjects and their expiry, when their notice lapses)."""
    ends = {lapse_ms for granted, lapse_ms in groups if granted}
    sids: set[str] = set()
    for granted, lapse_ms in groups:
        expiries = set(granted.values())
        ends |= expiries
        if lapse_ms <= at_ms:
            continue
        if min(expiries, default=_FOREVER) > at_ms:
            sids.update(granted)
        else:
            sids.update(sid for sid, until_ms in granted.items() if until_ms > at_ms)
    return _Answer(
        frozenset(sids),
        since_ms=max((end for end in ends if end <= at_ms), default=-1),
        until_ms=min((end for end in ends if end > at_ms), default=_FOREVER),
    )


def _granted_purposes(record: ConsentRecord) -> frozenset[str]:
    """The purposes that a record allows; none if it does not give consent."""
    if record.state != GIVEN:
        return frozenset()
    return frozenset(purpose for purpose, granted in record.purposes.items() if granted)


def _check_import(record: ConsentRecord, latest: ConsentRecord) -> None:
    """An old paper does not undo what the customer chose since."""
    if record.form.method == IMPORTED and (
        parse_time(record.event_time) <= parse_time(latest.event_time)
    ):
        raise VerificationError(
            "The consent record was imported over a choice that is as new, or newer."
        )
