"""A lower bound on the ε of a whole run of noisy sums, from customers planted to be told apart.

Source: Steinke, Nasr and Jagielski, "Privacy Auditing with One (1) Training Run" (2023). The
auditor is given all that ε allows her: every release of every round, the model that each started
from, and that nobody but the canaries takes part. Each buys items that no other buys, one for
``factors`` and a few for ``gram``, so what she would add is known and meets no other's, and the
likelihood ratio over all rounds is the best guess there is.
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
from common.item_pairs import pair_places
from common.model_state import ModelState
from common.plan import Mechanism, RunPlan
from common.strategies import GRAM, SUMS
from common.timestamps import parse_time
from server.parameter_step import model_after
from server.round_total import WholeTotal

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Arrays = dict[str, npt.NDArray[np.generic]]

CONFIDENCE = 0.95
# Of pairs a customer contributes the more, up to C, the more items she bought: 87% of it with 4.
_ITEMS_OF_GRAM = 4
_CANARIES_OF_GRAM = 250


def canary_audit(
    plan: RunPlan,
    *,
    runs: int,
    seed: int,
    noise_of: Callable[[str], NoiseSource] = SeededNoise,
) -> dict[str, Any]:
    """Plants canaries in runs of a plan's mechanisms and guesses who took part.

    Args:
        plan: The run plan, of ``factors`` or ``gram``; its noise, clipping and rounds are used, on
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
    if plan.strategy not in SUMS:
        wanted = " or ".join(SUMS)
        raise InputError(f"Canaries are planted in runs of {wanted}, not of {plan.strategy}.")
    audited = _small(plan)
    canaries = audited.n_items // _items_of(audited)
    coins, scores = [], []
    for number in range(runs):
        included = np.random.default_rng((seed, number)).random(canaries) < 0.5
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
        "canaries": canaries,
        "runs": runs,
    }


def _small(plan: RunPlan) -> RunPlan:
    """The plan over one region and a catalogue whose canaries reach C, or nearly."""
    clipping_norm = float(plan.mechanisms[1].clipping_norm)
    # Directions are orthonormal columns, so the squares of m rows add up to d.
    size = max(plan.rank, min(1000, int(plan.rank / clipping_norm**2)))
    if plan.strategy == GRAM:
        size = _CANARIES_OF_GRAM * _ITEMS_OF_GRAM
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
    each = _items_of(plan)
    dataset = _canaries(plan, np.flatnonzero(included), each)
    ratios = np.zeros(len(included))
    model: Arrays = {}
    state: Arrays = {}
    for server_round in range(1, plan.total_rounds + 1):
        released = release(dataset, model, plan=plan, server_round=server_round, noise=noise)
        mechanism = plan.mechanism_of(server_round)
        if server_round == 1:
            size = np.full(len(included), min(1.0, float(mechanism.clipping_norm)))
            by_canary = released["popularity"].astype(np.float64).reshape(-1, each)
            seen = by_canary.sum(axis=1) * size / np.sqrt(each)
        elif mechanism.name == GRAM:
            size, seen = _of_pairs(released["item_gram"], model, plan, mechanism)
        else:
            size, seen = _of_gradient(released["factor_gradient"], model, plan, mechanism)
        ratios += (seen - size**2 / 2) / mechanism.noise_stddev**2
        if server_round < plan.total_rounds:
            total = WholeTotal.of([released])
            model, state = model_after(server_round, model, total, plan, state)
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


def _of_pairs(
    pairs: npt.NDArray[np.float32], model: Arrays, plan: RunPlan, mechanism: Mechanism
) -> tuple[FloatArray, FloatArray]:
    """As `_of_gradient`, of what is released of pairs."""
    state = ModelState.of_plan(model, plan)
    size = len(state.vocabulary)
    column = np.empty(size, dtype=np.int64)
    column[state.vocabulary] = np.arange(size)
    columns = np.sort(column.reshape(-1, _ITEMS_OF_GRAM), axis=1)
    rows = state.item_weights.astype(np.float64)[columns]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    first, second = np.triu_indices(_ITEMS_OF_GRAM, 1)
    contributions = rows[:, first] * rows[:, second]
    norms = np.linalg.norm(contributions, axis=1)
    clipped = np.minimum(norms, float(mechanism.clipping_norm))
    contributions *= (clipped / norms)[:, None]
    seen = pairs[pair_places(columns[:, first], columns[:, second], size)].astype(np.float64)
    return clipped, (seen * contributions).sum(axis=1)


def _items_of(plan: RunPlan) -> int:
    """How many items each canary buys."""
    return _ITEMS_OF_GRAM if plan.strategy == GRAM else 1


def _canaries(plan: RunPlan, numbers: npt.NDArray[np.int64], each: int) -> PreferenceDataset:
    """Customers who bought items of their own, once each, just now."""
    end_ms = parse_time(plan.train_until)
    items = (numbers[:, None] * each + np.arange(each)).ravel()
    n = len(items)
    return PreferenceDataset(
        sids=tuple(f"canary-{number:06d}" for number in numbers.tolist()),
        counts=CustomerItemMatrix(
            np.arange(len(numbers) + 1, dtype=np.int64) * each,
            items.astype(np.int32),
            np.ones(n, dtype=np.float32),
            plan.n_items,
        ),
        last_ms=np.full(n, end_ms, dtype=np.int64),
        ages_weeks=np.zeros(n, dtype=np.float32),
        start_ms=parse_time(plan.train_from),
        end_ms=end_ms,
    )
