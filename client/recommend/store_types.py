"""What a region asks of its own customers about kinds of stores: what is bought where.

A scene names a kind of store beside the part of the day and the weekday
(`client.recommend.local_statistics.Scenes`). The store's purchases keep no store, so this one takes
the rows of the region's further table of purchases, which says for each of them in what kind of
store it was (`client.data.tables`). It is a query of its own: a region whose table says nothing of
stores asks nothing, and the others' noise is no larger for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from client.data.table_rows import NONE
from client.data.tables.declaration import declared_tables, labels_of
from client.data.tables.schema import PURCHASES
from client.data.transactions import Purchases
from client.engine.home import RegionHome
from client.recommend.local_estimates import Float32Array, table_factors
from client.recommend.local_statistics import STORE_TYPES
from client.training.bounded_sums import Contributions
from common.canonical_json import JsonValue
from common.catalogue import Catalogue
from common.errors import InputError
from common.parameters import ArraySpec

_PARAMETER = "store_types"


@dataclass(frozen=True)
class StoreTypes:
    """In which kind of store which categories are bought: categories × kinds of stores.

    A customer adds her purchases, counted by category and kind of store; the row as a whole is
    bounded, so that whoever shops daily counts no more than others.

    Attributes:
        catalogue: The region's public catalogue.
        names: The kinds of stores, as the settings name them: public, in order.
    """

    catalogue: Catalogue = field(repr=False)
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        # Of a single one there is nothing to tell apart.
        if len(set(self.names)) != len(self.names) or len(self.names) < 2:
            raise InputError(
                "The settings do not name two kinds of stores, or name one twice.",
                remedy="Name them in [scenes] store_types of recommend/settings.toml.",
            )

    @property
    def name(self) -> str:
        """The query's name."""
        return STORE_TYPES

    @property
    def tables(self) -> tuple[str, ...]:
        """The further table that says where purchases were made."""
        return (PURCHASES,)

    @property
    def spec(self) -> ArraySpec:
        """Categories × kinds of stores."""
        return ArraySpec(
            "store_types", "<f4", (len(self.catalogue.category_names), len(self.names))
        )

    @property
    def parameters(self) -> dict[str, JsonValue]:
        """The kinds of stores."""
        return {_PARAMETER: list(self.names)}

    def contributions(self, purchases: Purchases) -> Contributions:
        """Each purchase of a known item in a store of a known kind counts once."""
        receipts = purchases.further[PURCHASES]
        kind, items = receipts.text("store_type").among(self.names), receipts.text("item")
        number = [self.catalogue.index_of.get(item, NONE) for item in items.labels]
        item = np.array([*number, NONE], dtype=np.int64)[items.codes]
        known = (kind != NONE) & (item != NONE)
        category = self.catalogue.category[item[known]].astype(np.int64)
        place = category * len(self.names) + kind[known]
        return Contributions(
            receipts.owner.astype(np.int64)[known], place, np.ones(len(place), dtype=np.float64)
        )


def require_store_types(home: RegionHome, names: Sequence[str]) -> None:
    """Requires that the region's table of purchases knows kinds of stores: else all were noise.

    Args:
        home: The region's home.
        names: The kinds that are to be asked about.

    Raises:
        InputError: The declaration is malformed, or lists no codes of one of these kinds.
    """
    listed = labels_of(declared_tables(home).get(PURCHASES, ()), "store_type")
    missing = [name for name in names if name not in listed]
    if missing:
        raise InputError(
            f"{home.region}: its further table of purchases has no kind of store {missing[0]!r}.",
            remedy="Map the column store_type and list its codes in data/tables.toml, or correct "
            "[scenes] store_types of recommend/settings.toml.",
        )


@dataclass(frozen=True, eq=False)
class StoreFactors:
    """How much more of each category is bought in a kind of store than in others.

    Attributes:
        names: The kinds of stores.
        factors: float32[categories, kinds], 1 where a category is bought as everything else is.
    """

    names: tuple[str, ...]
    factors: Float32Array = field(repr=False)

    @classmethod
    def of(
        cls, values: Float32Array, parameters: dict[str, JsonValue], noise_stddev: float
    ) -> StoreFactors:
        """Reads an answer to `StoreTypes`.

        Args:
            values: float32[categories, kinds], noised.
            parameters: The public parameters of the query.
            noise_stddev: Of the noise in each value.

        Raises:
            InputError: The parameters do not name as many kinds as there are columns.
        """
        stated = parameters.get(_PARAMETER)
        names = tuple(map(str, stated)) if isinstance(stated, list) else ()
        if len(names) != values.shape[1]:
            raise InputError("The kinds of stores of the region's answer are malformed.")
        factors = table_factors(values.astype(np.float64), noise_stddev)
        return cls(names, factors.astype(np.float32))

    def factor(self, store_type: str | None) -> npt.NDArray[np.float32] | None:
        """float32[n_categories] of a kind of store; None if nothing is known of it."""
        if store_type not in self.names:
            return None
        return self.factors[:, self.names.index(str(store_type))]
