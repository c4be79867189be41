"""Made-up customers' rows, by Zipf's law: their sizes are like real ones', their tastes are not.

What a step costs depends on how many customers, items and purchases there are, and hardly on who
bought what. They say nothing about quality.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from client.data.dataset import CustomerItemMatrix

#: Purchases of a customer, on average.
MEAN_PURCHASES = 30
RANK = 64
_DISTINCT_CUSTOMERS = 50_000

Arrays = dict[str, npt.NDArray[np.float32]]


def unit_rows(n_customers: int, n_items: int, *, seed: int = 1) -> CustomerItemMatrix:
    """Rows of norm 1, as the autoencoder takes them: distinct items, ascending.

    Beyond `_DISTINCT_CUSTOMERS` they repeat: made sooner, and as many to a step.
    """
    if n_customers > _DISTINCT_CUSTOMERS:
        return _repeated(unit_rows(_DISTINCT_CUSTOMERS, n_items, seed=seed), n_customers)
    owners, items = _purchases(n_customers, n_items, seed)
    keys = np.unique(owners * n_items + items)
    owners, items = keys // n_items, keys % n_items
    sizes = np.bincount(owners, minlength=n_customers)
    values = (1.0 / np.sqrt(sizes))[owners]
    return _matrix(sizes, items, values, n_items)


def confidences(n_customers: int, n_items: int, *, seed: int = 1) -> CustomerItemMatrix:
    """Rows of confidences within (0, 1], as the factorisation takes them."""
    rows = unit_rows(n_customers, n_items, seed=seed)
    drawn = 1.0 - np.random.default_rng(seed).random(len(rows.values))
    return CustomerItemMatrix(rows.indptr, rows.indices, drawn.astype(np.float32), n_items)


def sequences(n_customers: int, n_items: int, *, longest: int, seed: int = 1) -> CustomerItemMatrix:
    """Items in the order of purchases, the shortest row first, so that nobody pads."""
    owners, items = _purchases(n_customers, n_items, seed)
    sizes = np.bincount(owners, minlength=n_customers)
    place = np.arange(len(owners)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    kept = place < longest
    sizes = np.minimum(sizes, longest)
    items = items[kept]
    order = np.argsort(sizes, kind="stable")
    starts = (np.cumsum(sizes) - sizes)[order]
    sizes = sizes[order]
    entries = np.repeat(starts - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum())
    return _matrix(sizes, items[entries], np.ones(len(items)), n_items)


def autoencoder_arrays(n_items: int, *, rank: int = RANK, seed: int = 2) -> Arrays:
    """Parameters of a tied autoencoder, small and random."""
    generator = np.random.default_rng(seed)
    return {
        "hidden_bias": generator.normal(0, 0.1, rank).astype(np.float32),
        "item_bias": generator.normal(0, 0.1, n_items).astype(np.float32),
        **factor_arrays(n_items, rank=rank, seed=seed),
    }


def factor_arrays(n_items: int, *, rank: int = RANK, seed: int = 2) -> Arrays:
    """Item factors, small and random."""
    factors = np.random.default_rng(seed).normal(0, 0.1, (n_items, rank))
    return {"item_factors": factors.astype(np.float32)}


def _purchases(
    n_customers: int, n_items: int, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Who bought what, by customer: two purchases each at least."""
    generator = np.random.default_rng(seed)
    sizes = np.maximum(generator.poisson(MEAN_PURCHASES, n_customers), 2)
    odds = np.cumsum(np.arange(1, n_items + 1, dtype=np.float64) ** -0.8)
    drawn = generator.random(int(sizes.sum())) * odds[-1]
    items = np.minimum(np.searchsorted(odds, drawn), n_items - 1)
    return np.repeat(np.arange(n_customers), sizes), items


def _repeated(rows: CustomerItemMatrix, n_customers: int) -> CustomerItemMatrix:
    """So many customers, the given ones again and again."""
    sizes = np.resize(np.diff(rows.indptr), n_customers)
    indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    items, values = (np.resize(each, indptr[-1]) for each in (rows.indices, rows.values))
    return CustomerItemMatrix(indptr, items, values, rows.n_items)


def _matrix(
    sizes: npt.NDArray[np.int64],
    items: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    n_items: int,
) -> CustomerItemMatrix:
    return CustomerItemMatrix(
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        items.astype(np.int32),
        values.astype(np.float32),
        n_items,
    )


def by_size(rows: CustomerItemMatrix) -> CustomerItemMatrix:
    """The same rows, the shortest first: what is padded then pads next to nothing."""
    return rows.gather(np.argsort(np.diff(rows.indptr), kind="stable"))
