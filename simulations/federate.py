"""Carries a run's messages by the engine that was asked for: in process, on Ray, or `flwr run`.

The regions' privacy engines and the outside witness are always hosted here, by the simulation; what
differs is what runs the two Flower apps and how their messages travel.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from client.engine.service import PrivacyEngine
from common.engine_channel import EngineChannel, register_channel
from common.errors import FederationError, FedprefError
from common.plan import RunPlan
from simulations.outside_witness import witness_in_process, witness_over_http
from simulations.run_folder import RunFolder

RunConfig = dict[str, bool | float | int | str]


def federate(
    engine: str,
    folder: RunFolder,
    plan: RunPlan,
    channels: Mapping[str, EngineChannel],
    *,
    last_round: int | None = None,
) -> None:
    """Runs what is left of a run's rounds.

    Args:
        engine: ``inprocess``, ``ray`` or ``flower``.
        folder: The run's folder, with the coordinator's home.
        plan: The run's public constants.
        channels: Each region's engine.
        last_round: After which round to pause, with nothing published; None for the run's end.

    Raises:
        FederationError: A round could not be completed; the run can go on later.
    """
    in_order = [channels[region] for region in plan.regions]
    server_home = folder.server.resolve()
    config: RunConfig = {"last-round": last_round or 0}
    if engine == "ray":
        from simulations.ray_run import run_on_ray

        with witness_over_http(folder):
            run_on_ray(in_order, server_home, log=folder.root / "ray.log", run_config=config)
    elif engine == "flower":
        with witness_over_http(folder):
            _run_with_flower(in_order, server_home, folder.root.resolve(), config)
    else:
        with witness_in_process(folder):
            _run_in_process(in_order, server_home, config)


def _run_with_flower(
    channels: Sequence[EngineChannel], server_home: Path, root: Path, config: RunConfig
) -> None:
    from simulations.flower_run import run_with_flower

    # Flower wants a home of its own; if it fails, its output there tells why.
    work_folder = Path(tempfile.mkdtemp(prefix="flower-", dir=root))
    run_with_flower(channels, server_home, work_folder=work_folder, run_config=config)
    shutil.rmtree(work_folder)


def _run_in_process(
    channels: Sequence[EngineChannel], server_home: Path, config: RunConfig
) -> None:
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
            run_config={"server-home": str(server_home), **config},
        )


def own_words(error: FederationError, engines: Iterable[PrivacyEngine]) -> FedprefError:
    """If a region refused, its own reason, which only this machine may know."""
    refusals = (engine.last_refusal for engine in engines)
    return next((refusal for refusal in refusals if refusal is not None), error)
