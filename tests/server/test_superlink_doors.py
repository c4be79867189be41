"""The two doors before Flower's SuperLink: default deny, bounded sizes, a token for control."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st

from server import superlink_doors
from server.superlink_doors import (
    FLEET_CALLS,
    AdminDoor,
    FleetDoor,
    ImpatientProtocol,
    Message,
    Scope,
)

TOKEN = b"0123456789abcdef" * 4
HEADER = "x-fedpref-admin"


class App:
    """Stands for Flower's application: reads the whole body and answers."""

    def __init__(self, status: int = 200, when_gone: int = 400) -> None:
        self.when_gone = when_gone
        self.calls: list[tuple[str, bytes]] = []
        self.kinds: list[str] = []
        self.status = status

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        self.kinds.append(scope["type"])
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                start = {"type": "http.response.start", "headers": []}
                await send({**start, "status": self.when_gone})
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.calls.append((scope["path"], body))
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def ask(
    door: Any,
    path: str,
    *,
    method: str = "POST",
    kind: str = "http",
    headers: list[tuple[bytes, bytes]] | None = None,
    body: tuple[bytes, ...] = (b"",),
) -> list[Message]:
    sent: list[Message] = []
    pieces = list(body)

    async def receive() -> Message:
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": kind, "method": method, "path": path, "headers": headers or []}
    asyncio.run(door(scope, receive, send))
    return sent


def status(sent: list[Message]) -> int:
    return int(sent[0]["status"])


@pytest.mark.parametrize("path", sorted(FLEET_CALLS))
def test_every_call_of_a_node_passes_the_regions_door(path: str) -> None:
    app = App()
    assert status(ask(FleetDoor(app, request_bytes_max=10), path, body=(b"abc",))) == 200
    assert app.calls == [(path, b"abc")]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/control/start-run"),
        ("POST", "/v1/control/list-nodes"),
        ("POST", "/v1/runtime/acquire-task"),
        ("POST", "/v1/runtime/push-task-output"),
        ("POST", "/v1/fleet/register-node"),
        ("POST", "/v1/fleet/unregister-node"),
        ("POST", "/v1/fleet/pull-messages/"),
        ("POST", "/v1/fleet/../control/start-run"),
        ("POST", "//v1/fleet/pull-messages"),
        ("POST", "/v1/fleet/PULL-MESSAGES"),
        ("GET", "/v1/fleet/pull-messages"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/health"),
    ],
)
def test_nothing_else_passes_it(method: str, path: str) -> None:
    app = App()
    assert status(ask(FleetDoor(app, request_bytes_max=10), path, method=method)) == 404
    assert app.kinds == []


@given(st.text(max_size=60), st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS"]))
def test_no_other_path_passes_it(path: str, method: str) -> None:
    app = App()
    ask(FleetDoor(app, request_bytes_max=10), path, method=method)
    assert (app.kinds == ["http"]) == (method == "POST" and path in FLEET_CALLS)


def test_no_websocket_and_no_lifespan_passes_the_regions_door() -> None:
    app = App()
    sent = ask(FleetDoor(app, request_bytes_max=10), "/v1/fleet/pull-messages", kind="websocket")
    assert sent == [{"type": "websocket.close", "code": 1008}]
    assert app.kinds == []


@pytest.mark.parametrize("claimed", [b"11", b"99999999999999999999999", b"-1", b"x", b""])
def test_a_request_that_claims_too_much_is_not_read(claimed: bytes) -> None:
    app = App()
    door = FleetDoor(app, request_bytes_max=10)
    sent = ask(door, "/v1/fleet/push-object", headers=[(b"content-length", claimed)])
    assert status(sent) == 413
    assert app.kinds == []


@pytest.mark.parametrize("fault", [400, 500], ids=["refused-by-flower", "flower-fails"])
def test_a_request_that_claims_little_and_sends_much_is_cut_off_and_said_to_be_too_large(
    fault: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="fedpref.superlink")
    app = App(when_gone=fault)
    door = FleetDoor(app, request_bytes_max=10)
    sent = ask(
        door,
        "/v1/fleet/push-object",
        headers=[(b"content-length", b"4")],
        body=(b"123456", b"123456", b"123456"),
    )
    assert status(sent) == 413
    assert app.calls == []
    assert [vars(each)["fedpref_fields"]["reason"] for each in caplog.records] == ["too-large"]


def test_exactly_the_limit_passes() -> None:
    app = App()
    ask(FleetDoor(app, request_bytes_max=10), "/v1/fleet/push-object", body=(b"12345", b"12345"))
    assert app.calls == [("/v1/fleet/push-object", b"1234512345")]


def admin(app: App) -> AdminDoor:
    return AdminDoor(app, token=TOKEN, token_header=HEADER)


def test_control_asks_for_the_token() -> None:
    app = App()
    wrong = [
        [],
        [(b"x-fedpref-admin", b"")],
        [(b"x-fedpref-admin", TOKEN[:-1])],
        [(b"x-fedpref-admin", TOKEN.upper())],
        [(b"x-fedpref-admin", TOKEN), (b"x-fedpref-admin", TOKEN)],
        [(b"authorization", TOKEN)],
    ]
    for headers in wrong:
        assert status(ask(admin(app), "/v1/control/start-run", headers=headers)) == 401
    assert app.calls == []
    right = [(b"x-fedpref-admin", TOKEN)]
    assert status(ask(admin(app), "/v1/control/start-run", headers=right)) == 200
    assert app.calls == [("/v1/control/start-run", b"")]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/runtime/acquire-task", 200),
        ("/health", 200),
        ("/v1/fleet/pull-messages", 404),
        ("/docs", 404),
        ("/v1/control", 404),
    ],
)
def test_the_admin_door_has_runtime_and_no_fleet(path: str, expected: int) -> None:
    assert status(ask(admin(App()), path)) == expected


def test_the_applications_own_start_goes_through_the_admin_door() -> None:
    app = App()
    ask(admin(app), "", kind="lifespan")
    assert app.kinds == ["lifespan"]


def test_refusals_are_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="fedpref.superlink")
    ask(FleetDoor(App(), request_bytes_max=10), "/v1/control/start-run")
    ask(FleetDoor(App(401), request_bytes_max=10), "/v1/fleet/pull-messages")
    ask(FleetDoor(App(), request_bytes_max=1), "/v1/fleet/push-object", body=(b"12", b"3"))
    ask(admin(App()), "/v1/control/start-run")
    said = [vars(record)["fedpref_fields"] for record in caplog.records]
    assert [fields["reason"] for fields in said] == [
        "not-fleet-api",
        "not-authenticated",
        "too-large",
        "no-admin-token",
    ]
    assert said[1]["method"] == "pull-messages"
    assert json.dumps(said)


class Patient(ImpatientProtocol):
    """One that has no more patience than a test."""

    patience_s = 0.1


@contextmanager
def listening(app: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Serves an application on a free port, by our protocol; gives the port."""
    monkeypatch.setattr(superlink_doors, "_LOOK_S", 0.05)
    config = uvicorn.Config(app, http=Patient, ws="none", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.parametrize("begun", [b"", b"POST /v1/fleet/pull-mess"])
def test_who_connects_and_sends_no_whole_request_is_cut_off(
    begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(App(), monkeypatch) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as waiting:
            waiting.sendall(begun)
            with suppress(ConnectionResetError):
                assert waiting.recv(1) == b""


def test_a_body_that_is_cut_off_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(FleetDoor(App(), request_bytes_max=10), monkeypatch) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as sending:
            sending.sendall(
                b"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\n"
                b"transfer-encoding: chunked\r\n\r\n14\r\n" + bytes(20) + b"\r\n"
            )
            answer = b""
            with suppress(ConnectionResetError):
                while piece := sending.recv(1000):
                    answer += piece
            assert answer.startswith(b"HTTP/1.1 413 ")
            assert b"connection: close" in answer.lower()
