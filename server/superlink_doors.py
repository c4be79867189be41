"""The two doors of the guarded SuperLink: what each lets through, from whom, and how much of it.

Plain ASGI around Flower's application; nothing here knows Flower but by its paths.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from common.structured_log import say

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

#: What regions may ask, all of it: Flower's fleet API without registering nodes, which is ours.
FLEET_CALLS = frozenset(
    f"/v1/fleet/{name}"
    for name in (
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "get-fab",
        "push-object",
        "pull-object",
        "confirm-message-received",
    )
)
_RUNTIME = "/v1/runtime/"
_CONTROL = "/v1/control/"
_HEALTH = "/health"
_LOOK_S = 5.0
_LENGTH_DIGITS = 19
_CLIENT_ERRORS = range(400, 500)

_log = logging.getLogger("fedpref.superlink")


class FleetDoor:
    """Lets the fleet API through, and nothing else, in requests of bounded size.

    Args:
        app: The SuperLink.
        request_bytes_max: The most bytes of one request's body; counted as they arrive, whatever
            its header claims.
    """

    def __init__(self, app: Asgi, *, request_bytes_max: int) -> None:
        self._app = app
        self._request_bytes_max = request_bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in FLEET_CALLS:
            await _refuse(scope, send, 404, "not-fleet-api")
            return
        claimed = _claimed_length(scope)
        if claimed is None or claimed > self._request_bytes_max:
            await _refuse(scope, send, 413, "too-large")
            return
        call = scope["path"].rpartition("/")[2]
        bounded = _Bounded(receive, self._request_bytes_max)
        await self._app(scope, bounded, _Watching(send, call, bounded))


class AdminDoor:
    """Lets the runtime API through, and the control API for who knows the token.

    Args:
        app: The SuperLink.
        token: The token.
        token_header: The header that it is given in, in lower case.
    """

    def __init__(self, app: Asgi, *, token: bytes, token_header: str) -> None:
        self._app = app
        self._token = token
        self._header = token_header.encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; the application's own start and end go through."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        path = str(scope.get("path", ""))
        open_to_all = path.startswith(_RUNTIME) or path == _HEALTH
        if scope["type"] != "http" or not (open_to_all or path.startswith(_CONTROL)):
            await _refuse(scope, send, 404, "not-admin-api")
        elif not open_to_all and not self._is_admin(scope):
            await _refuse(scope, send, 401, "no-admin-token")
        else:
            await self._app(scope, receive, send)

    def _is_admin(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == self._header]
        return len(given) == 1 and hmac.compare_digest(given[0], self._token)


class _Bounded:
    """A request's body that ends, as if the other side had gone, once it is too long."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._left = limit
        #: Whether it was too long.
        self.overran = False

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                self.overran = True
                return {"type": "http.disconnect"}
        return message


class _Watching:
    """Says what Flower refuses a region: an unknown node's key, above all."""

    def __init__(self, send: Send, call: str, body: _Bounded) -> None:
        self._send = send
        self._call = call
        self._body = body

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self._body.overran:
                # Flower takes it for a connection that broke, and for a fault of its own.
                # What is left of the body is not read: the connection ends with the answer.
                headers = [*message["headers"], (b"connection", b"close")]
                message = {**message, "status": 413, "headers": headers}
            if message["status"] in _CLIENT_ERRORS:
                reason = "not-authenticated" if message["status"] == 401 else "refused-by-flower"
                say(
                    _log,
                    logging.WARNING,
                    "request-refused",
                    reason="too-large" if self._body.overran else reason,
                    method=self._call,
                )
        await self._send(message)


class ImpatientProtocol(H11Protocol):
    """uvicorn's protocol, but a connection whose request does not come is ended.

    uvicorn itself bounds only the pause between two requests: whoever connects and sends nothing,
    or a byte a minute, would hold one of a limited number of connections for good.
    """

    #: For how long a request may take to arrive whole, in seconds.
    patience_s = 120.0

    def connection_made(self, transport: Any) -> None:
        """Begins to watch the connection."""
        super().connection_made(transport)
        self._waited_s = 0.0
        self._watch = self.loop.call_later(_LOOK_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops watching."""
        self._watch.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        cycle = self.cycle
        waits = cycle is None or cycle.response_complete or cycle.more_body
        self._waited_s = self._waited_s + _LOOK_S if waits else 0.0
        if self._waited_s >= self.patience_s:
            say(_log, logging.WARNING, "request-refused", reason="too-slow")
            self.transport.abort()
            return
        self._watch = self.loop.call_later(_LOOK_S, self._look)


async def _refuse(scope: Scope, send: Send, status: int, reason: str) -> None:
    say(_log, logging.WARNING, "request-refused", reason=reason)
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-length", b"0"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _claimed_length(scope: Scope) -> int | None:
    """The body's length by its header; 0 without one; None if it is no number."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() and len(value) <= _LENGTH_DIGITS else None
    return 0
