"""Who asks, and how often: the checks that routes share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from client.consent_service.config import ConsentServiceSettings
from client.consent_service.desk import Actor, ConsentDesk
from client.consent_service.identity import Identity, LoginError, LoginTokens
from client.consent_service.problems import ProblemError
from client.consent_service.rate_limits import RateLimits
from client.web.guard import check_origin
from client.web.language import LANGUAGE_COOKIE, negotiate
from client.web.sessions import Session, Sessions

_BEARER = HTTPBearer(
    auto_error=False, bearerFormat="JWT", description="The customer's login token."
)


@dataclass(frozen=True)
class Service:
    """What every route works with.

    Attributes:
        settings: The settings.
        desk: The consent desk.
        tokens: Verifies logins.
        sessions: The signed-in customers.
        limits: The rate limits.
    """

    settings: ConsentServiceSettings
    desk: ConsentDesk
    tokens: LoginTokens
    sessions: Sessions[Identity]
    limits: RateLimits

    @property
    def session_cookie(self) -> str:
        """The session cookie's name; its prefix binds it to this host and to https."""
        return "__Host-fedpref" if self.settings.service.secure else "fedpref"


@dataclass(frozen=True)
class Visitor:
    """A customer whose request was admitted.

    Attributes:
        identity: Who.
        session: Their session; None for a program with a token.
    """

    identity: Identity
    session: Session[Identity] | None

    @property
    def reference(self) -> str:
        """The only customer whose data this request may concern."""
        return self.identity.customer_ref

    @property
    def actor(self) -> Actor:
        """As the desk knows who acts."""
        who = self.identity
        return Actor(who.customer_ref, minor=who.minor, guardian=who.guardian, token=who.token)


def service_of(request: Request) -> Service:
    """The service that a request is to."""
    service: Service = request.app.state.service
    return service


def language_of(
    request: Request,
    lang: Annotated[
        str | None, Query(description="The language to answer in, before Accept-Language.")
    ] = None,
) -> str:
    """The language to answer in: the one chosen on the page, else the browser's."""
    del lang  # Declared for the API's description; what is not a language counts as none.
    chosen = request.query_params.get("lang") or request.cookies.get(LANGUAGE_COOKIE)
    return negotiate(request.headers.get("accept-language"), chosen)


def address_of(request: Request) -> str:
    """The address that asks."""
    return request.client.host if request.client else "unknown"


def session_visitor(request: Request) -> Visitor:
    """The customer of a page's session.

    Raises:
        ProblemError: Nobody is signed in, or too much was asked for.
    """
    service = service_of(request)
    session = service.sessions.find(request.cookies.get(service.session_cookie))
    if session is None:
        raise ProblemError("not-signed-in")
    service.limits.count_read(session.identity.customer_ref)
    return Visitor(session.identity, session)


def token_visitor(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
) -> Visitor:
    """The customer whom a program's bearer token names.

    Raises:
        ProblemError: There is no token that holds, or too much was asked for.
    """
    service = service_of(request)
    challenge = {"WWW-Authenticate": "Bearer"}
    if credentials is None:
        raise ProblemError("not-signed-in", headers=challenge)
    try:
        identity = service.tokens.verify(credentials.credentials.strip())
    except LoginError as error:
        service.limits.count_login(address_of(request))
        challenge = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
        raise ProblemError("login-refused", headers=challenge) from error
    service.limits.count_read(identity.customer_ref)
    return Visitor(identity, None)


def check_form(request: Request, visitor: Visitor, csrf: str) -> None:
    """Refuses a form that is not of a page of this session, or that comes too often.

    Raises:
        ProblemError: As the case is.
    """
    service = service_of(request)
    check_origin(request.headers, request.method, service.settings.service.origin)
    if visitor.session is None or not visitor.session.accepts(csrf):
        raise ProblemError("form-expired")


ServiceOf = Annotated[Service, Depends(service_of)]
Language = Annotated[str, Depends(language_of)]
SignedIn = Annotated[Visitor, Depends(session_visitor)]
WithToken = Annotated[Visitor, Depends(token_visitor)]
