"""The consent service as one ASGI application."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from client.consent_service import api, login_pages, pages
from client.consent_service.config import ConsentServiceSettings
from client.consent_service.desk import ConsentDesk, DecisionRefusedError
from client.consent_service.identity import LoginTokens
from client.consent_service.problems import MEDIA_TYPE, PROBLEMS, ProblemError
from client.consent_service.rate_limits import RateLimits
from client.consent_service.rendering import problem_page, wants_page
from client.consent_service.security import Guard, Refuse
from client.consent_service.sessions import Sessions
from client.consent_service.visitor import LANGUAGE_COOKIE, Service
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
    sessions: Sessions | None = None,
) -> ASGIApp:
    """Makes the application.

    Args:
        settings: The service's settings.
        desk: The consent desk.
        tokens: Verifies logins.
        sessions: A test's own sessions; by default as the settings say.
    """
    app = FastAPI(
        title="Consent service",
        description=_DESCRIPTION,
        version="1",
        # The interactive pages would load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
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
    app.mount("/static", StaticFiles(directory=_STATIC))
    refuse = partial(_refuse, login_url=settings.login.url)
    _add_handlers(app, refuse)
    _describe(app)
    return Guard(app, settings=settings, limits=limits, refuse=refuse)


def _add_handlers(app: FastAPI, refuse: Refuse) -> None:
    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        if isinstance(error, ProblemError):
            return refuse(request, error.problem.code, dict(error.headers or {}))
        codes = {404: "not-found", 405: "method-not-allowed", 413: "request-too-large"}
        return refuse(request, codes.get(error.status_code, "malformed"), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        del error  # Its words repeat the value, which is personal.
        in_path = "record_id" in request.path_params
        return refuse(request, "not-found" if in_path else "invalid", {})

    @app.exception_handler(DecisionRefusedError)
    async def on_decision(request: Request, refusal: DecisionRefusedError) -> Response:
        return refuse(request, refusal.code, {})

    @app.exception_handler(FedprefError)
    async def on_failure(request: Request, error: FedprefError) -> Response:
        _log.error("the desk failed: %s", error)
        return refuse(request, "unavailable", {"Retry-After": "60"})

    @app.exception_handler(Exception)
    async def on_defect(request: Request, error: Exception) -> Response:
        del error  # The guard logs it: this answers only.
        return refuse(request, "internal", {})


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


def _describe(app: FastAPI) -> None:
    """Lets the API's description say what refusals look like, instead of FastAPI's own form."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        description = made()
        schemas = description["components"]["schemas"]
        schemas["ProblemAnswer"] = api.ProblemAnswer.model_json_schema()
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        for path in description["paths"].values():
            for operation in path.values():
                invalid = operation["responses"].get("422", {"content": {}})
                invalid["content"].pop("application/json", None)
                if not invalid["content"]:
                    operation["responses"].pop("422", None)
        return description

    app.openapi = openapi  # type: ignore[method-assign]
