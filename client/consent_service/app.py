"""The consent service as one ASGI application."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from client.consent_service import api, login_pages, pages
from client.consent_service.config import ConsentServiceSettings
from client.consent_service.desk import ConsentDesk, DecisionRefusedError
from client.consent_service.identity import Identity, LoginTokens
from client.consent_service.problems import PROBLEMS
from client.consent_service.rate_limits import RateLimits
from client.consent_service.rendering import problem_page
from client.consent_service.visitor import Service
from client.web.application import answer_refusals, make_application
from client.web.description import describe_problems
from client.web.guard import Guard, Refuse
from client.web.language import LANGUAGE_COOKIE
from client.web.problems import INVALID, MEDIA_TYPE, NOT_FOUND
from client.web.rendering import wants_page
from client.web.sessions import Sessions
from common.errors import FedprefError

_STATIC = Path(__file__).parent / "static"
_DESCRIPTION = """\
What a customer may learn and decide about the use of their data, for programs that act for them.

Every request carries the customer's login token (a JWT of the retailer's login) as a bearer token:
it answers for that customer and nobody else. Every choice is a signed record in the region's
tamper-evident log; its receipt proves so offline. Refusals are problems (RFC 9457).
"""

_log = logging.getLogger("fedpref.consent")


def create_app(
    settings: ConsentServiceSettings,
    desk: ConsentDesk,
    tokens: LoginTokens,
    *,
    sessions: Sessions[Identity] | None = None,
) -> ASGIApp:
    """Makes the application.

    Args:
        settings: The service's settings.
        desk: The consent desk.
        tokens: Verifies logins.
        sessions: A test's own sessions; by default as the settings say.
    """
    app = make_application("Consent service", _DESCRIPTION, static=_STATIC)
    limits = RateLimits(settings.limits)
    app.state.service = Service(
        settings=settings,
        desk=desk,
        tokens=tokens,
        sessions=sessions
        or Sessions(
            lifetime_s=settings.service.session_s,
            idle_s=settings.service.idle_s,
            limit=settings.service.max_sessions,
        ),
        limits=limits,
    )
    app.include_router(api.router)
    app.include_router(pages.router)
    app.include_router(login_pages.router)
    refuse = partial(_refuse, login_url=settings.login.url)
    _add_handlers(app, refuse)
    describe_problems(app)
    return Guard(
        app,
        hosts={settings.service.host},
        max_body_bytes=settings.limits.max_body_bytes,
        count=limits.count_request,
        hsts=settings.service.hsts,
        refuse=refuse,
        log=_log,
    )


def _add_handlers(app: FastAPI, refuse: Refuse) -> None:
    answer_refusals(
        app,
        refuse,
        invalid=lambda request: NOT_FOUND if "record_id" in request.path_params else INVALID,
    )

    @app.exception_handler(DecisionRefusedError)
    async def on_decision(request: Request, refusal: DecisionRefusedError) -> Response:
        return refuse(request, refusal.code, {})

    @app.exception_handler(FedprefError)
    async def on_failure(request: Request, error: FedprefError) -> Response:
        _log.error("the desk failed: %s", error)
        return refuse(request, "unavailable", {"Retry-After": "60"})


def _refuse(
    request: Request, code: str, headers: dict[str, str], *, login_url: str | None
) -> Response:
    problem = PROBLEMS[code]
    # One address answers pages and programs: a cache must keep the two apart.
    headers = {**headers, "Vary": "Accept, Accept-Language, Cookie"}
    if wants_page(request.url.path, request.headers):
        page = problem_page(request.headers, request.cookies.get(LANGUAGE_COOKIE), code, login_url)
        return Response(page, problem.status, headers, "text/html; charset=utf-8")
    return JSONResponse(problem.record(), problem.status, headers, MEDIA_TYPE)
