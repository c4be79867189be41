"""Looks into the stages of a region's data: what is in them, whatever the order and the parts."""

from __future__ import annotations

import pandas as pd
from pandas.api.types import union_categoricals

from client.data.store_units import TransactionSource
from client.data.transactions import (
    REF_COLUMNS,
    CheckedTransactions,
    ConsentedTransactions,
    Transactions,
)
from common.catalogue import Catalogue
from common.errors import InputError
from common.timestamps import now_ms


def read_all(source: TransactionSource) -> Transactions:
    """All rows of a store that fits into memory, in the order of its units."""
    batches = [
        batch
        for unit in source.changes({}, now_ms()).fresh
        if source.kinds(unit)
        for batch in source.batches(unit)
    ]
    if not batches:
        raise InputError(f"{source.origin} has no rows.")
    frame = pd.DataFrame(
        {
            name: union_categoricals([batch.frame[name] for batch in batches])
            if name in REF_COLUMNS
            else pd.concat([batch.frame[name] for batch in batches], ignore_index=True)
            for name in batches[0].frame.columns
        }
    )
    return Transactions(frame, batches[0].mapped, batches[0].scope, source.origin)


def purchases(
    stage: CheckedTransactions | ConsentedTransactions, catalogue: Catalogue
) -> list[tuple[str, str, int]]:
    """Every purchase of a stage: whose, what and when (milliseconds), sorted."""
    return sorted(
        (part.owners[owner], catalogue.items[item], int(time_ms))
        for part in stage.parts()
        for owner, item, time_ms in zip(
            part.owner.tolist(), part.item.tolist(), part.time_ms.tolist(), strict=True
        )
    )
