"""What every application of a region's web services is made with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from client.web.guard import Refuse
from client.web.problems import BY_STATUS, INTERNAL, INVALID, MALFORMED, Problem, RefusedError


def make_application(title: str, description: str, *, static: Path) -> FastAPI:
    """A FastAPI application with nothing that the framework would add for people.

    Args:
        title: The service's name.
        description: What its API is for.
        static: The service's own style and pictures; those of all services are served beside them.
    """
    app = FastAPI(
        title=title,
        description=description,
        version="1",
        # The interactive pages would load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.mount("/static", StaticFiles(directory=static, packages=[("client.web", "static")]))
    return app


def answer_refusals(
    app: FastAPI, refuse: Refuse, *, invalid: Callable[[Request], Problem] = lambda _: INVALID
) -> None:
    """Has what the framework refuses, and what breaks, answered as problems.

    Args:
        app: The application.
        refuse: Makes the answer.
        invalid: Which problem a request has that does not fit its route's form.
    """

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        if isinstance(error, RefusedError):
            problem = error.problem
        else:
            problem = BY_STATUS.get(error.status_code, MALFORMED)
        return refuse(request, problem.code, dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        del error  # Its words repeat the value, which may be personal.
        return refuse(request, invalid(request).code, {})

    @app.exception_handler(Exception)
    async def on_defect(request: Request, error: Exception) -> Response:
        del error  # The guard logs it: this answers only.
        return refuse(request, INTERNAL.code, {})
