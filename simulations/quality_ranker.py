"""Rankings for every evaluated customer, by each kind of method of the quality study."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from client.recommend.cold import ColdScores
from client.training.evaluation import RANKED_PLACES, Protocol
from client.training.personalisation import (
    bought,
    popularity_power,
    rank_fused,
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
from simulations.served_rankings import ServedRankings

FloatArray = npt.NDArray[np.float64]
# By model and universe.
_Known = dict[tuple[int, int], ServedRankings]


@dataclass(frozen=True, eq=False)
class Ranker:
    """Ranks for every evaluated customer, region by region.

    Attributes:
        population: Who is evaluated.
        catalogue: The public catalogue.
        plan: The run plan.
        universes: By name, bool[n_items] or None for the full catalogue.
        places: How many items are ranked.
        catalogue_prior: Whether what is served (`SERVED_VARIANTS`) goes by the public catalogue
            where the shared model has nothing to say, as the recommender does. It takes a second a
            model, which the study of every run does without.
    """

    population: Population
    catalogue: Catalogue
    plan: RunPlan
    universes: Mapping[str, BoolArray | None]
    places: int = RANKED_PLACES
    catalogue_prior: bool = False

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
        noise = self._popularity_noise(n_summed)
        known: _Known = {}
        scores: dict[str, dict[str, FloatArray]] = {"plain": {}, "tilt": {}}
        for region, evaluation in self.population.evaluated.items():
            plain = shared_scores(evaluation.history, models[region])
            scores["plain"][region] = plain
            scores["tilt"][region] = tilted_scores(
                plain, evaluation.history, models[region], self.catalogue
            )
        for variant, protocol in variants:
            for name, universe, excluded in self.rankings(protocol):
                if self.catalogue_prior and (variant, protocol) in SERVED_VARIANTS:
                    served = self._served(scores["tilt"], models, n_summed, known, universe)
                    yield variant, protocol, name, served(protocol)
                    continue
                parts = []
                for region in self.population.regions:
                    if variant == "fused":
                        ranked = rank_fused(
                            scores["tilt"][region],
                            self.population.evaluated[region].history,
                            models[region],
                            self.places,
                            popularity_noise_stddev=noise,
                            universe=universe,
                        )
                    else:
                        ranked = rank_shared(
                            scores[variant][region],
                            models[region],
                            self.places,
                            excluded=excluded[region],
                            universe=universe,
                        )
                    parts.append(ranked)
                yield variant, protocol, name, np.concatenate(parts)

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
        for variant, protocol in variants:
            for name, universe, excluded in self.rankings(protocol):
                if self.catalogue_prior and (variant, protocol) == SERVED_VARIANTS[0]:
                    tilted = {region: self._tilted(region, models[region]) for region in models}
                    served = self._served(tilted, models, n_summed, {}, universe)
                    yield variant, protocol, name, served(protocol)
                    continue
                ranked = [
                    self._popularity_fused(region, models[region], universe, n_summed)
                    if variant == "fused"
                    else self._popularity_tilted(region, models[region], universe, excluded[region])
                    for region in self.population.regions
                ]
                yield variant, protocol, name, np.concatenate(ranked)

    def _popularity_tilted(
        self,
        region: str,
        model: ModelState,
        universe: BoolArray | None,
        excluded: ItemSets | None,
    ) -> IntArray:
        return rank_shared(
            self._tilted(region, model), model, self.places, excluded=excluded, universe=universe
        )

    def _tilted(self, region: str, model: ModelState) -> FloatArray:
        """float64[n, m]: the vocabulary's popularity for everybody, with each one's tilts."""
        history = self.population.evaluated[region].history
        released = model.popularity[model.vocabulary].astype(np.float64)
        everyone = np.repeat(released[None, :], history.n_customers, axis=0)
        return tilted_scores(everyone, history, model, self.catalogue)

    def _served(
        self,
        tilted: Mapping[str, FloatArray],
        models: Mapping[str, ModelState],
        n_summed: int,
        known: _Known,
        universe: BoolArray | None,
    ) -> Callable[[Protocol], IntArray]:
        """Rankings of tilted scores with the catalogue behind them, by which items count.

        What is prepared of a model is taken from ``known``, or put there.
        """
        floor = self._popularity_noise(n_summed)

        def ranked(protocol: Protocol) -> IntArray:
            parts = []
            for region in self.population.regions:
                model = models[region]
                # Most often all regions have one model; it outlives the key that is its address.
                key = (id(model), id(universe))
                if key not in known:
                    known[key] = ServedRankings.of(
                        model,
                        self.catalogue,
                        popularity_noise_stddev=floor if n_summed else 0.0,
                        floor_stddev=floor,
                        universe=universe,
                        places=self.places,
                    )
                history = self.population.evaluated[region].history
                rank = known[key]
                of = rank.new_items if protocol is Protocol.NEW else rank.all_items
                parts.append(of(tilted[region], history))
            return np.concatenate(parts)

        return ranked

    def _popularity_fused(
        self, region: str, model: ModelState, universe: BoolArray | None, n_summed: int
    ) -> IntArray:
        history, noise = self.population.evaluated[region].history, self._popularity_noise(n_summed)
        if self.catalogue_prior:
            known = noise if n_summed else 0.0
            cold = ColdScores.of(self.catalogue, model, popularity_noise_stddev=known)
            model = cold.extended(model)
        power = popularity_power(model, popularity_noise_stddev=noise)
        return baselines.rank_by_history(
            history,
            history.history().values * power[bought(history).items],
            model.popularity.astype(np.float64),
            universe=universe,
            places=self.places,
        )

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
        for protocol in Protocol:
            excluded = seen if protocol is Protocol.NEW else None
            ranked = model.rank(histories, self.places, excluded=excluded)
            for name in self.universes:
                yield protocol, name, ranked
