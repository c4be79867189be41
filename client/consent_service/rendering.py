"""Pages as HTML: templates, and what every page needs."""

from __future__ import annotations

from pathlib import Path

from fastapi import Request
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, Response

from client.consent_service.language import messages
from client.consent_service.problems import PROBLEMS
from client.consent_service.visitor import Visitor, language_of, service_of
from client.web.language import LANGUAGE_COOKIE, LANGUAGES, negotiate
from client.web.rendering import fill

_YEAR_S = 365 * 24 * 3600
_FOLDER = Path(__file__).parent / "templates"
#: Problems that mean: this customer has to sign in.
_SIGN_IN = frozenset({"not-signed-in", "login-refused", "form-expired"})


def render(
    request: Request,
    template: str,
    *,
    visitor: Visitor | None = None,
    status: int = 200,
    **values: object,
) -> Response:
    """A page in the customer's language.

    Args:
        request: The request.
        template: The template's name, without ending.
        visitor: Who is signed in, if it is their page.
        status: The HTTP status.
        values: What the template shows.
    """
    lang = language_of(request)
    # A page that answers a form has an address of its own only for forms.
    readable = request.method in {"GET", "HEAD"} and "route" in request.scope
    path = request.url.path if readable and visitor is not None else "/"
    response = HTMLResponse(
        fill(_FOLDER, template, messages(lang), page_path=path, visitor=visitor, **values),
        status_code=status,
        headers={"Content-Language": lang},
    )
    if request.query_params.get("lang") in LANGUAGES:
        response.set_cookie(
            LANGUAGE_COOKIE,
            lang,
            max_age=_YEAR_S,
            httponly=True,
            secure=service_of(request).settings.service.secure,
            samesite="strict",
        )
    return response


def problem_page(headers: Headers, chosen: str | None, code: str, login_url: str | None) -> bytes:
    """A refusal as a page.

    Args:
        headers: The request's.
        chosen: The language chosen on a page before, if any.
        code: One of `client.consent_service.problems.PROBLEMS`.
        login_url: Where customers sign in, if that is known.
    """
    t = messages(negotiate(headers.get("accept-language"), chosen))
    page = fill(
        _FOLDER,
        "message",
        t,
        page_path="/",
        visitor=None,
        problem=True,
        onward=False,
        heading=t(f"problem.{PROBLEMS[code].code}"),
        text=t(f"problem.{code}.text"),
        login_url=login_url if code in _SIGN_IN else None,
        back=t("problem.back"),
    )
    return page.encode()
