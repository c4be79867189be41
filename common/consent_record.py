"""Consent records (``fedpref-consent/1``): their form, and the strict reading of it.

Fields follow ISO/IEC TS 27560:2023 in the W3C DPV's terms. Consent is per purpose; a purpose that
a record does not name is refused.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType

from common.canonical_json import JsonValue
from common.errors import FormatError
from common.identifiers import ULID, ulid_ms
from common.timestamps import parse_time
from common.validate import (
    array,
    exact_fields,
    line,
    matching,
    sha256_hex,
    timestamp,
    whole_number,
)

FEDERATED_TRAINING = "fedpref:FederatedTraining"
RECOMMENDATIONS = "dpv:ProvideProductRecommendations"
FEDERATED_ANALYTICS = "fedpref:FederatedAnalytics"
# DPV 2 has profiling as a processing (dpv:Profiling), not as a purpose: this one is the
# dpv:Personalisation that consists of it.
PROFILING = "fedpref:CustomerProfiling"

GIVEN = "dpv:ConsentGiven"
REFUSED = "dpv:ConsentRefused"
WITHDRAWN = "dpv:ConsentWithdrawn"
STATES = frozenset({GIVEN, REFUSED, WITHDRAWN})
LEGAL_BASES = frozenset({"eu-gdpr:A6-1-a", "cn-pipl:13-1"})

#: The method of a consent that was given before, elsewhere, and brought into the log in bulk.
IMPORTED = "imported"
#: The method of the withdrawal that an erasure leaves in the log: this key must not come back.
ERASURE = "erasure"

_VERSION = "fedpref-consent/1"
TERM = re.compile(r"[a-z][a-z0-9-]{0,31}:[A-Za-z][A-Za-z0-9]{0,63}")
_JURISDICTION = re.compile(r"[A-Z]{2}(?:-[A-Z0-9]{1,3})?")
LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[A-Za-z0-9]{2,8}){0,4}")
NOTICE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CODE = re.compile(r"(?=.{1,64}\Z)[a-z0-9]+(?:-[a-z0-9]+)*")
_URL = re.compile(r"(?:https://|mailto:)[!-~]{1,2000}")
# The order that `_share_form` unpacks.
_FORM_FIELDS = (
    "type",
    "legal_basis",
    "controller",
    "jurisdiction",
    "lang",
    "method",
    "withdrawal",
)
_NOTICE_FIELDS = frozenset({"id", "sha256"})
_GUARDIAN_FIELDS = frozenset({"state", "evidence"})
_FIELDS = frozenset(
    {"v", "record_id", "sid", "seq", "prev", "state", "purposes", "evidence", "minor", "guardian"}
    | {"event_time", "expires", "notice", "data", *_FORM_FIELDS}
)


@dataclass(frozen=True, slots=True)
class ConsentForm:
    """What all consent records made with one form have in common; kept once for all of them.

    Attributes:
        type: How consent is expressed; only "explicit" is accepted.
        legal_basis: One of `LEGAL_BASES`.
        controller: The controller's identifier.
        jurisdiction: ISO 3166-1 alpha-2 code, or an ISO 3166-2 subdivision.
        lang: BCP 47 tag of the notice's language.
        method: How the choice was made, as a kebab-case code.
        withdrawal: Where the customer withdraws.
        notice_id: The notice shown.
        notice_sha256: The digest of that notice's logged envelope.
        data: The categories of personal data, as DPV-PD terms.
    """

    type: str
    legal_basis: str
    controller: str
    jurisdiction: str
    lang: str
    method: str
    withdrawal: str
    notice_id: str
    notice_sha256: str
    data: tuple[str, ...]

    def __post_init__(self) -> None:
        _one_of(self.type, frozenset({"explicit"}), "type")
        _one_of(self.legal_basis, LEGAL_BASES, "legal_basis")
        line(self.controller, "controller")
        matching(self.jurisdiction, _JURISDICTION, "jurisdiction", "an ISO 3166 code")
        matching(self.lang, LANGUAGE, "lang", "a BCP 47 language tag")
        matching(self.method, _CODE, "method", "a kebab-case code")
        matching(self.withdrawal, _URL, "withdrawal", "an https: or mailto: address")
        matching(self.notice_id, NOTICE_ID, "notice.id", "a notice's id")
        sha256_hex(self.notice_sha256, "notice.sha256")
        for term in self.data:
            matching(term, TERM, "A category of data", "a term such as pd:Purchase")
        if not self.data or len(set(self.data)) != len(self.data):
            raise FormatError("data names no category, or one twice.")


@dataclass(frozen=True, slots=True)
class Guardian:
    """What the guardian of a minor decided about the minor's record.

    Attributes:
        state: One of `STATES`.
        evidence: Salted SHA-256 of the guardian's own signed token, or None.
    """

    state: str
    evidence: str | None


@dataclass(frozen=True, slots=True)
class ConsentRecord:
    """One consent record whose every field was checked; made by `parse_consent`.

    Attributes:
        record_id: A ULID, unique in the log.
        sid: The subject's pseudonym, 64 hex digits.
        seq: 1, 2, … within the subject's records.
        prev: SHA-256 of the subject's previous envelope; None for ``seq`` 1.
        state: One of `STATES`.
        purposes: Purpose by purpose; one that is missing is refused.
        evidence: Salted SHA-256 of the identity provider's signed token, or None.
        event_time: When the customer chose.
        expires: From when on the consent is no longer in force, or None.
        form: What the record shares with others.
        minor: Whether the subject is a minor, whose consent counts only with a guardian's.
        guardian: The guardian's state; None for an adult, or where no guardian has decided.
    """

    record_id: str
    sid: str
    seq: int
    prev: str | None
    state: str
    purposes: Mapping[str, bool] = field(hash=False)
    evidence: str | None
    event_time: str
    expires: str | None
    form: ConsentForm
    minor: bool = False
    guardian: Guardian | None = None

    @property
    def signed_ms(self) -> int:
        """When the region says that it signed the record, in milliseconds since the epoch.

        A choice is signed when it is made. One that was made before this log began is `IMPORTED`:
        its event time is older than the key that signs it, and its id says when it was signed.
        """
        if self.form.method == IMPORTED:
            return ulid_ms(self.record_id)
        return parse_time(self.event_time)

    def to_record(self) -> dict[str, JsonValue]:
        """The record to be signed: what `parse_consent` read."""
        form = self.form
        guardian: JsonValue = None
        if self.guardian is not None:
            guardian = {"state": self.guardian.state, "evidence": self.guardian.evidence}
        return {
            "v": _VERSION,
            "record_id": self.record_id,
            "sid": self.sid,
            "seq": self.seq,
            "prev": self.prev,
            "state": self.state,
            "type": form.type,
            "purposes": dict(self.purposes),
            "legal_basis": form.legal_basis,
            "data": list(form.data),
            "controller": form.controller,
            "jurisdiction": form.jurisdiction,
            "lang": form.lang,
            "notice": {"id": form.notice_id, "sha256": form.notice_sha256},
            "method": form.method,
            "evidence": self.evidence,
            "minor": self.minor,
            "guardian": guardian,
            "event_time": self.event_time,
            "expires": self.expires,
            "withdrawal": form.withdrawal,
        }


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
    event_time, event_ms = timestamp(fields["event_time"], "event_time")
    expires = None
    if fields["expires"] is not None:
        expires, expires_ms = timestamp(fields["expires"], "expires")
        if expires_ms <= event_ms:
            raise FormatError("The consent expires no later than it was given.")
    evidence = fields["evidence"]
    minor, guardian = _read_guardian(fields, state)
    return ConsentRecord(
        record_id=matching(fields["record_id"], ULID, "record_id", "a ULID"),
        sid=sha256_hex(fields["sid"], "sid"),
        seq=seq,
        prev=prev,
        state=state,
        purposes=purposes,
        evidence=None if evidence is None else sha256_hex(evidence, "evidence"),
        event_time=event_time,
        expires=expires,
        form=_read_form(fields),
        minor=minor,
        guardian=guardian,
    )


def _read_guardian(fields: dict[str, JsonValue], state: str) -> tuple[bool, Guardian | None]:
    minor, value = fields["minor"], fields["guardian"]
    if type(minor) is not bool:
        raise FormatError("minor is neither true nor false.")
    if value is None:
        if minor and state == GIVEN:
            raise FormatError("A minor's consent needs a guardian's, which the record lacks.")
        return minor, None
    if not minor:
        raise FormatError("The consent record names a guardian of someone who is no minor.")
    parts = exact_fields(value, _GUARDIAN_FIELDS, "guardian")
    evidence = parts["evidence"]
    guardian = Guardian(
        state=_one_of(parts["state"], STATES, "guardian.state"),
        evidence=None if evidence is None else sha256_hex(evidence, "guardian.evidence"),
    )
    if state == GIVEN and guardian.state != GIVEN:
        raise FormatError("A minor's consent needs a guardian's, who refused or withdrew.")
    return True, guardian


def _one_of(value: JsonValue, allowed: frozenset[str], where: str) -> str:
    if type(value) is not str or value not in allowed:
        raise FormatError(f"{where} is none of {', '.join(sorted(allowed))}.")
    return sys.intern(value)


def _read_purposes(value: JsonValue) -> Mapping[str, bool]:
    if type(value) is not dict:
        raise FormatError("purposes is not an object.")
    # Before looking up what is shared: 1 equals True, and has its hash.
    if any(type(granted) is not bool for granted in value.values()):
        raise FormatError("A purpose is neither true nor false.")
    return _share_purposes(tuple(value.items()))


def _read_form(fields: dict[str, JsonValue]) -> ConsentForm:
    notice = exact_fields(fields["notice"], _NOTICE_FIELDS, "notice")
    values = [fields[name] for name in _FORM_FIELDS]
    values += [notice["id"], notice["sha256"], *array(fields["data"], "data")]
    texts = [value for value in values if type(value) is str]
    if len(texts) != len(values):
        raise FormatError(f"{', '.join(_FORM_FIELDS)}, notice and data are not all strings.")
    return _share_form(tuple(texts))


# A million records are made with a few forms and a few choices of purposes. What was checked once
# is found again by its value; a value that is refused is not kept.


@lru_cache(maxsize=1024)
def _share_purposes(items: tuple[tuple[str, JsonValue], ...]) -> Mapping[str, bool]:
    for purpose, _ in items:
        matching(purpose, TERM, "A purpose", "a prefixed term such as fedpref:FederatedTraining")
    return MappingProxyType({sys.intern(purpose): granted is True for purpose, granted in items})


@lru_cache(maxsize=1024)
def _share_form(texts: tuple[str, ...]) -> ConsentForm:
    kind, basis, controller, jurisdiction, lang, method, withdrawal, notice, digest, *data = texts
    return ConsentForm(
        type=kind,
        legal_basis=basis,
        controller=controller,
        jurisdiction=jurisdiction,
        lang=lang,
        method=method,
        withdrawal=withdrawal,
        notice_id=notice,
        notice_sha256=digest,
        data=tuple(data),
    )
