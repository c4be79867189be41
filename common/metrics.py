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


def gini_at_k(ranked: IntArray, n_items: int, k: int) -> float:
    """How unequally the first k places of all customers are shared out among the items.

    0 if every item is shown as often as any other, near 1 if a few have all places.

    Source: Shani and Gunawardana, "Evaluating recommendation systems" (2011), section 8.3.3.2 (Gini
    index of sales diversity), divided by n rather than n − 1, so that one item alone gives 1 − 1/n.

    Args:
        ranked: int64[n, ≥ k], see `hits`.
        n_items: How many items could have been shown.
        k: How many places count.
    """
    shown = _first(ranked, k)
    counts = np.sort(np.bincount(shown[shown != NO_ITEM], minlength=n_items)).astype(np.float64)
    total = counts.sum()
    if not total > 0:
        return 0.0
    places = np.arange(1, n_items + 1)
    return float(((2 * places - n_items - 1) * counts).sum() / (n_items * total))


def novelty_at_k(ranked: IntArray, popularity: FloatArray, n_customers: int, k: int) -> FloatArray:
    """The mean self-information of the first k places, in bits: how rarely such items are bought.

    Source: Zhou et al., "Solving the apparent diversity–accuracy dilemma of recommender systems"
    (2010), surprisal −log2(customers with the item / customers). An item that nobody bought counts
    as if half a customer had, so that the mean stays finite.

    Args:
        ranked: int64[n, ≥ k], see `hits`.
        popularity: float64[n_items], how many customers bought each item in training.
        n_customers: How many customers there are in training, at least 1.
        k: How many places count.

    Returns:
        float64[n]; NaN where no place is taken.
    """
    surprisal = -np.log2(np.maximum(popularity, 0.5) / n_customers)
    return _mean_of_shown(_first(ranked, k), surprisal)


def tail_share_at_k(ranked: IntArray, in_tail: npt.NDArray[np.bool_], k: int) -> FloatArray:
    """The share of the first k places that are of the long tail.

    Source: Abdollahpouri, Burke and Mobasher, "Managing popularity bias in recommender systems with
    personalized re-ranking" (2019), section 4.3 (average percentage of long-tail items).

    Args:
        ranked: int64[n, ≥ k], see `hits`.
        in_tail: bool[n_items], see `long_tail`.
        k: How many places count.

    Returns:
        float64[n] within [0, 1]; NaN where no place is taken.
    """
    return _mean_of_shown(_first(ranked, k), in_tail.astype(np.float64))


def long_tail(popularity: FloatArray, *, head_share: float = 0.8) -> npt.NDArray[np.bool_]:
    """bool[n_items]: all items but the fewest that together have a share of what was bought.

    Source: Celma, "Music Recommendation and Discovery" (2010), chapter 4 (head and tail).

    Args:
        popularity: float64[n_items], how many customers bought each item.
        head_share: What the head has together, within (0, 1).
    """
    order = np.argsort(-popularity, kind="stable")
    before = np.cumsum(popularity[order]) - popularity[order]
    tail = np.ones(len(popularity), dtype=bool)
    tail[order[before < head_share * popularity.sum()]] = False
    return tail


def _mean_of_shown(shown: IntArray, values: FloatArray) -> FloatArray:
    """float64[n]: the mean of float64[n_items] over the places that are taken."""
    taken = shown != NO_ITEM
    total = np.where(taken, values[np.where(taken, shown, 0)], 0.0).sum(axis=1)
    return _ratio(total, taken.sum(axis=1).astype(np.float64))


def _first(ranked: IntArray, k: int) -> IntArray:
    if k < 1 or ranked.shape[1] < k:
        raise InputError(f"A ranking of {ranked.shape[1]} places has no first {k}.")
    return ranked[:, :k]


def _ratio(values: FloatArray, whole: FloatArray) -> FloatArray:
    return np.where(whole > 0, values / np.where(whole > 0, whole, 1.0), np.nan)
