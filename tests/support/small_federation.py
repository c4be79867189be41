"""A federation of a few made-up customers, provisioned as a simulation provisions a real one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from client.engine.home import RegionHome
from common.catalogue import Catalogue
from common.plan import RunPlan
from common.plan_defaults import default_plan
from common.timestamps import format_time
from simulations.customers import CustomerChoices, draw_choices
from simulations.prepared import EvaluationWindows, PreparedRegion, PreparedScenario
from simulations.provision import RegionSetUp, provision
from simulations.run_folder import RunFolder
from simulations.scenarios import Scenario

N_ITEMS = 40
DAY_MS = 24 * 3600 * 1000
START_MS = 1_704_067_200_000
WINDOWS = EvaluationWindows(START_MS, START_MS + 80 * DAY_MS, START_MS + 100 * DAY_MS)
APP = "a" * 64
SOURCE = """\
kind = "files"
path = "transactions.csv"
time_zone = "UTC"

[columns]
customer = "who"
item = "what"
time = "when"
basket = "receipt"
"""


def prepare_small(out: Path, *, seed: int, regions: int, customers: int) -> PreparedScenario:
    """Writes a catalogue and each region's store as CSV."""
    generator = np.random.default_rng(seed)
    catalogue = Catalogue.of(
        [f"item-{number:02d}" for number in range(N_ITEMS)],
        category=[f"category-{number % 4}" for number in range(N_ITEMS)],
    )
    out.mkdir(parents=True, exist_ok=True)
    catalogue.save(out / "catalogue.parquet")
    prepared = []
    for number in range(1, regions + 1):
        name = f"region-{number}"
        folder = out / name / "data"
        folder.mkdir(parents=True)
        rows = [
            {
                "who": f"{name}-customer-{customer:03d}",
                "what": f"item-{item:02d}",
                "when": format_time(START_MS + int(generator.integers(0, 100 * DAY_MS))),
                "receipt": f"{name}-{customer}-{index}",
                "secret": "never to be read",
            }
            for customer in range(customers)
            for index, item in enumerate(
                np.minimum(generator.geometric(0.12, size=30) - 1, N_ITEMS - 1)
            )
        ]
        pd.DataFrame(rows).to_csv(folder / "transactions.csv", index=False)
        (folder / "source.toml").write_text(SOURCE)
        prepared.append(
            PreparedRegion(name, folder / "source.toml", customers, 1, len(rows), len(rows), 0)
        )
    return PreparedScenario(
        out / "catalogue.parquet", catalogue.digest, catalogue.n_items, tuple(prepared)
    )


def small_scenario(regions: int = 3, customers: int = 20) -> Scenario:
    """A scenario of some regions with some customers each."""
    return Scenario(
        name="small",
        title="a few made-up customers",
        federation="small.example",
        jurisdictions=("DE", "FR", "IE", "NL", "SE")[:regions],
        refusal_share=0.1,
        withdrawal_share=0.1,
        quorum=max(1, regions - 1),
        witness_quorum=2,
        planned_customers=regions * customers,
        windows=WINDOWS,
        prepare=partial(prepare_small, regions=regions, customers=customers),
    )


def small_plan(scenario: Scenario, prepared: PreparedScenario, **changes: object) -> RunPlan:
    """A plan over the small scenario's catalogue."""
    arguments = {
        "run_id": "run-1",
        "federation": scenario.federation,
        "scenario": scenario.name,
        "regions": [region.name for region in prepared.regions],
        "quorum": scenario.quorum,
        "catalogue": prepared.catalogue_digest,
        "n_items": prepared.n_items,
        "train_from": format_time(WINDOWS.train_from_ms),
        "train_until": format_time(WINDOWS.train_until_ms),
        "epsilon": "8",
        "planned_customers": scenario.planned_customers,
        "round_timeout_s": 60,
    }
    return default_plan(**(arguments | changes))  # type: ignore[arg-type]


def draw_small(customers: Sequence[str], *, region_number: int) -> CustomerChoices:
    """One customer in ten refuses, one in ten withdraws before one of rounds 2 to 4."""
    return draw_choices(
        customers,
        refusal_share=0.1,
        withdrawal_share=0.1,
        rounds=4,
        seed=(7, region_number),
    )


def set_ups_for(
    plan: RunPlan,
    scenario: Scenario,
    *,
    epsilon_cap: str = "8",
    delta_max: str | None = None,
    choose: Callable[[Sequence[str]], CustomerChoices] | None = None,
    withdrawal_in_round: Literal["finish", "discard"] = "finish",
) -> list[RegionSetUp]:
    """What each region is provisioned with."""
    return [
        RegionSetUp(
            region=region,
            jurisdiction=jurisdiction,
            choose=choose or partial(draw_small, region_number=number),
            epsilon_cap=epsilon_cap,
            delta_max=delta_max or plan.delta,
            withdrawal_in_round=withdrawal_in_round,
        )
        for number, (region, jurisdiction) in enumerate(
            zip(plan.regions, scenario.jurisdictions, strict=True)
        )
    ]


def make_federation(
    root: Path,
    *,
    regions: int = 3,
    customers: int = 20,
    epsilon_cap: str = "8",
    delta_max: str | None = None,
    choose: Callable[[Sequence[str]], CustomerChoices] | None = None,
    withdrawal_in_round: Literal["finish", "discard"] = "finish",
    **plan_changes: object,
) -> tuple[RunFolder, RunPlan, list[RegionSetUp]]:
    """Provisions a federation below ``root``."""
    scenario = small_scenario(regions, customers)
    folder = RunFolder(root)
    root.mkdir(parents=True, exist_ok=True)
    prepared = scenario.prepare(folder.data, seed=3)
    plan = small_plan(scenario, prepared, **plan_changes)
    set_ups = set_ups_for(
        plan,
        scenario,
        epsilon_cap=epsilon_cap,
        delta_max=delta_max,
        choose=choose,
        withdrawal_in_round=withdrawal_in_round,
    )
    provision(folder, scenario, plan, set_ups, APP)
    return folder, plan, set_ups


def home_of(folder: RunFolder, region: str = "region-1") -> RegionHome:
    """One region's home."""
    return RegionHome.read(folder.region_home(region))
