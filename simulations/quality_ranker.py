"""Rankings for every evaluated customer, by each kind of method of the quality study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from client.recommend.item_tree import ItemTree
from client.training.evaluation import RANKED_PLACES, Protocol
from client.training.personalisation import (
    bought,
    rank_shared,
    shared_scores,
    tilted_scores,
)
from common.catalogue import Catalogue
from common.model_state import ModelState
from common.plan import RunPlan
from common.ranking import BoolArray, IntArray, ItemSets
from server.robust_noise import noise_gain
from simulations import baselines
from simulations.ease import EASE_L2, Ease
from simulations.quality_methods import ALL_VARIANTS, SERVED_VARIANTS, Population, Variants
from simulations.served_customers import ServedCustomers
from simulations.served_rankings import ServedModel
from simulations.served_rows import ServedRows

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ranker:
    """Ranks for every evaluated customer, region by region.

    Attributes:
        population: Who is evaluated.
        catalogue: The public catalogue.
        plan: The run plan.
        universes: By name, bool[n_items] or None for the full catalogue.
        places: How many items are ranked.
    """

    population: Population
    catalogue: Catalogue
    plan: RunPlan
    universes: Mapping[str, BoolArray | None]
    places: int = RANKED_PLACES
    # The models ranked by last; what is prepared of one takes a fifth of a second.
    _served: dict[tuple[int, int], ServedModel] = field(
        default_factory=dict, init=False, repr=False
    )

    def rankings(
        self, protocol: Protocol
    ) -> Iterator[tuple[str, BoolArray | None, dict[str, ItemSets | None]]]:
        """Each universe with what is excluded for each region's customers."""
        excluded = {
            region: evaluation.seen if protocol is Protocol.NEW else None
            for region, evaluation in self.population.evaluated.items()
        }
        for name, universe in self.universes.items():
            yield name, universe, excluded

    def by_model(
        self,
        models: Mapping[str, ModelState],
        *,
        n_summed: int,
        variants: Variants = ALL_VARIANTS,
    ) -> Iterator[tuple[str, Protocol, str, IntArray]]:
        """Rankings of models, one for each region: plain, tilted and fused.

        Args:
            models: For each region, the model it serves.
            n_summed: How many regions' noise is in a model's popularity; 0 without noise.
            variants: What is wanted.

        Yields:
            Variant (``plain``, ``tilt`` or ``fused``), protocol, universe, int64[n, places].
        """
        scores: dict[str, dict[str, FloatArray]] = {"plain": {}, "tilt": {}}
        for region, evaluation in self.population.evaluated.items():
            plain = shared_scores(evaluation.history, models[region])
            scores["plain"][region] = plain
            scores["tilt"][region] = tilted_scores(
                plain, evaluation.history, models[region], self.catalogue
            )
        rows = self._rows(scores["tilt"], models, n_summed)
        for variant, protocol in variants:
            for name, universe, excluded in self.rankings(protocol):
                if (variant, protocol) in SERVED_VARIANTS:
                    ranked = [each.ranked(protocol, name) for each in rows]
                else:
                    ranked = [
                        rank_shared(
                            scores[variant][region],
                            models[region],
                            self.places,
                            excluded=excluded[region],
                            universe=universe,
                        )
                        for region in self.population.regions
                    ]
                yield variant, protocol, name, np.concatenate(ranked)

    def without_factors(
        self, models: Mapping[str, ModelState], *, n_summed: int, variants: Variants
    ) -> Iterator[tuple[str, Protocol, str, IntArray]]:
        """What is left of `by_model` when the factors count for nothing: the ablation.

        Of the models only popularity and vocabulary are used. ``tilt`` is popularity with the same
        local tilts; ``fused`` is the fusion's formula with a weight of 0 for the shared scores: own
        recent purchases by their recency and the power of popularity. Free places go by popularity.

        Args:
            models: For each region, the model whose popularity it has.
            n_summed: How many regions' noise is in a model's popularity; 0 without noise.
            variants: What is wanted, of ``tilt`` and ``fused``.

        Yields:
            Variant, protocol, universe, int64[n, places].
        """
        tilted = {region: self._tilted(region, model) for region, model in models.items()}
        rows = self._rows(tilted, models, n_summed)
        for variant, protocol in variants:
            for name, universe, excluded in self.rankings(protocol):
                if variant == "fused":
                    ranked = [
                        self._popularity_fused(region, models[region], universe, n_summed)
                        for region in self.population.regions
                    ]
                elif (variant, protocol) in SERVED_VARIANTS:
                    ranked = [each.ranked(protocol, name) for each in rows]
                else:
                    ranked = [
                        rank_shared(
                            tilted[region],
                            models[region],
                            self.places,
                            excluded=excluded[region],
                            universe=universe,
                        )
                        for region in self.population.regions
                    ]
                yield variant, protocol, name, np.concatenate(ranked)

    def _tilted(self, region: str, model: ModelState) -> FloatArray:
        """float64[n, m]: the vocabulary's popularity for everybody, with each one's tilts."""
        history = self.population.evaluated[region].history
        released = model.popularity[model.vocabulary].astype(np.float64)
        everyone = np.repeat(released[None, :], history.n_customers, axis=0)
        return tilted_scores(everyone, history, model, self.catalogue)

    def _popularity_fused(
        self, region: str, model: ModelState, universe: BoolArray | None, n_summed: int
    ) -> IntArray:
        served = self._served_model(model, n_summed)
        ranked = [
            baselines.rank_by_history(
                customers.history,
                customers.recent * served.power[customers.own.items],
                served.popularity,
                universe=universe,
                places=self.places,
            )
            for customers in self._customers[region]
        ]
        return np.concatenate(ranked)

    def _rows(
        self, tilted: Mapping[str, FloatArray], models: Mapping[str, ModelState], n_summed: int
    ) -> list[ServedRows]:
        """All customers' rankings as the recommender makes them, by tilted scores."""
        rows = []
        for region in self.population.regions:
            served, start = self._served_model(models[region], n_summed), 0
            for customers in self._customers[region]:
                stop = start + customers.n_customers
                rows.append(ServedRows.of(served, customers, tilted[region][start:stop]))
                start = stop
        return rows

    def _served_model(self, model: ModelState, n_summed: int) -> ServedModel:
        """What is prepared of a model; most often the next one asks for the same."""
        # What is kept keeps its model, so that no other one has its address.
        key = (id(model), n_summed)
        found = self._served.get(key)
        if found is None:
            if len(self._served) >= len(self.population.regions):
                self._served.clear()
            floor = self._popularity_noise(n_summed)
            found = ServedModel.of(
                model,
                self.catalogue,
                popularity_noise_stddev=floor if n_summed else 0.0,
                floor_stddev=floor,
                universes=self.universes,
                places=self.places,
                tree=self._tree,
            )
            self._served[key] = found
        return found

    @cached_property
    def _tree(self) -> ItemTree:
        return ItemTree.of(self.catalogue)

    @cached_property
    def _customers(self) -> dict[str, list[ServedCustomers]]:
        """Each region's evaluated customers, some at a time."""
        return {
            region: list(ServedCustomers.in_chunks(evaluation.history, self.catalogue))
            for region, evaluation in self.population.evaluated.items()
        }

    def _popularity_noise(self, n_summed: int) -> float:
        # Without noise a floor of a few customers keeps the power defined.
        if not n_summed:
            return 1.0
        return self.plan.mechanisms[0].noise_stddev * noise_gain(self.plan.aggregation, n_summed)

    def by_popularity(
        self, scores: Mapping[str, FloatArray]
    ) -> Iterator[tuple[Protocol, str, IntArray]]:
        """Rankings by each region's float64[n_items]."""
        for protocol in Protocol:
            for name, universe, excluded in self.rankings(protocol):
                yield (
                    protocol,
                    name,
                    np.concatenate(
                        [
                            baselines.rank_by_popularity(
                                scores[region],
                                self.population.evaluated[region].history.n_customers,
                                excluded=excluded[region],
                                universe=universe,
                                places=self.places,
                            )
                            for region in self.population.regions
                        ]
                    ),
                )

    def by_history(
        self, *, recent: bool, fallback: FloatArray
    ) -> Iterator[tuple[Protocol, str, IntArray]]:
        """Rankings by customers' own counts, or counts with recency; for all items only."""
        for name, universe in self.universes.items():
            parts = []
            for region in self.population.regions:
                history = self.population.evaluated[region].history
                values = (history.history() if recent else history.counts).values
                parts.append(
                    baselines.rank_by_history(
                        history, values, fallback, universe=universe, places=self.places
                    )
                )
            yield Protocol.ALL, name, np.concatenate(parts)

    def by_ease(
        self, items: IntArray, *, l2: float = EASE_L2
    ) -> Iterator[tuple[Protocol, str, IntArray]]:
        """Rankings by EASE over some items; it ranks no others."""
        histories = baselines.pool(
            [self.population.evaluated[region].history for region in self.population.regions]
        )
        model = Ease.fit(self.population.pooled, items, l2=l2)
        seen = bought(histories)
        exclusions = [seen if protocol is Protocol.NEW else None for protocol in Protocol]
        rankings = model.rankings(histories, self.places, exclusions)
        for protocol, ranked in zip(Protocol, rankings, strict=True):
            for name in self.universes:
                yield protocol, name, ranked
