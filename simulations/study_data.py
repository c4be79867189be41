"""The data of a small study: a scenario's customers, or made-up ones, with a default plan.

As `simulations.evaluation_data`, for simulations only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from client.data.dataset import PreferenceDataset
from client.training.evaluation import EvaluationSet
from common.catalogue import Catalogue
from common.errors import InputError
from common.plan import RunPlan
from common.plan_defaults import default_plan
from common.strategies import StrategyName
from common.timestamps import format_time
from simulations.evaluation.data import scenario_data
from simulations.evaluation.protocols import Split, folds_of
from simulations.quality_methods import Population
from simulations.scenarios import find_scenario
from simulations.synthetic_scale import synthetic_regions

DELTA = "0.000001"


@dataclass(frozen=True, eq=False)
class StudyData:
    """What methods are measured on.

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
            run_id="study",
            federation="study",
            scenario="study",
            regions=tuple(self.train),
            quorum=1,
            catalogue=self.catalogue.digest,
            n_items=self.catalogue.n_items,
            train_from=format_time(first.start_ms),
            train_until=format_time(first.end_ms),
            epsilon=epsilon,
            delta=DELTA,
            planned_customers=self.planned_customers,
            strategy=strategy,
        )

    def population(self, rounds: int) -> Population:
        """Everybody in every round, and who is asked."""
        regions = tuple(self.train)
        numbers = range(1, rounds + 1)
        return Population(
            regions,
            {name: dict.fromkeys(numbers, self.train[name]) for name in regions},
            self.evaluated,
        )


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
