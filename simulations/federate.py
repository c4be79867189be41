"""Carries a run's messages by the engine that was asked for: in process, on Ray, or `flwr run`.

The regions' privacy engines are always hosted here, by the simulation; what differs is what runs
the two Flower apps and how their messages travel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from common.engine_channel import EngineChannel, register_channel
from common.plan import RunPlan
from simulations.run_folder import RunFolder


def federate(
    engine: str, folder: RunFolder, plan: RunPlan, channels: Mapping[str, EngineChannel]
) -> None:
    """Runs what is left of a run's rounds.

    Args:
        engine: ``inprocess``, ``ray`` or ``flower``.
        folder: The run's folder, with the coordinator's home.
        plan: The run's public constants.
        channels: Each region's engine.

    Raises:
        FederationError: A round could not be completed; the run can go on later.
    """
    in_order = [channels[region] for region in plan.regions]
    home = str(folder.server.resolve())
    if engine == "ray":
        from simulations.ray_run import run_on_ray

        run_on_ray(in_order, server_home=folder.server.resolve())
    elif engine == "flower":
        from simulations.flower_run import run_with_flower

        run_with_flower(
            in_order, server_home=folder.server.resolve(), work=(folder.root / "flower").resolve()
        )
    else:
        _run_in_process(in_order, home)


def _run_in_process(channels: Sequence[EngineChannel], server_home: str) -> None:
    from client.app import app as client_app
    from server.app import app as server_app
    from simulations.in_process_grid import run_in_process

    with ExitStack() as stack:
        for index, channel in enumerate(channels):
            stack.enter_context(register_channel(index, channel))
        run_in_process(
            server_app,
            client_app,
            n_nodes=len(channels),
            run_config={"server-home": server_home},
        )
