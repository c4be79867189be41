"""What the federated, private model is measured against; all of it on the same split.

None of these keep the promises the system keeps: they read customers' records without noise, and
most of them pool the regions. They exist to be compared with, in simulations only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from client.data.dataset import CustomerItemMatrix, PreferenceDataset
from client.training.dp_sgd import popularity_sum
from client.training.evaluation import RANKED_PLACES
from client.training.personalisation import bought
from client.training.rows import sparse_factor_rows
from common.errors import InputError
from common.model_state import ModelState
from common.plan import RunPlan
from common.ranking import BoolArray, IntArray, ItemSets, by_score, fill, top_k, top_k_entries
from server.aggregation import power_step, vocabulary_model

FloatArray = npt.NDArray[np.float64]

_POPULAR_CANDIDATES = 400


@dataclass(frozen=True)
class ModelSizes:
    """How large a model is, and how long it is trained.

    Attributes:
        vocabulary_size: m, the items that the factors are over; fewer in a smaller catalogue.
        rank: d, the number of factors.
        training_rounds: T, the steps of power iteration.
    """

    vocabulary_size: int
    rank: int
    training_rounds: int

    @classmethod
    def of_plan(cls, plan: RunPlan) -> ModelSizes:
        """The private model's sizes, which are small because noise grows with them."""
        return cls(plan.vocabulary_size, plan.rank, plan.training_rounds)


# Without noise a model can be larger. Chosen by NDCG@10 on new items on the cut at week 43, weeks
# 44 to 48, among m = 500, 1,000, 2,000, 5,000, d = 12, 16, 24, 32, 64, 128 and T = 4, 6, 10
# (docs/decisions/0002-training.md); the evaluated weeks were not looked at.
NO_PRIVACY_SIZES = ModelSizes(vocabulary_size=1000, rank=16, training_rounds=10)


def pool(datasets: Sequence[PreferenceDataset]) -> PreferenceDataset:
    """All regions' customers in one data set, region by region: what federation avoids.

    Raises:
        InputError: There is no data set, or their windows or catalogues differ.
    """
    if len({(each.n_items, each.start_ms, each.end_ms) for each in datasets}) != 1:
        raise InputError("Only data sets of one catalogue and one window can be pooled.")
    first = datasets[0]
    sizes = np.concatenate([np.diff(each.indptr) for each in datasets])
    return PreferenceDataset(
        sids=tuple(sid for each in datasets for sid in each.sids),
        counts=CustomerItemMatrix(
            np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            np.concatenate([each.indices for each in datasets]),
            np.concatenate([each.counts.values for each in datasets]),
            first.n_items,
        ),
        last_ms=np.concatenate([each.last_ms for each in datasets]),
        ages_weeks=np.concatenate([each.ages_weeks for each in datasets]),
        start_ms=first.start_ms,
        end_ms=first.end_ms,
    )


def popularity(dataset: PreferenceDataset) -> FloatArray:
    """float64[n_items]: how many customers bought each item."""
    return np.bincount(dataset.indices, minlength=dataset.n_items).astype(np.float64)


def rank_by_popularity(
    scores: FloatArray,
    n_customers: int,
    *,
    excluded: ItemSets | None = None,
    universe: BoolArray | None = None,
    places: int = RANKED_PLACES,
) -> IntArray:
    """The same ranking for everybody, but for what each must not be ranked.

    Args:
        scores: float64[n_items].
        n_customers: How many customers to rank for.
        excluded: Items that a customer must not be ranked.
        universe: bool[n_items], to rank within a part of the catalogue.
        places: How many items are ranked.
    """
    head = by_score(scores, universe, most=_POPULAR_CANDIDATES)
    shape = (n_customers, len(head))
    allowed = np.ones(shape, dtype=bool)
    if excluded is not None:
        allowed = ~excluded.table(head)
    # Places, not scores: so ties keep the order's rule.
    scores_of_head = np.broadcast_to(-np.arange(len(head), dtype=np.float64), shape)
    ranked = top_k(scores_of_head, head, places, allowed=allowed)
    return fill(ranked, scores, excluded=excluded, universe=universe)


def rank_by_history(
    history: PreferenceDataset,
    values: npt.NDArray[np.floating],
    fallback: FloatArray,
    *,
    universe: BoolArray | None = None,
    places: int = RANKED_PLACES,
) -> IntArray:
    """Each customer's own items by their value; ties and free places go by popularity.

    Args:
        history: The customers' purchases.
        values: float[n_entries], of the entries of `history`: a count or a recency.
        fallback: float64[n_items], popularity.
        universe: bool[n_items], to rank within a part of the catalogue.
        places: How many items are ranked.
    """
    own = bought(history)
    # Small enough not to outweigh any difference of values that matters.
    scores = values.astype(np.float64) + 1e-9 * fallback[own.items] / max(fallback.max(), 1.0)
    if universe is not None:
        kept = universe[own.items]
        own, scores = own.kept(kept), scores[kept]
    ranked = top_k_entries(own, scores, places)
    return fill(ranked, fallback, universe=universe)


def train_without_privacy(
    datasets: Sequence[PreferenceDataset], plan: RunPlan, sizes: ModelSizes | None = None
) -> ModelState:
    """The plan's model without noise and without clipping.

    With several data sets their sums are added up, as in federation. That gives the same model as
    pooling them, by construction and up to rounding: all a round needs is a sum over customers,
    and a sum does not depend on how the customers are divided.

    Args:
        datasets: The customers to learn from, one data set for each region or one of all.
        plan: The run plan.
        sizes: Of the model; the plan's by default.
    """
    sizes = sizes or ModelSizes.of_plan(plan)
    total = sum_of([popularity_sum(dataset, clipping_norm=1.0) for dataset in datasets])
    vocabulary_size = min(sizes.vocabulary_size, plan.n_items)
    model = vocabulary_model(
        total,
        vocabulary_size=vocabulary_size,
        rank=min(sizes.rank, vocabulary_size),
        row_exponent=float(plan.row_exponent),
        least_popularity=1e-9,
        init_seed=plan.init_seed,
    )
    for _ in range(sizes.training_rounds):
        state = ModelState.from_arrays(model)
        gradient = sum_of([_gradient(dataset, state) for dataset in datasets])
        model = {**model, "item_factors": power_step(gradient, noise_stddev=0.0)}
    return ModelState.from_arrays(model)


def _gradient(dataset: PreferenceDataset, state: ModelState) -> FloatArray:
    """float64[m, d]: the sum of the customers' gradients, −Yᵀ(YV), nothing clipped."""
    directions = state.directions
    gradient = np.zeros(directions.shape)
    for rows in sparse_factor_rows(dataset, state):
        gradient -= rows.T @ (rows @ directions)
    return gradient


def popularity_model(popularity: FloatArray, plan: RunPlan) -> ModelState:
    """Popularity with the plan's vocabulary of it; its factors are the untrained first ones."""
    return ModelState.from_arrays(
        vocabulary_model(
            popularity,
            vocabulary_size=plan.vocabulary_size,
            rank=plan.rank,
            row_exponent=float(plan.row_exponent),
            least_popularity=1e-9,
            init_seed=plan.init_seed,
        )
    )


def sum_of(arrays: Sequence[npt.NDArray[np.floating]]) -> FloatArray:
    """The sum of arrays, in float64 and in the order given."""
    total = np.zeros(arrays[0].shape)
    for array in arrays:
        total += array
    return total
