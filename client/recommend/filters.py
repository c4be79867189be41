"""From scores to a list: what may be shown, the best of it, and how far it is spread.

A candidate whose score is 0 has nothing for it; the places that scores leave over go to the other
items by released popularity. Ties go to the smaller number, so that a list is the same each time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from client.recommend.scoring import Scored, ScoringTables
from client.recommend.types import Query

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

# Of so many candidates for each place a spread list is chosen.
_POOL_OF, _LEAST_POOL = 5, 100
#: How alike two items are that share the product type, or the category only.
SAME_TYPE, SAME_CATEGORY = 1.0, 0.5


@dataclass(frozen=True, eq=False)
class Chosen:
    """A list.

    Attributes:
        items: int64[l], the items' numbers, best first.
        scores: float64[l], what they were ranked by; 0 for those that popularity added.
        places: int64[l], where each is among the candidates; −1 for those that popularity added.
    """

    items: IntArray = field(repr=False)
    scores: FloatArray = field(repr=False)
    places: IntArray = field(repr=False)


def allowed_items(
    tables: ScoringTables,
    query: Query,
    *,
    bought: Iterable[int] = (),
    left_out: Iterable[int] = (),
) -> BoolArray:
    """Which items of the catalogue a query may show.

    Args:
        tables: Of the catalogue.
        query: Its exclusions, its stock, and whether items bought before count.
        bought: Numbers of the items that the customer bought before.
        left_out: Numbers of items that a rule on live events leaves out.

    Returns:
        bool[n_items].
    """
    if query.in_stock is None:
        allowed = np.ones(tables.n_items, dtype=bool)
    else:
        allowed = np.zeros(tables.n_items, dtype=bool)
        allowed[_known(tables, query.in_stock)] = True
    allowed[_known(tables, query.exclude)] = False
    allowed[np.fromiter(left_out, dtype=np.int64)] = False
    if query.new_only:
        allowed[np.fromiter(bought, dtype=np.int64)] = False
    return allowed


def choose(
    tables: ScoringTables, scored: Scored, k: int, *, allowed: BoolArray, diversity: float = 0.0
) -> Chosen:
    """The list of one customer.

    Args:
        tables: Of the catalogue.
        scored: Her candidates.
        k: How many items.
        allowed: bool[n_items], which may be shown.
        diversity: 0 for the best scores, up to 1 for the widest spread; see `_spread`.

    Returns:
        k items, or all that may be shown if there are fewer.
    """
    kept = np.flatnonzero(allowed[scored.items] & (scored.scores > 0))
    pool = pool_size(k, diversity)
    places = kept[_best(scored.scores[kept], scored.items[kept], pool)]
    if diversity:
        places = _spread(tables, scored, places, k, diversity)
    items, scores = scored.items[places], scored.scores[places]
    rest = most_popular(tables, k - len(items), allowed=allowed, but=items)
    return Chosen(
        np.concatenate([items, rest]),
        np.concatenate([scores, np.zeros(len(rest))]),
        np.concatenate([places, np.full(len(rest), -1, dtype=np.int64)]),
    )


def pool_size(k: int, diversity: float) -> int:
    """Among how many of the best a list of k is chosen."""
    return max(_LEAST_POOL, _POOL_OF * k) if diversity else k


def most_popular(
    tables: ScoringTables, k: int, *, allowed: BoolArray, but: IntArray | None = None
) -> IntArray:
    """int64[≤ k]: the most popular items that may be shown, best first.

    Args:
        tables: Of the catalogue.
        k: How many.
        allowed: bool[n_items].
        but: Numbers of items that are in the list already.
    """
    if k <= 0:
        return np.zeros(0, dtype=np.int64)
    left = allowed
    if but is not None and len(but):
        left = allowed.copy()
        left[but] = False
    found: IntArray = tables.by_popularity[left[tables.by_popularity]][:k]
    return found


def _best(scores: FloatArray, items: IntArray, k: int) -> IntArray:
    """Where the k best scores are, best first; ties go to the smaller number."""
    chosen = np.arange(len(scores))
    if k < len(scores):
        kth = np.partition(scores, len(scores) - k)[len(scores) - k]
        chosen = np.flatnonzero(scores >= kth)
    order = np.lexsort((items[chosen], -scores[chosen]))[:k]
    best: IntArray = chosen[order]
    return best


def _spread(
    tables: ScoringTables, scored: Scored, places: IntArray, k: int, diversity: float
) -> IntArray:
    """Chooses among the best so that what is alike does not crowd together.

    Maximal marginal relevance (Carbonell and Goldstein, 1998): each place goes to the item with the
    greatest (1 − diversity) · score / best score − diversity · greatest likeness to an item above.

    Args:
        tables: Of the catalogue.
        scored: The candidates.
        places: int64[p], where the best of them are, best first.
        k: How many to choose.
        diversity: Above 0.
    """
    if not len(places):
        return places
    catalogue, items = tables.catalogue, scored.items[places]
    types, categories = catalogue.product_type[items], catalogue.category[items]
    value = (1.0 - diversity) * scored.scores[places] / scored.scores[places[0]]
    nearest = np.zeros(len(places))
    chosen: list[int] = []
    for _ in range(min(k, len(places))):
        # `argmax` takes the first, which has the better score.
        best = int(np.argmax(value - diversity * nearest))
        chosen.append(best)
        value[best] = -np.inf
        alike = np.where(
            types == types[best],
            SAME_TYPE,
            np.where(categories == categories[best], SAME_CATEGORY, 0.0),
        )
        nearest = np.maximum(nearest, alike)
    spread: IntArray = places[chosen]
    return spread


def _known(tables: ScoringTables, references: Iterable[str]) -> IntArray:
    """The numbers of those references that are in the catalogue."""
    positions = tables.catalogue.positions(references).astype(np.int64)
    known: IntArray = positions[positions >= 0]
    return known
