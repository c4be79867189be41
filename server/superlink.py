"""The guarded SuperLink: Flower's own, behind two doors (``python -m server.superlink FOLDER``).

The regions' port speaks TLS 1.3 and serves the fleet API and nothing else, where every request
carries a registered node's signature. Control and runtime API are on the loopback interface: the
one asks for the admin port's token, of the other Flower itself asks for the SuperExec secret before
it gives a task away. Flower's own program has all three on one port, the control API without any
login: whoever holds the CA's certificate could act as the coordinator.

This module and `server.control` are the deployment's only touch of Flower's internals (pinned to
flwr 1.41, see their tests).
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Before anything of Flower's is imported, which reads them then.
from common.node_environment import quiet_environment

os.environ.update(quiet_environment())

import uvicorn

from common.errors import FedprefError, InputError
from common.key_files import read_private
from common.process_control import end_with_supervisor
from common.structured_log import log_as_json
from server.control import LOOPBACK, TOKEN_HEADER
from server.deployment import Deployment
from server.provisioning.certificates import server_tls
from server.provisioning.federation_config import ServerTable, read_federation
from server.superlink_doors import AdminDoor, Asgi, FleetDoor, ImpatientProtocol

# A header of more than this is no node's.
_MAX_HEADER_BYTES = 16 << 10
_KEEP_ALIVE_S = 30
_STOP_S = 5
_POLL_S = 0.02


def make_superlink(deployment: Deployment) -> Asgi:
    """Flower's SuperLink with node authentication, its database on disk, and no doors of its own.

    Raises:
        InputError: The SuperExec secret is missing, or others can read it.
    """
    from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
    from flwr.superlink.config_loader import SuperLinkLifespanConfig, load_control_authn_plugin
    from flwr.superlink.main import create_app

    secret = read_private(deployment.secret(deployment.superlink), "SuperExec secret")
    config = SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host=LOOPBACK,
        port=0,
        insecure=True,
        certificates=None,
        superexec_auth_secret=secret,
        authn_plugin=load_control_authn_plugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type="grpc-rere",
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=None,
        ssl_certfile=None,
        ssl_keyfile=None,
        database=str(deployment.database),
        # ServerApps are started by a SuperExec of another user, never from here.
        isolation="process",
        runtime_dependency_install=False,
    )
    app: Asgi = create_app(config, SuperLinkLifespan)
    return app


async def serve(deployment: Deployment, server: ServerTable) -> None:
    """Serves both doors until the process is asked to end.

    Raises:
        InputError: A port is in use, or a certificate or secret cannot be used.
    """
    with (
        _listening(LOOPBACK, server.admin_port) as admin_socket,
        _listening(server.bind, server.port) as fleet_socket,
    ):
        await _serve_on(deployment, server, admin_socket, fleet_socket)


async def _serve_on(
    deployment: Deployment,
    server: ServerTable,
    admin_socket: socket.socket,
    fleet_socket: socket.socket,
) -> None:
    app = make_superlink(deployment)
    token = read_private(deployment.token(deployment.superlink), "admin port's token").strip()
    admin = _Door(
        _config(
            AdminDoor(app, token=token, token_header=TOKEN_HEADER),
            (LOOPBACK, server.admin_port),
            lifespan="on",
        )
    )
    fleet_config = _config(
        FleetDoor(app, request_bytes_max=server.request_bytes_max),
        (server.bind, server.port),
        lifespan="off",
        limit_concurrency=server.connections_max,
    )
    fleet_config.load()
    fleet_config.ssl = server_tls(str(deployment.certificate), str(deployment.certificate_key))
    fleet = _Door(fleet_config)
    tasks = [asyncio.create_task(admin.serve([admin_socket]))]
    # Regions are answered once the SuperLink has started, not before.
    while not (admin.started or tasks[0].done()):
        await asyncio.sleep(_POLL_S)
    tasks.append(asyncio.create_task(fleet.serve([fleet_socket])))
    await _until_asked_to_end(tasks)
    admin.should_exit = fleet.should_exit = True
    await asyncio.wait(tasks)
    for task in tasks:
        task.result()


class _Door(uvicorn.Server):
    """One of two servers in a process: signals are the process's, not either one's."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals alone."""
        yield


async def _until_asked_to_end(tasks: list[asyncio.Task[None]]) -> None:
    """Waits for SIGTERM or SIGINT, or for a server that ends by itself."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    waiting = asyncio.create_task(asked.wait())
    await asyncio.wait([*tasks, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


def _tell_flower() -> None:
    """Has what Flower and uvicorn say go the way of ours: what may quote a stranger is left out."""
    for name, level in (("flwr", logging.WARNING), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(level)


def _config(app: Any, address: tuple[str, int], **options: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=address[0],
        port=address[1],
        http=ImpatientProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_STOP_S,
        **options,
    )


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket at the port: one that is in use is named before anything is served."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
        except OSError as error:
            raise InputError(
                f"The port {port} of {host} cannot be used: {error.strerror}.",
                remedy="Stop what listens there, or set [server] port and admin_port in "
                "federation.toml.",
            ) from error
        yield listener


def main(arguments: list[str] | None = None) -> int:
    """Runs the guarded SuperLink of a deployment."""
    parser = argparse.ArgumentParser(prog="python -m server.superlink", description=__doc__)
    parser.add_argument("deployment", type=Path)
    folder = parser.parse_args(arguments).deployment
    end_with_supervisor()
    log_as_json("superlink")
    _tell_flower()
    try:
        deployment = Deployment.read(folder)
        asyncio.run(serve(deployment, read_federation(deployment.config).server))
    except FedprefError as error:
        print(f"{error.message} {error.remedy}".strip(), file=sys.stderr)  # noqa: T201 - its log
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
