"""Runs the consent service until it is told to stop."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from client.consent_service.app import create_app
from client.consent_service.config import ConsentServiceSettings, read_settings
from client.consent_service.desk import ConsentDesk
from client.consent_service.desk_socket import SocketDesk
from client.consent_service.identity import LoginTokens
from client.consent_service.login_keys import LoginKeys
from client.engine.home import RegionHome
from common.errors import InputError
from common.structured_log import log_as_json

#: For how long requests under way may take to end after a stop, in seconds.
GRACE_S = 10
_STOPPING = (signal.SIGINT, signal.SIGTERM)


def serve_service(
    home: RegionHome,
    *,
    engine_socket: Path | None,
    host: str,
    port: int,
    say: Callable[[str], None],
) -> None:
    """Serves until SIGINT or SIGTERM; requests under way are finished.

    Args:
        home: The region's home.
        engine_socket: The consent socket of the engine that has the log, or None.
        host: The address to listen on.
        port: The port; 0 takes any.
        say: Tells the operator one line, such as that the service is ready.

    Raises:
        InputError: The settings or the address cannot be used, or no engine answers.
        StorageError: Another process has the log.
    """
    settings = read_settings(home.root)
    keys = LoginKeys(home.root / settings.login.jwks, settings.login.algorithms)
    # Not each request: when a choice is made is for the desk's records, not for a process's log.
    log_as_json("consent", level=logging.WARNING)
    with _listen(host, port) as listener, _desk(home, engine_socket) as desk:
        # Asked once before anybody is told that the service is ready.
        notice = desk.notice("en")
        server = _Server(_config(settings, desk, LoginTokens(settings.login, keys)))
        address = listener.getsockname()
        say(
            f"{home.region}: consent service ready on {address[0]} port {address[1]} for "
            f"{settings.service.origin}, notice {notice.notice_id}. Ctrl-C stops it."
        )
        server.run(sockets=[listener])
        say(f"{home.region}: consent service stopped.")


class _Server(uvicorn.Server):
    """Ends by itself after a signal.

    uvicorn's own raises the signal again at the end: with SIGTERM the log would not be closed.
    """

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {each: signal.signal(each, self.handle_exit) for each in _STOPPING}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def _config(
    settings: ConsentServiceSettings, desk: ConsentDesk, tokens: LoginTokens
) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(settings, desk, tokens),
        # The service writes its own lines, without paths, queries or addresses.
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=bool(settings.service.proxies),
        forwarded_allow_ips=settings.service.proxies,
        timeout_graceful_shutdown=GRACE_S,
        h11_max_incomplete_event_size=16 * 1024,
        lifespan="off",
        ws="none",
    )


@contextmanager
def _desk(home: RegionHome, engine_socket: Path | None) -> Iterator[ConsentDesk]:
    if engine_socket is not None:
        yield SocketDesk(engine_socket)
        return
    # Imported here only: a process that asks over the socket does not even know how to open a log.
    from client.consent_service.desk_opening import open_desk

    with open_desk(home) as desk:
        yield desk


@contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
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
