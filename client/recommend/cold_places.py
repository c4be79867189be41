"""The cold items of one customer that can be in a short list, without scoring all the others.

Cold items of one place in the catalogue (`client.recommend.cold`) are apart by their expected
popularity alone: whatever lifts one of them lifts all. So a place's best item is known beforehand,
and a list of k items needs items of the k places only whose best ones score highest.

Formal guarantees:
    `ColdLifts.leading` has every item that is among the `most` highest cold scores of a customer,
    whatever number each category is multiplied by; `ColdLifts.above` every item whose score times
    its factor is at least a number above 0. `ColdLifts.scores` are those of
    `ColdScores.scores`, number for number.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from client.recommend.cold import COLD_WEIGHT, ColdScores
from common.ranking import ItemSets

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]

# Scores are in single precision: what differs by less may come in either order.
_CLOSE = 1e-6


@dataclass(frozen=True, eq=False)
class ColdPlaces:
    """Cold items by place. Make it with `of`; immutable.

    Attributes:
        cold: The cold items' scores.
        items: int64[n_cold], by place.
        bounds: int64[n_places + 1]; place p has the items bounds[p] to bounds[p + 1].
        best: float64[n_places], the highest product of an item's part of the formula and factor.
        codes: For each level int32[n_places], the place's group.
    """

    cold: ColdScores = field(repr=False)
    items: IntArray = field(repr=False)
    bounds: IntArray = field(repr=False)
    best: FloatArray = field(repr=False)
    codes: tuple[Codes, ...] = field(repr=False)

    @classmethod
    def of(cls, cold: ColdScores, factor: FloatArray) -> ColdPlaces:
        """Puts the cold items into their places.

        Args:
            cold: Their scores.
            factor: float64[n_items], what an item's score is multiplied by.
        """
        groups = [level.codes[cold.items] for level in cold.levels]
        order = np.lexsort([cold.items, *(each.astype(np.int64) for each in groups[::-1])])
        items = cold.items[order]
        sorted_groups = [each[order] for each in groups]
        changes = np.zeros(len(items), dtype=bool)
        for each in sorted_groups:
            changes[1:] |= each[1:] != each[:-1]
        starts = np.concatenate([[0], np.flatnonzero(changes)]).astype(np.int64)
        if not len(items):
            starts = starts[:0]
        values = cold.base[items] * factor[items]
        best = np.maximum.reduceat(values, starts) if len(starts) else np.zeros(0)
        return cls(
            cold=cold,
            items=items,
            bounds=np.append(starts, len(items)),
            best=best,
            codes=tuple(each[starts] for each in sorted_groups),
        )


@dataclass(frozen=True, eq=False)
class ColdLifts:
    """What one customer's cold scores are made of. Make it with `of`.

    Attributes:
        places: The cold items.
        lifts: For each level, and for the shared model's part in the categories, float64[n_groups].
        warm: float64[m], the formula's values of the vocabulary.
        scale: What makes them comparable with her shared scores.
    """

    places: ColdPlaces = field(repr=False)
    lifts: tuple[FloatArray, ...] = field(repr=False)
    warm: FloatArray = field(repr=False)
    scale: float

    @classmethod
    def of(cls, places: ColdPlaces, own: ItemSets, shared: FloatArray) -> ColdLifts:
        """Computes them, as `ColdScores` does.

        Args:
            places: The cold items.
            own: What one customer bought.
            shared: float64[m], finite: her tilted shared scores of the vocabulary.
        """
        cold = places.cold
        positive = np.maximum(shared, 0.0)[None, :]
        lifts = [level.lifts(own)[0] for level in cold.levels]
        lifts.append(cold.shared_groups.lifts(positive)[0])
        warm = cold.base[cold.vocabulary][None, :]
        for codes, lift in zip(_codes(cold), lifts, strict=True):
            warm = warm * lift[codes[cold.vocabulary]]
        known, formula = float(positive.sum(axis=1)[0]), float(warm.sum(axis=1)[0])
        scale = known / max(formula, 1e-300) if known > 0 and formula > 0 else 1.0
        return cls(places, tuple(lifts), warm[0], scale)

    def scores(self, items: IntArray) -> FloatArray:
        """float64[c]: the scores of some cold items, in single precision as all of them are."""
        cold = self.places.cold
        scores = cold.base[items]
        for codes, lift in zip(_codes(cold), self.lifts, strict=True):
            scores = scores * lift[codes[items]]
        return self._weighed(scores)

    def floored(self, shared: FloatArray) -> FloatArray:
        """float64[m]: as `ColdScores.floored`; the shared scores alone if there is no cold item."""
        if not len(self.places.items):
            return shared
        return np.where(shared > 0, shared, self._weighed(self.warm))

    def _weighed(self, q: FloatArray) -> FloatArray:
        return (q * (COLD_WEIGHT * self.scale)).astype(np.float32).astype(np.float64)

    def leading(self, most: int, scene: npt.NDArray[np.floating] | None = None) -> IntArray:
        """Numbers of the cold items that can be among the best.

        Args:
            most: Among how many.
            scene: float[n_categories], what the scores of each category are multiplied by.
        """
        highest = self._highest()
        if scene is not None:
            highest = highest * scene[self.places.codes[0]]
        if most < len(highest):
            kth = np.partition(highest, len(highest) - most)[len(highest) - most]
            chosen = np.flatnonzero(highest >= kth * (1.0 - _CLOSE))
        else:
            chosen = np.arange(len(highest))
        return self._items(chosen)

    def above(self, least: float) -> IntArray:
        """Numbers of the cold items whose score, times their factor, can be at least so high.

        Args:
            least: The number, above 0.
        """
        reached = self._highest() * (COLD_WEIGHT * self.scale)
        return self._items(np.flatnonzero(reached >= least * (1.0 - _CLOSE)))

    def _highest(self) -> FloatArray:
        """float64[n_places]: what the formula gives each place's best item, times its factor."""
        places = self.places
        # By the shared model categories are lifted, too: the first level once more.
        codes = (*places.codes, places.codes[0])
        highest = places.best
        for code, lift in zip(codes, self.lifts, strict=True):
            highest = highest * lift[code]
        return highest

    def _items(self, chosen: IntArray) -> IntArray:
        """The items of some places."""
        places = self.places
        starts, sizes = places.bounds[chosen], np.diff(places.bounds)[chosen]
        within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        items: IntArray = places.items[np.repeat(starts, sizes) + within]
        return items


def _codes(cold: ColdScores) -> list[Codes]:
    return [*(level.codes for level in cold.levels), cold.shared_groups.codes]
