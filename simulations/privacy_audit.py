"""Attacks on what a run releases: canaries in its noisy sums, membership inference on its model.

An attack bounds the risk from below, ε from above: what the attacks find may never pass what ε
allows, and how far below it they stay says how sharp they are, not how private the run is. All of
it is trained anew by a simulation that knows who took part; no region's budget is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from client.data.dataset import PreferenceDataset
from client.training.audit_gates.membership import (
    FALSE_POSITIVE_RATES,
    MembershipRisk,
    highest_auc,
    highest_true_positive_rate,
    likelihood_ratios,
    membership_risk,
)
from client.training.noise import SeededNoise
from client.training.rows import popularity_values, sparse_factor_rows
from client.training.strategies import model_scores, vocabulary_rows
from common.errors import InputError
from common.model_state import ModelState
from common.plan import RunPlan
from common.strategies import SUMS
from simulations.canary_audit import canary_audit
from simulations.quality_methods import Population, RegionSplit, train_private

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Progress = Callable[[str, int, int], None]

#: How many models an attacker trains, if nobody says how many: enough for an interval.
MODELS = 16
CANARY_RUNS = 24
# A customer must be in some models' training and out of that of others, whatever the coins.
_FEWEST_MODELS = 4


class Silence(SeededNoise):
    """No noise at all: what the attacks find on an unprotected run."""

    def gaussian(self, shape: tuple[int, ...], stddev: float) -> FloatArray:
        """Zeros."""
        del stddev
        return np.zeros(shape)

    def fill(self, out: npt.NDArray[np.float32], stddev: float) -> None:
        """Zeros."""
        del stddev
        out[...] = 0.0


def audit_run(
    splits: Sequence[RegionSplit],
    plan: RunPlan,
    *,
    n_models: int = MODELS,
    seed: int = 1,
    progress: Progress = lambda _what, _done, _total: None,
) -> dict[str, Any]:
    """Attacks a plan's releases on these customers.

    Args:
        splits: Each region's customers, in the plan's order; their training windows are used.
        plan: The run plan.
        n_models: How many models the attacker trains, with noise and as many without.
        seed: Of who takes part and of the noise.
        progress: Called as the audit goes on.

    Returns:
        A dictionary that JSON can hold: ``models``, ``customers``, ``epsilon``, ``delta``,
        ``allowed`` (the most that any attack achieves at that ε: ``auc``, ``rates``),
        ``membership`` (``with_noise`` and ``without_noise``: ``auc``, ``auc_low``, ``auc_high``,
        ``rates``), ``canaries`` (``epsilon_at_least``, ``confidence``, ``canaries``, ``runs``; None
        for a strategy that trains in the regions, whose steps the audit gates cover) and
        ``within``: whether all of it is within what ε allows.

    Raises:
        InputError: There are too few models to attack with, or the regions are not the plan's.
    """
    if n_models < _FEWEST_MODELS:
        raise InputError(
            f"Membership inference with {n_models} models tells nothing.",
            remedy=f"Use {_FEWEST_MODELS} or more.",
        )
    if tuple(split.region for split in splits) != plan.regions:
        raise InputError("The audit's regions are not those of the run plan, in its order.")
    inside = _coins(splits, n_models, seed)
    total = 2 * n_models + 1
    risks = {}
    for place, (name, noise) in enumerate(
        {"with_noise": SeededNoise, "without_noise": Silence}.items()
    ):
        scores = []
        for number in range(n_models):
            progress(
                f"membership inference, {name.replace('_', ' ')}", place * n_models + number, total
            )
            population = _population(splits, inside[number], plan)
            state = train_private(
                population, plan.regions, plan, f"audit/{seed}/{number}", noise_of=noise
            )
            scores.append(_fits(splits, state))
        risks[name] = _attacked(np.array(scores), inside)
    canaries = None
    if plan.strategy in SUMS:
        progress("canaries", total - 1, total)
        canaries = canary_audit(plan, runs=CANARY_RUNS, seed=seed)
    epsilon, delta = float(plan.epsilon), float(plan.delta)
    return {
        "models": n_models,
        "customers": inside.shape[1],
        "epsilon": plan.epsilon,
        "delta": plan.delta,
        "allowed": {
            "auc": highest_auc(epsilon, delta),
            "rates": [
                {"false_positive_rate": rate, "true_positive_rate": most}
                for rate in FALSE_POSITIVE_RATES
                for most in [highest_true_positive_rate(epsilon, delta, rate)]
            ],
        },
        "membership": {name: _to_record(risk) for name, risk in risks.items()},
        "canaries": canaries,
        "within": not risks["with_noise"].breaks(epsilon, delta)
        and (canaries is None or canaries["epsilon_at_least"] <= epsilon),
    }


def _coins(splits: Sequence[RegionSplit], n_models: int, seed: int) -> BoolArray:
    """bool[models, customers]: who takes part, by a coin; each in two models and out of two."""
    generator = np.random.default_rng(seed)
    n_customers = sum(split.train.n_customers for split in splits)
    inside = generator.random((n_models, n_customers)) < 0.5
    while True:
        taken = inside.sum(axis=0)
        again = np.flatnonzero((taken < 2) | (taken > n_models - 2))
        if not len(again):
            return inside
        inside[:, again] = generator.random((n_models, len(again))) < 0.5


def _population(splits: Sequence[RegionSplit], inside: BoolArray, plan: RunPlan) -> Population:
    excluded, first = {}, 0
    for split in splits:
        sids = split.train.sids
        out = {sid for sid, kept in zip(sids, inside[first:], strict=False) if not kept}
        excluded[split.region] = dict.fromkeys(range(1, plan.total_rounds + 1), out)
        first += len(sids)
    return Population.of(splits, {}, plan.total_rounds, excluded)


def _fits(splits: Sequence[RegionSplit], state: ModelState) -> FloatArray:
    """float64[2, customers]: how well the model fits each, by popularity and by what it learnt."""
    parts = []
    for split in splits:
        dataset = split.train
        owners = np.repeat(np.arange(dataset.n_customers), np.diff(dataset.indptr))
        popular = np.bincount(
            owners,
            weights=popularity_values(dataset) * state.popularity[dataset.indices],
            minlength=dataset.n_customers,
        )
        parts.append(np.stack([popular, _learnt(dataset, state)]))
    return np.concatenate(parts, axis=1)


def _learnt(dataset: PreferenceDataset, state: ModelState) -> FloatArray:
    if state.strategy in SUMS:
        factors = state.item_factors.astype(np.float64)
        found = [
            np.linalg.norm(rows @ factors, axis=1) for rows in sparse_factor_rows(dataset, state)
        ]
        return np.concatenate([*found, np.zeros(0)])
    shares = model_scores(dataset, state)
    shares /= shares.sum(axis=1, keepdims=True)
    rows = vocabulary_rows(dataset, state)
    owners = np.repeat(np.arange(rows.n_rows), np.diff(rows.indptr))
    fit = np.bincount(owners, np.log(shares[owners, rows.indices]), minlength=rows.n_rows)
    mean: FloatArray = fit / np.maximum(np.diff(rows.indptr), 1)
    return mean


def _attacked(scores: FloatArray, inside: BoolArray) -> MembershipRisk:
    """Each model attacked with all the others as shadows: scores float64[models, 2, customers]."""
    ratios = []
    for number in range(len(scores)):
        others = np.arange(len(scores)) != number
        ratios.append(
            sum(
                likelihood_ratios(scores[number, kind], scores[others, kind], inside[others])
                for kind in range(scores.shape[1])
            )
        )
    found = np.array(ratios)
    return membership_risk(found[inside], found[~inside])


def _to_record(risk: MembershipRisk) -> dict[str, Any]:
    return {
        "auc": risk.auc,
        "auc_low": risk.auc_low,
        "auc_high": risk.auc_high,
        "rates": [
            {
                "false_positive_rate": point.false_positive_rate,
                "true_positive_rate": point.true_positive_rate,
                "low": point.low,
                "high": point.high,
            }
            for point in risk.points
        ],
    }
