"""Runs a witness's HTTP service until it is told to stop."""

from __future__ import annotations

import socket
from collections.abc import Collection
from pathlib import Path

import typer
import uvicorn

from common.audit.witness.home import WitnessHome, enrolled_as
from common.audit.witness.http_server import create_app
from common.audit.witness.registry_logs import RegistryLogs
from common.audit.witness.watched_registry import WatchedRegistry
from common.audit.witness.witness import Witness
from common.errors import FedprefError, InputError
from common.timestamps import now_ms

#: More requests at a time than this are turned away.
MAX_CONNECTIONS = 256
_STOP_TIMEOUT_S = 5


def serve_witness(
    folder: Path,
    registry_folder: Path,
    *,
    root_key_ids: Collection[str],
    host: str,
    port: int,
) -> None:
    """Serves until Ctrl-C or SIGTERM; requests under way are answered first.

    Args:
        folder: The witness's home.
        registry_folder: The key registry's versions; read again when they change.
        root_key_ids: Ids of the root keys that are trusted; none trusts version 1 as it is found.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.

    Raises:
        InputError: The home or the registry is missing, or the address cannot be used.
        VerificationError: The registry does not verify, or the witness's key is not enrolled.
    """
    registry = WatchedRegistry(registry_folder, root_key_ids=root_key_ids, on_fault=_tell)
    home = WitnessHome(folder)
    signer = home.signer()
    party = enrolled_as(registry.current(), signer, now_ms()).party
    with home.open_store() as store, _listen(host, port) as listener:
        logs = RegistryLogs(registry.current, but=party)
        witness = Witness(store, name=party, signer=signer, log_keys=logs)
        shown = f"[{host}]" if ":" in host else host
        typer.echo(f"Witness {party} on http://{shown}:{listener.getsockname()[1]}")
        typer.echo(f"Verifier key: {witness.key.verifier_key}")
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(witness),
                log_level="warning",
                server_header=False,
                limit_concurrency=MAX_CONNECTIONS,
                timeout_graceful_shutdown=_STOP_TIMEOUT_S,
            )
        )
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            # uvicorn has stopped in good order, and passes Ctrl-C on.
            typer.echo("Stopped.")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise InputError(
            f"The witness cannot listen on {host}, port {port}: {error.strerror}.",
            remedy="Choose another --host or --port.",
        ) from error


def _tell(error: FedprefError) -> None:
    typer.echo(f"The changed key registry did not take effect: {error}", err=True)
