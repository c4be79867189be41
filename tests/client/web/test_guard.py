"""What the guard refuses before a service sees it, and what it adds to every answer."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from client.web.guard import Guard, check_origin
from client.web.problems import RefusedError

LOG = logging.getLogger("test.guard")
ORIGIN = "http://here.example"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).body()
    await PlainTextResponse(f"{len(body)} bytes")(scope, receive, send)


async def broken(scope: Scope, receive: Receive, send: Send) -> None:
    raise ValueError("a customer's secret")


def refuse(request: Request, code: str, headers: dict[str, str]) -> Response:
    return PlainTextResponse(code, 400, headers)


def client(
    app: Callable = echo, *, hosts: set[str] | None = None, count: Callable | None = None
) -> TestClient:
    guard = Guard(app, hosts=hosts, max_body_bytes=10, refuse=refuse, log=LOG, count=count)
    return TestClient(guard, base_url=ORIGIN, raise_server_exceptions=False)


def test_hosts_are_those_that_are_named_or_any() -> None:
    assert client(hosts=None).get("/").text == "0 bytes"
    assert client(hosts={"here.example"}).get("/", headers={"Host": "HERE.example"}).is_success
    assert client(hosts={"other.example"}).get("/").text == "foreign-host"
    assert client(hosts=set()).get("/").text == "foreign-host"


def test_a_body_is_as_large_as_it_may_be_and_no_larger() -> None:
    assert client().post("/", content=b"x" * 10).text == "10 bytes"
    assert client().post("/", content=b"x" * 11).text == "request-too-large"
    assert client().post("/", content=(b"x" for _ in range(11))).text == "request-too-large"
    assert client().post("/", headers={"Content-Length": "+1"}).text == "malformed"


def test_a_count_may_refuse() -> None:
    asked: list[str] = []
    assert client(count=asked.append).get("/").is_success
    assert len(asked) == 1


def test_a_defect_is_logged_and_told_to_nobody(caplog: pytest.LogCaptureFixture) -> None:
    answer = client(broken).get("/private/path")
    assert answer.text == "internal"
    assert "a customer's secret" in caplog.text
    assert "/private/path" not in caplog.text


def test_strict_headers_are_on_answers_and_refusals() -> None:
    for answer in (client().get("/"), client(hosts=set()).get("/"), client(broken).get("/")):
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("method", "headers", "admitted"),
    [
        ("GET", {}, True),
        ("POST", {"Origin": ORIGIN}, True),
        ("POST", {"Referer": f"{ORIGIN}/page"}, True),
        ("POST", {"Origin": "null"}, False),
        ("POST", {"Origin": "http://evil.example", "Referer": f"{ORIGIN}/page"}, False),
        ("POST", {}, False),
    ],
)
def test_changes_come_from_the_services_own_pages(
    method: str, headers: dict[str, str], admitted: bool
) -> None:
    if admitted:
        check_origin(Headers(headers), method, ORIGIN)
        return
    with pytest.raises(RefusedError) as refused:
        check_origin(Headers(headers), method, ORIGIN)
    assert refused.value.problem.code == "foreign-origin"
