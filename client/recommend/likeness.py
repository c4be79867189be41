"""Which items the shared model finds alike: the cosine of their factors, which are released values.

No customer's data enter: whatever is made of the model's factors costs no ε.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from common.model_state import ModelState

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_NOTHING: IntArray = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Likeness:
    """The vocabulary's items as directions. Make it with `of`; immutable."""

    _vocabulary: IntArray = field(repr=False)
    _column: npt.NDArray[np.int32] = field(repr=False)
    _directions: npt.NDArray[np.float32] = field(repr=False)

    @classmethod
    def of(cls, model: ModelState, n_items: int) -> Likeness:
        """Takes the directions of a model's item factors.

        Args:
            model: The published model.
            n_items: The number of items of the region's catalogue, at least the model's.
        """
        column = np.full(n_items, -1, dtype=np.int32)
        column[model.vocabulary] = np.arange(len(model.vocabulary), dtype=np.int32)
        norms = np.linalg.norm(model.item_factors.astype(np.float64), axis=1, keepdims=True)
        directions = model.item_factors / np.where(norms > 0, norms, 1.0)
        return cls(model.vocabulary, column, directions.astype(np.float32))

    def like(self, item: int, most: int) -> tuple[IntArray, FloatArray]:
        """The items most like an item, by cosines above 0, best first; ties to the smaller number.

        Args:
            item: Its number.
            most: How many.

        Returns:
            int64[l] and float64[l] within (0, 1]; nothing for an item without factors.
        """
        place = int(self._column[item])
        if place < 0:
            return _NOTHING, np.zeros(0)
        cosines = self._directions @ self._directions[place]
        cosines[place] = 0.0
        if most < len(cosines):
            kth = np.partition(cosines, len(cosines) - most)[len(cosines) - most]
            chosen = np.flatnonzero((cosines >= kth) & (cosines > 0))
        else:
            chosen = np.flatnonzero(cosines > 0)
        order = np.lexsort((self._vocabulary[chosen], -cosines[chosen]))[:most]
        values = np.minimum(cosines[chosen[order]].astype(np.float64), 1.0)
        return self._vocabulary[chosen[order]], values
