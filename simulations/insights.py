"""A made-up retailer with every table, in regions large enough for insights and one that is not.

Real data of the scenarios have purchases alone. This one has events, feedback, an experiment and
receipts with stores and payments as well (`simulations.made_up_tables`), so that every question has
an answer, and the page of insights every section. Nothing measured on it says anything about real
customers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from common.catalogue import Catalogue
from simulations.made_up_purchases import made_up, made_up_catalogue
from simulations.made_up_regions import INSIGHT_FROM_MS, INSIGHT_REGIONS
from simulations.made_up_tables import write_tables
from simulations.prepared import PreparedRegion, PreparedScenario

# Of a customer's rows so many are kept: stores of a few hundred thousand rows are enough to ask.
_KEPT_SHARE = 0.25


def prepare_insights(
    out: Path, *, seed: int, regions: Mapping[str, int] = INSIGHT_REGIONS
) -> PreparedScenario:
    """Writes the catalogue, and each region's store with its further tables, below ``out``.

    Args:
        out: Where to write.
        seed: Seed of everything that is drawn.
        regions: How many customers each region has.

    Raises:
        InputError: A region has no customers.
    """
    catalogue = made_up_catalogue()
    out.mkdir(parents=True, exist_ok=True)
    catalogue.save(out / "catalogue.parquet")
    prepared = tuple(
        _write_region(out, name, customers, catalogue, seed=1_000 * seed + number)
        for number, (name, customers) in enumerate(regions.items())
    )
    return PreparedScenario(
        out / "catalogue.parquet", catalogue.digest, catalogue.n_items, prepared
    )


def _write_region(
    out: Path, name: str, customers: int, catalogue: Catalogue, *, seed: int
) -> PreparedRegion:
    frame = _purchases(name, customers, seed)
    folder = out / name / "data"
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(folder / "transactions.parquet", index=False)
    source = folder / "source.toml"
    source.write_text(_SOURCE, encoding="utf-8")
    write_tables(source, catalogue, seed=seed)
    return PreparedRegion(
        name=name,
        source=source,
        households=frame["customer"].nunique(),
        stores=1,
        rows=len(frame),
        trips=frame["basket"].nunique(),
        visitor_trips=0,
    )


def _purchases(name: str, customers: int, seed: int) -> pd.DataFrame:
    """A region's receipts: some rows of each customer's, one at least."""
    whole = made_up(customers, seed)
    generator = np.random.default_rng([seed, 0x1457])
    kept = generator.random(len(whole.owner)) < _KEPT_SHARE
    # The first row of each customer stays: whoever is in the made-up region is in its store.
    kept[np.unique(whole.owner, return_index=True)[1]] = True
    owner, item, time_ms = whole.owner[kept], whole.item[kept], whole.time_ms[kept]
    names = np.array([f"{name}-{number:06d}" for number in range(customers)], dtype=object)
    items = np.array([f"item-{number:03d}" for number in range(int(item.max()) + 1)], dtype=object)
    frame = pd.DataFrame(
        {
            "customer": names[owner],
            "basket": [f"{n}-{t}" for n, t in zip(owner.tolist(), time_ms.tolist(), strict=True)],
            "item": items[item],
            "bought_at": pd.to_datetime(time_ms + INSIGHT_FROM_MS, unit="ms", utc=True),
        }
    )
    return frame.drop_duplicates(["customer", "basket", "item"], ignore_index=True)


_SOURCE = """\
# What fedpref may read of this region's store. Columns that are not named here are never read.
kind = "files"
path = "transactions.parquet"
time_zone = "UTC"

[columns]
customer = "customer"
item = "item"
time = "bought_at"
basket = "basket"
"""
