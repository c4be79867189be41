"""Ranking metrics, one value for each customer, over the full catalogue.

Binary relevance: what the customer bought in the test window is relevant, all else is not. A
customer without a relevant item has no value (NaN) and is left out of means.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from common.errors import InputError
from common.ranking import NO_ITEM, ItemSets

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def hits(ranked: IntArray, relevant: ItemSets) -> npt.NDArray[np.bool_]:
    """bool[n, k]: whether the item at each place is relevant to the customer.

    Args:
        ranked: int64[n, k], best first, `NO_ITEM` where there is none; no item twice in a row.
        relevant: The n customers' relevant items.
    """
    if ranked.ndim != 2 or len(ranked) != relevant.n_customers:
        raise InputError(
            f"A ranking of shape {ranked.shape} is not one of {relevant.n_customers} customers."
        )
    customers = np.broadcast_to(np.arange(len(ranked))[:, None], ranked.shape)
    return relevant.contains(customers, ranked)


def ndcg_at_k(ranked: IntArray, relevant: ItemSets, k: int) -> FloatArray:
    """Normalised discounted cumulative gain of the first k places.

    Source: Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques" (2002), with
    binary gains and the discount 1 / log2(place + 1); the ideal ranking has min(k, relevant) hits.

    Args:
        ranked: int64[n, ≥ k], see `hits`.
        relevant: The relevant items.
        k: How many places count.

    Returns:
        float64[n] within [0, 1]; NaN without relevant items.
    """
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    gained = hits(_first(ranked, k), relevant) @ discounts
    ideal = np.concatenate([[0.0], np.cumsum(discounts)])[np.minimum(relevant.sizes, k)]
    return _ratio(gained, ideal)


def recall_at_k(ranked: IntArray, relevant: ItemSets, k: int) -> FloatArray:
    """The share of the relevant items that are among the first k places.

    Source: Herlocker et al., "Evaluating collaborative filtering recommender systems" (2004),
    section 4.1; the denominator is all relevant items, also if they are more than k.
    """
    found = hits(_first(ranked, k), relevant).sum(axis=1).astype(np.float64)
    return _ratio(found, relevant.sizes.astype(np.float64))


def hit_rate_at_k(ranked: IntArray, relevant: ItemSets, k: int) -> FloatArray:
    """1 if any of the first k places is relevant, else 0.

    Source: Deshpande and Karypis, "Item-based top-N recommendation algorithms" (2004), section
    5.2; its mean over customers is the hit rate.
    """
    found = hits(_first(ranked, k), relevant).any(axis=1).astype(np.float64)
    return np.where(relevant.sizes > 0, found, np.nan)


def coverage_at_k(ranked: IntArray, n_items: int, k: int) -> float:
    """The share of the catalogue that is among anybody's first k places.

    Source: Ge, Delgado-Battenfeld and Jannach, "Beyond accuracy: evaluating recommender systems by
    coverage and serendipity" (2010), section 2.1 (catalogue coverage).
    """
    shown = _first(ranked, k)
    return len(np.unique(shown[shown != NO_ITEM])) / n_items


def _first(ranked: IntArray, k: int) -> IntArray:
    if k < 1 or ranked.shape[1] < k:
        raise InputError(f"A ranking of {ranked.shape[1]} places has no first {k}.")
    return ranked[:, :k]


def _ratio(values: FloatArray, whole: FloatArray) -> FloatArray:
    return np.where(whole > 0, values / np.where(whole > 0, whole, 1.0), np.nan)
