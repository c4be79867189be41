"""Metrics, health and readiness over HTTP, for what looks after a process on its own machine.

``/metrics`` in Prometheus's formats, ``/healthz`` for whether the process answers, ``/readyz`` for
whether it can do its work. Only on loopback: what others on the network may see is for a proxy with
TLS and a login to say. Whoever can reach the port can take at most a few threads for a few seconds.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from common.errors import FedprefError, InputError
from common.loopback import LoopbackAddress

#: More requests at a time than this are turned away.
MAX_CONNECTIONS = 8
#: For how long one connection may last, in seconds: asking, working it out, answering.
CONNECTION_TIMEOUT_S = 10.0

_log = logging.getLogger("fedpref.metrics")

_TEXT = "text/plain; charset=utf-8"
_JSON = "application/json"

#: Gives None if all is well, else what is not, as a kebab-case code.
Check = Callable[[], str | None]


@dataclass(frozen=True)
class Observed:
    """What is to be seen of a process.

    Attributes:
        registry: Its metrics.
        checks: What must be well for it to do its work, by name; each is asked at each request.
    """

    registry: CollectorRegistry
    checks: Mapping[str, Check]

    def __post_init__(self) -> None:
        self.registry.register(_Checks(self))

    def readiness(self) -> dict[str, str]:
        """By check, ``ok`` or the code of what is wrong. No text of an error: it may quote."""
        return {name: _outcome(check) for name, check in sorted(self.checks.items())}


class _Checks(Collector):
    """The checks as a metric, so that an alert can be about one of them."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed

    def collect(self) -> Iterable[Metric]:
        """1 for each check that is well, 0 for each that is not."""
        ready = GaugeMetricFamily(
            "fedpref_ready", "Whether a check of readiness is well.", labels=["check"]
        )
        for name, found in self._observed.readiness().items():
            ready.add_metric([name], float(found == "ok"))
        return [ready]


def _outcome(check: Check) -> str:
    try:
        return check() or "ok"
    except FedprefError as error:
        return type(error).__name__
    except OSError:
        return "system-error"


@contextmanager
def serve_metrics(observed: Observed, address: LoopbackAddress) -> Iterator[LoopbackAddress]:
    """Serves while the body runs, in threads of its own.

    Args:
        observed: What is to be seen.
        address: Where to listen.

    Yields:
        The address, with the port that was taken.

    Raises:
        InputError: The port is in use, or not ours to take.
    """
    try:
        server = _Server(observed, address)
    except OSError as error:
        raise InputError(
            f"Metrics cannot be served on {address}: {error.strerror}.",
            remedy="Name a free port with --metrics, or in the configuration's `metrics`.",
        ) from error
    with server:
        thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
        thread.start()
        try:
            yield LoopbackAddress(address.host, server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    """A thread for each connection, few at a time, each with a deadline."""

    daemon_threads = True
    # A thread that is still answering must not keep the process from ending.
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, observed: Observed, address: LoopbackAddress) -> None:
        self.observed = observed
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__((address.host, address.port), _Handler)

    def server_bind(self) -> None:
        """Binds without asking who the address belongs to: a name server may keep one waiting."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: object, client_address: object) -> None:
        if not isinstance(request, socket.socket):
            raise TypeError("a connection is a socket")
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            # No thread could be started for it.
            self._slots.release()
            raise

    def process_request_thread(self, request: object, client_address: object) -> None:
        if not isinstance(request, socket.socket):
            raise TypeError("a connection is a socket")
        # However slowly it is asked or read: who holds a connection loses it.
        deadline = threading.Timer(CONNECTION_TIMEOUT_S, _cut, (request,))
        deadline.daemon = True
        deadline.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            deadline.cancel()
            self._slots.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Says that a connection ended badly; a client that went away is no fault of ours."""
        del request, client_address
        _log.debug("a connection ended badly", exc_info=True)


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD of the three paths; one request a connection."""

    server: _Server
    # Of the socket, for a peer that sends nothing at all; the deadline is the server's.
    timeout = CONNECTION_TIMEOUT_S

    def do_GET(self) -> None:
        """Answers a request."""
        answers = {
            "/metrics": self._metrics,
            "/healthz": lambda: (200, _TEXT, b"ok\n"),
            "/readyz": self._readiness,
        }
        answer = answers.get(self.path.partition("?")[0])
        self._send(*(answer() if answer else (404, _TEXT, b"not found\n")))

    do_HEAD = do_GET  # noqa: N815 - the library's name for it

    def _metrics(self) -> tuple[int, str, bytes]:
        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
        try:
            return 200, content_type, encode(self.server.observed.registry)
        # The scrape fails, which is what an alert is for; the text stays here, as it may quote.
        except Exception:  # noqa: BLE001 - whatever a collector meets with
            _log.exception("the metrics cannot be worked out")
            return 500, _TEXT, b"the metrics cannot be worked out\n"

    def _readiness(self) -> tuple[int, str, bytes]:
        checks = self.server.observed.readiness()
        ready = all(found == "ok" for found in checks.values())
        body = json.dumps({"checks": checks, "ready": ready}, sort_keys=True) + "\n"
        return 200 if ready else 503, _JSON, body.encode()

    def _send(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers what is no request of ours, without repeating any of it."""
        del message, explain
        self.close_connection = True
        self._send(int(code), _TEXT, b"not a request\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Keeps no record of who asked."""
