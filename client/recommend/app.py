"""The recommender service as one ASGI application."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from pathlib import Path

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp

from client.recommend import api
from client.recommend.api import Serving, TokenGate
from client.recommend.config import ServiceSettings
from client.recommend.metrics import Measured
from client.recommend.problems import PROBLEMS
from client.recommend.try_page import TryPage, add_try_page, problem_page
from client.recommend.types import RecommenderClosedError, UnknownItemError
from client.web.application import answer_refusals, make_application
from client.web.description import describe_problems
from client.web.guard import Guard
from client.web.problems import INVALID, MEDIA_TYPE
from client.web.rendering import wants_page
from common.errors import FedprefError, InputError

_STATIC = Path(__file__).parent / "static"
_DESCRIPTION = """\
What to show to a customer next, for the shop's own programs: recommendations for a customer and a
scene, items like an item, items bought with an item, and live events that count from the very next
answer on.

Only customers whose consent for recommendations stands when the request is answered get personal
lists; everybody else gets what is popular, in the same form. Nothing leaves the region. Every
request carries the region's access token as a bearer token. Refusals are problems (RFC 9457).
"""
_RETRY_S = "10"

_log = logging.getLogger("fedpref.recommend")


def create_app(
    serving: Serving,
    settings: ServiceSettings,
    *,
    hosts: Collection[str] | None,
    try_page: TryPage | None = None,
    answered: Callable[[int, float], None] | None = None,
) -> ASGIApp:
    """Makes the application.

    Args:
        serving: The recommender, and the token that its callers must have.
        settings: The service's settings.
        hosts: What the ``Host`` header may be beside the settings' own names; None for any, where
            only programs on this machine can ask.
        try_page: The operator's page; None for none.
        answered: Is told of each answer of the API its status and its seconds; None for nobody.
    """
    app = make_application("Recommender", _DESCRIPTION, static=_STATIC)
    app.state.serving = serving
    app.include_router(api.router)
    if try_page is not None:
        add_try_page(app, try_page)

    @app.get("/healthz", include_in_schema=False)
    async def healthy() -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    @app.get("/readyz", include_in_schema=False)
    async def ready() -> PlainTextResponse:
        # What is wrong is for the operator: `fedpref-region recommend check` says it.
        faulty = bool(serving.faults())
        return PlainTextResponse("not ready\n" if faulty else "ok\n", 503 if faulty else 200)

    _add_handlers(app)
    describe_problems(app)
    named = None if hosts is None else {name.lower() for name in (*hosts, *settings.hosts)}
    guarded = Guard(
        TokenGate(app, serving.admits),
        hosts=named,
        max_body_bytes=settings.max_body_bytes,
        refuse=_refuse,
        log=_log,
    )
    if answered is None:
        return guarded
    refresh = frozenset({f"{api.PREFIX}{api.REFRESH_PATH}"})
    return Measured(guarded, api=api.API, unmeasured=refresh, answered=answered)


def _add_handlers(app: FastAPI) -> None:
    answer_refusals(app, _refuse)

    @app.exception_handler(UnknownItemError)
    async def on_unknown(request: Request, error: UnknownItemError) -> Response:
        del error  # Whoever asked knows what they asked for.
        return _refuse(request, "unknown-item", {})

    @app.exception_handler(InputError)
    async def on_input(request: Request, error: InputError) -> Response:
        # Of this very kind are the words about a request; what is more special is about a file.
        if type(error) is not InputError or wants_page(request.url.path, request.headers):
            return await on_failure(request, error)
        record = {**INVALID.record(), "detail": str(error)}
        return JSONResponse(record, INVALID.status, media_type=MEDIA_TYPE)

    @app.exception_handler(FedprefError)
    async def on_failure(request: Request, error: FedprefError) -> Response:
        closed = isinstance(error, RecommenderClosedError)
        _log.log(logging.INFO if closed else logging.ERROR, "the recommender failed: %s", error)
        return _refuse(request, "unavailable", {"Retry-After": _RETRY_S})


def _refuse(request: Request, code: str, headers: dict[str, str]) -> Response:
    problem = PROBLEMS[code]
    # One address answers pages and programs: a cache must keep the two apart.
    headers = {**headers, "Vary": "Accept, Accept-Language, Cookie"}
    if wants_page(request.url.path, request.headers):
        return Response(
            problem_page(request, code), problem.status, headers, "text/html; charset=utf-8"
        )
    return JSONResponse(problem.record(), problem.status, headers, MEDIA_TYPE)
