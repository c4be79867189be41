"""A made-up retailer from a seed: Zipf items, taste clusters, repeat purchases, any regions.

For trials and CI, where real data would be slow; nothing measured on it says anything about
quality on real data.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from common.catalogue import Catalogue
from common.errors import InputError
from simulations.made_up_regions import (
    DAY_MS,
    SYNTHETIC_DAYS,
    SYNTHETIC_FROM_MS,
    THREE,
    MadeUp,
)
from simulations.prepared import PreparedRegion, PreparedScenario

N_ITEMS = 400
N_CLUSTERS = 8
_MEAN_ITEMS_PER_TRIP = 4
_REPEAT_PROBABILITY = 0.5


def prepare_synthetic(out: Path, *, seed: int, made_up: MadeUp = THREE) -> PreparedScenario:
    """Writes the catalogue and the regions' stores below ``out``.

    Args:
        out: Where to write.
        seed: Seed of everything that is drawn.
        made_up: Who lives where.

    Raises:
        InputError: A region came out without customers.
    """
    generator = np.random.default_rng([seed, 0xFED])
    cluster_of_item = generator.integers(0, N_CLUSTERS, size=N_ITEMS)
    catalogue = Catalogue.of(
        [f"item-{number:04d}" for number in range(N_ITEMS)],
        category=[f"category-{cluster}" for cluster in cluster_of_item],
    )
    out.mkdir(parents=True, exist_ok=True)
    catalogue.save(out / "catalogue.parquet")
    region_of = generator.choice(
        len(made_up.region_shares), size=made_up.customers, p=made_up.region_shares
    )
    frame = _purchases(generator, cluster_of_item, region_of, made_up.mean_trips)
    regions = tuple(
        _write_region(out, name, frame[frame["region"] == number])
        for number, name in enumerate(made_up.regions)
    )
    return PreparedScenario(out / "catalogue.parquet", catalogue.digest, catalogue.n_items, regions)


def _purchases(
    generator: np.random.Generator,
    cluster_of_item: npt.NDArray[np.int64],
    region_of: npt.NDArray[np.int64],
    mean_trips: int,
) -> pd.DataFrame:
    popularity = 1.0 / np.arange(1, N_ITEMS + 1)
    rows: list[tuple[str, str, str, int, int]] = []
    for customer in range(len(region_of)):
        # Two taste clusters a customer; regions lean towards different ones.
        liked = (generator.integers(0, N_CLUSTERS, size=2) + region_of[customer]) % N_CLUSTERS
        weights = popularity * np.where(np.isin(cluster_of_item, liked), 8.0, 1.0)
        weights /= weights.sum()
        bought: list[int] = []
        for trip in range(max(2, generator.poisson(mean_trips))):
            time_ms = SYNTHETIC_FROM_MS + int(generator.integers(0, SYNTHETIC_DAYS * DAY_MS))
            for _ in range(1 + generator.poisson(_MEAN_ITEMS_PER_TRIP - 1)):
                repeat = bought and generator.random() < _REPEAT_PROBABILITY
                item = (
                    bought[generator.integers(len(bought))]
                    if repeat
                    else int(generator.choice(N_ITEMS, p=weights))
                )
                bought.append(item)
                rows.append(
                    (
                        f"customer-{customer:04d}",
                        f"{customer}-{trip}",
                        f"item-{item:04d}",
                        time_ms,
                        int(region_of[customer]),
                    )
                )
    frame = pd.DataFrame(rows, columns=["customer", "basket", "item", "time_ms", "region"])
    return frame.drop_duplicates(["customer", "basket", "item", "time_ms"])


def _write_region(out: Path, name: str, frame: pd.DataFrame) -> PreparedRegion:
    if frame.empty:
        raise InputError(f"The synthetic region {name} came out empty.")
    folder = out / name / "data"
    folder.mkdir(parents=True, exist_ok=True)
    stored = pd.DataFrame(
        {
            "customer": frame["customer"],
            "basket": frame["basket"],
            "item": frame["item"],
            "bought_at": pd.to_datetime(frame["time_ms"], unit="ms", utc=True),
        }
    )
    stored.to_parquet(folder / "transactions.parquet", index=False)
    source = folder / "source.toml"
    source.write_text(_SOURCE, encoding="utf-8")
    return PreparedRegion(
        name=name,
        source=source,
        households=frame["customer"].nunique(),
        stores=1,
        rows=len(frame),
        trips=frame["basket"].nunique(),
        visitor_trips=0,
    )


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
