"""What a region makes of the shared model for one customer: tilt and fusion, free of ε.

Everything here uses the one customer's own history and released values. The result stays with the
customer (joint differential privacy, Kearns et al., 2014), so it is not charged.

The constants are public. They were chosen on the public Complete Journey data by figures of weeks
34–38, 39–43 and 44–48; the figures of weeks 49–53, which the study reports first, were seen
meanwhile, so they are no untouched test either (docs/decisions/0002-training.md).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from client.data.dataset import PreferenceDataset
from client.training.rows import factor_rows
from client.training.strategies import model_scores
from common.catalogue import Catalogue
from common.model_state import ModelState
from common.ranking import BoolArray, IntArray, ItemSets, fill, top_k, top_k_entries
from common.strategies import SUMS

FloatArray = npt.NDArray[np.float64]

# Exponents of the tilts by category and by the finer product type; 0.2 together.
CATEGORY_TILT = 0.1
TYPE_TILT = 0.1
# A customer's shares are smoothed as if this many more items had been bought at the global shares.
TILT_SMOOTHING = 20.0
# Fusion: (recent purchases + SHARED_WEIGHT · shared score) · (popularity + floor) ** exponent.
SHARED_WEIGHT = 4.0
POPULARITY_EXPONENT = 0.1
POPULARITY_FLOOR_STDDEVS = 3.0


def bought(dataset: PreferenceDataset) -> ItemSets:
    """What each customer of a data set bought."""
    return ItemSets(dataset.indptr, dataset.indices.astype(np.int64), dataset.n_items)


def shared_scores(history: PreferenceDataset, model: ModelState) -> FloatArray:
    """The shared model's scores of the vocabulary.

    Returns:
        float64[n_customers, m], for the items of `model.vocabulary`.
    """
    if model.strategy not in SUMS:
        return model_scores(history, model)
    chunks = [model.scores(rows) for rows in factor_rows(history, model)]
    return np.concatenate(chunks) if chunks else np.zeros((0, len(model.vocabulary)))


def tilted_scores(
    scores: FloatArray, history: PreferenceDataset, model: ModelState, catalogue: Catalogue
) -> FloatArray:
    """Scores tilted towards the categories and types that a customer buys more of than others.

    A positive score is multiplied by (own share / global share) ** exponent for its category and
    for its type. The own share counts the customer's distinct items, smoothed; the global share is
    of the released popularity of the vocabulary.

    Args:
        scores: float64[n_customers, m].
        history: The customers' purchases.
        model: The model the scores are of.
        catalogue: The public catalogue.

    Returns:
        float64[n_customers, m].
    """
    tilt = np.ones_like(scores)
    for codes, exponent in (
        (catalogue.category, CATEGORY_TILT),
        (catalogue.product_type, TYPE_TILT),
    ):
        tilt *= _share_ratio(history, model, codes) ** exponent
    return np.where(scores > 0, scores * tilt, scores)


def _share_ratio(
    history: PreferenceDataset, model: ModelState, codes: npt.NDArray[np.int32]
) -> FloatArray:
    """float64[n, m]: own share over global share of each vocabulary item's code."""
    of_item, used = np.unique(codes[model.vocabulary], return_inverse=True)
    column = np.full(int(codes.max()) + 1, -1, dtype=np.int64)
    column[of_item] = np.arange(len(of_item))
    released = np.maximum(model.popularity[model.vocabulary].astype(np.float64), 0.0)
    overall = np.bincount(used, weights=released, minlength=len(of_item))
    # A code whose popularity drowned in noise still gets a share above zero.
    overall = np.maximum(overall, 1e-6 * max(overall.sum(), 1e-300))
    overall /= overall.sum()
    own_items = bought(history)
    columns = column[codes[own_items.items]]
    known = columns >= 0
    cells = own_items.owners[known] * len(of_item) + columns[known]
    counts = np.bincount(cells, minlength=history.n_customers * len(of_item))
    own = counts.reshape(history.n_customers, len(of_item)) + TILT_SMOOTHING * overall
    own /= own_items.sizes[:, None] + TILT_SMOOTHING
    ratio: FloatArray = (own / overall)[:, used]
    return ratio


def rank_shared(
    scores: FloatArray,
    model: ModelState,
    k: int,
    *,
    excluded: ItemSets | None = None,
    universe: BoolArray | None = None,
) -> IntArray:
    """The k best items of the full catalogue for each customer.

    The vocabulary comes first, by score; whatever places are left go to the other items by released
    popularity.

    Args:
        scores: float64[n, m], for the items of `model.vocabulary`.
        model: The model.
        k: How many places.
        excluded: Items that a customer must not be ranked: those bought before, for new items.
        universe: bool[n_items], to rank within a part of the catalogue; all of it by default.

    Returns:
        int64[n, k].
    """
    allowed = np.ones(scores.shape, dtype=bool)
    if universe is not None:
        allowed &= universe[model.vocabulary]
    if excluded is not None:
        allowed &= ~excluded.table(model.vocabulary)
    ranked = top_k(scores, model.vocabulary, k, allowed=allowed)
    return fill(ranked, model.popularity, excluded=excluded, universe=universe)


def rank_fused(
    scores: FloatArray,
    history: PreferenceDataset,
    model: ModelState,
    k: int,
    *,
    popularity_noise_stddev: float,
    universe: BoolArray | None = None,
) -> IntArray:
    """The k best items, the customer's usual ones among them.

    A customer's candidates are the items bought before and the vocabulary.

    Args:
        scores: float64[n, m], shared (and tilted) scores.
        history: The customers' purchases; recent ones count more.
        model: The model.
        k: How many places.
        popularity_noise_stddev: Of the released popularity, from the run plan.
        universe: bool[n_items], to rank within a part of the catalogue; all of it by default.

    Returns:
        int64[n, k].
    """
    own = bought(history)
    column = np.full(model.n_items, -1, dtype=np.int64)
    column[model.vocabulary] = np.arange(len(model.vocabulary))
    known = column[own.items] >= 0
    shared = np.maximum(scores, 0.0) * SHARED_WEIGHT
    own_scores = history.history().values.astype(np.float64)
    own_scores[known] += shared[own.owners[known], column[own.items[known]]]
    fresh = np.ones(scores.shape, dtype=bool)
    fresh[own.owners[known], column[own.items[known]]] = False
    customers, columns = np.nonzero(fresh)
    owners = np.concatenate([own.owners, customers])
    items = np.concatenate([own.items, model.vocabulary[columns]])
    fused = np.concatenate([own_scores, shared[customers, columns]])
    fused *= popularity_power(model, popularity_noise_stddev=popularity_noise_stddev)[items]
    if universe is not None:
        kept = universe[items]
        owners, items, fused = owners[kept], items[kept], fused[kept]
    candidates, fused = _by_customer(owners, items, fused, len(scores), model.n_items)
    ranked = top_k_entries(candidates, fused, k)
    return fill(ranked, model.popularity, universe=universe)


def popularity_power(model: ModelState, *, popularity_noise_stddev: float) -> FloatArray:
    """float64[n_items]: what the fusion multiplies an item by, (popularity + floor) ** exponent.

    Args:
        model: The model.
        popularity_noise_stddev: Of the released popularity; the floor is a multiple of it.
    """
    released = np.maximum(model.popularity.astype(np.float64), 0.0)
    power: FloatArray = (
        released + POPULARITY_FLOOR_STDDEVS * popularity_noise_stddev
    ) ** POPULARITY_EXPONENT
    return power


def _by_customer(
    owners: IntArray, items: IntArray, scores: FloatArray, n_customers: int, n_items: int
) -> tuple[ItemSets, FloatArray]:
    """Entries of distinct items in any order as sets, with their scores alongside."""
    order = np.argsort(owners * n_items + items, kind="stable")
    sizes = np.bincount(owners, minlength=n_customers)
    bounds = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return ItemSets(bounds, items[order], n_items), scores[order]
