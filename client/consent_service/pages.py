"""The pages: sign in, see the notice, choose, look back, keep the receipt. No script is needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from client.consent_service.api import RecordId
from client.consent_service.desk import (
    Decision,
    DecisionRefusedError,
    LoggedChoice,
    Position,
)
from client.consent_service.language import messages
from client.consent_service.problems import PROBLEMS, ProblemError
from client.consent_service.rendering import render
from client.consent_service.visitor import (
    Language,
    Service,
    ServiceOf,
    SignedIn,
    Visitor,
    check_form,
    service_of,
)
from client.web.language import DEFAULT, Messages
from common import canonical_json
from common.audit.checkpoint import parse_note
from common.audit.proof_file import LogProof
from common.audit.receipt_text import receipt_language, strength
from common.canonical_json import JsonValue
from common.consent import GIVEN, PROFILING, REFUSED, WITHDRAWN

_RECEIPT_MEDIA_TYPE = "application/json"
# After these the customer sees their choices as they are now, with the reason above.
_SHOWN_AT_HOME = frozenset(
    {
        "choice-changed",
        "guardian-needed",
        "invalid",
        "nothing-chosen",
        "nothing-to-withdraw",
        "notice-changed",
    }
)

router = APIRouter(include_in_schema=False)
Field = Annotated[str, Form(max_length=8192)]


@dataclass(frozen=True)
class _HomeView:
    """What the page of choices offers.

    Attributes:
        summary: Which sentence tells where the customer stands.
        asks: Whether every purpose is asked anew, with boxes to tick.
        may_withdraw: Whether there is something to withdraw.
        may_refuse: Whether a refusal would change anything.
        must_ask_guardian: Whether this customer cannot agree alone.
    """

    summary: str
    asks: bool
    may_withdraw: bool
    may_refuse: bool
    must_ask_guardian: bool

    @classmethod
    def of(cls, position: Position, visitor: Visitor) -> _HomeView:
        granted = bool(position.granted)
        return cls(
            summary=_summary(position),
            asks=not granted or position.notice_changed,
            may_withdraw=granted,
            may_refuse=position.state in (None, GIVEN),
            must_ask_guardian=visitor.identity.minor and not visitor.identity.guardian,
        )


def _summary(position: Position) -> str:
    if position.state == GIVEN:
        if not position.granted:
            return "lapsed"
        return "notice-changed" if position.notice_changed else "given"
    return {None: "none", REFUSED: "refused", WITHDRAWN: "withdrawn"}[position.state]


@router.get("/")
def home(request: Request, service: ServiceOf, lang: Language) -> Response:
    """Where the customer stands and what they can choose; for others, how to sign in."""
    session = service.sessions.find(request.cookies.get(service.session_cookie))
    if session is None:
        return render(
            request,
            "welcome",
            notice=service.desk.notice(lang),
            login_url=service.settings.login.url,
        )
    service.limits.count_read(session.identity.customer_ref)
    return _home(request, Visitor(session.identity, session), lang)


@router.post("/choices")
def choose(
    request: Request,
    visitor: SignedIn,
    lang: Language,
    action: Field,
    csrf: Field = "",
    notice: Field = "",
    based_on: Field = "",
    purpose: Annotated[list[str] | None, Form(max_length=32)] = None,
) -> Response:
    """Records what the pressed button says."""
    check_form(request, visitor, csrf)
    service = service_of(request)
    if action != "withdraw":
        service.limits.count_change(visitor.reference)
    try:
        logged = _decide(service, visitor, action, set(purpose or ()), notice, based_on)
    except (DecisionRefusedError, ProblemError) as refusal:
        code = refusal.code if isinstance(refusal, DecisionRefusedError) else refusal.problem.code
        if code not in _SHOWN_AT_HOME:
            raise
        return _home(request, visitor, lang, problem=code)
    return RedirectResponse(f"/receipts/{logged.record_id}?new=1", status_code=303)


@router.get("/history")
def history(request: Request, visitor: SignedIn, service: ServiceOf) -> Response:
    """Every choice of the customer's."""
    return render(
        request, "history", visitor=visitor, history=service.desk.history(visitor.reference)
    )


@router.get("/receipts/{record_id}")
def receipt(
    request: Request, record_id: RecordId, visitor: SignedIn, service: ServiceOf, lang: Language
) -> Response:
    """One choice, what it means, and its receipt to download."""
    receipt = service.desk.receipt(visitor.reference, record_id, lang)
    records = service.desk.history(visitor.reference)
    choice = next((each for each in records if each.record_id == record_id), None)
    if choice is None:
        raise ProblemError("not-found")
    witnesses = _witnesses(receipt)
    return render(
        request,
        "receipt",
        visitor=visitor,
        receipt=receipt,
        choice=choice,
        effect=_effect(messages(lang), choice, newest=choice is records[0]),
        witnesses=witnesses,
        strength=strength(False, receipt_language(lang)),
        new="new" in request.query_params,
    )


@router.get("/receipts/{record_id}/file")
def receipt_file(
    record_id: RecordId, visitor: SignedIn, service: ServiceOf, lang: Language
) -> Response:
    """The receipt's bytes, as a download."""
    receipt = service.desk.receipt(visitor.reference, record_id, lang)
    return Response(
        canonical_json.encode(receipt, max_bytes=1 << 20),
        media_type=_RECEIPT_MEDIA_TYPE,
        headers={"Content-Disposition": f'attachment; filename="receipt-{record_id}.json"'},
    )


@router.get("/profile")
def profile(request: Request, visitor: SignedIn, service: ServiceOf, lang: Language) -> Response:
    """What the customer's profile says, since when and why; or why there is none."""
    return render(
        request,
        "profile",
        visitor=visitor,
        shown=service.desk.profile(visitor.reference, lang),
        purpose=PROFILING,
    )


def _home(request: Request, visitor: Visitor, lang: str, *, problem: str | None = None) -> Response:
    desk = service_of(request).desk
    position = desk.position(visitor.reference, lang)
    return render(
        request,
        "home",
        visitor=visitor,
        status=200 if problem is None else PROBLEMS[problem].status,
        notice=desk.notice(lang),
        position=position,
        view=_HomeView.of(position, visitor),
        problem=problem,
    )


def _decide(
    service: Service,
    visitor: Visitor,
    action: str,
    ticked: set[str],
    notice: str,
    based_on: str,
) -> LoggedChoice:
    """Does what a button says; raises a refusal if it may not be done now."""
    verb, _, purpose = action.partition(" ")
    if verb == "withdraw":
        return service.desk.withdraw(visitor.actor)
    if verb == "refuse":
        return service.desk.choose(visitor.actor, Decision(frozenset(), notice, based_on or None))
    if verb == "agree":
        if not ticked:
            raise ProblemError("nothing-chosen")
        agreed = frozenset(ticked)
    elif verb in {"add", "drop"}:
        # From what is in force, not from what the page said: `based_on` tells the two apart.
        granted = service.desk.position(visitor.reference, DEFAULT).granted
        if (purpose in granted) is (verb == "add"):
            raise ProblemError("choice-changed")
        agreed = granted ^ {purpose}
    else:
        raise ProblemError("invalid")
    return service.desk.choose(visitor.actor, Decision(agreed, notice, based_on or None))


def _effect(t: Messages, choice: LoggedChoice, *, newest: bool) -> str:
    if not choice.ends_training:
        return t("receipt.included") if newest else t("receipt.followed")
    if choice.first_excluded is not None:
        excluded = choice.first_excluded
        return t("receipt.excluded", round=excluded.round, run=excluded.run)
    return t("receipt.excluded-next") if newest else t("receipt.excluded-none")


def _witnesses(receipt: dict[str, JsonValue]) -> list[str]:
    """The others who have cosigned the checkpoint of a receipt, as the desk gave it."""
    note = parse_note(LogProof.parse(str(receipt["proof"]).encode()).checkpoint)
    origin = note.text.split("\n", 1)[0]
    return [signature.name for signature in note.signatures if signature.name != origin]
