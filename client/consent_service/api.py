"""The JSON API (version 1), for programs of the retailer's that act for a signed-in customer.

Every request carries the customer's login token as a bearer token. No cookie counts here, hence no
other site's page can act in a customer's name.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from client.consent_service.desk import Decision, LoggedChoice, Position, ShownNotice
from client.consent_service.problems import PROBLEMS, ProblemError
from client.consent_service.visitor import Language, ServiceOf, WithToken
from client.web.description import refusals
from common.canonical_json import JsonValue
from common.consent import Standing

PREFIX = "/api/v1"
_RECORD_ID = "01JQ0Z6Y3M8T4V5W6X7Y8Z9A0B"
_SHA256 = "5f" * 32
_TRAINING = "fedpref:FederatedTraining"
_RECOMMENDATIONS = "dpv:ProvideProductRecommendations"

Purpose = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}:[A-Za-z][A-Za-z0-9]{0,63}$")]
RecordId = Annotated[
    str,
    Path(pattern=r"^[0-7][0-9A-HJKMNP-TV-Z]{25}$", description="The record's id, a ULID."),
]


class NoticeAnswer(BaseModel):
    """The notice in force."""

    sha256: str = Field(description="What a choice names: the digest of the logged notice.")
    notice_id: str
    lang: str
    controller: str
    purposes: list[str]
    recipients: str
    retention: str
    storage: str
    contact: str
    text: str
    in_force_from: str


class PositionAnswer(BaseModel):
    """Where the customer stands now."""

    record_id: str | None = Field(description="The newest record; null if they never chose.")
    state: str | None
    chosen_at: str | None
    standings: dict[str, Standing] = Field(
        description="For each purpose of the notice, whether consent is in force, or why not."
    )
    until: str | None = Field(description="When what is in force ends unless renewed.")
    notice_changed: bool = Field(description="Whether the notice was replaced since.")


class ExcludedAnswer(BaseModel):
    """A round of training."""

    run: str
    round: int
    consent_size: int


class ChoiceAnswer(BaseModel):
    """One record of the customer's."""

    record_id: str
    index: int = Field(description="Its index in the region's log.")
    state: str
    agreed: list[str]
    event_time: str
    expires: str | None
    notice_id: str
    notice_lang: str
    method: str
    minor: bool
    guardian: str | None
    ends_training: bool
    first_excluded: ExcludedAnswer | None = Field(
        description="The first round the record kept the customer out of; null until there is one:"
        " the next round at the latest."
    )


class ChoiceBody(BaseModel):
    """What the customer decides: all that they agree to from now on."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "purposes": {_TRAINING: True, _RECOMMENDATIONS: False},
                    "notice_sha256": _SHA256,
                    "based_on": _RECORD_ID,
                }
            ]
        },
    )

    purposes: Annotated[
        dict[Purpose, bool],
        Field(
            max_length=32,
            description="Purpose by purpose; one that is missing is refused. If none is true,"
            " everything is refused, or withdrawn if something was given.",
        ),
    ]
    notice_sha256: Annotated[
        str, Field(pattern="^[0-9a-f]{64}$", description="The notice that was shown.")
    ]
    based_on: Annotated[
        str | None,
        Field(description="The customer's newest record as it was shown; null if there was none."),
    ]


async def refuse_repeated_keys(visitor: WithToken, request: Request) -> None:
    """Refuses a body in which a key stands twice: nobody can say which of the two was meant.

    Raises:
        ProblemError: It does.
    """
    del visitor  # Who nobody knows is told so first.
    try:
        json.loads(await request.body(), object_pairs_hook=_without_repeated_keys)
    except (ValueError, RecursionError):
        return  # It is not JSON: what reads the body after this refuses it.


def _without_repeated_keys(pairs: list[tuple[str, object]]) -> None:
    if len(dict(pairs)) != len(pairs):
        raise ProblemError("invalid")


def _refusals(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The documented refusals of a route, and those of every route."""
    everywhere = ("malformed", "foreign-host", "too-many-requests", "unavailable")
    return refusals(PROBLEMS[code] for code in (*codes, *everywhere))


_OF_CUSTOMER = ("not-signed-in", "login-refused")
router = APIRouter(prefix=PREFIX, tags=["consent"])


@router.get("/notice", responses=_refusals())
def read_notice(service: ServiceOf, lang: Language) -> NoticeAnswer:
    """The notice in force, in the language asked for if there is one in it."""
    return _notice(service.desk.notice(lang))


@router.get("/choices", responses=_refusals(*_OF_CUSTOMER))
def read_choices(visitor: WithToken, service: ServiceOf, lang: Language) -> PositionAnswer:
    """Where the customer stands now, purpose by purpose."""
    return _position(service.desk.position(visitor.reference, lang))


@router.post(
    "/choices",
    status_code=201,
    dependencies=[Depends(refuse_repeated_keys)],
    responses=_refusals(
        *_OF_CUSTOMER,
        "guardian-needed",
        "choice-changed",
        "notice-changed",
        "nothing-to-withdraw",
        "request-too-large",
        "invalid",
    ),
)
def choose(
    body: ChoiceBody, visitor: WithToken, service: ServiceOf, request: Request, response: Response
) -> ChoiceAnswer:
    """Records a decision; when this answers, it is durable in the region's log."""
    agreed = frozenset(purpose for purpose, given in body.purposes.items() if given)
    decision = Decision(agreed, body.notice_sha256, body.based_on)
    service.limits.count_change(visitor.reference)
    logged = service.desk.choose(visitor.actor, decision)
    response.headers["Location"] = request.app.url_path_for(
        "read_receipt", record_id=logged.record_id
    )
    return _choice(logged)


@router.post(
    "/withdrawal", status_code=201, responses=_refusals(*_OF_CUSTOMER, "nothing-to-withdraw")
)
def withdraw(
    visitor: WithToken, service: ServiceOf, request: Request, response: Response
) -> ChoiceAnswer:
    """Withdraws everything that was given. Needs nothing but the customer."""
    logged = service.desk.withdraw(visitor.actor)
    response.headers["Location"] = request.app.url_path_for(
        "read_receipt", record_id=logged.record_id
    )
    return _choice(logged)


@router.get("/history", responses=_refusals(*_OF_CUSTOMER))
def read_history(visitor: WithToken, service: ServiceOf) -> list[ChoiceAnswer]:
    """The customer's records, the newest first."""
    return [_choice(each) for each in service.desk.history(visitor.reference)]


@router.get("/receipts/{record_id}", responses=_refusals(*_OF_CUSTOMER, "not-found", "invalid"))
def read_receipt(
    record_id: RecordId, visitor: WithToken, service: ServiceOf, lang: Language
) -> dict[str, Any]:
    """The receipt (``fedpref-receipt/1``) of one of the customer's own records.

    It proves, offline and without trusting the region, that the record is in the region's log.
    """
    receipt: dict[str, JsonValue] = service.desk.receipt(visitor.reference, record_id, lang)
    return receipt


def _notice(notice: ShownNotice) -> NoticeAnswer:
    return NoticeAnswer.model_validate(notice, from_attributes=True)


def _position(position: Position) -> PositionAnswer:
    return PositionAnswer.model_validate(position, from_attributes=True)


def _choice(choice: LoggedChoice) -> ChoiceAnswer:
    return ChoiceAnswer.model_validate(choice, from_attributes=True)
