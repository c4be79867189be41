"""The items of each place in the catalogue, the most popular first: where live events spread to."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from common.catalogue import UNLABELLED, Catalogue

IntArray = npt.NDArray[np.int64]

_NOTHING: IntArray = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class ItemGroups:
    """One level of a catalogue: items by group, in the order of popularity.

    Attributes:
        codes: int32[n_items], each item's group.
        names: The groups' names.
    """

    codes: npt.NDArray[np.int32] = field(repr=False)
    names: tuple[str, ...] = field(repr=False)
    _items: IntArray = field(repr=False)
    _bounds: IntArray = field(repr=False)

    @classmethod
    def of(
        cls, codes: npt.NDArray[np.int32], names: tuple[str, ...], by_popularity: IntArray
    ) -> ItemGroups:
        """Orders a level.

        Args:
            codes: int32[n_items].
            names: The groups' names, ascending.
            by_popularity: int64[n_items], all items, the most popular first.
        """
        order = by_popularity[np.argsort(codes[by_popularity], kind="stable")]
        sizes = np.bincount(codes, minlength=len(names))
        return cls(codes, names, order, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))

    def beside(self, item: int, most: int) -> IntArray:
        """The most popular items of an item's group; none if it has no label."""
        return self._of(int(self.codes[item]), most)

    def named(self, name: str, most: int) -> IntArray:
        """The most popular items of the group of a name; none if there is no such group."""
        place = bisect_left(self.names, name)
        if place == len(self.names) or self.names[place] != name:
            return _NOTHING
        return self._of(place, most)

    def name_of(self, item: int) -> str | None:
        """The name of an item's group; None if it has no label."""
        name = self.names[int(self.codes[item])]
        return None if name == UNLABELLED else name

    def _of(self, code: int, most: int) -> IntArray:
        if self.names[code] == UNLABELLED:
            # Items that nobody has labelled have nothing in common.
            return _NOTHING
        start, stop = int(self._bounds[code]), int(self._bounds[code + 1])
        return self._items[start : min(stop, start + most)]


@dataclass(frozen=True, eq=False)
class Places:
    """The levels of a catalogue that lists are made with."""

    product_type: ItemGroups
    category: ItemGroups
    department: ItemGroups

    @classmethod
    def of(cls, catalogue: Catalogue, by_popularity: IntArray) -> Places:
        """Orders all levels of a catalogue."""
        return cls(
            ItemGroups.of(catalogue.product_type, catalogue.product_type_names, by_popularity),
            ItemGroups.of(catalogue.category, catalogue.category_names, by_popularity),
            ItemGroups.of(catalogue.department, catalogue.department_names, by_popularity),
        )

    def named(self, name: str, most: int) -> IntArray:
        """The most popular items of a product type, category or department: the finest so named."""
        for groups in (self.product_type, self.category, self.department):
            found = groups.named(name, most)
            if len(found):
                return found
        return _NOTHING
