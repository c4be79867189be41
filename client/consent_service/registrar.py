"""Turns customers' choices into signed, chained, logged consent records."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from client.consent_service.evidence import GUARDIAN, SUBJECT, Evidence
from client.consent_service.forms import WEB_FORM
from client.consent_service.notices import in_force
from client.engine.log_state import LogState
from client.engine.subjects import Enrolment, EvidenceRow, SubjectKeys
from common.audit.entry import make_entry
from common.audit.log import AuditLog
from common.canonical_json import JsonValue
from common.consent import (
    ERASURE,
    FEDERATED_TRAINING,
    GIVEN,
    IMPORTED,
    REFUSED,
    WITHDRAWN,
    ConsentForm,
    ConsentRecord,
    Guardian,
    SubjectState,
    new_ulid,
    parse_consent,
)
from common.envelope import Envelope
from common.errors import ConsentError
from common.keys import Signer
from common.notice import LoggedNotice
from common.timestamps import format_time, now_ms, parse_time

# A pseudonym that nobody has: of whom is asked before they have one.
_NOBODY = "0" * 64


@dataclass(frozen=True)
class GuardianChoice:
    """What a minor's guardian decided.

    Attributes:
        state: One of `GIVEN`, `REFUSED`, `WITHDRAWN`.
        evidence: The guardian's own signed token, or None.
    """

    state: str
    evidence: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Choice:
    """What one customer decided.

    Attributes:
        customer_ref: The region's own reference of the customer; it never leaves the region.
        state: One of `GIVEN`, `REFUSED`, `WITHDRAWN`.
        purposes: Purpose by purpose; a purpose that is missing is refused.
        form: The form of its language and notice; the registrar's own if None.
        evidence: The identity provider's signed token; the log has its salted digest only.
        minor: Whether the customer is a minor; their consent needs a guardian's.
        guardian: What the guardian decided.
        event_time_ms: When the customer chose, in milliseconds since the epoch; now if None.
        expires_ms: From when on a consent is no longer in force; as the form has it if None.
        imported: Whether it was made before, elsewhere, and is brought into the log now.
    """

    customer_ref: str
    state: str
    purposes: Mapping[str, bool]
    form: ConsentForm | None = None
    evidence: bytes | None = field(default=None, repr=False)
    minor: bool = False
    guardian: GuardianChoice | None = None
    event_time_ms: int | None = None
    expires_ms: int | None = None
    imported: bool = False

    @classmethod
    def give(
        cls,
        customer_ref: str,
        purposes: Mapping[str, bool],
        *,
        form: ConsentForm | None = None,
        evidence: bytes | None = None,
    ) -> Choice:
        """Consent to the purposes that are true."""
        return cls(customer_ref, GIVEN, dict(purposes), form=form, evidence=evidence)

    @classmethod
    def refuse(
        cls, customer_ref: str, *, form: ConsentForm | None = None, evidence: bytes | None = None
    ) -> Choice:
        """Refusal of everything."""
        return cls(customer_ref, REFUSED, {}, form=form, evidence=evidence)

    @classmethod
    def withdraw(
        cls, customer_ref: str, *, form: ConsentForm | None = None, evidence: bytes | None = None
    ) -> Choice:
        """Withdrawal of everything given before."""
        return cls(customer_ref, WITHDRAWN, {}, form=form, evidence=evidence)

    def of_minor(self, guardian: GuardianChoice | None) -> Choice:
        """The same choice by a minor, with what their guardian decided."""
        return replace(self, minor=True, guardian=guardian)


@dataclass(frozen=True)
class LoggedConsent:
    """One of a customer's records.

    Attributes:
        index: Its index in the log.
        record: What it says.
        entry: The log entry: the signed envelope.
    """

    index: int
    record: ConsentRecord
    entry: bytes = field(repr=False)

    @property
    def sha256(self) -> str:
        """The digest of the envelope: what the next record names as the one before it."""
        return hashlib.sha256(self.entry).hexdigest()


class ConsentRegistrar:
    """Writes consent records into one region's log.

    Safe to use from several threads, beside an engine that appends to the same log: whatever a
    record depends on is held still (`LogState.lock`) until the record is logged.

    Args:
        log: The region's open log.
        state: The log's replayed state; it knows each subject's newest record.
        subjects: The customers' pseudonym keys and evidence.
        signer: The region's ``consent`` key.
        form: What every record of one consent form states, for choices that name no form.
        lasts_s: After how many seconds a consent expires; None if it does not.
        clock_ms: Now, in milliseconds since the epoch.
    """

    def __init__(
        self,
        *,
        log: AuditLog,
        state: LogState,
        subjects: SubjectKeys,
        signer: Signer,
        form: ConsentForm | None = None,
        lasts_s: int | None = None,
        clock_ms: Callable[[], int] = now_ms,
    ) -> None:
        self._log = log
        self._state = state
        self._subjects = subjects
        self._signer = signer
        self._form = form
        self._lasts_s = lasts_s
        self._clock_ms = clock_ms

    def consents(self, customer_ref: str) -> bool:
        """Whether the customer's newest record gives consent to federated training."""
        latest = self.latest(customer_ref)
        return (
            latest is not None
            and latest.state == GIVEN
            and latest.purposes.get(FEDERATED_TRAINING) is True
        )

    def latest(self, customer_ref: str) -> ConsentRecord | None:
        """The customer's newest record, or None."""
        sid = self._subjects.pseudonym(customer_ref)
        with self._state.lock:
            self._state.refresh()
            return None if sid is None else self._state.consents.latest(sid)

    def state_of(self, customer_ref: str, purpose: str, *, notice_grace_s: int) -> SubjectState:
        """Whether the customer's consent for a purpose is in force now, or why not."""
        sid = self._subjects.pseudonym(customer_ref) or ""
        with self._state.lock:
            self._state.refresh()
            return self._state.consents.state_of(
                sid, purpose, self._clock_ms(), notice_grace_s=notice_grace_s
            )

    def history(self, customer_ref: str) -> list[LoggedConsent]:
        """The customer's records, oldest first; none of an unknown customer."""
        sid = self._subjects.pseudonym(customer_ref)
        if sid is None:
            return []
        with self._state.lock:
            self._state.refresh()
            indices = self._state.consents.indices(sid)
        entries = [next(self._log.entries(index, index + 1)) for index in indices]
        return [
            LoggedConsent(index, parse_consent(Envelope.decode(data).record()), data)
            for index, data in entries
        ]

    def entry_index(self, record_id: str) -> int | None:
        """The log index of a record, or None if the log has none of this id."""
        with self._state.lock:
            self._state.refresh()
            return self._state.consents.index_of(record_id)

    def record(self, choices: Sequence[Choice]) -> range:
        """Logs choices durably, all or none, and returns their log indices.

        Every choice is an event of its own: one that repeats the newest is logged once more.

        Raises:
            ConsentError: A withdrawal by someone who never gave, a customer named twice, or a
                consent that its notice does not allow.
            FormatError: A choice is malformed, such as a minor's consent without a guardian's.
        """
        if len({choice.customer_ref for choice in choices}) != len(choices):
            raise ConsentError("A customer is named twice in one batch of choices.")
        with self._state.lock:
            self._state.refresh()
            if not choices:
                return range(self._state.size, self._state.size)
            now = self._clock_ms()
            enrolment = self._draw([choice.customer_ref for choice in choices])
            notices = _Notices.of(self._state.notices, now)
            rows: list[EvidenceRow] = []
            records = []
            for choice in choices:
                sid = enrolment.sids[choice.customer_ref]
                record, kept = self._prepare(choice, sid, now)
                self._check(record, notices, now)
                records.append(record)
                rows += kept
            # Only now, as nothing is refused any more, are newcomers enrolled.
            self._subjects.keep(enrolment)
            return self._log_records(records, rows)

    def check(self, choice: Choice) -> None:
        """Checks a choice as `record` does, and logs nothing.

        Raises:
            ConsentError, FormatError: As `record` does.
        """
        with self._state.lock:
            self._state.refresh()
            now = self._clock_ms()
            sid = self._subjects.pseudonym(choice.customer_ref) or _NOBODY
            drafted, _ = self._prepare(choice, sid, now)
            self._check(drafted, _Notices.of(self._state.notices, now), now)

    def erase_record(self, customer_ref: str) -> int | None:
        """Logs the withdrawal that an erasure leaves, unless nothing is on record or it is there.

        Returns:
            Its log index; None if nothing was logged.
        """
        with self._state.lock:
            latest = self.latest(customer_ref)
            if latest is None or latest.form.method == ERASURE:
                return None
            record = replace(
                latest,
                record_id=new_ulid(self._clock_ms()),
                seq=latest.seq + 1,
                prev=self._state.consents.latest_digest(latest.sid),
                state=WITHDRAWN,
                purposes={},
                evidence=None,
                event_time=format_time(self._clock_ms()),
                expires=None,
                guardian=None,
                form=replace(latest.form, method=ERASURE),
            )
            return self._log_records([_Drafted(record, record.to_record())], [])[0]

    def _draw(self, customer_refs: Sequence[str]) -> Enrolment:
        """The customers' pseudonyms; an erasure that was interrupted is finished first."""
        enrolment = self._subjects.draw(customer_refs)
        erased = [
            ref
            for ref, sid in enrolment.sids.items()
            if (latest := self._state.consents.latest(sid)) and latest.form.method == ERASURE
        ]
        if not erased:
            return enrolment
        self._subjects.erase(erased)
        return self._subjects.draw(customer_refs)

    def _prepare(self, choice: Choice, sid: str, now: int) -> tuple[_Drafted, list[EvidenceRow]]:
        """A choice's record, and its evidence apart."""
        consents = self._state.consents
        latest = consents.latest(sid)
        event_ms = now if choice.event_time_ms is None else choice.event_time_ms
        record_id = new_ulid(now)
        evidence = None if choice.evidence is None else Evidence.of(choice.evidence)
        guardian, token = choice.guardian, None
        if guardian is not None and guardian.evidence is not None:
            token = Evidence.of(guardian.evidence)
        record = ConsentRecord(
            record_id=record_id,
            sid=sid,
            seq=1 if latest is None else latest.seq + 1,
            prev=consents.latest_digest(sid),
            state=choice.state,
            purposes=choice.purposes,
            evidence=None if evidence is None else evidence.digest,
            event_time=format_time(event_ms),
            expires=self._expires(choice, event_ms),
            form=self._form_of(choice, latest),
            # Who withdraws need not say again that they are a minor.
            minor=choice.minor or (choice.state != GIVEN and latest is not None and latest.minor),
            guardian=None
            if guardian is None
            else Guardian(guardian.state, None if token is None else token.digest),
        )
        # The log is append-only: what it could not read back must not get in.
        fields = record.to_record()
        drafted = _Drafted(parse_consent(fields), fields)
        rows = []
        if evidence is not None:
            rows.append(evidence.row(record_id, SUBJECT, choice.customer_ref))
        if token is not None:
            rows.append(token.row(record_id, GUARDIAN, choice.customer_ref))
        return drafted, rows

    def _form_of(self, choice: Choice, latest: ConsentRecord | None) -> ConsentForm:
        form = choice.form or self._form
        if form is None and latest is not None and choice.state != GIVEN:
            form = latest.form
        if form is None:
            raise ConsentError("A choice names no form, and there is none for all.")
        # A form taken over from an imported record: what is chosen now was not imported.
        imported = choice.imported
        if imported != (form.method == IMPORTED) or form.method == ERASURE:
            form = replace(form, method=IMPORTED if imported else WEB_FORM)
        return form

    def _expires(self, choice: Choice, event_ms: int) -> str | None:
        if choice.state != GIVEN:
            return None
        if choice.expires_ms is not None:
            return format_time(choice.expires_ms)
        return None if self._lasts_s is None else format_time(event_ms + self._lasts_s * 1000)

    def _check(self, drafted: _Drafted, notices: _Notices, now: int) -> None:
        """Checks what one record alone does not show."""
        record, form = drafted.record, drafted.record.form
        logged = notices.find(form.notice_sha256)
        if logged.notice.notice_id != form.notice_id or logged.notice.lang != form.lang:
            raise ConsentError("A choice's form names its notice with another id or language.")
        if record.state == WITHDRAWN and not self._ever_gave(record.sid):
            raise ConsentError("A consent that was never given cannot be withdrawn.")
        if record.state != GIVEN:
            return
        granted = {purpose for purpose, given in record.purposes.items() if given}
        if not granted:
            raise ConsentError("A consent grants no purpose.", remedy="Record it as a refusal.")
        if not granted <= set(logged.notice.purposes):
            raise ConsentError("A consent grants a purpose that its notice does not name.")
        if parse_time(record.event_time) > now:
            raise ConsentError("A consent was given in the future.")
        if form.method == IMPORTED:
            if parse_time(record.event_time) < logged.notice.in_force_from_ms:
                raise ConsentError("A consent was given before its notice was in force.")
        elif form.notice_sha256 not in notices.in_force:
            raise ConsentError(
                "A consent is to a notice that is not in force, or no longer.",
                remedy="Show the customer the newest notice and ask anew.",
            )

    def _ever_gave(self, sid: str) -> bool:
        latest = self._state.consents.latest(sid)
        if latest is None or latest.state in (GIVEN, WITHDRAWN):
            return latest is not None
        # The newest is a refusal: what came before it, only the log has.
        for index in self._state.consents.indices(sid):
            _, data = next(self._log.entries(index, index + 1))
            if Envelope.decode(data).record()["state"] == GIVEN:
                return True
        return False

    def _log_records(self, drafts: Sequence[_Drafted], rows: Sequence[EvidenceRow]) -> range:
        """Signs and logs records; their evidence is durable before them."""
        records = [drafted.record for drafted in drafts]
        for at_ms in {record.signed_ms for record in records}:
            # What the log's readers will not accept must not get in.
            self._state.check_consent_key(self._signer.key_id, at_ms)
        entries = [make_entry(drafted.fields, self._signer) for drafted in drafts]
        if rows:
            self._subjects.keep_evidence(rows)
        indices = self._log.append(entries)
        if not self._state.take_own(records, entries):
            self._state.refresh()
        return indices


@dataclass(frozen=True)
class _Drafted:
    """A record that was checked, and its fields as they will be signed."""

    record: ConsentRecord
    fields: dict[str, JsonValue]


@dataclass(frozen=True)
class _Notices:
    """The notices of a log at one time, by digest."""

    logged: Mapping[str, LoggedNotice]
    in_force: frozenset[str]

    @classmethod
    def of(cls, notices: Sequence[LoggedNotice], now: int) -> _Notices:
        return cls(
            {each.sha256: each for each in notices},
            frozenset(each.sha256 for each in in_force(notices, now)),
        )

    def find(self, sha256: str) -> LoggedNotice:
        found = self.logged.get(sha256)
        if found is None:
            raise ConsentError(
                "The notice that a choice names is not in the log.",
                remedy="Publish it first: fedpref-region notice publish.",
            )
        return found
