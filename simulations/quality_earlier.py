"""The same plan on an earlier cut, beside the evaluated one: how far the headline carries.

A figure of one test window says little about another season. What is served is therefore measured
on an earlier cut too, with the references and the ablations that say where a gain comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from client.training.evaluation import EvaluationSet
from common.catalogue import Catalogue
from common.plan import RunPlan
from common.ranking import BoolArray
from simulations import baselines
from simulations.quality_methods import (
    METHODS,
    NO_FACTORS,
    NO_FACTORS_NO_NOISE,
    SERVED_VARIANTS,
    Population,
    RegionSplit,
    recent_popularity,
    train_private,
)
from simulations.quality_ranker import Ranker
from simulations.quality_scores import Scores
from simulations.quality_table import PERSONAL_RECENCY, POPULARITY, SERVED, summarise

EARLIER = "earlier_weeks"
FULL_CATALOGUE = "catalogue"
_SERVED = {variant: SERVED[protocol] for variant, protocol in SERVED_VARIANTS}


@dataclass(frozen=True, eq=False)
class EarlierWeeks:
    """An earlier cut of the same customers.

    Attributes:
        weeks: The test weeks, as the report names them.
        judged: Likewise, the weeks of the study proper.
        note: How far either had a part in choosing the constants; for people.
        splits: Each region's customers before and after this cut, in the plan's order.
    """

    weeks: str
    judged: str
    note: str
    splits: Sequence[RegionSplit] = field(repr=False)


def measure_earlier(
    earlier: EarlierWeeks,
    catalogue: Catalogue,
    plan: RunPlan,
    *,
    seeds: Sequence[int],
    replicates: int,
) -> dict[str, Any]:
    """Trains and ranks on the earlier cut, if nobody refuses and over the full catalogue.

    Returns:
        ``weeks``, ``judged``, ``note``, ``customers`` (in training), and ``rows`` with the fields
        of the study's rows, their ``setting`` being "earlier_weeks".
    """
    evaluated = {
        split.region: EvaluationSet.of(split.train, split.test) for split in earlier.splits
    }
    population = Population.of(earlier.splits, evaluated, plan.total_rounds, {})
    everything: dict[str, BoolArray | None] = {FULL_CATALOGUE: None}
    ranker = Ranker(population, catalogue, plan, everything)
    scores = Scores(evaluated, everything, catalogue.n_items)
    n_regions = len(population.regions)
    for seed in seeds:
        shared = train_private(population, population.regions, plan, f"quality/{EARLIER}/{seed}")
        models = dict.fromkeys(population.regions, shared)
        rankings = ranker.by_model(models, n_summed=n_regions, variants=SERVED_VARIANTS)
        scores.add_variants(EARLIER, _SERVED, rankings)
        scores.add_ablated(EARLIER, NO_FACTORS, ranker, models, n_summed=n_regions)
    _add_references(scores, ranker, population, plan)
    rows = summarise(scores.table, METHODS, n_seeds=len(seeds), replicates=replicates)
    return {
        "weeks": earlier.weeks,
        "judged": earlier.judged,
        "note": earlier.note,
        "customers": sum(split.train.n_customers for split in earlier.splits),
        "rows": rows,
    }


def _add_references(scores: Scores, ranker: Ranker, population: Population, plan: RunPlan) -> None:
    counted = baselines.popularity(population.pooled)
    recent = baselines.popularity_model(recent_popularity(population.pooled), plan)
    everywhere = dict.fromkeys(population.regions, counted)
    scores.add(EARLIER, POPULARITY, ranker.by_popularity(everywhere))
    scores.add(EARLIER, PERSONAL_RECENCY, ranker.by_history(recent=True, fallback=counted))
    models = dict.fromkeys(population.regions, recent)
    scores.add_ablated(EARLIER, NO_FACTORS_NO_NOISE, ranker, models, n_summed=0)
