"""Data sets of made-up customers, who have no consent to give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from client.data.dataset import MS_PER_WEEK, CustomerItemMatrix, PreferenceDataset
from common.plan import RunPlan
from common.plan_defaults import default_plan
from common.strategies import StrategyName

START_MS = 1_480_000_000_000
END_MS = START_MS + 48 * MS_PER_WEEK
# A customer's purchases: item → how many weeks before the window's end each was.
Purchases = Mapping[int, Sequence[float]]


def dataset_of(
    customers: Mapping[str, Purchases],
    n_items: int,
    *,
    start_ms: int = START_MS,
    end_ms: int = END_MS,
) -> PreferenceDataset:
    """Builds a data set of plain purchases."""
    sids = sorted(customers)
    entries = [
        (row, item, sorted(customers[sid][item], reverse=True))
        for row, sid in enumerate(sids)
        for item in sorted(customers[sid])
    ]
    per_row = np.bincount([row for row, _, _ in entries], minlength=len(sids)).astype(np.int64)
    ages = [age for _, _, entry_ages in entries for age in entry_ages]
    last = [end_ms - round(min(entry_ages) * MS_PER_WEEK) for _, _, entry_ages in entries]
    return PreferenceDataset(
        sids=tuple(sids),
        counts=CustomerItemMatrix(
            np.concatenate([[0], np.cumsum(per_row)]).astype(np.int64),
            np.array([item for _, item, _ in entries], dtype=np.int32),
            np.array([len(entry_ages) for _, _, entry_ages in entries], dtype=np.float32),
            n_items,
        ),
        last_ms=np.array(last, dtype=np.int64),
        ages_weeks=np.array(ages, dtype=np.float32),
        start_ms=start_ms,
        end_ms=end_ms,
    )


def random_customers(
    n_customers: int, n_items: int, *, seed: int = 0, prefix: str = "c", tastes: int = 3
) -> dict[str, Purchases]:
    """Customers with a taste each: most of their purchases are from their part of the items."""
    generator = np.random.default_rng(seed)
    customers: dict[str, Purchases] = {}
    for number in range(n_customers):
        taste = number % tastes
        bought: dict[int, list[float]] = {}
        for _ in range(int(generator.integers(3, 25))):
            item = int(min(generator.geometric(0.15) - 1, n_items // tastes - 1))
            if generator.random() < 0.8:
                item = item * tastes + taste
            bought.setdefault(min(item, n_items - 1), []).append(float(generator.uniform(0, 47)))
        customers[f"{prefix}{number:05d}"] = bought
    return customers


def random_dataset(n_customers: int, n_items: int, *, seed: int = 0) -> PreferenceDataset:
    """A data set of random customers."""
    return dataset_of(random_customers(n_customers, n_items, seed=seed), n_items)


def plan_of(
    *,
    regions: Sequence[str] = ("region-1", "region-2", "region-3"),
    n_items: int = 60,
    epsilon: str = "8",
    planned_customers: int = 600,
    catalogue: str = "c" * 64,
    strategy: StrategyName = "factors",
    rounds: int | None = None,
) -> RunPlan:
    """A plan for a few made-up customers."""
    return default_plan(
        run_id="run-1",
        federation="test.example",
        scenario="test",
        regions=regions,
        quorum=1,
        catalogue=catalogue,
        n_items=n_items,
        train_from="2016-11-24T15:06:40.000Z",
        train_until="2017-10-26T15:06:40.000Z",
        epsilon=epsilon,
        planned_customers=planned_customers,
        strategy=strategy,
        rounds=rounds,
    )
