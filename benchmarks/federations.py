"""Federations of made-up customers for benchmarks: real engines, logs, keys and coordinator.

They are set up as `fedpref-sim run` sets one up. What a benchmark wants to be the local work takes
the place of the engine's own training (`local_work_is`); all else is what runs in a simulation.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from client.engine import round_release
from common.parameters import snap_to_grid
from common.plan import RunPlan
from common.plan_defaults import default_plan
from common.timestamps import format_time, parse_time
from server.config import ServerHome
from simulations.customers import CustomerChoices
from simulations.federate import federate
from simulations.provision import RegionSetUp, open_regions, provision
from simulations.run_folder import RunFolder
from simulations.scenarios import Scenario, many_regions

_APP = "a" * 64
_SEED = 1

#: Stands in for `client.training.releases.release`.
Release = Callable[..., Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Federation:
    """A federation that is set up and has not run yet.

    Attributes:
        folder: Its run folder.
        plan: Its plan.
        set_ups: What its regions were provisioned with.
    """

    folder: RunFolder
    plan: RunPlan
    set_ups: list[RegionSetUp]


@dataclass(frozen=True)
class RoundTimes:
    """What a run's rounds took.

    Attributes:
        rounds: How many there were.
        wall_s: From the first one's start to the last one's close.
        cpu_s: Processor time of the whole run, its closing witness phase too.
        closed_s: When each was closed, from the first one's start.
    """

    rounds: int
    wall_s: float
    cpu_s: float
    closed_s: tuple[float, ...]


def set_up(root: Path, *, n_regions: int, customers_each: int, **changes: Any) -> Federation:
    """Provisions a federation below a folder.

    Args:
        root: The folder.
        n_regions: How many regions it has.
        customers_each: About how many customers each of them has.
        changes: Of the plan's record, field by field.
    """
    scenario = many_regions(n_regions, customers_each=customers_each)
    folder = RunFolder(root)
    root.mkdir(parents=True)
    prepared = scenario.prepare(folder.data, seed=_SEED)
    plan = default_plan(
        run_id="bench-1",
        federation=scenario.federation,
        scenario=scenario.name,
        regions=[region.name for region in prepared.regions],
        quorum=scenario.quorum,
        catalogue=prepared.catalogue_digest,
        n_items=prepared.n_items,
        train_from=format_time(scenario.windows.train_from_ms),
        train_until=format_time(scenario.windows.train_until_ms),
        epsilon="8",
        planned_customers=scenario.planned_customers,
    )
    if changes:
        plan = RunPlan.from_record({**plan.to_record(), **changes})
    set_ups = _set_ups(scenario, plan)
    provision(folder, scenario, plan, set_ups, _APP)
    return Federation(folder, plan, set_ups)


def run(federation: Federation, release: Release | None = None) -> RoundTimes:
    """Runs a federation in this process to the published model.

    Args:
        federation: It.
        release: The local work; None for the engines' own training.
    """
    with open_regions(federation.folder, federation.set_ups) as regions:
        for region in regions.values():
            region.engine.preflight(federation.plan)
        channels = {name: region.channel for name, region in regions.items()}
        with local_work_is(release):
            began = time.process_time()
            federate("inprocess", federation.folder, federation.plan, channels)
            cpu_s = time.process_time() - began
    return _times(federation, cpu_s)


@contextmanager
def local_work_is(release: Release | None) -> Iterator[None]:
    """Lets every engine's release be made by another function while the body runs."""
    if release is None:
        yield
        return
    with patch.object(round_release, "release", release):
        yield


class NoTraining:
    """Local work that takes no time: what is left is what a round costs beside it.

    Args:
        plan: The plan, which says what each round releases.
    """

    def __init__(self, plan: RunPlan) -> None:
        generator = np.random.default_rng(_SEED)
        self._releases = {
            mechanism.name: {
                spec.name: snap_to_grid(
                    generator.normal(0.0, 1.0, spec.shape), mechanism.grid_exponent
                )
                for spec in plan.released_arrays(mechanism.name)
            }
            for mechanism in plan.mechanisms
        }

    def __call__(self, *_: object, plan: RunPlan, server_round: int, **__: object) -> Any:
        """What a region releases."""
        return self._releases[plan.mechanism_of(server_round).name]


def _set_ups(scenario: Scenario, plan: RunPlan) -> list[RegionSetUp]:
    return [
        RegionSetUp(
            region=region,
            jurisdiction=jurisdiction,
            choose=lambda _: CustomerChoices(frozenset(), {}),
            epsilon_cap=plan.epsilon,
            delta_max=plan.delta,
        )
        for region, jurisdiction in zip(plan.regions, scenario.jurisdictions, strict=True)
    ]


def _times(federation: Federation, cpu_s: float) -> RoundTimes:
    lines = ServerHome(federation.folder.server).events.read_text().splitlines()
    at_ms: dict[str, list[int]] = {}
    for event in map(json.loads, lines):
        at_ms.setdefault(event["event"], []).append(parse_time(event["time"]))
    started, closed = at_ms["round-started"], at_ms["round-closed"]
    if len(closed) != federation.plan.total_rounds:
        raise RuntimeError(f"{len(closed)} of {federation.plan.total_rounds} rounds were closed")
    return RoundTimes(
        rounds=len(closed),
        wall_s=(closed[-1] - started[0]) / 1000,
        cpu_s=cpu_s,
        closed_s=tuple((each - started[0]) / 1000 for each in closed),
    )
