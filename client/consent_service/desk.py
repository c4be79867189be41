"""The consent desk: what a customer may learn and decide, whoever serves the page.

The page's process knows only `ConsentDesk`. The desk itself is where the log is: in the same
process (`client.consent_service.local_desk`) or behind a socket
(`client.consent_service.desk_socket`), so that what faces the network holds no key and no log.
Every question names one customer, and every answer is about that customer alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from client.consent_service.forms import WEB_FORM
from common.canonical_json import JsonValue
from common.consent import Standing
from common.errors import ConsentError


@dataclass(frozen=True)
class Actor:
    """Who acts, as the retailer's login says, or an operator who has the customer before them.

    Attributes:
        customer_ref: The retailer's reference of the customer.
        minor: Whether the customer is a minor.
        guardian: Whether a minor's guardian acts.
        token: The evidence of it: the login's signed token, or what the operator keeps of a choice
            made elsewhere; empty if there is none.
        method: How the choice is made, as a kebab-case code.
    """

    customer_ref: str
    minor: bool
    guardian: bool
    token: str = field(repr=False)
    method: str = WEB_FORM


@dataclass(frozen=True)
class ShownNotice:
    """The notice in force that is shown to a customer.

    Attributes:
        sha256: The digest of its logged envelope: what a consent names.
        notice_id: Its name.
        lang: Its language, which may be another than was asked for.
        controller: Who is responsible.
        purposes: What may be consented to.
        recipients: Who receives what.
        retention: How long what is kept.
        storage: Where.
        contact: Whom to ask.
        text: The text itself.
        in_force_from: Since when.
    """

    sha256: str
    notice_id: str
    lang: str
    controller: str
    purposes: tuple[str, ...]
    recipients: str
    retention: str
    storage: str
    contact: str
    text: str
    in_force_from: str


@dataclass(frozen=True)
class Position:
    """Where a customer stands now.

    Attributes:
        record_id: Their newest record, or None if they never chose.
        state: That record's state (`common.consent.STATES`), or None.
        chosen_at: When they chose, or None.
        standings: For each purpose of the notice, whether consent is in force, or why not.
        until: When what is in force ends unless it is renewed, or None.
        notice_changed: Whether their newest record is about a notice that another has replaced.
    """

    record_id: str | None
    state: str | None
    chosen_at: str | None
    standings: Mapping[str, Standing]
    until: str | None
    notice_changed: bool

    @property
    def granted(self) -> frozenset[str]:
        """The purposes for which consent is in force."""
        return frozenset(
            purpose for purpose, standing in self.standings.items() if standing is Standing.IN_FORCE
        )


@dataclass(frozen=True)
class Decision:
    """What a customer decides: all that they agree to from now on.

    Attributes:
        agreed: The purposes agreed to; nothing means refusing, or withdrawing what was given.
        notice_sha256: The notice that they were shown.
        based_on: Their newest record as they were shown it; what is agreed to in addition counts
            only if it still is the newest.
    """

    agreed: frozenset[str]
    notice_sha256: str
    based_on: str | None


@dataclass(frozen=True)
class ExcludedFrom:
    """The first round that a record kept its customer out of."""

    run: str
    round: int
    consent_size: int


@dataclass(frozen=True)
class LoggedChoice:
    """One record of a customer's.

    Attributes:
        record_id: Its id.
        index: Its index in the region's log.
        state: Its state, one of `common.consent.STATES`.
        agreed: The purposes it grants.
        event_time: When the customer chose.
        expires: When what it grants ends, or None.
        notice_id: The notice that was shown.
        notice_lang: That notice's language.
        method: How the choice was made.
        minor: Whether the customer was a minor.
        guardian: The guardian's state, or None.
        ends_training: Whether it keeps the customer out of training rounds.
        first_excluded: The first round it did, if there was one.
    """

    record_id: str
    index: int
    state: str
    agreed: tuple[str, ...]
    event_time: str
    expires: str | None
    notice_id: str
    notice_lang: str
    method: str
    minor: bool
    guardian: str | None
    ends_training: bool
    first_excluded: ExcludedFrom | None


@dataclass(frozen=True)
class ShownProfile:
    """A customer's profile, for herself to read.

    Attributes:
        standing: Whether her consent to it is in force, or why not.
        profile: What it says (``fedpref-profile/1``); None without consent, or if there is none
            yet.
    """

    standing: Standing
    profile: dict[str, Any] | None


class ConsentDesk(Protocol):
    """What the consent service asks of the region. Safe to use from several threads."""

    def notice(self, lang: str) -> ShownNotice:
        """The notice in force, in a language if there is one in it.

        Raises:
            FedprefError: There is no notice in force, or the desk fails.
        """

    def position(self, customer_ref: str, lang: str) -> Position:
        """Where a customer stands, by the purposes of the notice in this language."""

    def choose(self, actor: Actor, decision: Decision) -> LoggedChoice:
        """Logs a decision durably.

        Raises:
            DecisionRefusedError: It may not be logged; the code says why.
        """

    def withdraw(self, actor: Actor) -> LoggedChoice:
        """Logs the withdrawal of everything, durably.

        Raises:
            DecisionRefusedError: There is nothing to withdraw.
        """

    def history(self, customer_ref: str) -> tuple[LoggedChoice, ...]:
        """A customer's records, the newest first, at most `MAX_HISTORY`."""

    def receipt(self, customer_ref: str, record_id: str, lang: str) -> dict[str, JsonValue]:
        """The receipt of one of the customer's own records (``fedpref-receipt/1``).

        Raises:
            DecisionRefusedError: With the code ``not-found``: there is no such record, or it is
                another customer's; nobody learns which.
        """

    def profile(self, customer_ref: str, lang: str) -> ShownProfile:
        """The customer's profile in a language, if she consents to it now."""


#: The most records that one answer lists; all are in the person's own export.
MAX_HISTORY = 200


class DecisionRefusedError(ConsentError):
    """Something that a customer asked for and may not have now.

    Args:
        code: ``choice-changed``, ``guardian-needed``, ``invalid``, ``not-found``,
            ``notice-changed`` or ``nothing-to-withdraw``.
        message: What is wrong.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
