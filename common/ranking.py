"""Sets of items by customer, and rankings of items with deterministic ties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from common.errors import InputError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

# Marks a place of a ranking that no item was left for.
NO_ITEM = -1


@dataclass(frozen=True, eq=False)
class ItemSets:
    """A set of items for each of n customers.

    Attributes:
        indptr: int64[n + 1]; customer u has the entries indptr[u] to indptr[u + 1].
        items: int64[n_entries], item numbers, strictly ascending for each customer.
        n_items: The number of items of the catalogue.
    """

    indptr: IntArray = field(repr=False)
    items: IntArray = field(repr=False)
    n_items: int

    @property
    def n_customers(self) -> int:
        """The number of customers."""
        return len(self.indptr) - 1

    @property
    def sizes(self) -> IntArray:
        """int64[n]: how many items each customer has."""
        return np.diff(self.indptr)

    @property
    def owners(self) -> IntArray:
        """int64[n_entries]: whose each entry is."""
        return np.repeat(np.arange(self.n_customers), self.sizes)

    def contains(self, customers: IntArray, items: IntArray) -> BoolArray:
        """For pairs of equal shape, whether the customer's set has the item."""
        keys = self.owners * self.n_items + self.items
        wanted = customers * self.n_items + items
        if not len(keys):
            return np.zeros(wanted.shape, dtype=bool)
        places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        found: BoolArray = (keys[places] == wanted) & (items >= 0)
        return found

    def table(self, items: IntArray) -> BoolArray:
        """bool[n, c]: which of c distinct items each customer has."""
        column = np.full(self.n_items, -1, dtype=np.int64)
        column[items] = np.arange(len(items))
        columns = column[self.items]
        known = columns >= 0
        table = np.zeros((self.n_customers, len(items)), dtype=bool)
        table[self.owners[known], columns[known]] = True
        return table

    def without(self, other: ItemSets) -> ItemSets:
        """Each customer's items that are not in the customer's set of `other`."""
        return self.kept(~other.contains(self.owners, self.items))

    def within(self, universe: BoolArray) -> ItemSets:
        """Each customer's items within bool[n_items]."""
        return self.kept(universe[self.items])

    @classmethod
    def concatenated(cls, parts: Sequence[ItemSets]) -> ItemSets:
        """The customers of several sets of one catalogue, one after the other."""
        return cls(
            _bounds(np.concatenate([part.sizes for part in parts])),
            np.concatenate([part.items for part in parts]),
            parts[0].n_items,
        )

    def rows(self, start: int, stop: int) -> ItemSets:
        """The customers from `start` up to `stop`, without copying their items."""
        bounds = self.indptr[start : stop + 1]
        items = self.items[int(bounds[0]) : int(bounds[-1])]
        return ItemSets(bounds - bounds[0], items, self.n_items)

    def kept(self, keep: BoolArray) -> ItemSets:
        """The entries that bool[n_entries] keeps."""
        sizes = np.bincount(self.owners[keep], minlength=self.n_customers)
        return ItemSets(_bounds(sizes), self.items[keep], self.n_items)


def top_k(
    scores: FloatArray, items: IntArray, k: int, *, allowed: BoolArray | None = None
) -> IntArray:
    """The k best items of each customer among common candidates; ties go to the smaller number.

    Args:
        scores: float64[n, c], finite: a score of each customer for each candidate.
        items: int64[c], the candidates' item numbers, distinct.
        k: How many places.
        allowed: bool[n, c], which candidates may be ranked; all by default.

    Returns:
        int64[n, k], best first, `NO_ITEM` where candidates run out.

    Raises:
        InputError: A score is not finite.
    """
    _require_finite(scores)
    ranked = scores if allowed is None else np.where(allowed, scores, -np.inf)
    chosen = np.isfinite(ranked)
    if k < ranked.shape[1]:
        # What is below a customer's k-th best score cannot be among the first k.
        kth = np.partition(ranked, ranked.shape[1] - k, axis=1)[:, [ranked.shape[1] - k]]
        chosen &= ranked >= kth
    customers, places = np.nonzero(chosen)
    return ranked_pairs(customers, items[places], ranked[customers, places], len(scores), k)


def top_k_entries(candidates: ItemSets, scores: FloatArray, k: int) -> IntArray:
    """The k best items of each customer among the customer's own candidates.

    Args:
        candidates: Each customer's candidates.
        scores: float64[n_entries], finite, one for each entry of `candidates`.
        k: How many places.

    Returns:
        int64[n, k], best first, `NO_ITEM` where candidates run out; ties as in `top_k`.

    Raises:
        InputError: A score is not finite.
    """
    _require_finite(scores)
    chosen = np.ones(len(scores), dtype=bool)
    for start, stop in zip(candidates.indptr[:-1], candidates.indptr[1:], strict=True):
        if stop - start > k:
            own = scores[start:stop]
            chosen[start:stop] = own >= np.partition(own, len(own) - k)[len(own) - k]
    return ranked_pairs(
        candidates.owners[chosen],
        candidates.items[chosen],
        scores[chosen],
        candidates.n_customers,
        k,
    )


def ranked_pairs(
    customers: IntArray, items: IntArray, scores: FloatArray, n_customers: int, k: int
) -> IntArray:
    """The k best items of each customer among pairs of a customer and an item.

    Args:
        customers: int64[n_pairs], whose each is, in any order.
        items: int64[n_pairs], distinct for a customer.
        scores: float64[n_pairs].
        n_customers: How many customers there are.
        k: How many places.

    Returns:
        int64[n_customers, k], best first, `NO_ITEM` where pairs run out; ties as in `top_k`.
    """
    order = np.lexsort((items, -scores, customers))
    bounds = _bounds(np.bincount(customers, minlength=n_customers))
    places = np.arange(len(order)) - bounds[customers[order]]
    kept = places < k
    result = np.full((n_customers, k), NO_ITEM, dtype=np.int64)
    result[customers[order][kept], places[kept]] = items[order][kept]
    return result


def by_score(
    scores: npt.NDArray[np.floating],
    universe: BoolArray | None = None,
    *,
    most: int | None = None,
) -> IntArray:
    """Item numbers by float[n_items], best first; ties to the smaller number.

    Args:
        scores: A score of each item of the catalogue.
        universe: bool[n_items], to order a part of the catalogue; all of it by default.
        most: How many are asked for; all by default.
    """
    values = -scores.astype(np.float64)
    items = np.arange(len(values)) if universe is None else np.flatnonzero(universe)
    if most is not None and most < len(items):
        if most <= 0:
            return items[:0]
        kth = np.partition(values[items], most - 1)[most - 1]
        items = items[values[items] <= kth]
    order: IntArray = items[np.argsort(values[items], kind="stable")]
    return order if most is None else order[:most]


def fill(
    ranked: IntArray,
    scores: npt.NDArray[np.floating],
    *,
    excluded: ItemSets | None = None,
    universe: BoolArray | None = None,
) -> IntArray:
    """Fills the free places of rankings by a score that is the same for all customers.

    Args:
        ranked: int64[n, k], free places last.
        scores: float[n_items].
        excluded: Items that a customer must not be ranked; none by default.
        universe: bool[n_items], which items may be ranked; all by default.

    Returns:
        int64[n, k].
    """
    short = np.flatnonzero(ranked[:, -1] == NO_ITEM)
    if not len(short):
        return ranked
    filled = ranked.copy()
    width = ranked.shape[1]
    # Nobody needs more than so many, whichever are taken.
    most = width + (0 if excluded is None else int(excluded.sizes[short].max()))
    order = by_score(scores, universe, most=most).tolist()
    for customer in short:
        taken = set(ranked[customer].tolist())
        if excluded is not None:
            bounds = excluded.indptr[customer : customer + 2]
            taken.update(excluded.items[bounds[0] : bounds[1]].tolist())
        place = int((ranked[customer] != NO_ITEM).sum())
        for item in order if place < width else ():
            if item not in taken:
                filled[customer, place] = item
                place += 1
                if place == width:
                    break
    return filled


def _bounds(sizes: IntArray) -> IntArray:
    bounds: IntArray = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return bounds


def _require_finite(scores: FloatArray) -> None:
    if not np.isfinite(scores).all():
        raise InputError("A score is not a finite number; it has no place in a ranking.")
