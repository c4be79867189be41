"""What the catalogue alone is worth: items outside the vocabulary, and items newer than the model.

``python -m simulations.cold_study --help`` tells its options. Two questions:

- *rare*: the shared model has factors for its vocabulary only. Does it help to rank all other items
  beside them by `client.recommend.cold`, and in which order are those others best shown?
- *newer*: the catalogue's last items are taken to be newer than the model. How well are they ranked
  among themselves by their place in the catalogue, for customers who went on to buy some?
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from client.data.dataset import PreferenceDataset
from client.recommend.cold import ColdScores
from client.training.evaluation import (
    RANKED_PLACES,
    EvaluationSet,
    Protocol,
    keep_entries,
    select_customers,
)
from client.training.personalisation import (
    bought,
    rank_fused,
    rank_shared,
    shared_scores,
    tilted_scores,
)
from common.catalogue import Catalogue
from common.metrics import ndcg_at_k
from common.model_state import ModelState
from common.plan import RunPlan
from common.privacy import UNIT_AND_RELATION
from common.ranking import BoolArray, IntArray, ItemSets
from common.strategies import FACTORS
from server.robust_noise import noise_gain
from simulations.baselines import popularity, rank_by_popularity
from simulations.paired_rows import PairedRow, paired_rows
from simulations.quality_methods import train_private
from simulations.scenarios import SCENARIOS
from simulations.study_data import DELTA, StudyData, real_data

FloatArray = npt.NDArray[np.float64]
# For one region's history: the ranking of its customers.
Rank = Callable[[PreferenceDataset], IntArray]
Score = Callable[[PreferenceDataset], FloatArray]

_PLACES = 10
_CHUNK = 128
RARE_QUESTIONS = ("new items", "all items", "new items outside the vocabulary")
NEWER_QUESTION = "new items newer than the model"
#: The share of the catalogue, at its end, that is taken to be newer than the model.
NEWER_SHARE = 0.1


def rare_items(
    data: StudyData, plan: RunPlan, *, seeds: Sequence[int]
) -> dict[str, list[PairedRow]]:
    """Rankings with and without the items outside the vocabulary.

    Args:
        data: What to measure on.
        plan: The run plan.
        seeds: Of the study's noise.

    Returns:
        By question NDCG@10 of each method; the first is what the others are compared with.
    """
    population = data.population(plan.total_rounds)
    found: dict[str, dict[str, list[FloatArray]]] = {name: {} for name in RARE_QUESTIONS}
    for seed in seeds:
        model = train_private(population, population.regions, plan, f"cold/{seed}")
        outside = np.ones(data.catalogue.n_items, dtype=bool)
        outside[model.vocabulary] = False
        for question, (protocol, universe, ranks) in zip(
            RARE_QUESTIONS, _rare_methods(data.catalogue, model, plan, outside), strict=True
        ):
            for method, rank in ranks.items():
                values = _values(data.evaluated, protocol, universe, rank)
                found[question].setdefault(method, []).append(values)
    return {
        question: paired_rows(
            {name: np.stack(values, axis=1) for name, values in methods.items()},
            next(iter(methods)),
        )
        for question, methods in found.items()
    }


def _rare_methods(
    catalogue: Catalogue, model: ModelState, plan: RunPlan, outside: BoolArray
) -> list[tuple[Protocol, BoolArray | None, dict[str, Rank]]]:
    noise = popularity_noise(plan)
    cold = ColdScores.of(catalogue, model, popularity_noise_stddev=noise)
    extended = cold.extended(model)

    def tilted(history: PreferenceDataset) -> FloatArray:
        return tilted_scores(shared_scores(history, model), history, model, catalogue)

    def beside(history: PreferenceDataset) -> FloatArray:
        scores = tilted(history)
        own = bought(history)
        return np.concatenate([cold.floored(own, scores), cold.scores(own, scores)], axis=1)

    def new(scores: Score, served: ModelState, universe: BoolArray | None = None) -> Rank:
        return lambda history: rank_shared(
            scores(history), served, RANKED_PLACES, excluded=bought(history), universe=universe
        )

    def fused(scores: Score, served: ModelState) -> Rank:
        return lambda history: rank_fused(
            scores(history), history, served, RANKED_PLACES, popularity_noise_stddev=noise
        )

    return [
        (
            Protocol.NEW,
            None,
            {"vocabulary first": new(tilted, model), "with cold items": new(beside, extended)},
        ),
        (
            Protocol.ALL,
            None,
            {"vocabulary": fused(tilted, model), "with cold items": fused(beside, extended)},
        ),
        (
            Protocol.NEW,
            outside,
            {
                "released popularity": _by_popularity(model.popularity, outside),
                "expected popularity": _by_popularity(cold.popularity, outside),
                "cold scores": new(beside, extended, outside),
            },
        ),
    ]


def newer_items(
    data: StudyData, plan: RunPlan, *, seeds: Sequence[int], share: float = NEWER_SHARE
) -> dict[str, list[PairedRow]]:
    """Rankings of the catalogue's last items by a model that is over the others only.

    Args:
        data: What to measure on.
        plan: The plan of a run over all items; its twin over the first ones is trained.
        seeds: Of the study's noise.
        share: How many of the items are newer.
    """
    known = round(data.catalogue.n_items * (1 - share))
    first = data.catalogue.first(known)
    older = replace(
        data,
        catalogue=first,
        train={name: _first_items(each, known) for name, each in data.train.items()},
        evaluated={
            name: EvaluationSet(_first_items(each.history, known), each.test)
            for name, each in data.evaluated.items()
        },
    )
    trained = RunPlan.from_record({**plan.to_record(), "n_items": known, "catalogue": first.digest})
    population = older.population(trained.total_rounds)
    newer = np.arange(data.catalogue.n_items) >= known
    counted = sum(popularity(each) for each in data.train.values())
    found: dict[str, list[FloatArray]] = {}
    for seed in seeds:
        model = train_private(population, population.regions, trained, f"cold/{seed}")
        cold = ColdScores.of(
            data.catalogue, model, popularity_noise_stddev=popularity_noise(trained)
        )
        ranks: dict[str, Rank] = {
            "by chance": _by_popularity(np.random.default_rng(seed).random(len(newer)), newer),
            "expected popularity": _by_popularity(cold.popularity, newer),
            "cold scores": _by_cold(cold, model, data.catalogue, known, newer),
            "their popularity, were it known": _by_popularity(np.asarray(counted), newer),
        }
        for method, rank in ranks.items():
            values = _values(data.evaluated, Protocol.NEW, newer, rank)
            found.setdefault(method, []).append(values)
    rows = {name: np.stack(values, axis=1) for name, values in found.items()}
    return {NEWER_QUESTION: paired_rows(rows, "expected popularity")}


def _by_cold(
    cold: ColdScores, model: ModelState, catalogue: Catalogue, known: int, universe: BoolArray
) -> Rank:
    extended, first = cold.extended(model), catalogue.first(known)

    def rank(history: PreferenceDataset) -> IntArray:
        older = _first_items(history, known)
        scores = tilted_scores(shared_scores(older, model), older, model, first)
        own = bought(history)
        both = np.concatenate([cold.floored(own, scores), cold.scores(own, scores)], axis=1)
        return rank_shared(both, extended, RANKED_PLACES, excluded=own, universe=universe)

    return rank


def popularity_noise(plan: RunPlan) -> float:
    """The standard deviation of the noise in a model's popularity, by its plan."""
    return plan.mechanisms[0].noise_stddev * noise_gain(plan.aggregation, len(plan.regions))


def _by_popularity(scores: npt.NDArray[np.floating], universe: BoolArray) -> Rank:
    return lambda history: rank_by_popularity(
        scores.astype(np.float64),
        history.n_customers,
        excluded=bought(history),
        universe=universe,
    )


def _first_items(dataset: PreferenceDataset, n_items: int) -> PreferenceDataset:
    """The same customers' purchases of the first items of the catalogue."""
    kept = keep_entries(dataset, dataset.indices < n_items)
    return replace(kept, counts=replace(kept.counts, n_items=n_items))


def _values(
    evaluated: Mapping[str, EvaluationSet],
    protocol: Protocol,
    universe: BoolArray | None,
    rank: Rank,
) -> FloatArray:
    """float64[customers of all regions]: NDCG@10, NaN without a relevant item."""
    found = []
    for each in evaluated.values():
        relevant: ItemSets = each.relevant(protocol, universe)
        # A table of all cold items is large: some customers at a time.
        parts = [
            rank(select_customers(each.history, each.history.sids[start : start + _CHUNK]))
            for start in range(0, each.history.n_customers, _CHUNK)
        ]
        found.append(ndcg_at_k(np.concatenate(parts), relevant, _PLACES))
    return np.concatenate(found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a row for each ε, question and method."""
    parser = argparse.ArgumentParser(prog="python -m simulations.cold_study")
    parser.add_argument("--scenario", choices=[*SCENARIOS], default="retail-5")
    parser.add_argument("--tuning", action="store_true", help="earlier weeks than the test's")
    parser.add_argument("--epsilon", nargs="+", default=["8"])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(arguments)
    sys.stdout.write(f"ε of a run in each region, δ = {DELTA}; {UNIT_AND_RELATION}\n")
    data = real_data(options.scenario, tuning=options.tuning)
    for epsilon in options.epsilon:
        plan, seeds = data.plan(FACTORS, epsilon), range(1, options.seeds + 1)
        for questions in (
            rare_items(data, plan, seeds=seeds),
            newer_items(data, plan, seeds=seeds),
        ):
            for question, rows in questions.items():
                sys.stdout.write(f"{data.name}  ε={epsilon}  {question}, NDCG@10\n")
                sys.stdout.writelines(f"  {row.text()}\n" for row in rows)
                sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
