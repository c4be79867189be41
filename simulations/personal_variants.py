"""Does a region gain from a model of its own? Regional variants beside the shared model.

``python -m simulations.personal_variants --help`` tells its options. A variant is measured by what
its customers would be served, paired with the shared model over the same customers and noise.
`simulations.personal_training` says what the variants are and why they cost no ε.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt

from client.data.dataset import PreferenceDataset
from client.training.evaluation import EvaluationSet
from common.catalogue import Catalogue
from common.errors import InputError
from common.plan import RunPlan
from common.plan_defaults import default_plan
from common.privacy import UNIT_AND_RELATION
from common.strategies import FACTORS, StrategyName
from common.timestamps import format_time
from simulations.evaluation.data import scenario_data
from simulations.evaluation.protocols import Split, folds_of
from simulations.personal_training import Variant, personal_models
from simulations.quality_methods import SERVED_VARIANTS, Population
from simulations.quality_ranker import Ranker
from simulations.quality_scores import Scores
from simulations.quality_table import Bootstrap, Cell
from simulations.scenarios import SCENARIOS, find_scenario
from simulations.synthetic_scale import synthetic_regions

FloatArray = npt.NDArray[np.float64]

SHARED = Variant("shared", 0.0, 0.0)
#: What is compared with the shared model, and with each region alone.
VARIANTS = (
    SHARED,
    *(Variant(f"popularity {share:.2f}", share, 0.0) for share in (0.1, 0.25, 0.5)),
    *(Variant(f"training {share:.2f}", 0.0, share) for share in (0.1, 0.25, 0.5)),
    Variant("both 0.10", 0.1, 0.1),
    Variant("alone", 1.0, 1.0),
)
_METRIC, _UNIVERSE = "ndcg@10", "catalogue"
_REPLICATES = 1000
_DELTA = "0.000001"


@dataclass(frozen=True, eq=False)
class StudyData:
    """What variants are measured on.

    Attributes:
        name: For people.
        catalogue: The public catalogue.
        train: For each region, what is learnt from.
        evaluated: For each region, the customers who are asked.
        planned_customers: The public planning size.
    """

    name: str
    catalogue: Catalogue
    train: Mapping[str, PreferenceDataset] = field(repr=False)
    evaluated: Mapping[str, EvaluationSet] = field(repr=False)
    planned_customers: int

    def plan(self, strategy: StrategyName, epsilon: str) -> RunPlan:
        """The default plan for such data."""
        first = next(iter(self.train.values()))
        return default_plan(
            run_id="variants",
            federation="study",
            scenario="study",
            regions=tuple(self.train),
            quorum=1,
            catalogue=self.catalogue.digest,
            n_items=self.catalogue.n_items,
            train_from=format_time(first.start_ms),
            train_until=format_time(first.end_ms),
            epsilon=epsilon,
            delta=_DELTA,
            planned_customers=self.planned_customers,
            strategy=strategy,
        )


@dataclass(frozen=True)
class VariantRow:
    """What a variant reached.

    Attributes:
        variant: Its name.
        protocol: ``new`` or ``all``.
        mean: NDCG@10 over all regions' customers and the seeds.
        ratio: To the shared model.
        interval: The ratio's 95% interval; customers and seeds resampled, paired.
        regions_better: In how many regions the variant's mean is above the shared model's.
    """

    variant: str
    protocol: str
    mean: float
    ratio: float
    interval: tuple[float, float]
    regions_better: int


def real_data(name: str, *, tuning: bool) -> StudyData:
    """A scenario's customers.

    Args:
        name: The scenario's name.
        tuning: Whether to split the training window, so that nothing is chosen by the test weeks.

    Raises:
        InputError: The scenario's window is too short to be split.
    """
    scenario = find_scenario(name)
    with tempfile.TemporaryDirectory() as folder:
        data = scenario_data(scenario, Path(folder), seed=1)
        (fold,) = folds_of(data, Split.TEMPORAL)
    chosen = fold.tuning if tuning else fold
    if chosen is None:
        raise InputError(f"The training window of {name} is too short to be split.")
    evaluated = {
        region: EvaluationSet(history, chosen.answers[region])
        for region, history in chosen.histories.items()
    }
    weeks = "earlier weeks" if tuning else "test weeks"
    return StudyData(
        f"{name}, {weeks}", data.catalogue, chosen.train, evaluated, data.planned_customers
    )


def made_up_data(
    n_customers: int, *, n_items: int, n_regions: int, concentration: float
) -> StudyData:
    """Made-up customers whose regions differ: the more, the smaller the concentration."""
    regions = synthetic_regions(
        n_customers,
        n_items=n_items,
        n_regions=n_regions,
        seed=1,
        taste_concentration=concentration,
    )
    names = [f"r{number}" for number in range(n_regions)]
    return StudyData(
        f"{n_customers:,} made-up customers, concentration {concentration:g}",
        Catalogue.of([str(number) for number in range(n_items)]),
        {name: region.train for name, region in zip(names, regions, strict=True)},
        {
            name: EvaluationSet.of(region.train, region.test)
            for name, region in zip(names, regions, strict=True)
        },
        n_customers,
    )


def measure(
    data: StudyData, plan: RunPlan, *, seeds: Sequence[int], variants: Sequence[Variant] = VARIANTS
) -> list[VariantRow]:
    """Trains and ranks every variant.

    Args:
        data: What to measure on.
        plan: The run plan.
        seeds: Of the study's noise.
        variants: Which; the first is what the others are compared with.
    """
    regions = tuple(data.train)
    rounds = range(1, plan.total_rounds + 1)
    population = Population(
        regions, {name: dict.fromkeys(rounds, data.train[name]) for name in regions}, data.evaluated
    )
    ranker = Ranker(population, data.catalogue, plan, {_UNIVERSE: None})
    scores = Scores(data.evaluated, {_UNIVERSE: None}, data.catalogue.n_items)
    for seed in seeds:
        models = personal_models(population, plan, f"variants/{seed}", variants)
        for variant in variants:
            scores.add_served(
                data.name, variant.name, ranker, models[variant.name], n_summed=len(regions)
            )
    places = np.repeat(
        np.arange(len(regions)), [data.evaluated[name].history.n_customers for name in regions]
    )
    return [*_rows(data.name, scores, places, variants, len(seeds))]


def _rows(
    setting: str, scores: Scores, places: FloatArray, variants: Sequence[Variant], n_seeds: int
) -> Iterator[VariantRow]:
    for _, protocol in SERVED_VARIANTS:
        values = {
            variant.name: np.stack(
                [
                    each.by_customer[_METRIC]
                    for each in scores.table.cells[Cell(setting, variant.name, protocol, _UNIVERSE)]
                ],
                axis=1,
            )
            for variant in variants
        }
        shared = values[variants[0].name]
        defined = ~np.isnan(shared).any(axis=1)
        bootstrap = Bootstrap(int(defined.sum()), n_seeds, replicates=_REPLICATES, seed=0)
        resampled = bootstrap.means(shared[defined])
        for variant in variants:
            own = values[variant.name]
            low, high = np.percentile(bootstrap.means(own[defined]) / resampled, (2.5, 97.5))
            gains = np.where(defined, (own - shared).mean(axis=1), 0.0)
            yield VariantRow(
                variant=variant.name,
                protocol=protocol.value,
                mean=float(own[defined].mean()),
                ratio=float(own[defined].mean() / shared[defined].mean()),
                interval=(float(low), float(high)),
                regions_better=int((np.bincount(places, weights=gains) > 0).sum()),
            )


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
    sys.stdout.write(f"ε of a run in each region, δ = {_DELTA}; {UNIT_AND_RELATION}\n")
    for data in _asked(options):
        for epsilon in options.epsilon:
            for strategy in options.strategies:
                plan = data.plan(strategy, epsilon)
                for row in measure(data, plan, seeds=range(1, options.seeds + 1)):
                    _print(data.name, epsilon, strategy, row, len(data.train))
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


def _print(name: str, epsilon: str, strategy: str, row: VariantRow, n_regions: int) -> None:
    low, high = row.interval
    sys.stdout.write(
        f"{name}  ε={epsilon:>3}  {strategy}  {row.protocol}  {row.variant:<16} "
        f"NDCG@10 {row.mean:.4f}  × shared {row.ratio:.3f} ({low:.3f} to {high:.3f})  "
        f"better in {row.regions_better} of {n_regions} regions\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
