"""How quality grows with the number of customers, from a thousand to a million, on made-up ones.

``python -m simulations.scale_study --help`` tells its options. Figures are kept in a file as they
come, and a study that is begun again measures only what is missing; ``--chart`` draws them.

Nobody's data is looked at, so choosing by it costs no ε; it says nothing of anybody's data either.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np

from client.data.dataset import PreferenceDataset
from client.training.evaluation import EvaluationSet, Protocol, select_customers
from client.training.personalisation import rank_shared, shared_scores
from common.aggregation_rules import NoiseMode
from common.errors import InputError
from common.metrics import ndcg_at_k
from common.model_state import ModelState
from common.plan import RunPlan
from common.plan_defaults import default_plan
from common.privacy import UNIT_AND_RELATION
from common.ranking import IntArray
from common.strategies import FACTORS, SUMS, StrategyName
from simulations import baselines
from simulations.quality_methods import Population, train_private
from simulations.scale_chart import write_chart
from simulations.scale_figures import NO_PRIVACY, POPULARITY, Figures, Measured
from simulations.synthetic_scale import RegionPurchases, streamed_regions

_DELTA = "0.000001"
_PLACES = 10
# Of each region so many customers are ranked for: enough for a standard error of some 0.002.
_EVALUATED = 1_000
_SEED = 1


@dataclass(frozen=True, eq=False)
class Market:
    """The made-up customers of one size, region by region.

    Attributes:
        train: Their purchases in the training window.
        evaluated: Those of them who are ranked for.
        sizes: How many customers, items and regions there are.
    """

    train: tuple[PreferenceDataset, ...] = field(repr=False)
    evaluated: tuple[EvaluationSet, ...] = field(repr=False)
    sizes: tuple[int, int, int]

    @classmethod
    def made_up(cls, n_customers: int, *, n_items: int, n_regions: int) -> Market:
        """Draws them; what nobody is ranked by is let go region by region."""
        train, evaluated = [], []
        for region in streamed_regions(
            n_customers, n_items=n_items, n_regions=n_regions, seed=_SEED
        ):
            train.append(region.train)
            evaluated.append(_evaluated(region))
        return cls(tuple(train), tuple(evaluated), (n_customers, n_items, n_regions))

    def quality(self, rankings: Sequence[IntArray]) -> tuple[float, float]:
        """Mean and standard error of NDCG@10 of new items, over the customers of all regions."""
        values = np.concatenate(
            [
                ndcg_at_k(ranked, evaluation.relevant(Protocol.NEW), _PLACES)
                for ranked, evaluation in zip(rankings, self.evaluated, strict=True)
            ]
        )
        values = values[~np.isnan(values)]
        return float(values.mean()), float(values.std() / np.sqrt(len(values)))

    def ranked_by(self, state: ModelState) -> list[IntArray]:
        """Lists of new items by a model's shared scores alone."""
        return [
            rank_shared(shared_scores(each.history, state), state, _PLACES, excluded=each.seen)
            for each in self.evaluated
        ]


def _evaluated(region: RegionPurchases) -> EvaluationSet:
    sids = region.train.sids[:_EVALUATED]
    return EvaluationSet.of(
        select_customers(region.train, sids), select_customers(region.test, sids)
    )


def plan_for(
    market: Market, strategy: StrategyName, *, epsilon: str, mode: NoiseMode = "local"
) -> RunPlan:
    """The default plan of a made-up federation; all regions are honest where noise is shared."""
    n_customers, n_items, n_regions = market.sizes
    shared = mode == "distributed"
    return default_plan(
        run_id="study",
        federation="study",
        scenario="study",
        regions=[f"r{number}" for number in range(n_regions)],
        quorum=n_regions if shared else 1,
        catalogue="0" * 64,
        n_items=n_items,
        train_from="2016-11-24T00:00:00.000Z",
        train_until="2017-10-26T00:00:00.000Z",
        epsilon=epsilon,
        delta=_DELTA,
        planned_customers=n_customers,
        strategy=strategy,
        mode=mode,
        rule="secure-sum" if shared else "sum",
        honest_survivors_min=n_regions if shared else 0,
    )


def measure_private(
    market: Market, strategy: StrategyName, *, epsilon: str, mode: NoiseMode, seed: int
) -> Measured:
    """Trains a default plan by the functions that engine and coordinator use."""
    plan = plan_for(market, strategy, epsilon=epsilon, mode=mode)
    everyone = Population(
        plan.regions,
        {
            region: dict.fromkeys(range(1, plan.total_rounds + 1), dataset)
            for region, dataset in zip(plan.regions, market.train, strict=True)
        },
        {},
    )
    began = time.perf_counter()
    state = train_private(everyone, plan.regions, plan, str(seed))
    seconds = time.perf_counter() - began
    ndcg, error = market.quality(market.ranked_by(state))
    return Measured(market.sizes[0], strategy, mode, epsilon, seed, ndcg, error, seconds)


def measure_without_privacy(market: Market) -> list[Measured]:
    """What most customers bought, and factors without noise or clipping, of larger sizes."""
    began = time.perf_counter()
    bought = baselines.sum_of([baselines.popularity(each) for each in market.train])
    popular = [
        baselines.rank_by_popularity(
            bought, each.history.n_customers, excluded=each.seen, places=_PLACES
        )
        for each in market.evaluated
    ]
    halfway = time.perf_counter()
    plan = plan_for(market, FACTORS, epsilon="8")
    state = baselines.train_without_privacy(market.train, plan, baselines.NO_PRIVACY_SIZES)
    ended = time.perf_counter()
    return [
        Measured(market.sizes[0], name, "", "", 0, *market.quality(ranked), seconds)
        for name, ranked, seconds in (
            (POPULARITY, popular, halfway - began),
            (NO_PRIVACY, market.ranked_by(state), ended - halfway),
        )
    ]


def study(options: argparse.Namespace, figures: Figures) -> None:
    """Measures what the options name and the file does not have."""
    for n_customers in options.customers:
        wanted = [
            (n_customers, strategy, mode, epsilon, seed)
            for epsilon in options.epsilon
            for mode in options.modes
            for strategy in options.strategies
            # Only sums over all customers can share their noise.
            if mode == "local" or strategy in SUMS
            for seed in range(options.seeds)
        ]
        missing = [key for key in wanted if not figures.has(key)]
        plain = not figures.has((n_customers, NO_PRIVACY, "", "", 0))
        if not (missing or plain):
            continue
        market = Market.made_up(n_customers, n_items=options.items, n_regions=options.regions)
        if plain:
            for measured in measure_without_privacy(market):
                _keep(measured, figures)
        for _, strategy, mode, epsilon, seed in missing:
            try:
                measured = measure_private(market, strategy, epsilon=epsilon, mode=mode, seed=seed)
                _keep(measured, figures)
            except InputError as error:
                # Such a plan is refused: there is no figure, and the line says why.
                sys.stdout.write(f"n={n_customers:>9,}  ε={epsilon}  {mode} {strategy}: {error}\n")


def _keep(measured: Measured, figures: Figures) -> None:
    figures.add(measured)
    sys.stdout.write(f"{measured}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints a line for each figure, and draws them."""
    parser = argparse.ArgumentParser(prog="python -m simulations.scale_study")
    parser.add_argument("--figures", type=Path, required=True, help="JSON file, made or added to")
    parser.add_argument("--chart", type=Path, help="SVG file to write")
    parser.add_argument(
        "--customers", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000]
    )
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--regions", type=int, default=5)
    parser.add_argument("--epsilon", nargs="+", default=["8", "1"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--modes", nargs="+", choices=get_args(NoiseMode), default=["local", "distributed"]
    )
    parser.add_argument(
        "--strategies", nargs="+", choices=get_args(StrategyName), default=get_args(StrategyName)
    )
    options = parser.parse_args(arguments)
    sys.stdout.write(f"ε of a run in each region, δ = {_DELTA}; {UNIT_AND_RELATION}\n")
    figures = Figures(options.figures)
    study(options, figures)
    if options.chart:
        write_chart(figures.all, options.chart)
    return 0


if __name__ == "__main__":
    sys.exit(main())
