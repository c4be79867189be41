"""Consent records (``fedpref-consent/1``): their form, and who consents after how many of them.

Fields follow ISO/IEC TS 27560:2023 in the W3C DPV's terms. Consent is per purpose; a purpose that
a record does not name is refused. A subject's records form a chain (``seq``, ``prev``) and the
newest one counts; order is the order of the log, never a clock.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType

from common.canonical_json import JsonValue
from common.errors import FormatError, VerificationError
from common.identifiers import SUBJECT_KEY_BYTES, ULID, new_ulid, subject_id
from common.timestamps import MAX_TIME_MS, parse_time
from common.validate import (
    SHA256_HEX,
    array,
    exact_fields,
    line,
    matching,
    sha256_hex,
    whole_number,
)

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
    "ConsentRecord",
    "ConsentReplay",
    "new_ulid",
    "parse_consent",
    "subject_id",
]

FEDERATED_TRAINING = "fedpref:FederatedTraining"
RECOMMENDATIONS = "dpv:ProvideProductRecommendations"
FEDERATED_ANALYTICS = "fedpref:FederatedAnalytics"

GIVEN = "dpv:ConsentGiven"
REFUSED = "dpv:ConsentRefused"
WITHDRAWN = "dpv:ConsentWithdrawn"
STATES = frozenset({GIVEN, REFUSED, WITHDRAWN})
LEGAL_BASES = frozenset({"eu-gdpr:A6-1-a", "cn-pipl:13-1"})

_VERSION = "fedpref-consent/1"
_TERM = re.compile(r"[a-z][a-z0-9-]{0,31}:[A-Za-z][A-Za-z0-9]{0,63}")
_JURISDICTION = re.compile(r"[A-Z]{2}(?:-[A-Z0-9]{1,3})?")
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[A-Za-z0-9]{2,8}){0,4}")
_NOTICE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CODE = re.compile(r"(?=.{1,64}\Z)[a-z0-9]+(?:-[a-z0-9]+)*")
_URL = re.compile(r"(?:https://|mailto:)[!-~]{1,2000}")
_NOTICE_FIELDS = frozenset({"id", "sha256"})


@dataclass(frozen=True, slots=True)
class ConsentRecord:
    """One consent record whose every field was checked; made by `parse_consent`.

    Attributes:
        record_id: A ULID, unique in the log.
        sid: The subject's pseudonym, 64 hex digits.
        seq: 1, 2, … within the subject's records.
        prev: SHA-256 of the subject's previous envelope; None for ``seq`` 1.
        state: One of `STATES`.
        type: How consent is expressed; only "explicit" is accepted.
        purposes: Purpose by purpose; one that is missing is refused.
        legal_basis: One of `LEGAL_BASES`.
        data: The categories of personal data, as DPV-PD terms.
        controller: The controller's identifier.
        jurisdiction: ISO 3166-1 alpha-2 code, or an ISO 3166-2 subdivision.
        lang: BCP 47 tag of the notice's language.
        notice_id: The notice shown.
        notice_sha256: The digest of that notice's logged envelope.
        method: How the choice was made, as a kebab-case code.
        evidence: Salted SHA-256 of the identity provider's signed token, or None.
        event_time: When the customer chose.
        expires: From when on the consent is no longer in force, or None.
        withdrawal: Where the customer withdraws.
    """

    record_id: str
    sid: str
    seq: int
    prev: str | None
    state: str
    type: str
    purposes: Mapping[str, bool] = field(hash=False)
    legal_basis: str
    data: tuple[str, ...]
    controller: str
    jurisdiction: str
    lang: str
    notice_id: str
    notice_sha256: str
    method: str
    evidence: str | None
    event_time: str
    expires: str | None
    withdrawal: str

    def to_record(self) -> dict[str, JsonValue]:
        """The record to be signed: what `parse_consent` read."""
        record: dict[str, JsonValue] = {name: getattr(self, name) for name in _PLAIN_FIELDS}
        record["v"] = _VERSION
        record["purposes"] = dict(self.purposes)
        record["data"] = list(self.data)
        record["notice"] = {"id": self.notice_id, "sha256": self.notice_sha256}
        return record


_PLAIN_FIELDS = frozenset(ConsentRecord.__dataclass_fields__) - {
    "purposes",
    "data",
    "notice_id",
    "notice_sha256",
}
_FIELDS = _PLAIN_FIELDS | {"v", "purposes", "data", "notice"}


def parse_consent(record: JsonValue) -> ConsentRecord:
    """Reads a consent record, every field of it.

    Raises:
        FormatError: A field is missing, unknown or malformed, or two fields contradict each other.
    """
    fields = exact_fields(record, _FIELDS, "The consent record")
    if fields["v"] != _VERSION:
        raise FormatError(f"The record is not a consent record ({_VERSION}).")
    seq = whole_number(fields["seq"], "seq", least=1)
    prev = None if fields["prev"] is None else sha256_hex(fields["prev"], "prev")
    if (prev is None) != (seq == 1):
        raise FormatError("prev is null in a subject's first consent record and in no other.")
    state = _one_of(fields["state"], STATES, "state")
    purposes = _read_purposes(fields["purposes"])
    if state != GIVEN and True in purposes.values():
        raise FormatError("The consent record refuses or withdraws, and yet grants a purpose.")
    event_time = line(fields["event_time"], "event_time")
    event_ms = parse_time(event_time)
    expires = None if fields["expires"] is None else line(fields["expires"], "expires")
    if expires is not None and parse_time(expires) <= event_ms:
        raise FormatError("The consent expires no later than it was given.")
    notice = exact_fields(fields["notice"], _NOTICE_FIELDS, "notice")
    evidence = fields["evidence"]
    # What a form's records have in common is kept once: a replay holds a record for each subject.
    shared = sys.intern
    return ConsentRecord(
        record_id=matching(fields["record_id"], ULID, "record_id", "a ULID"),
        sid=sha256_hex(fields["sid"], "sid"),
        seq=seq,
        prev=prev,
        state=shared(state),
        type=shared(_one_of(fields["type"], frozenset({"explicit"}), "type")),
        purposes=purposes,
        legal_basis=shared(_one_of(fields["legal_basis"], LEGAL_BASES, "legal_basis")),
        data=_read_data(fields["data"]),
        controller=shared(line(fields["controller"], "controller")),
        jurisdiction=shared(
            matching(fields["jurisdiction"], _JURISDICTION, "jurisdiction", "an ISO 3166 code")
        ),
        lang=shared(matching(fields["lang"], _LANGUAGE, "lang", "a BCP 47 language tag")),
        notice_id=shared(
            matching(notice["id"], _NOTICE_ID, "notice.id", "a notice's id of up to 64 characters")
        ),
        notice_sha256=shared(sha256_hex(notice["sha256"], "notice.sha256")),
        method=shared(matching(fields["method"], _CODE, "method", "a kebab-case code")),
        evidence=None if evidence is None else sha256_hex(evidence, "evidence"),
        event_time=event_time,
        expires=expires,
        withdrawal=shared(
            matching(fields["withdrawal"], _URL, "withdrawal", "an https: or mailto: address")
        ),
    )


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
        until_ms = MAX_TIME_MS + 1 if record.expires is None else parse_time(record.expires)
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
        until_ms=min((end for end in ends if end > at_ms), default=MAX_TIME_MS + 1),
    )


def _one_of(value: JsonValue, allowed: frozenset[str], where: str) -> str:
    if type(value) is not str or value not in allowed:
        raise FormatError(f"{where} is none of {', '.join(sorted(allowed))}.")
    return value


def _read_purposes(value: JsonValue) -> Mapping[str, bool]:
    if type(value) is not dict:
        raise FormatError("purposes is not an object.")
    for purpose, granted in value.items():
        matching(purpose, _TERM, "A purpose", "a prefixed term such as fedpref:FederatedTraining")
        # Before sharing: 1 equals True.
        if type(granted) is not bool:
            raise FormatError("A purpose is neither true nor false.")
    return _share_purposes(tuple(value.items()))


def _read_data(value: JsonValue) -> tuple[str, ...]:
    terms = tuple(
        matching(term, _TERM, "A category of data", "a prefixed term such as pd:Purchase")
        for term in array(value, "data")
    )
    if not terms or len(set(terms)) != len(terms):
        raise FormatError("data names no category, or one twice.")
    return _share_terms(terms)


@lru_cache(maxsize=1024)
def _share_purposes(items: tuple[tuple[str, bool], ...]) -> Mapping[str, bool]:
    return MappingProxyType(dict(items))


@lru_cache(maxsize=1024)
def _share_terms(terms: tuple[str, ...]) -> tuple[str, ...]:
    return terms
