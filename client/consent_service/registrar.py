"""Turns customers' choices into signed, chained, logged consent records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from client.engine.log_state import LogState
from client.engine.subjects import SubjectKeys
from common.audit.entry import make_entry
from common.audit.log import AuditLog
from common.canonical_json import JsonValue
from common.consent import (
    FEDERATED_TRAINING,
    GIVEN,
    REFUSED,
    WITHDRAWN,
    ConsentForm,
    ConsentRecord,
    new_ulid,
    parse_consent,
)
from common.errors import ConsentError
from common.keys import Signer
from common.timestamps import format_time, now_ms


@dataclass(frozen=True)
class Choice:
    """What one customer decided.

    Attributes:
        customer_ref: The region's own reference of the customer; it never leaves the region.
        state: One of `GIVEN`, `REFUSED`, `WITHDRAWN`.
        purposes: Purpose by purpose; a purpose that is missing is refused.
    """

    customer_ref: str
    state: str
    purposes: Mapping[str, bool]

    @classmethod
    def give(cls, customer_ref: str, purposes: Mapping[str, bool]) -> Choice:
        """Consent to the purposes that are true."""
        return cls(customer_ref, GIVEN, dict(purposes))

    @classmethod
    def refuse(cls, customer_ref: str) -> Choice:
        """Refusal of everything."""
        return cls(customer_ref, REFUSED, {})

    @classmethod
    def withdraw(cls, customer_ref: str) -> Choice:
        """Withdrawal of everything given before."""
        return cls(customer_ref, WITHDRAWN, {})


class ConsentRegistrar:
    """Writes consent records into one region's log.

    Args:
        log: The region's open log.
        state: The log's replayed state; it knows each subject's newest record.
        subjects: The customers' pseudonym keys.
        signer: The region's ``consent`` key.
        form: What every record of one consent form states.
        clock_ms: Now, in milliseconds since the epoch.
    """

    def __init__(
        self,
        *,
        log: AuditLog,
        state: LogState,
        subjects: SubjectKeys,
        signer: Signer,
        form: ConsentForm,
        clock_ms: Callable[[], int] = now_ms,
    ) -> None:
        self._log = log
        self._state = state
        self._subjects = subjects
        self._signer = signer
        self._form = form
        self._clock_ms = clock_ms
        self._pseudonyms = subjects.pseudonyms()

    def consents(self, customer_ref: str) -> bool:
        """Whether the customer's newest record gives consent to federated training."""
        self._state.refresh()
        sid = self._pseudonyms.get(customer_ref)
        latest = self._state.consents.latest(sid) if sid is not None else None
        return (
            latest is not None
            and latest.state == GIVEN
            and latest.purposes.get(FEDERATED_TRAINING) is True
        )

    def record(self, choices: Sequence[Choice]) -> range:
        """Logs choices durably, all or none, and returns their log indices.

        Raises:
            ConsentError: A withdrawal of something never given, or a customer named twice.
        """
        if not choices:
            return range(self._log.size, self._log.size)
        if len({choice.customer_ref for choice in choices}) != len(choices):
            raise ConsentError("A customer is named twice in one batch of choices.")
        self._state.refresh()
        unknown = [c.customer_ref for c in choices if c.customer_ref not in self._pseudonyms]
        if unknown:
            self._subjects.enrol(unknown)
            self._pseudonyms = self._subjects.pseudonyms()
        event_time = format_time(self._clock_ms())
        entries = [
            make_entry(self._to_record(choice, event_time), self._signer) for choice in choices
        ]
        indices = self._log.append(entries)
        self._state.refresh()
        return indices

    def _to_record(self, choice: Choice, event_time: str) -> dict[str, JsonValue]:
        sid = self._pseudonyms[choice.customer_ref]
        latest = self._state.consents.latest(sid)
        if choice.state == WITHDRAWN and latest is None:
            raise ConsentError("A consent that was never given cannot be withdrawn.")
        record = ConsentRecord(
            record_id=new_ulid(),
            sid=sid,
            seq=1 if latest is None else latest.seq + 1,
            prev=None if latest is None else self._state.consents.latest_digest(sid),
            state=choice.state,
            purposes=choice.purposes,
            evidence=None,
            event_time=event_time,
            expires=None,
            form=self._form,
        ).to_record()
        # The log is append-only: what it could not read back must not get in.
        parse_consent(record)
        return record
