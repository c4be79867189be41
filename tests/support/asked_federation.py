"""A small federation that is asked questions, provisioned as a simulation provisions one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from client.consent_service.registrar import Choice
from common.aggregation_rules import NoiseMode, RuleName
from common.analytics.answers import Scope
from common.analytics.asked import Asking
from common.analytics.purchase_questions import CATEGORIES, REPEATS, SCENES
from common.canonical_json import JsonValue
from common.catalogue import Catalogue
from common.clusters_table import ClustersTable, CoordinateTable
from common.consent import FEDERATED_TRAINING
from common.plan import RunPlan
from common.questions_plan import QuestionsFile, questions_plan
from common.release_bounds import release_noise_stddev
from common.timestamps import format_time
from simulations.customers import CustomerChoices
from simulations.federate import federate
from simulations.provision import RegionSetUp, open_regions, provision
from simulations.run_folder import RunFolder
from tests.support.run_bundle import bundled
from tests.support.small_federation import APP, WINDOWS, set_ups_for, small_scenario

NAMES = (CATEGORIES, SCENES, REPEATS)
#: Three steps over two coordinates: who buys on few days, and who on many.
CLUSTERED = ClustersTable(
    steps=3,
    start=((20, 3), (4, 20)),
    coordinate=(CoordinateTable(measure="recency"), CoordinateTable(measure="frequency", most=40)),
)
WINDOW_MS = (WINDOWS.train_from_ms, WINDOWS.train_until_ms)
WINDOW = (format_time(WINDOWS.train_from_ms), format_time(WINDOWS.train_until_ms))
CATALOGUE = Catalogue.of(
    [f"item-{number:02d}" for number in range(40)],
    category=[f"category-{number % 4}" for number in range(40)],
)


def everybody(customers: Sequence[str]) -> CustomerChoices:
    """Nobody refuses, nobody withdraws."""
    del customers
    return CustomerChoices(refusing=frozenset(), withdrawing={})


def asked_plan(
    names: Sequence[str] = NAMES,
    *,
    scope: Scope = "regions",
    aggregation: RuleName = "sum",
    catalogue: Catalogue = CATALOGUE,
    clusters: ClustersTable = CLUSTERED,
    window_ms: tuple[int, int] = WINDOW_MS,
    **changes: Any,
) -> RunPlan:
    """A plan of questions over the small federation's catalogue."""
    arguments: dict[str, Any] = {
        "run_id": "run-1",
        "federation": "small.example",
        "scenario": "small",
        "regions": ["region-1", "region-2", "region-3"],
        "quorum": 2,
        "catalogue": catalogue.digest,
        "n_items": catalogue.n_items,
        "window": (format_time(window_ms[0]), format_time(window_ms[1])),
        "epsilon": "8",
        "planned_customers": 60,
        "round_timeout_s": 60,
    }
    questions = QuestionsFile.of(names, scope=scope, aggregation=aggregation)
    return questions_plan(
        questions.model_copy(update={"clusters": clusters}),
        Asking(tuple(catalogue.category_names), *window_ms),
        **(arguments | changes),
    )


def secure_plan(mode: NoiseMode, names: Sequence[str] = NAMES, **changes: Any) -> RunPlan:
    """A plan whose answers the coordinator sees as sums alone."""
    honest = {"honest_survivors_min": 3} if mode == "distributed" else {}
    return asked_plan(
        names,
        scope="global",
        aggregation="secure-sum",
        **({"mode": mode, "quorum": 3, **honest} | changes),
    )


def coarsely(plan: RunPlan) -> RunPlan:
    """The same plan on the coarsest grids that go with its noise."""
    mechanisms: list[JsonValue] = []
    for each in plan.mechanisms:
        coarsest = math.floor(math.log2(release_noise_stddev(plan, each) / 4))
        stated = each.model_dump(mode="json", exclude_unset=True)
        mechanisms.append({**stated, "grid_exponent": coarsest})
    return RunPlan.from_record({**plan.to_record(), "mechanisms": mechanisms})


def make_asked(
    root: Path,
    plan: RunPlan,
    *,
    customers: int = 20,
    choose: Callable[[Sequence[str]], CustomerChoices] = everybody,
    withdrawal_in_round: Literal["finish", "discard"] = "finish",
    epsilon_cap: str = "8",
) -> tuple[RunFolder, RunPlan, list[RegionSetUp]]:
    """Provisions a federation below ``root`` for a plan of questions."""
    scenario = small_scenario(len(plan.regions), customers)
    folder = RunFolder(root)
    root.mkdir(parents=True, exist_ok=True)
    scenario.prepare(folder.data, seed=3)
    set_ups = set_ups_for(
        plan,
        scenario,
        choose=choose,
        withdrawal_in_round=withdrawal_in_round,
        epsilon_cap=epsilon_cap,
    )
    provision(folder, scenario, plan, set_ups, APP)
    return folder, plan, set_ups


def finish_asked(root: Path, plan: RunPlan) -> RunFolder:
    """A finished run of a plan of questions, bundled and verified.

    One customer of each region consents to training and not to statistics.
    """
    folder, _, set_ups = make_asked(root, plan)
    with open_regions(folder, set_ups) as regions:
        for region in regions.values():
            region.registrar.record([Choice.give(region.customers[0], {FEDERATED_TRAINING: True})])
        channels = {name: region.channel for name, region in regions.items()}
        federate("inprocess", folder, plan, channels)
    verdict = bundled(folder, plan)
    assert verdict.verified, verdict.first_failure
    return folder
