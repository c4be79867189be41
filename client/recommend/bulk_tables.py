"""What lists for whole blocks of customers have in common: items in the form that the kernel takes.

Made once for a batch: of the model, the scene and what may be listed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from client.recommend.scoring import ScoringTables
from client.recommend.topk_tables import ItemTable
from client.training.personalisation import SHARED_WEIGHT
from common.strategies import SUMS

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class BulkTables:
    """Items for lists. Make it with `of`; immutable.

    Attributes:
        tables: What all customers' scores have in common.
        allowed: bool[n_items], which items may be listed at all.
        scene: float64[n_categories], by what a scene raises each category; None for no scene.
        factor: float64[n_items], what fused scores are multiplied by.
        is_cold: bool[n_items], which items are candidates without factors.
        twin: int64[n_items], equal for items whose scores are bound to be equal: cold ones of equal
            expected popularity in the same groups. Every other item is alone.
        warm: The vocabulary, if a score is no more than a product with tilts; else None.
        cold: The cold items, of one factor, 1.
    """

    tables: ScoringTables
    allowed: BoolArray = field(repr=False)
    scene: FloatArray | None = field(repr=False)
    factor: FloatArray = field(repr=False)
    is_cold: BoolArray = field(repr=False)
    twin: IntArray = field(repr=False)
    warm: ItemTable | None = field(repr=False)
    cold: ItemTable = field(repr=False)

    @classmethod
    def of(
        cls,
        tables: ScoringTables,
        *,
        allowed: BoolArray,
        scene: npt.NDArray[np.floating] | None = None,
    ) -> BulkTables:
        """Prepares the items.

        Args:
            tables: What all customers' scores have in common.
            allowed: bool[n_items], which items may be listed.
            scene: float[n_categories], by what a scene raises each category; None for no scene.
        """
        factor = tables.power
        if scene is not None:
            factor = factor * scene[tables.catalogue.category]
        is_cold = np.zeros(tables.n_items, dtype=bool)
        is_cold[tables.cold.items] = True
        return cls(
            tables=tables,
            allowed=allowed,
            scene=None if scene is None else scene.astype(np.float64),
            factor=factor,
            is_cold=is_cold,
            twin=_twins(tables, factor),
            warm=_warm_table(tables, factor, allowed),
            cold=_cold_table(tables, factor, allowed),
        )


def _warm_table(tables: ScoringTables, factor: FloatArray, allowed: BoolArray) -> ItemTable | None:
    # Beside cold items all shared scores are needed: cold ones are made to match their sum.
    if len(tables.cold.items) or tables.model.strategy not in SUMS:
        return None
    kept = allowed[tables.model.vocabulary]
    vocabulary = tables.model.vocabulary[kept]
    levels = (tables.category, tables.product_type)
    return ItemTable.of(
        tables.model.item_factors[kept],
        vocabulary,
        weights=SHARED_WEIGHT * factor[vocabulary],
        codes=[level.of_vocabulary[kept] for level in levels],
        positive=True,
    )


def _cold_table(tables: ScoringTables, factor: FloatArray, allowed: BoolArray) -> ItemTable:
    items = tables.cold.items[allowed[tables.cold.items]]
    return ItemTable.of(
        np.ones((len(items), 1), dtype=np.float32),
        items,
        weights=SHARED_WEIGHT * factor[items] * tables.cold.base[items],
        codes=[level.codes[items] for level in tables.cold.levels],
        positive=True,
    )


def _twins(tables: ScoringTables, factor: FloatArray) -> IntArray:
    cold, twin = tables.cold.items, np.arange(tables.n_items)
    if len(cold):
        codes = [level.codes[cold].astype(np.float64) for level in tables.cold.levels]
        rows = np.stack([tables.cold.base[cold], factor[cold], *codes])
        _, first, which = np.unique(rows, axis=1, return_index=True, return_inverse=True)
        twin[cold] = cold[first[which.reshape(-1)]]
    return twin
