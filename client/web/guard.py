"""What holds for every request and every answer, whatever the service and its route.

Requests: the host that is asked for is this service, a request has a bounded size, and a service
may count who asks. Answers: strict headers, and no failure tells how it came about.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from client.web.problems import (
    FOREIGN_HOST,
    FOREIGN_ORIGIN,
    INTERNAL,
    MALFORMED,
    TOO_LARGE,
    RefusedError,
)

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "style-src 'self'",
        "font-src 'self'",
        "img-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
    # Stricter still, no-referrer, would hide from this service that a form is its own: browsers
    # then state the origin "null".
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_HSTS = "max-age=31536000; includeSubDomains"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_STATIC = "/static/"

#: Makes the answer to a refused request: of its problem's code, with these headers.
Refuse = Callable[[Request, str, dict[str, str]], Response]


class Guard:
    """ASGI middleware around a whole application.

    Args:
        app: The application.
        hosts: What the ``Host`` header may be, in lower case; None where no browser can ask.
        max_body_bytes: The largest request.
        hsts: Whether browsers are told to use https only.
        count: Counts a request of an address, and refuses it if there were too many.
        refuse: Makes the answer to a request that is refused here.
        log: The service's log.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Collection[str] | None,
        max_body_bytes: int,
        refuse: Refuse,
        log: logging.Logger,
        count: Callable[[str], None] | None = None,
        hsts: bool = False,
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._max_body_bytes = max_body_bytes
        self._refuse = refuse
        self._log = log
        self._count = count
        self._hsts = hsts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, log = time.monotonic(), self._log
        answer = _Answer(send, scope, hsts=self._hsts)
        try:
            self._check(scope)
            await self._app(scope, _BoundedBody(receive, self._max_body_bytes), answer)
        except RefusedError as refusal:
            headers = dict(refusal.headers or {})
            refused = self._refuse(Request(scope), refusal.problem.code, headers)
            await refused(scope, receive, answer.unless_started)
        # The last frame: whatever it is, who asked gets no traceback, and the log has it.
        except Exception as error:
            log.error("a request failed: %s", route_of(scope), exc_info=error)
            refused = self._refuse(Request(scope), INTERNAL.code, {})
            await refused(scope, receive, answer.unless_started)
        log.info(
            "%s %s %d %.0f ms",
            scope["method"],
            route_of(scope),
            answer.status,
            1000 * (time.monotonic() - began),
        )

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        # A page of another site whose name was made to lead here must find nothing.
        if self._hosts is not None and headers.get("host", "").lower() not in self._hosts:
            raise RefusedError(FOREIGN_HOST)
        if self._count is not None:
            client = scope.get("client")
            self._count(client[0] if client else "unknown")
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit():
            raise RefusedError(MALFORMED)
        if int(length) > self._max_body_bytes:
            raise RefusedError(TOO_LARGE)


def check_origin(headers: Headers, method: str, origin: str) -> None:
    """Refuses a change that a page of another site asks for in a visitor's name.

    Args:
        headers: The request's.
        method: Its method.
        origin: The service's own origin.

    Raises:
        RefusedError: It comes from elsewhere, or from nowhere that it says.
    """
    if method in _SAFE_METHODS:
        return
    stated = headers.get("origin")
    if stated is None and (referer := headers.get("referer")):
        parts = urlsplit(referer)
        stated = f"{parts.scheme}://{parts.netloc}"
    if stated != origin:
        raise RefusedError(FOREIGN_ORIGIN)


def route_of(scope: Scope) -> str:
    """The route's pattern: a path may hold a record's id, a query a login token."""
    return getattr(scope.get("route"), "path", "an unknown route")


class _BoundedBody:
    """A request's body that ends the request when it grows over the limit."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._left = limit

    async def __call__(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise RefusedError(TOO_LARGE)
        return message


class _Answer:
    """An answer on its way out: gets its headers, and remembers its status."""

    def __init__(self, send: Send, scope: Scope, *, hsts: bool) -> None:
        self._send = send
        self._static = scope["path"].startswith(_STATIC)
        self._hsts = hsts
        self._started = False
        self._replaced = False
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._started = True
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers[name] = value
            if self._hsts:
                headers["Strict-Transport-Security"] = _HSTS
            cached = self._static and self.status == 200
            headers["Cache-Control"] = "public, max-age=3600" if cached else "no-store"
            if "vary" not in headers:
                headers["Vary"] = "Accept-Language, Cookie"
        await self._send(message)

    async def unless_started(self, message: Message) -> None:
        """Sends a whole other answer, if nothing was answered yet."""
        if message["type"] == "http.response.start" and not self._started:
            self._replaced = True
        if self._replaced:
            await self(message)
