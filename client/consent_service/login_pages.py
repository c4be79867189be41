"""Signing in with the retailer's token, and out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import Response

from client.consent_service.identity import LoginError
from client.consent_service.language import messages
from client.consent_service.problems import ProblemError
from client.consent_service.rendering import render
from client.consent_service.visitor import (
    SignedIn,
    address_of,
    check_form,
    language_of,
    service_of,
)

router = APIRouter(include_in_schema=False)
Field = Annotated[str, Form(max_length=8192)]


@router.get("/login")
def log_in_by_link(request: Request, token: str = "") -> Response:
    """Exchanges the login token of a link for a session."""
    return _log_in(request, token)


@router.post("/login")
def log_in_by_form(request: Request, token: Field = "") -> Response:
    """Exchanges the login token of a form of the retailer's for a session.

    The form is another site's by design: here the token is what counts, and it works once.
    """
    return _log_in(request, token)


@router.post("/logout")
def log_out(request: Request, visitor: SignedIn, csrf: Field = "") -> Response:
    """Ends the session."""
    check_form(request, visitor, csrf)
    service = service_of(request)
    service.sessions.end(request.cookies.get(service.session_cookie))
    t = messages(language_of(request))
    response = render(
        request,
        "message",
        heading=t("signed-out.title"),
        text=t("signed-out.text"),
        problem=False,
        onward=False,
        login_url=service.settings.login.url,
        back=None,
    )
    response.delete_cookie(
        service.session_cookie,
        secure=service.settings.service.secure,
        httponly=True,
        samesite="strict",
    )
    return response


def _log_in(request: Request, token: str) -> Response:
    service = service_of(request)
    service.limits.count_login(address_of(request))
    try:
        identity = service.tokens.exchange(token)
    except LoginError as error:
        raise ProblemError("login-refused") from error
    # A session from before, whoever began it, ends here; the new one has an id of its own.
    service.sessions.end(request.cookies.get(service.session_cookie))
    t = messages(language_of(request))
    # An answer of its own that leads on: a redirect that another site began would reach the
    # choices without the strict cookie.
    response = render(
        request,
        "message",
        heading=t("signed-in.title"),
        text=t("signed-in.text"),
        problem=False,
        onward=True,
        login_url=None,
        back=t("signed-in.continue"),
    )
    response.set_cookie(
        service.session_cookie,
        service.sessions.begin(identity),
        max_age=service.settings.service.session_s,
        httponly=True,
        secure=service.settings.service.secure,
        samesite="strict",
    )
    return response
