"""The quality study: the private, federated model beside every baseline, over several seeds.

Everything here is computed in a simulation, from all regions' records without noise. In a
deployment none of these figures may leave a region unnoised.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from client.training.evaluation import EvaluationSet, Protocol, evaluate
from common.catalogue import Catalogue
from common.errors import InputError
from common.model_state import ModelState
from common.plan import RunPlan
from common.ranking import BoolArray, IntArray, ItemSets
from simulations import baselines
from simulations.quality_methods import (
    METHODS,
    SERVED_VARIANTS,
    Population,
    Ranker,
    RegionSplit,
    recent_popularity,
    train_private,
)
from simulations.quality_table import (
    PERSONAL_RECENCY,
    POPULARITY,
    REPLICATES,
    Cell,
    Table,
    summarise,
)

FloatArray = npt.NDArray[np.float64]
# What is done, how many steps are done, how many there are.
Progress = Callable[[str, int, int], None]
# region → round → the customers whose consent was not in force in that round.
Exclusions = Mapping[str, Mapping[int, Collection[str]]]

NO_REFUSALS = "no_refusals"
WITH_REFUSALS = "with_refusals"
FULL_CATALOGUE = "catalogue"
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
          without chance), ``customers`` (with a value), ``ratio_to_popularity`` and
          ``ratio_to_personal_recency`` ({"mean", "ci_low", "ci_high"} or None; paired).
        - ``not_applicable``: [{"method", "protocol", "why"}]

    Raises:
        InputError: The regions are not the plan's, or nobody bought anything in the test window.
    """
    if tuple(split.region for split in splits) != plan.regions:
        raise InputError("The study's regions are not those of the run plan, in its order.")
    if catalogue.n_items != plan.n_items:
        raise InputError("The study's catalogue is not that of the run plan.")
    study = _Study(splits, catalogue, plan, tuple(seeds), excluded, progress)
    with _one_thread():
        study.run()
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
        "rows": summarise(study.table, METHODS, n_seeds=len(seeds), replicates=replicates),
        "not_applicable": [
            {"method": method, "protocol": Protocol.NEW.value, "why": "it ranks only own purchases"}
            for method in ("fedpref_fused", "personal_frequency", PERSONAL_RECENCY)
        ],
    }


@contextmanager
def _one_thread() -> Iterator[None]:
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
    """One study under way: fills `table`, method by method."""

    def __init__(
        self,
        splits: Sequence[RegionSplit],
        catalogue: Catalogue,
        plan: RunPlan,
        seeds: tuple[int, ...],
        excluded: Exclusions | None,
        progress: Progress,
    ) -> None:
        self.table = Table()
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
        self._relevant = self._relevant_items(list(evaluated.values()))
        self._total = len(self._rankers) * (len(seeds) + 1) + 1
        self._done = 0

    def run(self) -> None:
        """Measures every method in every setting."""
        for setting in self._rankers:
            for seed in self._seeds:
                self._private(setting, seed)
                self._step(f"private models, {setting}, seed {seed}")
            self._baselines(setting)
            self._step(f"baselines, {setting}")
        self._add(NO_REFUSALS, "ease", self._rankers[NO_REFUSALS].by_ease(self._popular))
        self._step("EASE")

    def _private(self, setting: str, seed: int) -> None:
        ranker, population = self._rankers[setting], self.populations[setting]
        name = f"quality/{setting}/{seed}"
        shared = train_private(population, population.regions, self._plan, name)
        models = dict.fromkeys(population.regions, shared)
        rankings = ranker.by_model(models, n_summed=len(population.regions))
        for variant, protocol, universe, ranked in rankings:
            self._add(setting, _FEDERATED[variant], [(protocol, universe, ranked)])
        alone = {
            region: train_private(population, [region], self._plan, f"{name}/alone")
            for region in population.regions
        }
        self._add_served(setting, "local_only", alone, n_summed=1)

    def _baselines(self, setting: str) -> None:
        ranker, population = self._rankers[setting], self.populations[setting]
        datasets = population.first_round()
        counted = baselines.popularity(population.pooled)
        everywhere = dict.fromkeys(population.regions, counted)
        recent = dict.fromkeys(population.regions, recent_popularity(population.pooled))
        regional = dict(zip(population.regions, map(baselines.popularity, datasets), strict=True))
        self._add(setting, POPULARITY, ranker.by_popularity(everywhere))
        self._add(setting, "popularity_recent", ranker.by_popularity(recent))
        self._add(setting, "popularity_regional", ranker.by_popularity(regional))
        for method, is_recent in (("personal_frequency", False), (PERSONAL_RECENCY, True)):
            self._add(setting, method, ranker.by_history(recent=is_recent, fallback=counted))
        alone = {
            region: baselines.train_without_privacy([dataset], self._plan)
            for region, dataset in zip(population.regions, datasets, strict=True)
        }
        self._add_served(setting, "local_only_no_dp", alone, n_summed=0)
        for method, parts in (
            ("federated_no_dp", datasets),
            ("centralised_no_dp", [population.pooled]),
        ):
            model = baselines.train_without_privacy(parts, self._plan)
            models = dict.fromkeys(population.regions, model)
            self._add_served(setting, method, models, n_summed=0)

    def _add_served(
        self, setting: str, method: str, models: Mapping[str, ModelState], *, n_summed: int
    ) -> None:
        """Adds what a customer would be served: tilted for new items, fused for all."""
        rankings = self._rankers[setting].by_model(
            models, n_summed=n_summed, variants=SERVED_VARIANTS
        )
        for _, protocol, universe, ranked in rankings:
            self._add(setting, method, [(protocol, universe, ranked)])

    def _add(
        self, setting: str, method: str, rankings: Iterable[tuple[Protocol, str, IntArray]]
    ) -> None:
        for protocol, universe, ranked in rankings:
            mask = self._universes[universe]
            quality = evaluate(
                ranked,
                self._relevant[protocol, universe],
                n_candidates=self._plan.n_items if mask is None else int(mask.sum()),
            )
            self.table.add(Cell(setting, method, protocol, universe), quality)

    def _relevant_items(
        self, evaluated: Sequence[EvaluationSet]
    ) -> dict[tuple[Protocol, str], ItemSets]:
        return {
            (protocol, name): ItemSets.concatenated(
                [each.relevant(protocol, universe) for each in evaluated]
            )
            for protocol in Protocol
            for name, universe in self._universes.items()
        }

    def _step(self, what: str) -> None:
        self._done += 1
        self._progress(what, self._done, self._total)
