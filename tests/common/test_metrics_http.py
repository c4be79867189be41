"""The HTTP side of metrics: what it answers, and that nobody can take its threads."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPResponse

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from common import metrics_http
from common.errors import InputError, StorageError
from common.loopback import LoopbackAddress
from common.metrics_http import Observed, serve_metrics

ANY_PORT = LoopbackAddress("127.0.0.1", 0)
SECRET = "customer 4711"


class Answers(Collector):
    """A collector whose answer a test sets."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.asked = threading.Event()
        self.wait: threading.Event | None = None

    def collect(self) -> Iterable[Metric]:
        self.asked.set()
        if self.wait is not None:
            self.wait.wait(60)
        if self.error is not None:
            raise self.error
        return [GaugeMetricFamily("answer", "The answer.", value=42)]


class Checked:
    """A check whose outcome a test sets."""

    def __init__(self) -> None:
        self.outcome: str | Exception | None = None

    def __call__(self) -> str | None:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def checked() -> Checked:
    return Checked()


@pytest.fixture
def address(answers: Answers, checked: Checked) -> Iterator[LoopbackAddress]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(answers)
    with serve_metrics(Observed(registry, {"disk": checked}), ANY_PORT) as taken:
        yield taken


def ask(
    address: LoopbackAddress, path: str, *, method: str = "GET", accept: str | None = None
) -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection(address.host, address.port, timeout=30)
    connection.request(method, path, headers={} if accept is None else {"Accept": accept})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


def values(body: bytes) -> dict[str, float]:
    return {
        "|".join((sample.name, *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def test_metrics_are_in_prometheus_text_format(address: LoopbackAddress) -> None:
    response, body = ask(address, "/metrics")
    assert response.status == 200
    assert str(response.getheader("Content-Type")).startswith("text/plain; version=")
    assert response.getheader("Cache-Control") == "no-store"
    assert response.getheader("Server") is None
    assert values(body) == {"answer": 42, "fedpref_ready|disk": 1}


def test_openmetrics_is_given_to_whoever_asks_for_it(address: LoopbackAddress) -> None:
    response, body = ask(
        address, "/metrics?x=1", accept="application/openmetrics-text; version=1.0.0"
    )
    assert str(response.getheader("Content-Type")).startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_a_process_that_answers_is_healthy(address: LoopbackAddress, checked: Checked) -> None:
    checked.outcome = "full"
    response, body = ask(address, "/healthz")
    assert (response.status, body) == (200, b"ok\n")


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        ("full", "full"),
        (StorageError(SECRET), "StorageError"),
        (PermissionError(13, SECRET), "system-error"),
    ],
    ids=str,
)
def test_what_is_not_ready_is_told_by_a_code_alone(
    address: LoopbackAddress, checked: Checked, outcome: str | Exception, told: str
) -> None:
    assert ask(address, "/readyz")[0].status == 200
    checked.outcome = outcome
    response, body = ask(address, "/readyz")
    assert response.status == 503
    assert json.loads(body) == {"checks": {"disk": told}, "ready": False}
    assert values(ask(address, "/metrics")[1])["fedpref_ready|disk"] == 0
    checked.outcome = None
    assert json.loads(ask(address, "/readyz")[1]) == {"checks": {"disk": "ok"}, "ready": True}


def test_a_failing_collector_fails_the_scrape_and_says_nothing(
    address: LoopbackAddress, answers: Answers
) -> None:
    answers.error = RuntimeError(SECRET)
    response, body = ask(address, "/metrics")
    assert response.status == 500
    assert SECRET.encode() not in body
    answers.error = None
    assert ask(address, "/metrics")[0].status == 200


def test_a_head_request_has_no_body(address: LoopbackAddress) -> None:
    response, body = ask(address, "/metrics", method="HEAD")
    assert (response.status, body) == (200, b"")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/metrics/../../etc/passwd", 404),
        ("POST", "/metrics", 501),
        ("DELETE", "/metrics", 501),
    ],
)
def test_anything_else_is_refused_without_repeating_it(
    address: LoopbackAddress, method: str, path: str, status: int
) -> None:
    response, body = ask(address, path, method=method)
    assert response.status == status
    assert body in (b"not found\n", b"not a request\n")


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET " + b"x" * 70_000,
        b"\x00\xff\n\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"",
    ],
    ids=range(7),
)
def test_nonsense_costs_one_connection(address: LoopbackAddress, sent: bytes) -> None:
    with socket.create_connection((address.host, address.port), 30) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while piece := connection.recv(4096):
                answer += piece
        except ConnectionResetError:
            # What was sent was not read to its end.
            pass
    assert b"x" * 20 not in answer
    assert ask(address, "/healthz")[0].status == 200


def test_whoever_sends_slowly_loses_the_connection(
    address: LoopbackAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_http, "CONNECTION_TIMEOUT_S", 0.3)
    stop = threading.Event()
    with socket.create_connection((address.host, address.port), 30) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\n")

        def drip() -> None:
            # Each byte arrives long before any timeout of a single read.
            while not stop.wait(0.05):
                try:
                    connection.sendall(b"a")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            while connection.recv(4096):
                pass
        except ConnectionResetError:
            pass
        finally:
            stop.set()
            thread.join()
    assert ask(address, "/healthz")[0].status == 200


def test_few_connections_are_held_at_a_time(address: LoopbackAddress, answers: Answers) -> None:
    answers.wait = threading.Event()
    held = []
    for _ in range(metrics_http.MAX_CONNECTIONS):
        answers.asked.clear()
        connection = socket.create_connection((address.host, address.port), 30)
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert answers.asked.wait(30)
        held.append(connection)
    # One more is closed without an answer, and without a thread of its own.
    with socket.create_connection((address.host, address.port), 30) as one_more:
        with suppress(ConnectionResetError):
            assert one_more.recv(1) == b""
    answers.wait.set()
    for connection in held:
        assert connection.recv(12) == b"HTTP/1.0 200"
        connection.close()
    answers.wait = None


def test_slots_come_back(address: LoopbackAddress) -> None:
    for _ in range(3 * metrics_http.MAX_CONNECTIONS):
        assert ask(address, "/healthz")[0].status == 200


def test_a_port_in_use_is_named_with_a_remedy(address: LoopbackAddress) -> None:
    observed = Observed(CollectorRegistry(), {})
    with pytest.raises(InputError, match=rf"{address}: Address already in use") as refused:
        with serve_metrics(observed, address):
            pass
    assert "--metrics" in refused.value.remedy


def test_the_port_is_free_afterwards(answers: Answers) -> None:
    registry = CollectorRegistry(auto_describe=False)
    with serve_metrics(Observed(registry, {}), ANY_PORT) as taken:
        pass
    with serve_metrics(Observed(CollectorRegistry(), {}), taken) as again:
        assert again == taken


def test_ipv6_is_served_where_there_is_one() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        # This machine has none, and says so when it is asked to listen there.
        with pytest.raises(InputError):
            with serve_metrics(Observed(CollectorRegistry(), {}), LoopbackAddress("::1", 0)):
                pass
        return
    with serve_metrics(Observed(CollectorRegistry(), {}), LoopbackAddress("::1", 0)) as taken:
        assert ask(taken, "/healthz")[0].status == 200
