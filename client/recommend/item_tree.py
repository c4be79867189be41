"""The catalogue's tree: each item's group at every level, from all items together to the brand.

It is public and the same for every model over a catalogue, so whoever prepares many models makes it
once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from common.catalogue import Catalogue

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ItemTree:
    """The groups of a catalogue's items. Make it with `of`; immutable.

    Attributes:
        paths: For each level, coarse to fine, int64[n_items], each item's group, numbered from 0:
            all items together, department, category, type and brand. A group nests in one of the
            level above, and groups are numbered in the order of those they nest in.
        parents: For each level int64[n_groups], the group of the level above; 0 for the first.
        order: int64[n_items], the items' numbers by finest group, then ascending: at every level a
            group's items lie together, and groups in their order.
    """

    paths: tuple[IntArray, ...] = field(repr=False)
    parents: tuple[IntArray, ...] = field(repr=False)
    order: IntArray = field(repr=False)

    @classmethod
    def of(cls, catalogue: Catalogue) -> ItemTree:
        """Makes the tree of a catalogue."""
        levels = (catalogue.department, catalogue.category, catalogue.product_type, catalogue.brand)
        path = np.zeros(catalogue.n_items, dtype=np.int64)
        paths, parents = [path], [np.zeros(1, dtype=np.int64)]
        for codes in levels:
            n_codes = int(codes.max()) + 1
            named, path = np.unique(path * n_codes + codes, return_inverse=True)
            paths.append(path.astype(np.int64))
            parents.append(named // n_codes)
        return cls(tuple(paths), tuple(parents), np.argsort(path, kind="stable"))

    @property
    def places(self) -> IntArray:
        """int64[n_items]: each item's finest group, its place in the catalogue."""
        return self.paths[-1]
