"""What ranking some customers needs of their purchases, whatever the model: made once for all.

A study ranks the same customers by dozens of models. What they bought of which group of the
catalogue, and how recently, is the same each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from client.data.dataset import PreferenceDataset
from client.recommend.cold import SMOOTHING, Level
from client.training.evaluation import select_customers
from client.training.personalisation import bought
from common.catalogue import Catalogue
from common.ranking import IntArray, ItemSets

FloatArray = npt.NDArray[np.float64]
# Tables of customers by items of the vocabulary are for so many at a time.
_CHUNK = 1024


@dataclass(frozen=True, eq=False)
class Purchased:
    """How many items of each group of one level n customers bought: what there is, sparsely.

    Attributes:
        cells: int64[c], ascending: customer · `n_groups` + group.
        counts: int64[c], above 0.
        n_groups: How many groups the level has.
    """

    cells: IntArray = field(repr=False)
    counts: IntArray = field(repr=False)
    n_groups: int

    @classmethod
    def of(cls, own: ItemSets, codes: npt.NDArray[np.int32]) -> Purchased:
        """Counts them.

        Args:
            own: What the customers bought.
            codes: int32[n_items], each item's group.
        """
        n_groups = int(codes.max()) + 1
        cells, counts = np.unique(own.owners * n_groups + codes[own.items], return_counts=True)
        return cls(cells, counts, n_groups)

    def lifts(
        self, level: Level, sizes: IntArray, customers: IntArray, groups: IntArray
    ) -> FloatArray:
        """float64[n_pairs]: as `Level.lifts`, number for number, of pairs.

        Args:
            level: The level.
            sizes: int64[n], how many items each customer bought.
            customers: int64[n_pairs].
            groups: int64[n_pairs].
        """
        counts = np.zeros(len(customers), dtype=np.int64)
        if len(self.cells):
            wanted = customers * self.n_groups + groups
            places = np.minimum(np.searchsorted(self.cells, wanted), len(self.cells) - 1)
            counts = np.where(self.cells[places] == wanted, self.counts[places], 0)
        return level.lift(counts, sizes[customers], level.shares[groups])

    def highest(self, level: Level, sizes: IntArray) -> FloatArray:
        """float64[n]: a number that no lift of the customer's is above, but for rounding."""
        customers, groups = np.divmod(self.cells, self.n_groups)
        smoothed = sizes.astype(np.float64) + SMOOTHING
        shares = level.shares[groups]
        ratios = (self.counts + SMOOTHING * shares) / (smoothed[customers] * shares)
        # What nothing was bought of.
        highest: FloatArray = SMOOTHING / smoothed
        np.maximum.at(highest, customers, ratios)
        lifted: FloatArray = highest**level.exponent
        return lifted


@dataclass(frozen=True, eq=False)
class ServedCustomers:
    """Customers to rank for. Make it with `of`.

    Attributes:
        history: Their purchases.
        own: What each of them bought.
        owners: int64[n_entries], whose each entry is.
        recent: float64[n_entries], how much the purchases of each entry count by their age.
        purchased: Of the levels that cold scores go by: category, product type and brand.
    """

    history: PreferenceDataset = field(repr=False)
    own: ItemSets = field(repr=False)
    owners: IntArray = field(repr=False)
    recent: FloatArray = field(repr=False)
    purchased: tuple[Purchased, ...] = field(repr=False)

    @classmethod
    def of(cls, history: PreferenceDataset, catalogue: Catalogue) -> ServedCustomers:
        """Prepares some customers.

        Args:
            history: Their purchases.
            catalogue: The public catalogue.
        """
        own = bought(history)
        levels = (catalogue.category, catalogue.product_type, catalogue.brand)
        return cls(
            history=history,
            own=own,
            owners=own.owners,
            recent=history.history().values.astype(np.float64),
            purchased=tuple(Purchased.of(own, codes) for codes in levels),
        )

    @classmethod
    def in_chunks(
        cls, history: PreferenceDataset, catalogue: Catalogue
    ) -> Iterator[ServedCustomers]:
        """Prepares all customers of a data set, so many at a time, in their order."""
        for start in range(0, max(1, history.n_customers), _CHUNK):
            rows = select_customers(history, history.sids[start : start + _CHUNK])
            yield cls.of(rows, catalogue)

    @property
    def n_customers(self) -> int:
        """The number of customers."""
        return self.own.n_customers
