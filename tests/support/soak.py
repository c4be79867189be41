"""A run of many rounds in which a process is killed in every round: none is aborted.

Run as ``python -m tests.support.soak --rounds 100 --seed 1``; prints what happened as JSON and ends
with 1 if anything was not as it must be.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
from pathlib import Path

import torch

from common.failpoints import CoordinatorPoint, Point
from common.plan import RunPlan
from simulations.faults.federation import Federation
from simulations.faults.kills import OF_A_DISCARD, OF_SECURE_SUMS
from simulations.faults.matrix import _warm_up
from simulations.faults.places import Trap
from simulations.faults.trial import Trial
from simulations.provision import provision
from simulations.run_folder import RunFolder
from tests.support.small_federation import APP, set_ups_for, small_plan, small_scenario

REGIONS, CUSTOMERS, QUORUM = 3, 8, 2


def long_plan(plan: RunPlan, rounds: int) -> RunPlan:
    """The same plan over so many rounds, with as much more noise in each."""
    record = plan.to_record()
    _, factors = record["mechanisms"]  # type: ignore[misc,assignment]
    spread = math.sqrt((rounds - 1) / len(factors["rounds"]))
    factors["rounds"] = list(range(2, rounds + 1))
    factors["noise_multiplier"] = f"{float(factors['noise_multiplier']) * spread * 1.001:.4f}"
    return RunPlan.from_record({**record, "training_rounds": rounds - 1})


def make(root: Path, rounds: int) -> Federation:
    """Provisions a small federation for a long run."""
    scenario = small_scenario(REGIONS, CUSTOMERS)
    folder = RunFolder(root)
    prepared = scenario.prepare(folder.data, seed=3)
    plan = long_plan(small_plan(scenario, prepared, quorum=QUORUM), rounds)
    set_ups = set_ups_for(plan, scenario)
    provision(folder, scenario, plan, set_ups, APP)
    return Federation(folder, scenario, plan, plan, tuple(set_ups), 1, (CUSTOMERS,) * REGIONS)


def soak(work: Path, rounds: int, seed: int) -> dict[str, object]:
    """Runs it; gives what happened."""
    draw = random.Random(seed)
    federation = make(work / "base", rounds)
    _warm_up(federation, work / "warm")
    region_points = [p for p in Point if p not in (*OF_A_DISCARD, *OF_SECURE_SUMS)]
    region_points.remove(Point.FOLDER_MADE)
    of_coordinator = [p for p in CoordinatorPoint if p not in _ONCE]
    lives: dict[str, list[Trap]] = {name: [] for name in federation.plan.regions}
    server: list[Trap] = []
    for number in range(1, rounds + 1):
        if number % 4 == 0:
            server.append(Trap(str(draw.choice(of_coordinator)), server_round=number))
        else:
            trap = Trap(str(draw.choice(region_points)), server_round=number)
            lives[draw.choice(federation.plan.regions)].append(trap)
    with Trial(federation, work / "trial") as trial:
        trial.start(**{k.replace("-", "_"): {"traps": traps} for k, traps in lives.items()})
        ending = trial.coordinate(traps=server)
        trial.finish()
        return {
            "seed": seed,
            "rounds": len(trial.judge.aggregates(trial.judge.look())),
            "kills": len(trial.sprung),
            "aborted": ending.failed and f"{ending.failed}: {ending.message}",
            "slowest_resume_s": round(ending.resumed_s, 2),
            "faults": trial.faults,
        }


_ONCE = {
    CoordinatorPoint.RUN_OPENED,
    CoordinatorPoint.MODEL_WRITTEN,
    CoordinatorPoint.MODEL_LOGGED,
    CoordinatorPoint.END_COSIGNED,
    CoordinatorPoint.ENDED,
}


def main(arguments: list[str]) -> int:
    """Runs the soak; prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="fp-soak-") as work:
        found = soak(Path(work), chosen.rounds, chosen.seed)
    print(json.dumps(found, indent=1, ensure_ascii=False))  # noqa: T201 - read by the test
    return 1 if found["faults"] or found["aborted"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
