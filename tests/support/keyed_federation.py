"""A small federation whose customers search for words, and are asked for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from client.data.tables.declaration import declaration_file
from client.engine.home import RegionHome
from common.analytics.key_questions import SEARCH_TERMS
from common.analytics.purchase_questions import REPEATS
from common.plan import RunPlan
from simulations.federate import federate
from simulations.provision import RegionSetUp, open_regions
from simulations.run_folder import RunFolder
from tests.support.asked_federation import asked_plan, make_asked
from tests.support.further_tables import write_csv
from tests.support.run_bundle import bundled
from tests.support.small_federation import home_of

#: What all of a region's customers search for, each besides something of her own.
WORDS: Mapping[str, tuple[str, ...]] = {
    "region-1": ("  MILK ", "milk", "Bread"),
    "region-2": ("Milk", "bread"),
    "region-3": ("milk", "黑麦 面包"),
}
DECLARED = """\
[events]
kind = "files"
path = "events.csv"

[events.columns]
customer = "who"
time = "when"
kind = "what"
query = "words"
"""
_WHEN = "2024-02-07T10:11:06.721Z"


def keyed_plan(names: tuple[str, ...] = (SEARCH_TERMS, REPEATS), **changes: Any) -> RunPlan:
    """A plan that asks for search terms with so little noise that twenty customers do."""
    return asked_plan(names, **({"epsilon": "40"} | changes))


def put_searches(home: RegionHome, customers: list[str]) -> None:
    """Declares a region's events and writes them beside its store."""
    rows = [
        (customer, _WHEN, "search", word)
        for customer in customers
        for word in (*WORDS[home.region], f"only {customer}")
    ]
    declaration_file(home).write_text(DECLARED, encoding="utf-8")
    write_csv(declaration_file(home).parent / "events.csv", ("who", "when", "what", "words"), rows)


def make_keyed(
    root: Path, plan: RunPlan, **options: Any
) -> tuple[RunFolder, RunPlan, list[RegionSetUp]]:
    """Provisions a federation with searches below ``root`` for a plan of questions."""
    folder, plan, set_ups = make_asked(root, plan, **({"epsilon_cap": "45"} | options))
    for region in plan.regions:
        customers = [f"{region}-customer-{number:03d}" for number in range(20)]
        put_searches(home_of(folder, region), customers)
    return folder, plan, set_ups


def finish_keyed(root: Path, plan: RunPlan) -> RunFolder:
    """A finished run of such a plan, bundled and verified."""
    folder, _, set_ups = make_keyed(root, plan)
    with open_regions(folder, set_ups) as regions:
        federate("inprocess", folder, plan, {name: each.channel for name, each in regions.items()})
    verdict = bundled(folder, plan)
    assert verdict.verified, verdict.first_failure
    return folder
