"""One DP round of a million customers: ``… make ROOT``, ``… round ROOT ROUND STRATEGY [ITEMS]``.

``make`` writes the regions' stores, and has each read and kept as an engine does: that is no part
of a round. ``round`` then plays the regions, as many at a time as there are cores and each in a
process of its own that ends before the next begins, and the coordinator: a region makes its data
set of what is kept, trains, and writes its release; the coordinator adds it exactly and lets it go,
and makes the next model. Consents are stand-ins, as in `benchmarks.prepared_data`.

What it took is in ``ROOT/told.json``: seconds of each part. ITEMS is the size of the vocabulary; by
default it is the plan's own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks import large_store
from benchmarks.prepared_data import everyone
from client.engine.home import RegionHome
from client.engine.policy import read_policy
from client.engine.preparation import RegionData
from client.training.noise import SystemNoise
from client.training.releases import release
from common.catalogue import Catalogue
from common.plan import RunPlan
from common.plan_defaults import default_plan
from common.strategies import StrategyName
from server.parameter_step import model_after
from server.rounds import aggregator_of

CUSTOMERS, ITEMS, REGIONS, ROWS_EACH, DAYS = 1_000_000, 100_000, 5, 30, 20
_MODEL = "model.npz"

Arrays = dict[str, npt.NDArray[np.generic]]


def make(root: Path, customers: int, items: int, regions: int) -> None:
    """Makes every region's home, and what is kept of its store."""
    each = customers // regions
    for numbers in _batches(regions):
        _together([["prepare", root, number, each, each * ROWS_EACH, items] for number in numbers])


def prepare(root: Path, number: int, customers: int, rows: int, items: int) -> None:
    """Makes one region's home, and reads its store."""
    home = root / f"region-{number}"
    large_store.make(home, rows, customers, items, DAYS, first_day=number * DAYS)
    _data(RegionHome.read(home)).refresh()


def play_round(
    root: Path, server_round: int, strategy: StrategyName, vocabulary: int | None
) -> dict[str, float]:
    """One round, from what is kept to the next model."""
    homes = sorted(root.glob("region-*"))
    plan = plan_of(RegionHome.read(homes[0]), len(homes), strategy, vocabulary)
    (root / "plan.json").write_text(json.dumps(plan.to_record()))
    model = _load(root / _MODEL) if server_round > 1 else {}
    began = time.perf_counter()
    total = aggregator_of(plan, plan.mechanism_of(server_round))
    times: dict[str, float] = {"dataset_s": 0.0, "release_s": 0.0}
    for numbers in _batches(len(homes)):
        told = _together([["train", root, number, server_round] for number in numbers])
        for number, lines in zip(numbers, told, strict=True):
            path = root / f"release-{number}.npz"
            total.add(f"region-{number}", _load(path))
            path.unlink()
            for name, seconds in json.loads(lines).items():
                times[name] = max(times[name], seconds)
    following, _ = model_after(server_round, model, total.total(), plan, {})
    times["round_s"] = time.perf_counter() - began
    np.savez(root / _MODEL, **following)  # type: ignore[arg-type]
    return times | {"vocabulary": float(plan.vocabulary_size), "rank": float(plan.rank)}


def train(root: Path, number: int, server_round: int) -> dict[str, float]:
    """What one region does in a round."""
    torch.set_num_threads(1)
    home = RegionHome.read(root / f"region-{number}")
    plan = RunPlan.from_record(json.loads((root / "plan.json").read_text()))
    model = _load(root / _MODEL) if server_round > 1 else {}
    customers = plan.planned_customers // len(plan.regions)
    began = time.perf_counter()
    dataset = _data(home).dataset(plan, everyone(customers))
    halfway = time.perf_counter()
    released = release(dataset, model, plan=plan, server_round=server_round, noise=SystemNoise())
    ended = time.perf_counter()
    np.savez(root / f"release-{number}.npz", **released)  # type: ignore[arg-type]
    return {"dataset_s": halfway - began, "release_s": ended - halfway}


def plan_of(
    home: RegionHome, regions: int, strategy: StrategyName, vocabulary: int | None
) -> RunPlan:
    """The default plan; with another vocabulary if one is asked for."""
    catalogue = Catalogue.load(home.catalogue)
    customers = json.loads((home.root.parent / "sizes.json").read_text())["customers"]
    plan = default_plan(
        run_id="bench",
        federation=home.federation,
        scenario="bench",
        regions=[f"region-{number}" for number in range(regions)],
        quorum=1,
        catalogue=catalogue.digest,
        n_items=catalogue.n_items,
        train_from="2025-01-01T00:00:00.000Z",
        train_until="2026-01-01T00:00:00.000Z",
        epsilon="8",
        planned_customers=customers,
        strategy=strategy,
        round_timeout_s=600,
    )
    if vocabulary is None:
        return plan
    return RunPlan.from_record({**plan.to_record(), "vocabulary_size": vocabulary})


def _batches(regions: int) -> Iterator[range]:
    """The regions' numbers, as many at a time as there are cores."""
    cores = len(os.sched_getaffinity(0))
    for first in range(0, regions, cores):
        yield range(first, min(first + cores, regions))


def _together(arguments: list[list[object]]) -> list[str]:
    """Runs this module so many times at once; gives what each printed."""

    def run(given: list[object]) -> str:
        command = [sys.executable, "-m", "benchmarks.scale_round", *map(str, given)]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603

    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(run, arguments))


def _data(home: RegionHome) -> RegionData:
    return RegionData(home, read_policy(home.policy))


def _load(path: Path) -> Arrays:
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def main(action: str, root: Path, *given: str) -> None:
    """Does one of the actions."""
    if action == "make":
        root.mkdir(parents=True)
        customers, items, regions = map(int, given or (CUSTOMERS, ITEMS, REGIONS))
        (root / "sizes.json").write_text(json.dumps({"customers": customers}))
        make(root, customers, items, regions)
    elif action == "prepare":
        prepare(root, *map(int, given))
    elif action == "train":
        sys.stdout.write(json.dumps(train(root, *map(int, given))))
    else:
        server_round, strategy, *vocabulary = given
        took = play_round(
            root,
            int(server_round),
            strategy,  # type: ignore[arg-type]
            int(vocabulary[0]) if vocabulary else None,
        )
        (root / "told.json").write_text(json.dumps(took))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
