"""Does a region gain from a model of its own? Regional variants beside the shared model.

``python -m simulations.personal_variants --help`` tells its options. A variant is measured by what
its customers would be served, paired with the shared model over the same customers and noise.
`simulations.personal_training` says what the variants are and why they cost no ε.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import get_args

import numpy as np
import numpy.typing as npt

from client.training.evaluation import Protocol
from common.plan import RunPlan
from common.privacy import UNIT_AND_RELATION
from common.strategies import FACTORS, StrategyName
from simulations.paired_rows import PairedRow, paired_rows
from simulations.personal_training import Variant, personal_models
from simulations.quality_methods import SERVED_VARIANTS
from simulations.quality_ranker import Ranker
from simulations.quality_scores import Scores
from simulations.quality_table import Cell
from simulations.scenarios import SCENARIOS
from simulations.study_data import DELTA, StudyData, made_up_data, real_data

FloatArray = npt.NDArray[np.float64]

SHARED = Variant("shared", 0.0, 0.0)
#: What is compared with the shared model; the last is each region alone, over one vocabulary.
VARIANTS = (
    SHARED,
    *(Variant(f"popularity {share:.2f}", share, 0.0) for share in (0.1, 0.25, 0.5)),
    *(Variant(f"training {share:.2f}", 0.0, share) for share in (0.1, 0.25, 0.5)),
    Variant("both 0.10", 0.1, 0.1),
    Variant("alone", 1.0, 1.0),
)
_METRIC, _UNIVERSE = "ndcg@10", "catalogue"


def measure(
    data: StudyData, plan: RunPlan, *, seeds: Sequence[int], variants: Sequence[Variant] = VARIANTS
) -> dict[Protocol, list[PairedRow]]:
    """Trains and ranks every variant.

    Args:
        data: What to measure on.
        plan: The run plan.
        seeds: Of the study's noise.
        variants: Which; the first is what the others are compared with.

    Returns:
        For each protocol NDCG@10 of what would be served, by variant.
    """
    population = data.population(plan.total_rounds)
    ranker = Ranker(population, data.catalogue, plan, {_UNIVERSE: None})
    scores = Scores(data.evaluated, {_UNIVERSE: None}, data.catalogue.n_items)
    for seed in seeds:
        models = personal_models(population, plan, f"variants/{seed}", variants)
        for variant in variants:
            scores.add_served(
                data.name,
                variant.name,
                ranker,
                models[variant.name],
                n_summed=len(population.regions),
            )
    return {
        protocol: paired_rows(
            {
                variant.name: _values(scores, Cell(data.name, variant.name, protocol, _UNIVERSE))
                for variant in variants
            },
            variants[0].name,
        )
        for _, protocol in SERVED_VARIANTS
    }


def _values(scores: Scores, cell: Cell) -> FloatArray:
    """float64[n_customers, seeds], NaN without a relevant item."""
    return np.stack([each.by_customer[_METRIC] for each in scores.table.cells[cell]], axis=1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a row for each ε, strategy, protocol and variant."""
    parser = argparse.ArgumentParser(prog="python -m simulations.personal_variants")
    parser.add_argument("--scenario", choices=[*SCENARIOS], default="retail-5")
    parser.add_argument("--tuning", action="store_true", help="earlier weeks than the test's")
    parser.add_argument("--made-up", type=int, help="so many made-up customers instead")
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--regions", type=int, default=5)
    parser.add_argument("--concentration", type=float, nargs="+", default=[5.0])
    parser.add_argument("--epsilon", nargs="+", default=["8"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--strategies", nargs="+", choices=get_args(StrategyName), default=[FACTORS]
    )
    options = parser.parse_args(arguments)
    sys.stdout.write(f"ε of a run in each region, δ = {DELTA}; {UNIT_AND_RELATION}\n")
    for data in _asked(options):
        for epsilon in options.epsilon:
            for strategy in options.strategies:
                found = measure(
                    data, data.plan(strategy, epsilon), seeds=range(1, options.seeds + 1)
                )
                for protocol, rows in found.items():
                    _print(f"{data.name}  ε={epsilon}  {strategy}  {protocol.value}", rows)
    return 0


def _asked(options: argparse.Namespace) -> Iterator[StudyData]:
    if not options.made_up:
        yield real_data(options.scenario, tuning=options.tuning)
        return
    for concentration in options.concentration:
        yield made_up_data(
            options.made_up,
            n_items=options.items,
            n_regions=options.regions,
            concentration=concentration,
        )


def _print(head: str, rows: Sequence[PairedRow]) -> None:
    sys.stdout.write(f"{head}, NDCG@10, × shared\n")
    sys.stdout.writelines(f"  {row.text()}\n" for row in rows)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
