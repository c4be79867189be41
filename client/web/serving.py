"""Runs a web service until it is told to stop."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from common.errors import InputError

#: For how long requests under way may take to end after a stop, in seconds.
GRACE_S = 10
_STOPPING = (signal.SIGINT, signal.SIGTERM)


class Server(uvicorn.Server):
    """Ends by itself after a signal.

    uvicorn's own raises the signal again at the end: with SIGTERM a log would not be closed.
    """

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Takes the signals while the server runs."""
        before = {each: signal.signal(each, self.handle_exit) for each in _STOPPING}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def make_server(
    app: ASGIApp, *, proxies: Sequence[str] = (), most_connections: int | None = None
) -> Server:
    """The server of an application; to be run on sockets that listen.

    Args:
        app: The application.
        proxies: Addresses of the reverse proxies whose ``X-Forwarded-For`` is believed.
        most_connections: How many may be open at once; further ones are answered 503.
    """
    return Server(
        uvicorn.Config(
            app,
            # A service writes its own lines, without paths, queries or addresses.
            access_log=False,
            log_level="warning",
            server_header=False,
            proxy_headers=bool(proxies),
            forwarded_allow_ips=list(proxies),
            timeout_graceful_shutdown=GRACE_S,
            h11_max_incomplete_event_size=16 * 1024,
            limit_concurrency=most_connections,
            lifespan="off",
            ws="none",
        )
    )


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens on an address while the body runs.

    Raises:
        InputError: The address is not this machine's, or the port is taken.
    """
    try:
        listener = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        raise InputError(
            f"The service cannot listen on {host} port {port}: {error.strerror}.",
            remedy="Name a free port of an address of this machine: --host, --port.",
        ) from error
    with listener:
        yield listener
