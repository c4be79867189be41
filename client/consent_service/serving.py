"""Runs the consent service until it is told to stop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from client.consent_service.app import create_app
from client.consent_service.config import read_settings
from client.consent_service.desk import ConsentDesk
from client.consent_service.desk_socket import SocketDesk
from client.consent_service.identity import LoginTokens
from client.consent_service.login_keys import LoginKeys
from client.engine.home import RegionHome
from client.web.serving import listening, make_server
from common.structured_log import log_as_json


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
    with listening(host, port) as listener, _desk(home, engine_socket) as desk:
        # Asked once before anybody is told that the service is ready.
        notice = desk.notice("en")
        app = create_app(settings, desk, LoginTokens(settings.login, keys))
        server = make_server(app, proxies=settings.service.proxies)
        address = listener.getsockname()
        say(
            f"{home.region}: consent service ready on {address[0]} port {address[1]} for "
            f"{settings.service.origin}, notice {notice.notice_id}. Ctrl-C stops it."
        )
        server.run(sockets=[listener])
        say(f"{home.region}: consent service stopped.")


@contextmanager
def _desk(home: RegionHome, engine_socket: Path | None) -> Iterator[ConsentDesk]:
    if engine_socket is not None:
        yield SocketDesk(engine_socket)
        return
    # Imported here only: a process that asks over the socket does not even know how to open a log.
    from client.consent_service.desk_opening import open_desk

    with open_desk(home) as desk:
        yield desk
