"""The quality study: the private, federated model beside every baseline, over several seeds.

Everything here is computed in a simulation, from all regions' records without noise. In a
deployment none of these figures may leave a region unnoised.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from client.training.evaluation import EvaluationSet, Protocol
from common.catalogue import Catalogue
from common.errors import InputError
from common.plan import RunPlan
from common.ranking import BoolArray
from simulations import baselines
from simulations.quality_earlier import FULL_CATALOGUE, EarlierWeeks, measure_earlier
from simulations.quality_methods import (
    METHODS,
    NO_FACTORS,
    NO_FACTORS_NO_NOISE,
    NOT_APPLICABLE,
    SERVED_VARIANTS,
    Population,
    RegionSplit,
    recent_popularity,
    train_private,
)
from simulations.quality_ranker import Ranker
from simulations.quality_scores import Scores
from simulations.quality_table import PERSONAL_RECENCY, POPULARITY, REPLICATES, summarise

# What is done, how many steps are done, how many there are.
Progress = Callable[[str, int, int], None]
# region → round → the customers whose consent was not in force in that round.
Exclusions = Mapping[str, Mapping[int, Collection[str]]]

NO_REFUSALS = "no_refusals"
WITH_REFUSALS = "with_refusals"
UNIVERSE_SIZE = 5000
POPULAR_UNIVERSE = f"top-{UNIVERSE_SIZE}"
# The private rows: which variant of which model each is.
_FEDERATED = {"plain": "fedpref", "tilt": "fedpref_tilt", "fused": "fedpref_fused"}


def run_quality_study(
    splits: Sequence[RegionSplit],
    catalogue: Catalogue,
    plan: RunPlan,
    *,
    seeds: Sequence[int] = (1, 2, 3, 4, 5),
    excluded: Exclusions | None = None,
    earlier: EarlierWeeks | None = None,
    replicates: int = REPLICATES,
    progress: Progress = lambda _what, _done, _total: None,
) -> dict[str, Any]:
    """Trains and ranks everything, and puts it in one table.

    Args:
        splits: Each region's customers before and after the cut, in the plan's order.
        catalogue: The public catalogue.
        plan: The run plan; the private rows follow it exactly.
        seeds: Of the noise; the seeds of a study are simulations' and draw no released noise.
        excluded: For each region and round, the customers whose consent was not in force. With it,
            the private rows, the local ones and popularity are also measured at that refusal rate;
            all customers are still evaluated.
        earlier: An earlier cut, on which what is served is measured too.
        replicates: Bootstrap resamples.
        progress: Called as the study goes on.

    Returns:
        A dictionary that JSON can hold:

        - ``seeds``, ``replicates``, ``universe_size``, ``epsilon``, ``delta``
        - ``customers``: {region: {"train", "test"}}, counts
        - ``settings``: {"no_refusals" and, if asked, "with_refusals": {"customers": [in training in
          round 1, 2 …]}}
        - ``methods``: [{"method", "label"}], in the table's order
        - ``rows``: one for each setting, method, protocol, universe and metric: ``setting``,
          ``method``, ``label``, ``protocol`` ("new", "all"), ``universe`` ("catalogue": every item
          is a candidate; "top-5000": the 5,000 items most households bought, chosen without
          privacy, for comparison with published figures), ``metric`` ("ndcg@10", "recall@20",
          "hit_rate@10", "coverage@10"), ``mean`` (over customers and seeds), ``ci_low`` and
          ``ci_high`` (95%, customers and seeds resampled), ``per_seed`` (one value for a method
          without chance), ``customers`` (with a value), ``ratio_to_popularity``,
          ``ratio_to_personal_recency`` and ``ratio_to_served``, to what a customer would be served
          ({"mean", "ci_low", "ci_high"} or None; paired).
        - ``earlier``: what `measure_earlier` gives, or None
        - ``not_applicable``: [{"method", "protocol", "why"}]

    Raises:
        InputError: The regions are not the plan's, or nobody bought anything in the test window.
    """
    for each in (splits, earlier.splits if earlier else splits):
        if tuple(split.region for split in each) != plan.regions:
            raise InputError("The study's regions are not those of the run plan, in its order.")
    if catalogue.n_items != plan.n_items:
        raise InputError("The study's catalogue is not that of the run plan.")
    study = _Study(splits, catalogue, plan, tuple(seeds), excluded, progress)
    study.total_steps += 1 if earlier else 0
    with one_thread():
        study.run()
        before = study.measure_earlier(earlier, replicates) if earlier else None
    return {
        "seeds": list(seeds),
        "replicates": replicates,
        "universe_size": UNIVERSE_SIZE,
        "epsilon": plan.epsilon,
        "delta": plan.delta,
        "customers": {
            split.region: {"train": split.train.n_customers, "test": split.test.n_customers}
            for split in splits
        },
        "settings": {
            name: {"customers": _per_round(population, plan)}
            for name, population in study.populations.items()
        },
        "methods": [{"method": key, "label": label} for key, label in METHODS.items()],
        "rows": summarise(study.scores.table, METHODS, n_seeds=len(seeds), replicates=replicates),
        "earlier": before,
        "not_applicable": [
            {"method": method, "protocol": protocol.value, "why": why}
            for method, protocol, why in NOT_APPLICABLE
        ],
    }


@contextmanager
def one_thread() -> Iterator[None]:
    """Lets torch compute in one thread: a region's tensors are too small to share out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _per_round(population: Population, plan: RunPlan) -> list[int]:
    return [
        sum(population.train[region][server_round].n_customers for region in population.regions)
        for server_round in range(1, plan.total_rounds + 1)
    ]


class _Study:
    """One study under way: fills the table of `scores`, method by method."""

    def __init__(
        self,
        splits: Sequence[RegionSplit],
        catalogue: Catalogue,
        plan: RunPlan,
        seeds: tuple[int, ...],
        excluded: Exclusions | None,
        progress: Progress,
    ) -> None:
        self._catalogue = catalogue
        self._plan = plan
        self._seeds = seeds
        self._progress = progress
        evaluated = {split.region: EvaluationSet.of(split.train, split.test) for split in splits}
        settings: dict[str, Exclusions] = {NO_REFUSALS: {}}
        if excluded is not None:
            settings[WITH_REFUSALS] = excluded
        self.populations = {
            name: Population.of(splits, evaluated, plan.total_rounds, out)
            for name, out in settings.items()
        }
        everyone = baselines.popularity(self.populations[NO_REFUSALS].pooled)
        self._popular = np.sort(np.argsort(-everyone, kind="stable")[:UNIVERSE_SIZE])
        universe = np.zeros(catalogue.n_items, dtype=bool)
        universe[self._popular] = True
        self._universes: dict[str, BoolArray | None] = {
            FULL_CATALOGUE: None,
            POPULAR_UNIVERSE: universe,
        }
        self._rankers = {
            name: Ranker(population, catalogue, plan, self._universes)
            for name, population in self.populations.items()
        }
        self.scores = Scores(evaluated, self._universes, catalogue.n_items)
        self.total_steps = len(self._rankers) * (len(seeds) + 1) + 1
        self._done = 0

    def run(self) -> None:
        """Measures every method in every setting."""
        for setting in self._rankers:
            for seed in self._seeds:
                self._private(setting, seed)
                self._step(f"private models, {setting}, seed {seed}")
            self._baselines(setting)
            self._without_privacy(setting)
            self._step(f"baselines, {setting}")
        self.scores.add(NO_REFUSALS, "ease", self._rankers[NO_REFUSALS].by_ease(self._popular))
        self._step("EASE")

    def measure_earlier(self, earlier: EarlierWeeks, replicates: int) -> dict[str, Any]:
        """Measures what is served on an earlier cut; see `measure_earlier`."""
        result = measure_earlier(
            earlier, self._catalogue, self._plan, seeds=self._seeds, replicates=replicates
        )
        self._step(f"weeks {earlier.weeks}")
        return result

    def _private(self, setting: str, seed: int) -> None:
        ranker, population = self._rankers[setting], self.populations[setting]
        name = f"quality/{setting}/{seed}"
        n_regions = len(population.regions)
        shared = train_private(population, population.regions, self._plan, name)
        models = dict.fromkeys(population.regions, shared)
        rankings = ranker.by_model(models, n_summed=n_regions)
        self.scores.add_variants(setting, _FEDERATED, rankings)
        self.scores.add_ablated(setting, NO_FACTORS, ranker, models, n_summed=n_regions)
        alone = {
            region: train_private(population, [region], self._plan, f"{name}/alone")
            for region in population.regions
        }
        self.scores.add_served(setting, "local_only", ranker, alone, n_summed=1)

    def _baselines(self, setting: str) -> None:
        ranker, population = self._rankers[setting], self.populations[setting]
        counted = baselines.popularity(population.pooled)
        recent = recent_popularity(population.pooled)
        by_region = map(baselines.popularity, population.first_round())
        for method, scores in (
            (POPULARITY, dict.fromkeys(population.regions, counted)),
            ("popularity_recent", dict.fromkeys(population.regions, recent)),
            ("popularity_regional", dict(zip(population.regions, by_region, strict=True))),
        ):
            self.scores.add(setting, method, ranker.by_popularity(scores))
        for method, is_recent in (("personal_frequency", False), (PERSONAL_RECENCY, True)):
            rankings = ranker.by_history(recent=is_recent, fallback=counted)
            self.scores.add(setting, method, rankings)
        model = baselines.popularity_model(recent, self._plan)
        models = dict.fromkeys(population.regions, model)
        self.scores.add_ablated(
            setting,
            NO_FACTORS_NO_NOISE,
            ranker,
            models,
            n_summed=0,
            variants=(*SERVED_VARIANTS, ("tilt", Protocol.ALL)),
        )

    def _without_privacy(self, setting: str) -> None:
        ranker, population = self._rankers[setting], self.populations[setting]
        datasets = population.first_round()
        alone = {
            region: baselines.train_without_privacy([dataset], self._plan)
            for region, dataset in zip(population.regions, datasets, strict=True)
        }
        self.scores.add_served(setting, "local_only_no_dp", ranker, alone, n_summed=0)
        for method, parts, sizes in (
            ("federated_no_dp", datasets, None),
            ("centralised_no_dp", [population.pooled], None),
            ("centralised_no_dp_large", [population.pooled], baselines.NO_PRIVACY_SIZES),
        ):
            model = baselines.train_without_privacy(parts, self._plan, sizes)
            models = dict.fromkeys(population.regions, model)
            self.scores.add_served(setting, method, ranker, models, n_summed=0)

    def _step(self, what: str) -> None:
        self._done += 1
        self._progress(what, self._done, self.total_steps)
