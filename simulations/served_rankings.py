"""Rankings as the recommender makes them: the shared model's, and the catalogue's behind it.

What the shared model says comes first; where it has nothing above 0 to say, and for items that it
has no factors for, the public catalogue and the customer's own history decide, as in
`client.recommend.cold`. Everything is multiplied by the power of popularity, as in
`client.recommend.scoring`.

Formal guarantees:
    The rankings are those over all cold items, and the lists that the recommender would make
    (`scoring.score_customer`, `filters.choose`). A customer whose last place is above what any cold
    item can reach is ranked without them (`simulations.served_rows`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from client.recommend.cold import ColdScores
from client.recommend.cold_places import ColdPlaces
from client.recommend.histories import Histories, HistoryWindow, with_purchases
from client.recommend.item_tree import ItemTree
from client.training.personalisation import popularity_power, shared_scores, tilted_scores
from common.catalogue import Catalogue
from common.model_state import ModelState
from common.ranking import BoolArray, IntArray

FloatArray = npt.NDArray[np.float64]
_SOMEBODY = "0" * 64


@dataclass(frozen=True, eq=False)
class ServedModel:
    """What all customers' rankings by one model have in common. Make it with `of`.

    Attributes:
        model: The model.
        catalogue: The public catalogue that it is over.
        cold: Scores of the items that it has no factors for.
        popularity: float64[n_items], expected; in single precision, as places left over go by it.
        power: float64[n_items], what every score is multiplied by.
        floor_stddev: Of the popularity's noise, where the power's floor comes from.
        universes: By name, bool[n_items], the parts of the catalogue that are ranked; None for all.
        places: How many items are ranked.
    """

    model: ModelState = field(repr=False)
    catalogue: Catalogue = field(repr=False)
    cold: ColdScores = field(repr=False)
    popularity: FloatArray = field(repr=False)
    power: FloatArray = field(repr=False)
    floor_stddev: float
    universes: Mapping[str, BoolArray | None] = field(repr=False)
    places: int

    @classmethod
    def of(
        cls,
        model: ModelState,
        catalogue: Catalogue,
        *,
        popularity_noise_stddev: float,
        floor_stddev: float,
        universes: Mapping[str, BoolArray | None],
        places: int,
        tree: ItemTree | None = None,
    ) -> ServedModel:
        """Prepares a model.

        Args:
            model: The model.
            catalogue: The public catalogue that it is over.
            popularity_noise_stddev: Of its popularity; 0 without noise.
            floor_stddev: The same for the power's floor, above 0.
            universes: The parts of the catalogue that are ranked.
            places: How many items are ranked.
            tree: The catalogue's, if it is there already.
        """
        cold = ColdScores.of(
            catalogue, model, popularity_noise_stddev=popularity_noise_stddev, tree=tree
        )
        extended = cold.extended(model)
        return cls(
            model=model,
            catalogue=catalogue,
            cold=cold,
            popularity=extended.popularity.astype(np.float64),
            power=popularity_power(extended, popularity_noise_stddev=floor_stddev),
            floor_stddev=floor_stddev,
            universes=universes,
            places=places,
        )

    @cached_property
    def column(self) -> IntArray:
        """int64[n_items]: each item's place in the vocabulary; −1 for others."""
        column = np.full(self.catalogue.n_items, -1, dtype=np.int64)
        column[self.model.vocabulary] = np.arange(len(self.model.vocabulary))
        return column

    @cached_property
    def is_cold(self) -> BoolArray:
        """bool[n_items]: which items have cold scores."""
        found = np.zeros(self.catalogue.n_items, dtype=bool)
        found[self.cold.items] = True
        return found

    @cached_property
    def highest_part(self) -> float:
        """What no cold item's part of the formula, times its power, is above."""
        items = self.cold.items
        return float((self.cold.base[items] * self.power[items]).max(initial=0.0))

    @cached_property
    def by_place(self) -> dict[str, ColdPlaces]:
        """The cold items of each universe by their places in the catalogue."""
        return {
            name: ColdPlaces.of(self.cold.within(universe), self.power)
            for name, universe in self.universes.items()
        }

    @cached_property
    def usual_total(self) -> float:
        """What the positive shared scores add up to of whoever bought the most popular item.

        The recommender scales the scores to it of those whom the model has nothing to say of.
        """
        vocabulary = self.model.vocabulary
        popular = int(vocabulary[np.argmax(self.popularity[vocabulary])])
        nobody = Histories.none(HistoryWindow(0, 1), self.catalogue.n_items).row(_SOMEBODY)
        one = with_purchases(nobody, _SOMEBODY, [popular])
        shared = shared_scores(one, self.model)
        scores = tilted_scores(shared, one, self.model, self.catalogue)
        total = float(np.maximum(scores, 0.0).sum())
        return total if 0 < total < np.inf else 1.0
