"""Distributed noise beside central DP training at the same σ, fewer survivors and local noise.

Central: one curator holds all customers' records and runs the same mechanisms, each with the same
σ / C, so that ε is the same. With distributed noise calibrated to all K regions the sum of a round
has the very same distribution, up to the grid: the two models may differ by chance only. Calibrated
to K − 1 or K − 2 honest regions the shares are larger; with local noise each is the whole.

Everything here is computed in a simulation, from records that are public anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from client.data.dataset import PreferenceDataset
from client.training.evaluation import EvaluationSet, Protocol
from common.aggregation_rules import SECURE_SUM_QUORUM
from common.catalogue import Catalogue
from common.discrete_gaussian import epsilon_by_survivors
from common.errors import UsageError
from common.model_state import ModelState
from common.plan import RunPlan
from common.plan_defaults import default_plan
from simulations import baselines
from simulations.quality_methods import SERVED_VARIANTS, Population, RegionSplit, train_private
from simulations.quality_ranker import Ranker
from simulations.quality_scores import Scores
from simulations.quality_table import REPLICATES, Bootstrap, Cell

FloatArray = npt.NDArray[np.float64]
Progress = Callable[[str, int, int], None]

CENTRAL, LOCAL = "central", "local"
_METRIC = "ndcg@10"
_UNIVERSE = "catalogue"
_INTERVAL = (2.5, 97.5)
_CURATOR = "curator"


@dataclass(frozen=True)
class Mode:
    """Whose noise protects, and how much of it each region adds.

    Attributes:
        name: ``central``, ``K``, ``K-1``, ``K-2`` or ``local``.
        plan: The plan that is trained.
    """

    name: str
    plan: RunPlan


@dataclass(frozen=True)
class StudyRow:
    """What one mode reached at one ε, and how far that is from central training.

    Attributes:
        epsilon: ε of the plan.
        mode: The mode's name.
        survivors: What its shares of noise are calibrated to; 0 where there are none.
        protocol: Which items count: ``new`` or ``all``.
        mean: NDCG@10 over customers and seeds.
        interval: Its 95% interval.
        difference: From central training, the same customers and seeds resampled for both.
        difference_interval: Its 95% interval.
        epsilon_by_survivors: ε if only as many regions are honest, by their number.
    """

    epsilon: str
    mode: str
    survivors: int
    protocol: str
    mean: float
    interval: tuple[float, float]
    difference: float
    difference_interval: tuple[float, float]
    epsilon_by_survivors: tuple[tuple[int, float], ...]

    @property
    def is_within(self) -> bool:
        """Whether the difference may be chance: its interval holds 0."""
        low, high = self.difference_interval
        return low <= 0.0 <= high


def run_study(
    splits: Sequence[RegionSplit],
    catalogue: Catalogue,
    plan: RunPlan,
    *,
    epsilons: Sequence[str],
    seeds: Sequence[int],
    replicates: int = REPLICATES,
    progress: Progress = lambda _what, _done, _total: None,
) -> list[StudyRow]:
    """Trains every mode at every ε, and compares what customers would be served.

    Args:
        splits: Each region's customers before and after the cut, in the plan's order.
        catalogue: The public catalogue.
        plan: A plan of the run; its windows, regions and planned customers are taken.
        epsilons: Which ε, decimal strings.
        seeds: Of the noise of the study.
        replicates: Bootstrap resamples.
        progress: Called as the study goes on.

    Raises:
        UsageError: There are too few regions for sums of shares.
    """
    if len(splits) < SECURE_SUM_QUORUM:
        raise UsageError(
            f"Distributed noise needs {SECURE_SUM_QUORUM} regions; the run has {len(splits)}.",
            remedy="Choose a run of a scenario with more regions.",
        )
    rows: list[StudyRow] = []
    modes = {each: modes_of(plan, each) for each in epsilons}
    total, done = sum(map(len, modes.values())) * len(seeds), 0
    for epsilon, compared in modes.items():
        study = _Study(splits, catalogue, compared)
        for mode in compared:
            for seed in seeds:
                study.measure(mode, seed)
                done += 1
                progress(f"ε = {epsilon}, {mode.name}, seed {seed}", done, total)
        rows.extend(study.rows(len(seeds), replicates))
    return rows


def modes_of(plan: RunPlan, epsilon: str) -> list[Mode]:
    """The modes that are compared at one ε.

    All but local noise have the mechanisms, sizes and σ of distributed noise for all K regions; a
    run with local noise has the sizes that its own rule chooses.
    """
    count = len(plan.regions)
    shared = _plan_like(plan, epsilon, honest=count)
    fewer = [
        Mode(f"K-{count - honest}", _with_survivors(shared, honest))
        for honest in (count - 1, count - 2)
        if honest >= 2
    ]
    return [
        Mode(CENTRAL, shared),
        Mode("K", shared),
        *fewer,
        Mode(LOCAL, _plan_like(plan, epsilon, honest=0)),
    ]


def _plan_like(plan: RunPlan, epsilon: str, *, honest: int) -> RunPlan:
    return default_plan(
        run_id=plan.run_id,
        federation=plan.federation,
        scenario=plan.scenario,
        regions=plan.regions,
        quorum=len(plan.regions),
        catalogue=plan.catalogue,
        n_items=plan.n_items,
        train_from=plan.train_from,
        train_until=plan.train_until,
        epsilon=epsilon,
        delta=plan.delta,
        planned_customers=plan.planned_customers,
        init_seed=plan.init_seed,
        mode="distributed" if honest else "local",
        rule="secure-sum" if honest else "sum",
        honest_survivors_min=honest,
    )


def _with_survivors(plan: RunPlan, honest: int) -> RunPlan:
    record = plan.to_record()
    aggregation = plan.aggregation.model_copy(update={"honest_survivors_min": honest})
    return RunPlan.from_record({**record, "aggregation": aggregation.model_dump(mode="json")})


class _Study:
    """One ε under way."""

    def __init__(
        self, splits: Sequence[RegionSplit], catalogue: Catalogue, modes: Sequence[Mode]
    ) -> None:
        self._modes = modes
        self._catalogue = catalogue
        evaluated = {split.region: EvaluationSet.of(split.train, split.test) for split in splits}
        rounds = max(mode.plan.total_rounds for mode in modes)
        self._population = Population.of(splits, evaluated, rounds, {})
        self._pooled = _of_curator(
            baselines.pool([split.train for split in splits]), self._population, rounds
        )
        self._scores = Scores(evaluated, {_UNIVERSE: None}, catalogue.n_items)

    def measure(self, mode: Mode, seed: int) -> None:
        """Trains a mode once, and scores what would be served."""
        plan, regions = mode.plan, self._population.regions
        if mode.name == CENTRAL:
            # One that holds everything adds the whole noise, once.
            trained = train_private(self._pooled, [_CURATOR], plan, f"study/{mode.name}/{seed}")
            n_summed = 1
        else:
            trained = train_private(self._population, regions, plan, f"study/{mode.name}/{seed}")
            n_summed = len(regions)
        models: dict[str, ModelState] = dict.fromkeys(regions, trained)
        ranker = Ranker(self._population, self._catalogue, plan, {_UNIVERSE: None})
        self._scores.add_served(plan.epsilon, mode.name, ranker, models, n_summed=n_summed)

    def rows(self, n_seeds: int, replicates: int) -> Iterator[StudyRow]:
        """The rows, by protocol and mode."""
        for _, protocol in SERVED_VARIANTS:
            values = {mode.name: self._values(mode, protocol) for mode in self._modes}
            central = values[CENTRAL]
            bootstrap = Bootstrap(len(central), n_seeds, replicates=replicates, seed=0)
            resampled = bootstrap.means(central)
            for mode in self._modes:
                own = values[mode.name]
                means = bootstrap.means(own)
                yield StudyRow(
                    epsilon=mode.plan.epsilon,
                    mode=mode.name,
                    survivors=_survivors(mode),
                    protocol=protocol.value,
                    mean=float(own.mean()),
                    interval=_interval(means),
                    difference=float(own.mean() - central.mean()),
                    difference_interval=_interval(means - resampled),
                    epsilon_by_survivors=_epsilons(mode),
                )

    def _values(self, mode: Mode, protocol: Protocol) -> FloatArray:
        """float64[customers with a value, seeds]."""
        cell = Cell(mode.plan.epsilon, mode.name, protocol, _UNIVERSE)
        qualities = self._scores.table.cells[cell]
        stacked = np.stack([each.by_customer[_METRIC] for each in qualities], axis=1)
        found: FloatArray = stacked[~np.isnan(stacked).any(axis=1)]
        return found


def _of_curator(pooled: PreferenceDataset, population: Population, rounds: int) -> Population:
    train = {_CURATOR: dict.fromkeys(range(1, rounds + 1), pooled)}
    return Population((_CURATOR,), train, population.evaluated)


def _survivors(mode: Mode) -> int:
    return 0 if mode.name == CENTRAL else mode.plan.aggregation.honest_survivors_min


def _epsilons(mode: Mode) -> tuple[tuple[int, float], ...]:
    """ε with K_min honest regions in every sum, and with one and two fewer."""
    honest = _survivors(mode)
    if not honest:
        return ()
    plan = mode.plan
    releases = [(plan.shared_noise(each), len(each.rounds)) for each in plan.mechanisms]
    numbers = range(honest, max(0, honest - 3), -1)
    return tuple(epsilon_by_survivors(releases, float(plan.delta), numbers).items())


def _interval(resampled: FloatArray) -> tuple[float, float]:
    low, high = np.percentile(resampled, _INTERVAL)
    return float(low), float(high)
