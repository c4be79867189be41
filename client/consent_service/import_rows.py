"""Rows of a file of existing consents, and the choices that they state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, tzinfo

from client.consent_service.evidence import MAX_TOKEN_BYTES
from client.consent_service.registrar import Choice, GuardianChoice
from common.consent import (
    FEDERATED_ANALYTICS,
    FEDERATED_TRAINING,
    GIVEN,
    PROFILING,
    RECOMMENDATIONS,
    REFUSED,
    WITHDRAWN,
    ConsentForm,
)
from common.errors import FormatError
from common.timestamps import parse_time

#: What a purpose's column may be called, beside the purpose's own term.
PURPOSES = {
    "training": FEDERATED_TRAINING,
    "recommendations": RECOMMENDATIONS,
    "analytics": FEDERATED_ANALYTICS,
    "profiling": PROFILING,
}
REQUIRED = ("customer", "event_time", "evidence")
OPTIONAL = ("state", "expires", "lang", "minor", "guardian_state", "guardian_evidence")
MAX_REFERENCE_CHARACTERS = 128

# No consent in electronic form to what this system does is older.
_EARLIEST_MS = parse_time("2000-01-01T00:00:00.000Z")
_STATES = {"given": GIVEN, "refused": REFUSED, "withdrawn": WITHDRAWN}
_STATES |= {state.casefold(): state for state in _STATES.values()}
_YES_NO = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class RowReader:
    """Reads rows by the meaning of their fields.

    Attributes:
        purposes: The purposes that have a column, by the field's name.
        granted: The purposes that every row with the state "given" grants; only where no purpose
            has a column.
        forms: The form for each language, or for every one under "".
        lang: The language of rows that name none.
        zone: The time zone of times that state none; None refuses such times.
        now_ms: Nothing happened later, in milliseconds since the epoch.
    """

    purposes: Mapping[str, str]
    granted: tuple[str, ...]
    forms: Mapping[str, ConsentForm]
    lang: str
    zone: tzinfo | None
    now_ms: int

    def read(self, row: Mapping[str, object]) -> Choice:
        """Reads one row.

        Raises:
            FormatError: A field is missing or malformed; says which, and never repeats it.
        """
        state = _state(row.get("state"), "state") or GIVEN
        event_ms = self._time(row.get("event_time"), "event_time")
        if not _EARLIEST_MS <= event_ms <= self.now_ms:
            raise FormatError("event_time is before 2000 or in the future")
        expires = row.get("expires")
        minor = _yes_no(row.get("minor"), "minor") if row.get("minor") not in (None, "") else False
        return Choice(
            customer_ref=_text(row.get("customer"), "customer", MAX_REFERENCE_CHARACTERS),
            state=state,
            purposes=self._purposes(row, state),
            form=self._form(row),
            evidence=_text(row.get("evidence"), "evidence", MAX_TOKEN_BYTES // 4).encode(),
            minor=minor,
            guardian=_guardian(row),
            event_time_ms=event_ms,
            expires_ms=None
            if expires in (None, "") or state != GIVEN
            else self._time(expires, "expires"),
            imported=True,
        )

    def _purposes(self, row: Mapping[str, object], state: str) -> dict[str, bool]:
        if state != GIVEN:
            return {}
        if not self.purposes:
            return dict.fromkeys(self.granted, True)
        return {purpose: _yes_no(row.get(name), name) for name, purpose in self.purposes.items()}

    def _form(self, row: Mapping[str, object]) -> ConsentForm:
        lang = str(row.get("lang") or self.lang)
        form = self.forms.get("") or self.forms.get(lang)
        if form is None:
            raise FormatError("there is no notice in force in its language")
        return form

    def _time(self, value: object, where: str) -> int:
        moment: object = value
        if isinstance(value, str):
            try:
                moment = datetime.fromisoformat(value.strip())
            except ValueError as error:
                raise FormatError(f"{where} is no time in the form of ISO 8601") from error
        elif isinstance(value, date) and not isinstance(value, datetime):
            moment = datetime(value.year, value.month, value.day)  # a zone follows
        if not isinstance(moment, datetime):
            raise FormatError(f"{where} is missing, or no time")
        if moment.tzinfo is None:
            if self.zone is None:
                raise FormatError(f"{where} states no time zone; name it with --time-zone")
            moment = moment.replace(tzinfo=self.zone)
        try:
            return int(moment.astimezone(UTC).timestamp() * 1000)
        except (OverflowError, ValueError, OSError) as error:
            raise FormatError(f"{where} is out of range") from error


def _guardian(row: Mapping[str, object]) -> GuardianChoice | None:
    state = _state(row.get("guardian_state"), "guardian_state")
    if state is None:
        return None
    evidence = row.get("guardian_evidence")
    return GuardianChoice(
        state,
        None
        if evidence in (None, "")
        else _text(evidence, "guardian_evidence", MAX_TOKEN_BYTES // 4).encode(),
    )


def _state(value: object, where: str) -> str | None:
    if value in (None, ""):
        return None
    state = _STATES.get(str(value).strip().casefold())
    if state is None:
        raise FormatError(f"{where} is none of given, refused, withdrawn")
    return state


def _text(value: object, where: str, most: int) -> str:
    if isinstance(value, float) and value.is_integer():
        # A column of whole numbers with a gap is read as fractions.
        value = int(value)
    if isinstance(value, bool) or not (value is None or isinstance(value, str | int)):
        raise FormatError(f"{where} is neither text nor a whole number")
    text = "" if value is None else str(value).strip()
    if not 0 < len(text) <= most or not text.isprintable():
        raise FormatError(f"{where} is missing, not one line, or longer than {most} characters")
    return text


def _yes_no(value: object, where: str) -> bool:
    found = value if isinstance(value, bool) else _YES_NO.get(str(value).strip().casefold())
    if found is None:
        raise FormatError(f"{where} is neither yes nor no")
    return found
