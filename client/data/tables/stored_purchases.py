"""The table `purchases` of a region that declares none of its own: made of its ``source.toml``.

So amounts, baskets and shops, which training never keeps, are there for profiles without a second
declaration. Customers at home in another region and what lies outside the declared period are left
out here as they are of training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa

from client.data.source_config import FileSourceConfig, SqlSourceConfig
from client.data.sources import open_source
from client.data.store_units import Changes, StoreUnit
from client.data.tables.declaration import FileTable
from client.data.transactions import Transactions

#: Canonical column of the table → the store's canonical column.
COLUMNS = {
    "customer": "customer_ref",
    "time": "time",
    "item": "item_ref",
    "quantity": "quantity",
    "amount": "amount",
    "receipt": "basket_ref",
    "store": "store_ref",
}


class StoredPurchases:
    """The rows of a region's store, as the table `purchases` has them.

    Args:
        config: The store's declaration.
    """

    def __init__(self, config: FileSourceConfig | SqlSourceConfig) -> None:
        self._source = open_source(config)
        mapped = config.columns.by_canonical_name
        # What a till sells without saying how many is one.
        self.columns = {
            name: stored
            for name, stored in COLUMNS.items()
            if stored in mapped or name == "quantity"
        }

    @property
    def origin(self) -> str:
        """What messages call it."""
        return self._source.origin

    def as_table(self) -> FileTable:
        """What its rows are once they are read: canonical columns, times that are times."""
        return FileTable(kind="files", path=self.origin, columns=dict(self.columns))

    def check(self) -> None:
        """Checks that it can be read; see `client.data.sources`."""
        self._source.check()

    def changes(self, taken: Mapping[str, StoreUnit], now_ms: int) -> Changes:
        """What is new or gone since some units were taken up."""
        return self._source.changes(taken, now_ms)

    def kinds(self, unit: StoreUnit) -> Mapping[str, str]:
        """What each column of a unit holds, by the store's canonical names."""
        return self._source.kinds(unit)

    def tables(self, unit: StoreUnit) -> Iterator[pa.Table]:
        """The rows of a unit, under the store's canonical names of columns."""
        for batch in self._source.batches(unit):
            table = self._table(batch)
            if table.num_rows:
                yield table

    def _table(self, batch: Transactions) -> pa.Table:
        frame, scope = batch.frame, batch.scope
        kept = np.ones(len(frame), dtype=bool)
        if scope.home_stores:
            homes = frame["home_store_ref"]
            kept &= homes.isin(scope.home_stores).to_numpy() | homes.isna().to_numpy()
        moments = frame["time"].to_numpy(dtype="datetime64[ms]").astype(np.int64)
        known = frame["time"].notna().to_numpy()
        if scope.from_ms is not None:
            kept &= ~known | (moments >= scope.from_ms)
        if scope.until_ms is not None:
            kept &= ~known | (moments < scope.until_ms)
        return pa.Table.from_pandas(
            frame.loc[kept, list(self.columns.values())], preserve_index=False
        )
