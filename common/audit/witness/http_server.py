"""A witness as an HTTP service: ``add-checkpoint`` of C2SP ``tlog-witness``, and a status page.

No request authenticates its sender: the log's signature on the checkpoint is what counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import MutableMapping

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.audit.witness.request import MAX_REQUEST_BYTES, SIZE_TYPE, AddCheckpoint
from common.audit.witness.witness import StaleSizeError, Witness, WitnessRefusalError
from common.errors import FedprefError, InputError
from common.timestamps import format_time

#: For how long a client may take to send its request, in seconds.
BODY_TIMEOUT_S = 10.0

_TEXT = "text/plain; charset=utf-8"
_HEADERS = {
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}

_log = logging.getLogger(__name__)


class _StrictHeaders:
    """Puts the security headers on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_strictly(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers: MutableMapping[bytes, bytes] = dict(message.get("headers", []))
                message = {**message, "headers": [*{**headers, **_HEADERS}.items()]}
            await send(message)

        await self._app(scope, receive, send_strictly)


def create_app(witness: Witness) -> FastAPI:
    """The HTTP service of a witness.

    Args:
        witness: What judges; its `cosign` runs in a pool of threads.
    """
    app = FastAPI(
        title="Witness",
        openapi_url=None,  # no route but the two
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_middleware(_StrictHeaders)

    @app.post("/add-checkpoint", response_class=Response)
    async def add_checkpoint(request: Request) -> Response:
        try:
            body = await asyncio.wait_for(_bounded_body(request), BODY_TIMEOUT_S)
        except TimeoutError:
            return _text(408, "The request was not sent in time.")
        except ClientDisconnect:
            return _text(400, "The request was not sent whole.")
        if body is None:
            return _text(413, f"A request has at most {MAX_REQUEST_BYTES} bytes.")
        return await run_in_threadpool(_answer, witness, body)

    @app.get("/", response_class=Response)
    def status() -> Response:
        try:
            return _text(200, _status_page(witness))
        except FedprefError as error:
            _log.error("%s", error)
            return _text(503, "The witness cannot read its store.")

    @app.exception_handler(HTTPException)
    async def plain_error(_: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        return Response(f"{error.detail}\n", error.status_code, error.headers, media_type=_TEXT)

    return app


async def _bounded_body(request: Request) -> bytes | None:
    """The body; None as soon as it is known to be too long, before it is read."""
    declared = request.headers.get("content-length", "0")
    if not declared.isascii() or not declared.isdigit() or int(declared[:20]) > MAX_REQUEST_BYTES:
        return None
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_REQUEST_BYTES:
            return None
    return bytes(body)


def _answer(witness: Witness, body: bytes) -> Response:
    try:
        asked = AddCheckpoint.parse(body)
        line = witness.cosign(asked.note, asked.old_size, asked.proof)
    except StaleSizeError as error:
        # Set as a header: as a media type it would get a charset, which the protocol forbids.
        size = f"{error.known_size}\n"
        return Response(size, error.status, headers={"Content-Type": SIZE_TYPE})
    except WitnessRefusalError as error:
        return _text(error.status, error.message)
    except InputError as error:
        return _text(400, error.message)
    except FedprefError as error:
        # The store or the key fails; its path is no business of whoever asks.
        _log.error("%s", error)
        return _text(503, "The witness cannot store or sign now; nothing was cosigned.")
    return Response(line, media_type=_TEXT)


def _status_page(witness: Witness) -> str:
    lines = [f"Witness {witness.key.name}", f"verifier key: {witness.key.verifier_key}", ""]
    heads = witness.heads()
    for origin, seen in heads.items():
        lines.append(f"{origin}: size {seen.size}, cosigned {format_time(seen.time_s * 1000)}")
    return "\n".join(lines if heads else [*lines, "No log was cosigned yet."])


def _text(status: int, text: str) -> Response:
    return Response(f"{text}\n", status, media_type=_TEXT)
