from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from client.data.canonicalise import canonicalise
from client.data.source_config import ColumnMapping, FileSourceConfig
from client.data.transactions import Transactions
from common.catalogue import Catalogue

MakeTransactions = Callable[..., Transactions]
NAMES = ("customer", "item", "time", "quantity", "amount", "basket", "store", "home_store")


@pytest.fixture
def catalogue() -> Catalogue:
    """Six items, and two products that are out of scope."""
    return Catalogue.of([f"i{number}" for number in range(6)], excluded=["fuel", "coupon"])


@pytest.fixture
def make_transactions() -> MakeTransactions:
    """Makes transactions of plain rows; what a row leaves out is an ordinary value."""

    def make(
        rows: Sequence[Mapping[str, Any]],
        *,
        mapped: Sequence[str] = NAMES,
        **settings: Any,
    ) -> Transactions:
        defaults: dict[str, Any] = {
            "customer": "c1",
            "item": "i0",
            "time": "2024-03-01T10:00:00Z",
            "quantity": 1,
            "amount": 1.0,
            "store": "s1",
            "home_store": "s1",
        }
        full = [{"basket": f"b{number}"} | defaults | row for number, row in enumerate(rows)]
        table = pa.table({name: [row[name] for row in full] for name in mapped})
        config = FileSourceConfig(
            kind="files",
            path="f",
            columns=ColumnMapping(**{name: name for name in mapped}),
            **settings,
        )
        return canonicalise(table, config, "The file f")

    return make


@pytest.fixture
def midnight_ms() -> Callable[[str], int]:
    """Milliseconds since the epoch of a date in UTC."""
    return lambda date: int(pd.Timestamp(date, tz="UTC").timestamp() * 1000)
