"""Makes a region to be served, with everybody's consent: ``… HOME CUSTOMERS ITEMS ROWS_EACH``.

Its consents are signed one by one, as a consent service does; the model has random factors, of the
sizes that the default plan has for so many customers and items.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks import large_store
from client.consent_service.registrar import Choice
from client.engine.home import RegionHome
from common.catalogue import Catalogue
from common.plan import RunPlan
from common.plan_defaults import default_plan
from tests.support.region_home import ALL, FEDERATION, REGION, make_region_home, open_home
from tests.support.served_region import OTHERS, Arrays, PublishedFiles, model_arrays

DAYS = 20
CATEGORIES, TYPES = 300, 2_000
# So many choices are logged at a time.
_BATCH = 2_000
#: Purchases count up to the end of the model's window, whenever the benchmark is run.
SETTINGS = '[history]\nuntil = "model"\n'


def make(root: Path, customers: int, items: int, rows_each: int) -> None:
    """Makes the home."""
    home = make_region_home(root, others=OTHERS, witness_quorum=1)
    numbers = range(items)
    catalogue = Catalogue.of(
        [large_store.item(number) for number in numbers],
        category=[f"category {number % TYPES % CATEGORIES}" for number in numbers],
        product_type=[f"type {number % TYPES}" for number in numbers],
    )
    catalogue.save(home.catalogue)
    (home.source.parent / "days").mkdir(parents=True)
    home.source.write_text(large_store.SOURCE, "utf-8")
    for day in range(DAYS):
        large_store.write_day(home, day, customers * rows_each // DAYS, customers, items)
    plan = plan_of(catalogue, customers)
    PublishedFiles(plan, _arrays(plan)).put(home)
    (home.root / "recommend" / "settings.toml").write_text(SETTINGS, "utf-8")
    consent(home, customers)


def _arrays(plan: RunPlan) -> Arrays:
    """A model whose vocabulary is what the store's customers buy most."""
    order = large_store.by_popularity(plan.n_items)
    popularity = np.empty(plan.n_items, dtype="<f4")
    popularity[order] = 1e6 / (np.arange(plan.n_items) + 50.0)
    chosen = order[: plan.vocabulary_size].astype("<i8")
    return {**model_arrays(plan), "popularity": popularity, "vocabulary": chosen}


def consent(home: RegionHome, customers: int) -> None:
    """Logs everybody's consent."""
    with open_home(home) as opened:
        for first in range(0, customers, _BATCH):
            opened.registrar.record(
                [
                    Choice.give(large_store.customer(number), ALL)
                    for number in range(first, min(first + _BATCH, customers))
                ]
            )


def plan_of(catalogue: Catalogue, customers: int) -> RunPlan:
    """The default plan of a federation of five such regions."""
    return default_plan(
        run_id="bench",
        federation=FEDERATION,
        scenario="bench",
        regions=[REGION, *(f"region-{number}" for number in range(2, 6))],
        quorum=1,
        catalogue=catalogue.digest,
        n_items=catalogue.n_items,
        train_from="2025-01-01T00:00:00.000Z",
        train_until="2025-01-22T00:00:00.000Z",
        epsilon="8",
        planned_customers=customers,
    )


if __name__ == "__main__":
    make(Path(sys.argv[1]), *map(int, sys.argv[2:]))
