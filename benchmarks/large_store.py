"""Makes a home with a large store of daily Parquet files: ``… HOME ROWS CUSTOMERS ITEMS DAYS``.

Made up by one seed, a day at a time: items follow the law of Zipf and Mandelbrot, customers come in
baskets of about eight rows. One row in a hundred has a fault that the quality gate finds. Columns
are those of a till, with text for references, and one that nobody maps.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from client.engine.home import RegionHome
from client.engine.policy import RegionPolicy
from client.engine.storage_key import make_storage_key
from common import canonical_json
from common.catalogue import Catalogue
from common.consent import FEDERATED_TRAINING
from common.durable_file import write_durably

REGION, FEDERATION = "region-1", "bench.example"
FIRST_DAY = np.datetime64("2025-01-01", "us")
_BASKET_ROWS = 8
# So many of the most bought items are about equally bought.
_HEAD = 50
_FAULTY = 0.01
SOURCE = """\
kind = "files"
path = "days"
time_zone = "UTC"

[columns]
customer = "card"
item = "article"
time = "sold_at"
quantity = "pieces"
amount = "paid"
basket = "receipt"
store = "shop"
"""


def customer(number: int) -> str:
    """The store's reference of a customer."""
    return f"{9_000_000_000_000 + number * 17}"


def item(number: int) -> str:
    """The catalogue's reference of an item."""
    return f"ART-{number:07}"


def by_popularity(items: int) -> npt.NDArray[np.int64]:
    """The items' numbers, the most bought first."""
    return np.random.default_rng(1).permutation(items)


def make(
    root: Path, rows: int, customers: int, items: int, n_days: int, *, first_day: int = 0
) -> None:
    """Makes the home, with some days in its store; the same days have the same purchases."""
    home = RegionHome(root, REGION, FEDERATION)
    days = home.source.parent / "days"
    days.mkdir(parents=True)
    home.keys.mkdir(mode=0o700)
    make_storage_key(home.stored_key)
    home.write_identity()
    home.source.write_text(SOURCE, "utf-8")
    write_durably(home.policy, canonical_json.encode(_policy().to_record()))
    Catalogue.of([item(number) for number in range(items)]).save(home.catalogue)
    for day in range(first_day, first_day + n_days):
        write_day(home, day, rows // n_days, customers, items)


def write_day(home: RegionHome, day: int, rows: int, customers: int, items: int) -> Path:
    """Writes one day's file; gives its path."""
    generator = np.random.default_rng(day)
    path = home.source.parent / "days" / f"{day:04}.parquet"
    baskets = -(-rows // _BASKET_ROWS)
    basket = np.sort(generator.integers(0, baskets, rows))
    who = generator.integers(0, customers, baskets)[basket]
    # The law of Zipf and Mandelbrot over the items, in an order that is the same every day.
    ranks = _HEAD * ((items / _HEAD + 1) ** generator.random(rows) - 1)
    what = by_popularity(items)[ranks.astype(np.int64)]
    second = np.sort(generator.integers(0, 86_400_000_000, baskets))[basket]
    sold_at = FIRST_DAY + np.timedelta64(day, "D") + second.astype("timedelta64[us]")
    pieces = np.where(generator.random(rows) < _FAULTY, -1, generator.integers(1, 5, rows))
    references = pa.array([customer(number) for number in range(customers)])
    articles = pa.array([item(number) for number in range(items)])
    receipts = pa.array([f"{day:04}-{number:07}" for number in range(baskets)])
    table = pa.table(
        {
            "card": references.take(pa.array(who)),
            "article": articles.take(pa.array(what)),
            "sold_at": pa.array(sold_at, pa.timestamp("us", "UTC")),
            "pieces": pa.array(pieces, pa.int32()),
            "paid": pa.array(generator.random(rows) * 20),
            "receipt": receipts.take(pa.array(basket)),
            "shop": pa.array([f"shop-{number}" for number in range(40)]).take(pa.array(who % 40)),
            "cashier": pa.array([f"cashier {number}" for number in range(400)]).take(
                pa.array(basket % 400)
            ),
        }
    )
    pq.write_table(table, path)
    # As if it had been there for a while.
    os.utime(path, (1_750_000_000, 1_750_000_000))
    return path


def _policy() -> RegionPolicy:
    return RegionPolicy(
        region=REGION,
        purpose=FEDERATED_TRAINING,
        epsilon_cap_per_year="8",
        delta_max="0.000001",
        noise_multiplier_min="0.1",
        clipping_norm_max="1",
        rounds_max=64,
        quorum_min=1,
        quality_threshold="0.98",
        consent_age_max_s=600,
        withdrawal_in_round="finish",
        notice_grace_s=0,
        modes=["local"],
    )


if __name__ == "__main__":
    make(Path(sys.argv[1]), *map(int, sys.argv[2:]))
