"""How each row of the quality table is trained and ranked."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from client.data.dataset import PreferenceDataset
from client.training.dp_sgd import factor_release, popularity_release
from client.training.evaluation import (
    RANKED_PLACES,
    EvaluationSet,
    Protocol,
    without_customers,
)
from client.training.noise import SeededNoise
from client.training.personalisation import (
    rank_fused,
    rank_shared,
    shared_scores,
    tilted_scores,
)
from client.training.rows import popularity_values
from common.catalogue import Catalogue
from common.model_state import ModelState
from common.plan import RunPlan
from common.ranking import BoolArray, IntArray, ItemSets, top_k
from server.aggregation import Model, first_model, next_model
from simulations import baselines

FloatArray = npt.NDArray[np.float64]

# Each method's key and label, in the order of the table.
METHODS = {
    "fedpref": "fedpref: shared factors alone",
    "fedpref_tilt": "fedpref: + local tilt by category and type",
    "fedpref_fused": "fedpref: + tilt, fused with recent own purchases",
    "popularity": "Popularity, all regions (number of customers)",
    "popularity_recent": "Popularity, all regions, recent purchases (fedpref's rows, no noise)",
    "popularity_regional": "Popularity, own region",
    "personal_frequency": "Own purchases by frequency",
    "personal_recency": "Own purchases, recent ones count more (half-life 12 weeks)",
    "local_only": "Each region alone, same ε",
    "local_only_no_dp": "Each region alone, without privacy",
    "federated_no_dp": "Federated, without privacy",
    "centralised_no_dp": "Centralised, without privacy",
    "ease": "EASE, centralised, without privacy (orientation; over 5,000 items)",
}
# What a model's scores are made into, and for which protocol.
ALL_VARIANTS = (
    ("plain", Protocol.NEW),
    ("plain", Protocol.ALL),
    ("tilt", Protocol.NEW),
    ("tilt", Protocol.ALL),
    ("fused", Protocol.ALL),
)
# What a customer would be served.
SERVED_VARIANTS = (("tilt", Protocol.NEW), ("fused", Protocol.ALL))


@dataclass(frozen=True, eq=False)
class RegionSplit:
    """One region's customers before and after the cut.

    Attributes:
        region: The region's name.
        train: All customers' purchases in the training window.
        test: All customers' purchases in the test window.
    """

    region: str
    train: PreferenceDataset = field(repr=False)
    test: PreferenceDataset = field(repr=False)


@dataclass(frozen=True, eq=False)
class Population:
    """Who is in training, round by round, and who is evaluated; regions in one order.

    Attributes:
        regions: The regions' names.
        train: For each region and round (from 1), the data set of that round.
        evaluated: For each region, its customers with purchases in the test window.
    """

    regions: tuple[str, ...]
    train: Mapping[str, Mapping[int, PreferenceDataset]] = field(repr=False)
    evaluated: Mapping[str, EvaluationSet] = field(repr=False)

    @classmethod
    def of(
        cls,
        splits: Sequence[RegionSplit],
        evaluated: Mapping[str, EvaluationSet],
        rounds: int,
        excluded: Mapping[str, Mapping[int, Collection[str]]],
    ) -> Population:
        """Leaves out of each round the customers who are excluded from it."""
        train: dict[str, dict[int, PreferenceDataset]] = {}
        for split in splits:
            left_out = excluded.get(split.region, {})
            # Rounds with the same customers share one data set.
            by_exclusion: dict[frozenset[str], PreferenceDataset] = {}
            for server_round in range(1, rounds + 1):
                out = frozenset(left_out.get(server_round, ()))
                if out not in by_exclusion:
                    by_exclusion[out] = without_customers(split.train, out) if out else split.train
                train.setdefault(split.region, {})[server_round] = by_exclusion[out]
        return cls(tuple(split.region for split in splits), train, evaluated)

    def first_round(self) -> list[PreferenceDataset]:
        """The regions' data sets of round 1, which baselines learn from."""
        return [self.train[region][1] for region in self.regions]

    @cached_property
    def pooled(self) -> PreferenceDataset:
        """The data sets of round 1 in one."""
        return baselines.pool(self.first_round())


def train_private(
    population: Population, regions: Sequence[str], plan: RunPlan, noise_seed: str
) -> ModelState:
    """The plan's rounds over some regions, through the very functions that engine and server use.

    Args:
        population: Who is in training.
        regions: Whose releases are summed.
        plan: The run plan.
        noise_seed: Of the study's noise; the same seed gives the same model.
    """
    noise = {region: SeededNoise(f"{noise_seed}/{region}") for region in regions}
    model: Model = {}
    for server_round in range(1, plan.total_rounds + 1):
        mechanism = plan.mechanism_of(server_round)
        releases: list[npt.NDArray[np.float32]] = []
        for region in regions:
            dataset = population.train[region][server_round]
            if mechanism.name == "popularity":
                release = popularity_release(
                    dataset,
                    mechanism,
                    grid_exponent=plan.grid_exponent,
                    noise=noise[region],
                )
            else:
                release = factor_release(dataset, mechanism, model, plan=plan, noise=noise[region])
            releases.append(release)
        total = baselines.sum_of(releases)
        if mechanism.name == "popularity":
            model = first_model(total, plan, n_regions=len(regions))
        else:
            model = next_model(model, total, plan, n_regions=len(regions))
    return ModelState.from_arrays(model)


@dataclass(frozen=True, eq=False)
class Ranker:
    """Ranks for every evaluated customer, region by region.

    Attributes:
        population: Who is evaluated.
        catalogue: The public catalogue.
        plan: The run plan.
        universes: By name, bool[n_items] or None for the full catalogue.
    """

    population: Population
    catalogue: Catalogue
    plan: RunPlan
    universes: Mapping[str, BoolArray | None]

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
        variants: Collection[tuple[str, Protocol]] = ALL_VARIANTS,
    ) -> Iterator[tuple[str, Protocol, str, IntArray]]:
        """Rankings of models, one for each region: plain, tilted and fused.

        Args:
            models: For each region, the model it serves.
            n_summed: How many regions' noise is in a model's popularity; 0 without noise.
            variants: What is wanted.

        Yields:
            Variant (``plain``, ``tilt`` or ``fused``), protocol, universe, int64[n, places].
        """
        # Without noise a floor of one customer keeps the fusion's power defined.
        noise = self.plan.mechanisms[0].noise_stddev * n_summed**0.5 if n_summed else 1.0
        scores: dict[str, dict[str, FloatArray]] = {"plain": {}, "tilt": {}}
        for region, evaluation in self.population.evaluated.items():
            plain = shared_scores(evaluation.history, models[region])
            scores["plain"][region] = plain
            scores["tilt"][region] = tilted_scores(
                plain, evaluation.history, models[region], self.catalogue
            )
        for variant, protocol in variants:
            for name, universe, excluded in self.rankings(protocol):
                parts = []
                for region in self.population.regions:
                    if variant == "fused":
                        ranked = rank_fused(
                            scores["tilt"][region],
                            self.population.evaluated[region].history,
                            models[region],
                            RANKED_PLACES,
                            popularity_noise_stddev=noise,
                            universe=universe,
                        )
                    else:
                        ranked = rank_shared(
                            scores[variant][region],
                            models[region],
                            RANKED_PLACES,
                            excluded=excluded[region],
                            universe=universe,
                        )
                    parts.append(ranked)
                yield variant, protocol, name, np.concatenate(parts)

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
                    baselines.rank_by_history(history, values, fallback, universe=universe)
                )
            yield Protocol.ALL, name, np.concatenate(parts)

    def by_ease(self, items: IntArray) -> Iterator[tuple[Protocol, str, IntArray]]:
        """Rankings by EASE over some items; it ranks no others."""
        histories = baselines.pool(
            [self.population.evaluated[region].history for region in self.population.regions]
        )
        scores = baselines.ease_scores(self.population.pooled, histories, items)
        seen = ItemSets.concatenated(
            [self.population.evaluated[region].seen for region in self.population.regions]
        )
        fresh = ~seen.table(items)
        for protocol in Protocol:
            allowed = fresh if protocol is Protocol.NEW else None
            ranked = top_k(scores, items, RANKED_PLACES, allowed=allowed)
            for name in self.universes:
                yield protocol, name, ranked


def recent_popularity(dataset: PreferenceDataset) -> FloatArray:
    """float64[n_items]: the sum of the customers' unit rows, as fedpref's first round sums them."""
    return np.bincount(
        dataset.indices, weights=popularity_values(dataset), minlength=dataset.n_items
    ).astype(np.float64)
