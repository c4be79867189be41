"""What the strategies' defaults reach on made-up customers, from hundreds to hundreds of thousands.

``python -m simulations.training_study --help`` tells its options.

The rule that chooses sizes and schedules (`common.training_rules`) was read off such tables.
Nobody's data is looked at, so choosing by them costs no ε.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from client.data.dataset import PreferenceDataset
from client.training.noise import SeededNoise
from client.training.releases import release
from client.training.rows import factor_rows
from client.training.strategies import model_scores
from common.model_state import ModelState
from common.plan import RunPlan
from common.plan_defaults import default_plan
from common.privacy import UNIT_AND_RELATION
from common.strategies import SUMS, StrategyName
from server.parameter_step import model_after
from server.round_total import WholeTotal
from simulations.synthetic_scale import RegionPurchases, synthetic_regions

FloatArray = npt.NDArray[np.float64]
_TOP = 10
_EVALUATED = 400
_DELTA = "0.000001"
_DISCOUNT = 1.0 / np.log2(np.arange(2, _TOP + 2))


@dataclass(frozen=True)
class Outcome:
    """What one plan reached.

    Attributes:
        ndcg: NDCG@10 of new items over the whole catalogue, customers of all regions alike.
        seconds: How long training took.
    """

    ndcg: float
    seconds: float


def study_plan(
    strategy: StrategyName, *, n_customers: int, n_items: int, n_regions: int, epsilon: str
) -> RunPlan:
    """The default plan of a made-up federation."""
    return default_plan(
        run_id="study",
        federation="study",
        scenario="study",
        regions=[f"r{number}" for number in range(n_regions)],
        quorum=1,
        catalogue="0" * 64,
        n_items=n_items,
        train_from="2016-11-24T00:00:00.000Z",
        train_until="2017-10-26T00:00:00.000Z",
        epsilon=epsilon,
        delta=_DELTA,
        planned_customers=n_customers,
        strategy=strategy,
    )


def outcome_of(plan: RunPlan, regions: Sequence[RegionPurchases], *, seed: int) -> Outcome:
    """Trains a plan by the functions that engine and coordinator use, and measures it."""
    began = time.perf_counter()
    noise = [SeededNoise(f"{seed}/{number}") for number in range(len(regions))]
    model: dict[str, Any] = {}
    optimizer: dict[str, Any] = {}
    for server_round in range(1, plan.total_rounds + 1):
        releases = [
            release(region.train, model, plan=plan, server_round=server_round, noise=source)
            for region, source in zip(regions, noise, strict=True)
        ]
        total = WholeTotal.of(releases)
        model, optimizer = model_after(server_round, model, total, plan, optimizer)
    seconds = time.perf_counter() - began
    state = ModelState.of_plan(model, plan)
    return Outcome(_mean_ndcg(regions, lambda train: _scores(train, state)), seconds)


def popularity_outcome(regions: Sequence[RegionPurchases]) -> Outcome:
    """Ranking by the number of customers who bought an item, without privacy."""
    total = np.sum(
        [np.bincount(r.train.indices, minlength=r.train.n_items) for r in regions], axis=0
    ).astype(np.float64)
    return Outcome(_mean_ndcg(regions, lambda train: np.tile(total, (train.n_customers, 1))), 0.0)


def _scores(train: PreferenceDataset, state: ModelState) -> FloatArray:
    if state.strategy in SUMS:
        own = np.concatenate([state.scores(rows) for rows in factor_rows(train, state)])
    else:
        own = model_scores(train, state)
    full = np.full((train.n_customers, train.n_items), -np.inf)
    full[:, state.vocabulary] = own
    return full


def _mean_ndcg(regions: Sequence[RegionPurchases], scores_of: Any) -> float:
    found = []
    for region in regions:
        train, test = _first(region.train), _first(region.test)
        scores = scores_of(train)
        owners = np.repeat(np.arange(train.n_customers), np.diff(train.indptr))
        scores[owners, train.indices] = -np.inf
        best = np.argpartition(-scores, _TOP, axis=1)[:, :_TOP]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
        best = np.take_along_axis(best, order, axis=1)
        for row in range(test.n_customers):
            known = train.indices[train.indptr[row] : train.indptr[row + 1]]
            wanted = np.setdiff1d(test.indices[test.indptr[row] : test.indptr[row + 1]], known)
            if len(wanted):
                gain = _DISCOUNT[np.isin(best[row], wanted)].sum()
                found.append(gain / _DISCOUNT[: min(len(wanted), _TOP)].sum())
    return float(np.mean(found)) if found else float("nan")


def _first(dataset: PreferenceDataset) -> PreferenceDataset:
    """The first customers of a data set: as many as are evaluated."""
    n = min(_EVALUATED, dataset.n_customers)
    rows = dataset.rows(0, n)
    purchases = int(rows.values.sum())
    return PreferenceDataset(
        sids=dataset.sids[:n],
        counts=rows,
        last_ms=dataset.last_ms[: len(rows.indices)],
        ages_weeks=dataset.ages_weeks[:purchases],
        start_ms=dataset.start_ms,
        end_ms=dataset.end_ms,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a row for each number of customers, ε and strategy."""
    parser = argparse.ArgumentParser(prog="python -m simulations.training_study")
    parser.add_argument("--customers", type=int, nargs="+", default=[2_500, 25_000])
    parser.add_argument("--items", type=int, default=5_000)
    parser.add_argument("--regions", type=int, default=5)
    parser.add_argument("--epsilon", nargs="+", default=["8"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--strategies", nargs="+", choices=get_args(StrategyName), default=get_args(StrategyName)
    )
    options = parser.parse_args(arguments)
    sys.stdout.write(f"ε of a run in each region, δ = {_DELTA}; {UNIT_AND_RELATION}\n")
    for n_customers in options.customers:
        regions = synthetic_regions(
            n_customers, n_items=options.items, n_regions=options.regions, seed=1
        )
        _print(n_customers, "-", "popularity", popularity_outcome(regions), "no privacy")
        for epsilon in options.epsilon:
            for strategy in options.strategies:
                plan = study_plan(
                    strategy,
                    n_customers=n_customers,
                    n_items=options.items,
                    n_regions=options.regions,
                    epsilon=epsilon,
                )
                for seed in range(options.seeds):
                    found = outcome_of(plan, regions, seed=seed)
                    _print(n_customers, epsilon, strategy, found, summary(plan))
    return 0


def summary(plan: RunPlan) -> str:
    """A plan's sizes and schedule in a line."""
    training = plan.mechanisms[1]
    return (
        f"m={plan.vocabulary_size} d={plan.rank} T={plan.training_rounds}×{training.steps} "
        f"q={training.sampling_probability} σ/C={float(training.noise_multiplier):.2f} "
        f"C={training.clipping_norm}"
    )


def _print(n_customers: int, epsilon: str, name: str, found: Outcome, note: str) -> None:
    sys.stdout.write(
        f"n={n_customers:>8,}  ε={epsilon:>3}  {name:<21} NDCG@10 {found.ndcg:.4f}  "
        f"{found.seconds:7.1f} s  {note}\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
