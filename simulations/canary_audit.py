"""A lower bound on the ε of a whole run of ``factors``, from customers planted to be told apart.

Source: Steinke, Nasr and Jagielski, "Privacy Auditing with One (1) Training Run" (2023). The
auditor is given all that ε allows her: every release of every round, the model that each started
from, and that nobody but the canaries takes part. Each buys one item that no other buys, so what
she would add is known and meets no other's, and the likelihood ratio over all rounds is the best
guess there is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from client.data.dataset import CustomerItemMatrix, PreferenceDataset
from client.training.audit_gates.canary_gate import lower_bound
from client.training.noise import NoiseSource, SeededNoise
from client.training.releases import release
from common.errors import InputError
from common.model_state import ModelState
from common.plan import Mechanism, RunPlan
from common.strategies import FACTORS
from common.timestamps import parse_time
from server.parameter_step import model_after
from server.round_total import WholeTotal

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Arrays = dict[str, npt.NDArray[np.generic]]

CONFIDENCE = 0.95


def canary_audit(
    plan: RunPlan,
    *,
    runs: int,
    seed: int,
    noise_of: Callable[[str], NoiseSource] = SeededNoise,
) -> dict[str, Any]:
    """Plants canaries in runs of a plan's mechanisms and guesses who took part.

    Args:
        plan: The run plan, of the strategy ``factors``; its noise, clipping and rounds are used, on
            a catalogue of the canaries' items.
        runs: How many runs are pooled, with coins of their own each.
        seed: Of coins and noise.
        noise_of: Makes a noise source of a seed's text.

    Returns:
        ``epsilon_at_least``: below the run's true ε with a probability of `CONFIDENCE`;
        ``confidence``; ``canaries``, in a run; ``runs``.

    Raises:
        InputError: The plan is of another strategy.
    """
    if plan.strategy != FACTORS:
        raise InputError(f"Canaries are planted in runs of {FACTORS}, not of {plan.strategy}.")
    audited = _small(plan)
    coins, scores = [], []
    for number in range(runs):
        included = np.random.default_rng((seed, number)).random(audited.n_items) < 0.5
        coins.append(included)
        scores.append(_guesses(audited, included, noise_of(f"canaries/{seed}/{number}")))
    bound = lower_bound(
        np.concatenate(scores),
        np.concatenate(coins),
        delta=float(plan.delta),
        alarm=1 - CONFIDENCE,
    )
    return {
        "epsilon_at_least": bound,
        "confidence": CONFIDENCE,
        "canaries": audited.n_items,
        "runs": runs,
    }


def _small(plan: RunPlan) -> RunPlan:
    """The plan over one region and a catalogue whose items all reach the clipping norm."""
    clipping_norm = float(plan.mechanisms[1].clipping_norm)
    # Directions are orthonormal columns, so the squares of m rows add up to d.
    size = max(plan.rank, min(1000, int(plan.rank / clipping_norm**2)))
    return RunPlan.from_record(
        {
            **plan.to_record(),
            "n_items": size,
            "vocabulary_size": size,
            "regions": [plan.regions[0]],
            "quorum": 1,
            # What is audited is one region's release, whatever becomes of it.
            "mode": "local",
            "aggregation": {"rule": "sum", "tolerated": 0, "honest_survivors_min": 0},
        }
    )


def _guesses(plan: RunPlan, included: BoolArray, noise: NoiseSource) -> FloatArray:
    """float64[canaries]: the log-likelihood ratio of taking part, over all of a run's releases."""
    dataset = _canaries(plan, np.flatnonzero(included))
    ratios = np.zeros(plan.n_items)
    model: Arrays = {}
    for server_round in range(1, plan.total_rounds + 1):
        released = release(dataset, model, plan=plan, server_round=server_round, noise=noise)
        mechanism = plan.mechanism_of(server_round)
        if server_round == 1:
            size = np.full(plan.n_items, min(1.0, float(mechanism.clipping_norm)))
            seen = released["popularity"].astype(np.float64) * size
        else:
            size, seen = _of_gradient(released["factor_gradient"], model, plan, mechanism)
        ratios += (seen - size**2 / 2) / mechanism.noise_stddev**2
        total = WholeTotal.of([released])
        model, _ = model_after(server_round, model, total, plan, {})
    return ratios


def _of_gradient(
    gradient: npt.NDArray[np.float32], model: Arrays, plan: RunPlan, mechanism: Mechanism
) -> tuple[FloatArray, FloatArray]:
    """float64[canaries] each: a contribution's norm, and the release's product with it."""
    state = ModelState.of_plan(model, plan)
    norms = np.linalg.norm(state.directions, axis=1)
    size = np.minimum(norms, float(mechanism.clipping_norm))
    contributions = -state.directions * (size / np.maximum(norms, 1e-300))[:, None]
    by_item = np.zeros((2, plan.n_items))
    by_item[0, state.vocabulary] = size
    by_item[1, state.vocabulary] = (gradient.astype(np.float64) * contributions).sum(axis=1)
    return by_item[0], by_item[1]


def _canaries(plan: RunPlan, items: npt.NDArray[np.int64]) -> PreferenceDataset:
    """One customer an item, who bought it once, just now."""
    end_ms = parse_time(plan.train_until)
    n = len(items)
    return PreferenceDataset(
        sids=tuple(f"canary-{item:06d}" for item in items.tolist()),
        counts=CustomerItemMatrix(
            np.arange(n + 1, dtype=np.int64),
            items.astype(np.int32),
            np.ones(n, dtype=np.float32),
            plan.n_items,
        ),
        last_ms=np.full(n, end_ms, dtype=np.int64),
        ages_weeks=np.zeros(n, dtype=np.float32),
        start_ms=parse_time(plan.train_from),
        end_ms=end_ms,
    )
