"""The consent desk in the process that owns the region's log.

Whatever a decision depends on (the customer's newest record, the notice in force) is held still
until its record is logged, so that two browser tabs cannot agree to what one of them withdrew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Protocol

from client.consent_service.desk import (
    MAX_HISTORY,
    Actor,
    Decision,
    DecisionRefusedError,
    ExcludedFrom,
    LoggedChoice,
    Position,
    ShownNotice,
    ShownProfile,
)
from client.consent_service.forms import FormSettings
from client.consent_service.notices import offered
from client.consent_service.registrar import (
    Choice,
    ConsentRegistrar,
    GuardianChoice,
    LoggedConsent,
)
from client.engine.log_state import LogState
from client.engine.policy import RegionPolicy
from client.engine.subjects import SubjectKeys
from common.audit.log import AuditLog
from common.audit.receipt import FirstExcluded, make_receipt
from common.canonical_json import JsonValue
from common.consent import (
    FEDERATED_TRAINING,
    GIVEN,
    PROFILING,
    ConsentForm,
    ConsentRecord,
)
from common.envelope import Envelope
from common.errors import ConsentError, FormatError
from common.notice import LoggedNotice
from common.timestamps import format_time, now_ms, parse_time

_DEFAULT_LANGUAGE = "en"


class ProfilesOfCustomers(Protocol):
    """What a desk asks of the region's profiles (`client.profiles.desk`)."""

    def told(self, sid: str, lang: str) -> dict[str, JsonValue] | None:
        """What a customer's profile says to herself; None if she has none."""
        ...

    def forget(self, sid: str) -> None:
        """Takes a customer's profile out, if it can be done now; else the next refresh does."""
        ...


@dataclass(frozen=True)
class DeskParts:
    """What a desk works with, all of one region and opened by the process that owns the log.

    Attributes:
        federation: The federation's name.
        region: The region's party name.
        log: The region's log.
        state: Its replayed state.
        subjects: The customers' pseudonym keys.
        registrar: Writes the records.
        forms: What all consents of the region have in common.
        policy: The region's policy.
        checkpoint_above: The checkpoint that a receipt of the entry at an index is proved by.
        profiles: The region's profiles, for who consents to one; None where there are none.
    """

    federation: str
    region: str
    log: AuditLog
    state: LogState
    subjects: SubjectKeys
    registrar: ConsentRegistrar
    forms: FormSettings
    policy: RegionPolicy
    checkpoint_above: Callable[[int], bytes]
    profiles: ProfilesOfCustomers | None = None


class LocalDesk:
    """A `client.consent_service.desk.ConsentDesk` on the log itself; its methods are that's.

    Args:
        parts: What it works with.
        clock_ms: Now, in milliseconds since the epoch.
    """

    def __init__(self, parts: DeskParts, *, clock_ms: Callable[[], int] = now_ms) -> None:
        self._parts = parts
        self._clock_ms = clock_ms
        self._rounds: list[tuple[str, int, int]] = []
        self._rounds_read = 0

    def notice(self, lang: str) -> ShownNotice:
        """See `ConsentDesk.notice`."""
        with self._parts.state.lock:
            self._parts.state.refresh()
            logged = self._offered(lang)
        notice = logged.notice
        return ShownNotice(
            sha256=logged.sha256,
            notice_id=notice.notice_id,
            lang=notice.lang,
            controller=notice.controller,
            purposes=notice.purposes,
            recipients=notice.recipients,
            retention=notice.retention,
            storage=notice.storage,
            contact=notice.contact,
            text=notice.text,
            in_force_from=notice.in_force_from,
        )

    def position(self, customer_ref: str, lang: str) -> Position:
        """See `ConsentDesk.position`."""
        parts = self._parts
        with parts.state.lock:
            latest = parts.registrar.latest(customer_ref)
            sid = parts.subjects.pseudonym(customer_ref) or ""
            states = {
                purpose: parts.state.consents.state_of(
                    sid, purpose, self._clock_ms(), notice_grace_s=parts.policy.notice_grace_s
                )
                for purpose in self._offered(lang).notice.purposes
            }
            renewing = latest is not None and self._find_offered(latest) is None
        ends = [state.until_ms for state in states.values() if state.until_ms is not None]
        return Position(
            record_id=None if latest is None else latest.record_id,
            state=None if latest is None else latest.state,
            chosen_at=None if latest is None else latest.event_time,
            standings={purpose: state.standing for purpose, state in states.items()},
            until=format_time(min(ends)) if ends else None,
            notice_changed=renewing,
        )

    def choose(self, actor: Actor, decision: Decision) -> LoggedChoice:
        """See `ConsentDesk.choose`."""
        with self._parts.state.lock:
            latest = self._parts.registrar.latest(actor.customer_ref)
            logged = self._log(actor, self._to_choice(actor, decision, latest))
        self._forget_profile(actor.customer_ref, logged)
        return logged

    def withdraw(self, actor: Actor) -> LoggedChoice:
        """See `ConsentDesk.withdraw`."""
        with self._parts.state.lock:
            latest = self._parts.registrar.latest(actor.customer_ref)
            if latest is None:
                raise DecisionRefusedError("nothing-to-withdraw", "Nothing was ever given.")
            logged = self._log(actor, self._ending(actor, latest))
        self._forget_profile(actor.customer_ref, logged)
        return logged

    def history(self, customer_ref: str) -> tuple[LoggedChoice, ...]:
        """See `ConsentDesk.history`."""
        records = self._parts.registrar.history(customer_ref)
        choices = [self._to_logged(*pair) for pair in zip_longest(records, records[1:])]
        return tuple(choices[::-1][:MAX_HISTORY])

    def receipt(self, customer_ref: str, record_id: str, lang: str) -> dict[str, JsonValue]:
        """See `ConsentDesk.receipt`."""
        parts = self._parts
        # Looked up among the customer's own only: another's id is as unknown as any other.
        records = parts.registrar.history(customer_ref)
        for record, following in zip_longest(records, records[1:]):
            if record.record.record_id == record_id:
                excluded = self._to_logged(record, following).first_excluded
                return make_receipt(
                    parts.log,
                    record.index,
                    parts.checkpoint_above(record.index),
                    federation=parts.federation,
                    region=parts.region,
                    issued_at=format_time(self._clock_ms()),
                    lang=lang,
                    first_excluded=None
                    if excluded is None
                    else FirstExcluded(excluded.run, excluded.round, excluded.consent_size),
                )
        raise DecisionRefusedError("not-found", "The customer has no such record.")

    def profile(self, customer_ref: str, lang: str) -> ShownProfile:
        """See `ConsentDesk.profile`."""
        parts = self._parts
        with parts.state.lock:
            parts.state.refresh()
            sid = parts.subjects.pseudonym(customer_ref) or ""
            standing = parts.state.consents.state_of(
                sid, PROFILING, self._clock_ms(), notice_grace_s=parts.policy.notice_grace_s
            )
        if not standing.in_force or parts.profiles is None:
            return ShownProfile(standing.standing, None)
        return ShownProfile(standing.standing, parts.profiles.told(sid, lang))

    def _forget_profile(self, customer_ref: str, logged: LoggedChoice) -> None:
        """Takes a profile out as soon as its consent has ended: nobody waits for a refresh."""
        sid = self._parts.subjects.pseudonym(customer_ref)
        if self._parts.profiles is not None and sid is not None and PROFILING not in logged.agreed:
            self._parts.profiles.forget(sid)

    def _to_choice(self, actor: Actor, decision: Decision, latest: ConsentRecord | None) -> Choice:
        agreed = decision.agreed
        if not agreed:
            choice = self._ending(actor, latest)
        elif latest is not None and self._reduces(agreed, latest, decision):
            choice = self._reduction(actor, agreed, latest)
        else:
            choice = self._grant(actor, decision, latest)
        return choice

    def _log(self, actor: Actor, choice: Choice) -> LoggedChoice:
        """Logs a choice with its evidence: the token of whoever made it."""
        evidence = actor.token.encode() or None
        if choice.form is not None:
            choice = replace(choice, form=replace(choice.form, method=actor.method))
        if actor.guardian:
            choice = choice.of_minor(GuardianChoice(choice.state, evidence))
        else:
            choice = replace(choice, evidence=evidence)
            choice = choice.of_minor(choice.guardian) if actor.minor else choice
        try:
            index = self._parts.registrar.record([choice])[0]
        # What the checks before did not foresee, such as a notice whose time has just come.
        except (ConsentError, FormatError) as error:
            raise DecisionRefusedError("choice-changed", error.message) from error
        return next(each for each in self.history(actor.customer_ref) if each.index == index)

    def _ending(self, actor: Actor, latest: ConsentRecord | None) -> Choice:
        """Refuses, or withdraws all: needs no notice, no guardian and no newest record."""
        form = self._form(self._offered(_DEFAULT_LANGUAGE)) if latest is None else latest.form
        if latest is None:
            return Choice.refuse(actor.customer_ref, form=form)
        if latest.state != GIVEN:
            raise DecisionRefusedError("nothing-to-withdraw", "There is no consent to withdraw.")
        return Choice.withdraw(actor.customer_ref, form=form)

    def _reduces(self, agreed: frozenset[str], latest: ConsentRecord, decision: Decision) -> bool:
        """Whether a decision only withdraws some of what is given to a notice still in force."""
        given = {purpose for purpose, granted in latest.purposes.items() if granted}
        return (
            agreed < given
            and self._find_offered(latest) is not None
            and decision.based_on == latest.record_id
            and not self._expired(latest)
        )

    def _reduction(self, actor: Actor, agreed: frozenset[str], latest: ConsentRecord) -> Choice:
        """What is kept stays as it was given: to the same notice, no longer than before."""
        choice = Choice(
            customer_ref=actor.customer_ref,
            state=GIVEN,
            purposes={purpose: purpose in agreed for purpose in latest.purposes},
            form=latest.form,
            expires_ms=None if latest.expires is None else parse_time(latest.expires),
        )
        if latest.minor and latest.guardian is not None:
            # What the guardian agreed to is narrowed only; their evidence is the record before.
            return choice.of_minor(GuardianChoice(latest.guardian.state))
        return choice

    def _grant(self, actor: Actor, decision: Decision, latest: ConsentRecord | None) -> Choice:
        notice = self._find_shown(decision.notice_sha256)
        if not decision.agreed <= set(notice.notice.purposes):
            raise DecisionRefusedError("invalid", "A purpose is not one of the notice's.")
        if decision.based_on != (None if latest is None else latest.record_id):
            raise DecisionRefusedError("choice-changed", "There is a newer record.")
        if actor.minor and not actor.guardian:
            raise DecisionRefusedError("guardian-needed", "A minor's consent needs a guardian.")
        return Choice(
            customer_ref=actor.customer_ref,
            state=GIVEN,
            purposes={purpose: purpose in decision.agreed for purpose in notice.notice.purposes},
            form=self._form(notice),
        )

    def _form(self, notice: LoggedNotice) -> ConsentForm:
        return self._parts.forms.form(notice)

    def _offered(self, lang: str) -> LoggedNotice:
        """The notice in force in a language, else in English, else in any."""
        notices = offered(self._parts.state.notices, self._clock_ms())
        for wanted in (lang, _DEFAULT_LANGUAGE):
            for each, notice in notices.items():
                if each.split("-")[0] == wanted.split("-")[0]:
                    return notice
        if not notices:
            raise ConsentError(
                f"{self._parts.region}: no notice is in force.",
                remedy="Publish one: fedpref-region notice publish.",
            )
        return next(iter(notices.values()))

    def _find_shown(self, sha256: str) -> LoggedNotice:
        for notice in offered(self._parts.state.notices, self._clock_ms()).values():
            if notice.sha256 == sha256:
                return notice
        raise DecisionRefusedError("notice-changed", "The notice is not in force, or no longer.")

    def _find_offered(self, record: ConsentRecord) -> LoggedNotice | None:
        """The notice that a record names, if it is still the one that is offered."""
        for notice in offered(self._parts.state.notices, self._clock_ms()).values():
            if notice.sha256 == record.form.notice_sha256:
                return notice
        return None

    def _expired(self, record: ConsentRecord) -> bool:
        return record.expires is not None and parse_time(record.expires) <= self._clock_ms()

    def _to_logged(self, logged: LoggedConsent, following: LoggedConsent | None) -> LoggedChoice:
        record = logged.record
        ends = record.state != GIVEN or record.purposes.get(FEDERATED_TRAINING) is not True
        return LoggedChoice(
            record_id=record.record_id,
            index=logged.index,
            state=record.state,
            agreed=tuple(sorted(p for p, granted in record.purposes.items() if granted)),
            event_time=record.event_time,
            expires=record.expires,
            notice_id=record.form.notice_id,
            notice_lang=record.form.lang,
            method=record.form.method,
            minor=record.minor,
            guardian=None if record.guardian is None else record.guardian.state,
            ends_training=ends,
            first_excluded=self._first_excluded(logged, following) if ends else None,
        )

    def _first_excluded(
        self, logged: LoggedConsent, following: LoggedConsent | None
    ) -> ExcludedFrom | None:
        """The first round that saw this record and not yet the customer's next one."""
        for run, number, consent_size in self._known_rounds():
            if consent_size > logged.index:
                seen_next = following is not None and consent_size > following.index
                return None if seen_next else ExcludedFrom(run, number, consent_size)
        return None

    def _known_rounds(self) -> list[tuple[str, int, int]]:
        """Run, number and consent size of each round of training, in the log's order."""
        with self._parts.state.lock:
            self._parts.state.refresh()
            for index in self._parts.state.rounds[self._rounds_read :]:
                self._rounds_read += 1
                ((_, data),) = self._parts.log.entries(index, index + 1)
                record = Envelope.decode(data).record()
                purpose = self._parts.state.purposes.get(str(record["run"]), FEDERATED_TRAINING)
                if purpose != FEDERATED_TRAINING:
                    continue  # What ends training need not end that.
                consent = record["consent"]
                size = consent["size"] if isinstance(consent, dict) else 0
                self._rounds.append((str(record["run"]), int(str(record["round"])), int(str(size))))
            return list(self._rounds)
