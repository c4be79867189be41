"""How each row of the quality table is trained and ranked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from client.data.dataset import PreferenceDataset
from client.training.evaluation import EvaluationSet, Protocol, without_customers
from client.training.noise import NoiseSource, SeededNoise
from client.training.releases import release
from client.training.rows import popularity_values
from client.training.shared_sums import shared_round
from common.model_state import ModelState
from common.plan import RunPlan
from server.aggregation import Model
from server.double_masked_sum import sum_of_shares
from server.early_stop import ends, kept_change, signal_of
from server.parameter_step import model_after
from server.robust import total_of
from server.round_total import RoundTotal
from simulations import baselines

FloatArray = npt.NDArray[np.float64]

_LARGE = baselines.NO_PRIVACY_SIZES

# Each method's key and label, in the order of the table.
METHODS = {
    "fedpref": "fedpref: shared factors alone",
    "fedpref_tilt": "fedpref: + local tilt by category and type (new items: as served)",
    "fedpref_fused": "fedpref: + tilt, fused with recent own purchases",
    "no_factors": "fedpref without its factors: the same noised popularity, tilt, own purchases",
    "popularity": "Popularity, all regions (number of customers)",
    "popularity_recent": "Popularity, all regions, recent purchases (fedpref's rows, no noise)",
    "popularity_tilt": "Recent popularity without noise, + fedpref's tilt, no factors",
    "popularity_regional": "Popularity, own region",
    "personal_frequency": "Own purchases by frequency",
    "personal_recency": "Own purchases, recent ones count more (half-life 12 weeks)",
    "personal_popularity": "Own recent purchases × a power of popularity without noise, no factors",
    "local_only": "Each region alone, same ε",
    "local_only_no_dp": "Each region alone, without privacy, same sizes as the private model",
    "federated_no_dp": "Federated, without privacy, same sizes as the private model",
    "centralised_no_dp": "Centralised, without privacy, same sizes as the private model",
    "centralised_no_dp_large": "Centralised, without privacy, sizes chosen for that "
    f"({_LARGE.vocabulary_size:,} items, {_LARGE.rank} factors)",
    "ease": "EASE, centralised, without privacy (orientation; over 5,000 items)",
}
# Methods with noise: their figures are one for each seed.
PRIVATE_METHODS = frozenset(
    {"fedpref", "fedpref_tilt", "fedpref_fused", "no_factors", "local_only"}
)
# Methods that one of the protocols has no ranking for, and why.
NOT_APPLICABLE = (
    (
        "fedpref_fused",
        Protocol.NEW,
        "it is what is served where repeats count; new items are served by the row with the tilt",
    ),
    *(
        (method, Protocol.NEW, "it ranks only own purchases, and fills up with popularity")
        for method in ("personal_frequency", "personal_recency", "personal_popularity")
    ),
)
# What a model's scores are made into, and for which protocol.
Variants = Collection[tuple[str, Protocol]]
ALL_VARIANTS = (
    ("plain", Protocol.NEW),
    ("plain", Protocol.ALL),
    ("tilt", Protocol.NEW),
    ("tilt", Protocol.ALL),
    ("fused", Protocol.ALL),
)
# What a customer would be served.
SERVED_VARIANTS = (("tilt", Protocol.NEW), ("fused", Protocol.ALL))
# The methods that the variants stand for when the factors count for nothing.
NO_FACTORS = {"tilt": "no_factors", "fused": "no_factors"}
NO_FACTORS_NO_NOISE = {"tilt": "popularity_tilt", "fused": "personal_popularity"}


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
    population: Population,
    regions: Sequence[str],
    plan: RunPlan,
    noise_seed: str,
    *,
    noise_of: Callable[[str], NoiseSource] = SeededNoise,
) -> ModelState:
    """The plan's rounds over some regions, through the very functions that engine and server use.

    Args:
        population: Who is in training.
        regions: Whose releases are made one, by the plan's rule.
        plan: The run plan.
        noise_seed: Of the study's noise; the same seed gives the same model.
        noise_of: Makes a region's source of noise of such a seed.
    """
    noise = {region: noise_of(f"{noise_seed}/{region}") for region in regions}
    model: Model = {}
    optimizer: Model = {}
    signals: list[str | None] = []
    for server_round in range(1, plan.total_rounds + 1):
        datasets = {region: population.train[region][server_round] for region in regions}
        total = _round_total(datasets, model, plan, server_round, noise)
        signals.append(signal_of(server_round, total, plan, optimizer))
        model, moments = model_after(server_round, model, total, plan, optimizer)
        optimizer = moments | kept_change(server_round, total, plan)
        if ends(plan.early_stop, signals):
            break
    return ModelState.of_plan(model, plan)


def _round_total(
    datasets: Mapping[str, PreferenceDataset],
    model: Model,
    plan: RunPlan,
    server_round: int,
    noise: Mapping[str, NoiseSource],
) -> RoundTotal:
    """What a round's releases come to; one region alone protects itself, whatever the plan."""
    if plan.mode == "distributed" and len(datasets) > 1:
        shares = [
            shared_round(dataset, model, plan=plan, server_round=server_round, noise=noise[region])
            for region, dataset in datasets.items()
        ]
        return sum_of_shares(shares, plan, server_round)
    releases = [
        release(dataset, model, plan=plan, server_round=server_round, noise=noise[region])
        for region, dataset in datasets.items()
    ]
    return total_of(releases, plan.aggregation)


def recent_popularity(dataset: PreferenceDataset) -> FloatArray:
    """float64[n_items]: the sum of the customers' unit rows, as fedpref's first round sums them."""
    return np.bincount(
        dataset.indices, weights=popularity_values(dataset), minlength=dataset.n_items
    ).astype(np.float64)
