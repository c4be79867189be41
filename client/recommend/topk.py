"""The items with the highest scores of each of many customers, exactly, and in little memory.

A score is a product of a customer's vector with an item's, times the item's weight, times the
customer's tilts towards the item's codes (its category, its type). Candidates are chosen in single
precision (`client.recommend.topk_choice`), a few more than are asked for; they are scored anew in
double precision, and a bound on the error of single precision tells for whom an item may have been
missed. Those customers are scored in full. So the lists are those of double precision, whichever
way candidates were chosen.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from client.recommend.topk_choice import chooser
from client.recommend.topk_tables import (
    Candidates,
    Chooser,
    Customers,
    FloatArray,
    ItemTable,
    Ranked,
)
from common.errors import InputError
from common.ranking import NO_ITEM

BoolArray = npt.NDArray[np.bool_]

# Candidates beyond those asked for: so many, and one for so many.
_LEAST_SPARE, _SPARE_OF = 6, 4
# Rounding of one operation in single precision, relative; and room for those of weights, tilts and
# bounds, beside one a factor.
_ROUNDING = 2.0**-24
_OTHER_ROUNDINGS = 16
# What is lost below the smallest numbers of single precision, and what is safely within its range.
_UNDERFLOW = 1e-37
_LARGEST = 1e37


def top_k(
    items: ItemTable,
    customers: Customers,
    k: int,
    *,
    threads: int = 1,
    choose: Chooser | None = None,
) -> Ranked:
    """The k items with the highest scores of each customer.

    Args:
        items: The items.
        customers: The customers.
        k: How many, at least 1; where there are fewer items, lists are shorter.
        threads: How many threads at most.
        choose: How candidates are chosen; by the best way there is by default.

    Formal guarantees:
        Scores are those of double precision, each product summed in the order of the factors; lists
        are in their order, ties by the smaller number. They depend neither on how candidates are
        chosen nor on threads, nor does a customer's on any other customer.

    Raises:
        InputError: k is below 1, sizes do not fit, or a number is not finite or too large.
    """
    if k < 1 or customers.hidden.shape[1:] != (items.rank,):
        raise InputError(f"Lists of {k} items cannot be made of vectors of this length.")
    if len(customers.tilts) != len(items.codes):
        raise InputError("There is not one tilt for each of the items' codes.")
    if not in_range(items, customers).all():
        raise InputError("A customer's vector is not finite, or too long; nothing is ranked by it.")
    wanted = min(with_spare(k), items.n_items)
    if not wanted:
        return ranked_in_full(items, customers, k)
    found = (choose or chooser())(items, customers, wanted, threads=threads)
    ranked = best_of(
        found.numbers, exact_scores(items, customers, found), k, positive=items.positive
    )
    doubtful = may_have_missed(items, customers, found, ranked.scores[:, -1])
    for row in np.flatnonzero(doubtful):
        full = ranked_in_full(items, customers.rows(int(row), int(row) + 1), k)
        ranked.numbers[row], ranked.scores[row] = full.numbers[0], full.scores[0]
    return ranked


def with_spare(k: int) -> int:
    """How many candidates to choose for lists of k."""
    return k + max(_LEAST_SPARE, k // _SPARE_OF)


def in_range(items: ItemTable, customers: Customers) -> BoolArray:
    """Whose vector and tilts are finite, and whose scores cannot leave single precision's range."""
    longest = customers.lengths * max(float(items.reach[0]) if items.n_items else 0.0, 1.0)
    # Written so that what is no number is not.
    found: BoolArray = longest <= _LARGEST
    return found


def exact_scores(items: ItemTable, customers: Customers, found: Candidates) -> FloatArray:
    """float64[n, k]: the candidates' scores in double precision; −∞ where there is none."""
    there = found.numbers != NO_ITEM
    places = items.places[np.where(there, found.numbers, items.numbers[:1])]
    return np.where(there, _weighed(items, customers, found.products, places), -np.inf)


def may_have_missed(
    items: ItemTable, customers: Customers, found: Candidates, least: FloatArray
) -> BoolArray:
    """Whether an item that is no candidate may have at least a given score.

    Args:
        items: The items.
        customers: The n customers.
        found: Their candidates.
        least: float64[n], in double precision.

    Formal guarantees:
        Let u = 2⁻²⁴. A sum of d products in any order, fused or not, differs from the exact one by
        at most d u/(1 − d u) times the product of the norms (Higham, "Accuracy and Stability of
        Numerical Algorithms", 2002, section 3.1); rounding the customer's vector, weight and
        tilts to single precision, and each multiplication, add a relative u each. The score of what
        is no candidate is not above the last candidate's, if all places are taken; else, where only
        positive scores count, it is not above 0; else there is no such item.
    """
    if not items.n_items:
        return np.zeros(customers.n_customers, dtype=bool)
    full = found.counts == found.numbers.shape[1]
    last = found.scores[:, -1].astype(np.float64)
    highest = np.where(full, last, 0.0 if items.positive else -np.inf)
    relative = (items.rank + _OTHER_ROUNDINGS) * _ROUNDING * 1.01
    error = customers.lengths * float(items.reach[0]) * relative + _UNDERFLOW
    missed: BoolArray = (least <= highest + error) & (found.counts < items.n_items)
    return missed


def ranked_in_full(items: ItemTable, customers: Customers, k: int) -> Ranked:
    """The lists by all scores in double precision: what candidates are held to."""
    numbers = np.full((customers.n_customers, k), NO_ITEM, dtype=np.int64)
    scores = np.full((customers.n_customers, k), -np.inf)
    everything = np.arange(items.n_items)
    for row in range(customers.n_customers):
        one = customers.rows(row, row + 1)
        products = np.zeros((1, items.n_items))
        for factor in range(items.rank):
            products += one.hidden[:, factor, None] * items.factors[None, :, factor]
        found = _weighed(items, one, products, everything[None, :])[0]
        listed = found > 0 if items.positive else np.ones(len(found), dtype=bool)
        listed &= ~np.isin(items.numbers, one.excluded)
        places = np.flatnonzero(listed)
        best = places[np.lexsort((items.numbers[places], -found[places]))[:k]]
        numbers[row, : len(best)] = items.numbers[best]
        scores[row, : len(best)] = found[best]
    return Ranked(numbers, scores)


def best_of(
    numbers: npt.NDArray[np.integer], scores: FloatArray, k: int, *, positive: bool
) -> Ranked:
    """The k best of each row; ties go to the smaller number.

    Args:
        numbers: int[n, c], distinct in a row but for `NO_ITEM`.
        scores: float64[n, c], −∞ where there is no item.
        k: How many.
        positive: Whether scores of 0 and below count for nothing.
    """
    listed = scores > (0.0 if positive else -np.inf)
    keyed = np.where(listed, scores, -np.inf)
    order = np.lexsort((numbers, -keyed), axis=1)[:, :k]
    kept = np.take_along_axis(listed, order, axis=1)
    found = np.where(kept, np.take_along_axis(numbers, order, axis=1), NO_ITEM).astype(np.int64)
    values = np.where(kept, np.take_along_axis(keyed, order, axis=1), -np.inf)
    missing = ((0, 0), (0, k - found.shape[1]))
    return Ranked(
        np.pad(found, missing, constant_values=NO_ITEM),
        np.pad(values, missing, constant_values=-np.inf),
    )


def _weighed(
    items: ItemTable, customers: Customers, products: FloatArray, places: npt.NDArray[np.integer]
) -> FloatArray:
    """float64[n, c]: the scores that belong to products with the items at some places."""
    kept = np.maximum(products, 0.0) if items.positive else products
    scores: FloatArray = kept * items.weights[places]
    whose = np.broadcast_to(np.arange(len(products))[:, None], products.shape)
    for tilt, codes in zip(customers.tilts, items.codes, strict=True):
        scores = scores * tilt.at(whose, codes[places])
    return scores
