"""The outside witness of a simulated run: its home, and how the coordinator reaches it.

A coordinator in this process is given the witness itself. One in another process, on Ray or under
`flwr run`, reaches it as in a deployment: over HTTP, here on the loopback interface.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from common.audit.witness.channel import LocalWitness
from common.audit.witness.home import WitnessHome
from common.audit.witness.registry_logs import RegistryLogs
from common.audit.witness.witness import Witness
from common.durable_file import write_durably
from common.errors import FederationError
from server.config import ServerHome
from server.outside_witnesses import offer_witnesses
from simulations.provision import WITNESS_PARTY
from simulations.run_folder import RunFolder

_LOOPBACK = "127.0.0.1"
_START_TIMEOUT_S = 30.0
_POLL_S = 0.01


@contextmanager
def witness_in_process(folder: RunFolder) -> Iterator[None]:
    """Lets a coordinator in this process reach the outside witness while the body runs."""
    home = ServerHome(folder.server)
    home.witnesses.unlink(missing_ok=True)
    with (
        _open_witness(folder) as witness,
        offer_witnesses(home, {WITNESS_PARTY: LocalWitness(witness)}),
    ):
        yield


@contextmanager
def witness_over_http(folder: RunFolder) -> Iterator[None]:
    """Lets a coordinator in another process reach the outside witness while the body runs.

    Raises:
        FederationError: The witness's server does not start.
    """
    home = ServerHome(folder.server)
    with _open_witness(folder) as witness, _served(witness) as address:
        write_durably(home.witnesses, json.dumps([address]).encode())
        try:
            yield
        finally:
            # The next run's witness has another port.
            home.witnesses.unlink(missing_ok=True)


@contextmanager
def _open_witness(folder: RunFolder) -> Iterator[Witness]:
    registry, home = ServerHome(folder.server).read_registry(), WitnessHome(folder.witness)
    with home.open_store() as store:
        yield Witness(
            store,
            name=WITNESS_PARTY,
            signer=home.signer(),
            log_keys=RegistryLogs(lambda: registry),
        )


@contextmanager
def _served(witness: Witness) -> Iterator[str]:
    """Serves a witness on a free port of the loopback interface, and gives its address."""
    import uvicorn

    from common.audit.witness.http_server import create_app

    config = uvicorn.Config(
        create_app(witness), log_level="warning", access_log=False, lifespan="off", ws="none"
    )
    server = uvicorn.Server(config)
    with socket.socket() as listener:
        listener.bind((_LOOPBACK, 0))
        thread = threading.Thread(
            target=server.run, args=([listener],), name="outside witness", daemon=True
        )
        thread.start()
        try:
            deadline = time.monotonic() + _START_TIMEOUT_S
            while not server.started:
                if not thread.is_alive() or time.monotonic() > deadline:
                    raise FederationError("The outside witness's server does not start.")
                time.sleep(_POLL_S)
            yield f"http://{_LOOPBACK}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(_START_TIMEOUT_S)
