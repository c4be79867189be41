"""Rankings as a customer would be served them: the shared model's, and the catalogue's behind it.

What the shared model says comes first; where it has nothing above 0 to say, and for items that it
has no factors for, the public catalogue and the customer's own history decide, as in
`client.recommend.cold`. The rankings are those over all cold items; what is computed are the items
that can be among the places asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from client.data.dataset import PreferenceDataset
from client.recommend.cold import ColdScores
from client.recommend.cold_places import ColdLifts, ColdPlaces
from client.training.evaluation import select_customers
from client.training.personalisation import (
    bought,
    popularity_power,
    rank_fused,
    rank_shared,
)
from common.catalogue import Catalogue
from common.model_state import ModelState
from common.ranking import BoolArray, IntArray

FloatArray = npt.NDArray[np.float64]
# A table of scores for so many customers at a time.
_CHUNK = 256


@dataclass(frozen=True, eq=False)
class ServedRankings:
    """Ranks by one model. Make it with `of`.

    Attributes:
        model: The model.
        cold: Scores of the items that it has no factors for.
        universe: bool[n_items], to rank within a part of the catalogue; None for all of it.
        places: How many items are ranked.
        floor_stddev: Of the popularity's noise, where the fusion puts a floor under it.
    """

    model: ModelState = field(repr=False)
    cold: ColdScores = field(repr=False)
    universe: BoolArray | None = field(repr=False)
    places: int
    floor_stddev: float

    @classmethod
    def of(
        cls,
        model: ModelState,
        catalogue: Catalogue,
        *,
        popularity_noise_stddev: float,
        floor_stddev: float,
        universe: BoolArray | None,
        places: int,
    ) -> ServedRankings:
        """Prepares the rankings of a model.

        Args:
            model: The model.
            catalogue: The public catalogue that it is over.
            popularity_noise_stddev: Of its popularity; 0 without noise.
            floor_stddev: The same for the fusion's floor, above 0.
            universe: To rank within a part of the catalogue.
            places: How many items are ranked.
        """
        cold = ColdScores.of(catalogue, model, popularity_noise_stddev=popularity_noise_stddev)
        if universe is not None:
            cold = replace(cold, items=cold.items[universe[cold.items]])
        return cls(model, cold, universe, places, floor_stddev)

    def new_items(self, tilted: FloatArray, history: PreferenceDataset) -> IntArray:
        """int64[n, places]: items that each customer has not bought, by tilted shared scores.

        Args:
            tilted: float64[n, m], the shared model's scores, tilted.
            history: The customers' purchases.
        """
        found = []
        for scores, rows in _chunks(tilted, history):
            own = bought(rows)
            allowed = ~own.table(self.model.vocabulary)
            both, extended = self._with_cold(scores, rows, allowed, factor=None)
            found.append(
                rank_shared(both, extended, self.places, excluded=own, universe=self.universe)
            )
        return np.concatenate(found)

    def all_items(self, tilted: FloatArray, history: PreferenceDataset) -> IntArray:
        """int64[n, places]: the customers' usual items among them, fused.

        Args:
            tilted: As of `new_items`.
            history: Likewise.
        """
        found = []
        extended = self.cold.extended(self.model)
        power = popularity_power(extended, popularity_noise_stddev=self.floor_stddev)
        for scores, rows in _chunks(tilted, history):
            allowed = np.ones(scores.shape, dtype=bool)
            both, of_chunk = self._with_cold(scores, rows, allowed, factor=power)
            found.append(
                rank_fused(
                    both,
                    rows,
                    of_chunk,
                    self.places,
                    popularity_noise_stddev=self.floor_stddev,
                    universe=self.universe,
                )
            )
        return np.concatenate(found)

    def _with_cold(
        self,
        scores: FloatArray,
        rows: PreferenceDataset,
        allowed: BoolArray,
        *,
        factor: FloatArray | None,
    ) -> tuple[FloatArray, ModelState]:
        """The scores with those of cold items beside them, and the model with these items.

        Of the cold items only those are taken that reach the last place of what there is without
        them, for any of the customers.

        Args:
            scores: float64[n, m].
            rows: The customers' purchases.
            allowed: bool[n, m], which of the vocabulary may be ranked.
            factor: float64[n_items], what is multiplied before ranking; None for nothing.
        """
        own, vocabulary = bought(rows), self.model.vocabulary
        if self.universe is not None:
            allowed = allowed & self.universe[vocabulary]
        ones = np.ones(len(self.cold.popularity))
        by_place = ColdPlaces.of(self.cold, ones if factor is None else factor)
        floored = self.cold.floored(own, scores)
        ranked = floored if factor is None else np.maximum(floored, 0.0) * factor[vocabulary]
        reached = _last_places(np.where(allowed, ranked, 0.0), self.places)
        wanted = [
            ColdLifts.of(by_place, own.rows(row, row + 1), scores[row]).above(float(least))
            for row, least in enumerate(reached)
        ]
        taken = replace(self.cold, items=np.unique(np.concatenate(wanted)))
        return np.concatenate([floored, taken.scores(own, scores)], axis=1), taken.extended(
            self.model
        )


def _last_places(scores: FloatArray, places: int) -> FloatArray:
    """float64[n]: each customer's score of the last place; 0 where there are not so many."""
    if scores.shape[1] < places:
        return np.zeros(len(scores))
    cut = scores.shape[1] - places
    least: FloatArray = np.partition(scores, cut, axis=1)[:, cut]
    return np.maximum(least, 0.0)


def _chunks(
    scores: FloatArray, history: PreferenceDataset
) -> Iterator[tuple[FloatArray, PreferenceDataset]]:
    for start in range(0, max(1, history.n_customers), _CHUNK):
        stop = start + _CHUNK
        yield scores[start:stop], select_customers(history, history.sids[start:stop])
