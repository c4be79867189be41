"""Runs the apps on Flower's Ray simulation engine.

Flower 1.41 deprecates ``run_simulation`` and offers in its place only ``flwr run``; what that calls
for a simulation is called here too, since it alone takes a run configuration. This is the touch of
Flower's internals for Ray (pinned to flwr 1.41, see the test). It happens in a process of its own:
Ray changes its environment, and threads of Flower's cannot be interrupted.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.engine_channel import EngineChannel
from common.errors import FedprefError
from server.app_bundle import source_root
from server.config import ServerHome
from simulations.external_runtime import RunOutcome, engine_sockets
from simulations.supervisor import supervised


def run_on_ray(
    channels: Sequence[EngineChannel],
    server_home: Path,
    *,
    log: Path,
    run_config: dict[str, bool | float | int | str] | None = None,
    num_cpus: int | None = None,
) -> None:
    """Runs a coordinator's run on Ray, from its next round to the published model.

    Args:
        channels: The regions' engines, in the plan's order.
        server_home: The coordinator's home folder.
        log: The file that takes Flower's and Ray's output.
        run_config: More of Flower's run configuration.
        num_cpus: How many relays work at once; by default one a core.

    Raises:
        FedprefError: As the ServerApp raises it.
    """
    config = {"server-home": str(server_home.resolve()), **(run_config or {})}
    outcome = RunOutcome(ServerHome(server_home))
    with engine_sockets(channels) as environment:
        request = {
            "run_config": config,
            "nodes": len(channels),
            "num_cpus": num_cpus or os.cpu_count() or 1,
        }
        command = [sys.executable, "-m", __name__, json.dumps(request)]
        with supervised(command, environment=environment, folder=source_root(), log=log) as process:
            process.wait()
    outcome.check(what="The Ray engine", log=log)


def main(request: dict[str, Any]) -> int:
    """Runs the apps on Ray in this process; see `run_on_ray`."""
    from flwr.app import Context, RecordDict
    from flwr.simulation.run_simulation import _run_simulation
    from flwr.supercore.telemetry import EventType

    from client.app import app as client_app
    from server.app import app as server_app

    logging.getLogger("fedpref").setLevel(logging.INFO)
    try:
        _run_simulation(
            num_supernodes=request["nodes"],
            exit_event=EventType.PYTHON_API_RUN_SIMULATION_LEAVE,
            client_app=client_app,
            server_app=server_app,
            server_app_context=Context(
                run_id=1,
                node_id=0,
                node_config={},
                state=RecordDict(),
                run_config=request["run_config"],
            ),
            backend_config={
                "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
                "init_args": {
                    "num_cpus": request["num_cpus"],
                    "include_dashboard": False,
                    "log_to_driver": False,
                },
            },
        )
    except FedprefError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
