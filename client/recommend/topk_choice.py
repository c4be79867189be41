"""Which way candidates are chosen: by the compiled kernel, or by NumPy.

NumPy makes a table of customers × items and looks through it; the kernel keeps nothing but each
customer's best. It is used where it was built, the processor has its vector instructions, and it
has just chosen what NumPy chooses.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from client.recommend.topk_kernel import KernelCandidates, built, load_kernel
from client.recommend.topk_tables import Candidates, Chooser, Customers, ItemTable, Tilt
from common.ranking import NO_ITEM

# So many scores at a time are in NumPy's table.
_TABLE_SCORES = 1 << 22


def chooser() -> Chooser:
    """The kernel where it can be used, NumPy elsewhere."""
    usable = _usable()
    return numpy_candidates if usable is None else usable


def is_compiled() -> bool:
    """Whether the compiled kernel is in use; without it lists are the same, and slower."""
    return _usable() is not None


def numpy_candidates(
    items: ItemTable, customers: Customers, k: int, *, threads: int = 1
) -> Candidates:
    """Candidates by NumPy; see `Chooser`."""
    del threads  # its products have their own
    rows = max(1, _TABLE_SCORES // items.n_items)
    starts = range(0, max(customers.n_customers, 1), rows)
    parts = [
        _numpy_part(items, customers.rows(start, min(start + rows, customers.n_customers)), k)
        for start in starts
    ]
    return Candidates(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("numbers", "scores", "products", "counts")
        )
    )


def _numpy_part(items: ItemTable, customers: Customers, k: int) -> Candidates:
    scores = customers.hidden.astype(np.float32) @ items.factors.T
    if items.positive:
        np.maximum(scores, 0.0, out=scores)
    scores *= items.weights.astype(np.float32)
    for tilt, codes in zip(customers.tilts, items.codes, strict=True):
        scores *= tilt.table().astype(np.float32)[:, codes]
    if items.positive:
        scores[scores <= 0.0] = -np.inf
    owners = np.repeat(np.arange(customers.n_customers), np.diff(customers.excluded_indptr))
    listed = customers.excluded < len(items.places)
    places = items.places[customers.excluded[listed]]
    scores[owners[listed][places >= 0], places[places >= 0]] = -np.inf
    if k < items.n_items:
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    else:
        best = np.tile(np.arange(items.n_items), (customers.n_customers, 1))
    chosen = np.take_along_axis(scores, best, axis=1)
    order = np.lexsort((items.numbers[best], -chosen), axis=1)
    best = np.take_along_axis(best, order, axis=1)
    chosen = np.take_along_axis(chosen, order, axis=1)
    there = chosen > -np.inf
    products = np.zeros(best.shape)
    for factor in range(items.rank):
        products += customers.hidden[:, factor, None] * items.factors[best, factor]
    return Candidates(
        np.where(there, items.numbers[best], np.int32(NO_ITEM)).astype(np.int32),
        np.where(there, chosen, np.float32(0.0)),
        np.where(there, products, 0.0),
        there.sum(axis=1).astype(np.int32),
    )


@cache
def _usable() -> KernelCandidates | None:
    """The kernel, if it is built and gives the lists that NumPy gives."""
    for path in built():
        try:
            library = load_kernel(path)
        except (OSError, AttributeError):
            continue
        width = int(library.fedpref_topk_width())
        if width and agrees(KernelCandidates(library, width)):
            return KernelCandidates(library, width)
    return None


def agrees(choose: Chooser) -> bool:
    """Whether candidates are NumPy's, up to ties and rounding, on sizes that fill no vector.

    Lists are not compared: they would be right even of candidates that are not.
    """
    for positive in (False, True):
        items, customers = _made_up(positive=positive)
        found, expected = (each(items, customers, 9) for each in (choose, numpy_candidates))
        if not (
            np.array_equal(found.counts, expected.counts)
            and np.array_equal(found.numbers, expected.numbers)
            and np.allclose(found.scores, expected.scores, rtol=1e-4, atol=1e-6)
            and np.array_equal(found.products, expected.products)
        ):
            return False
    return True


def _made_up(*, positive: bool) -> tuple[ItemTable, Customers]:
    n, n_items, rank = 37, 601, 11
    generator = np.random.Generator(np.random.Philox(1))
    codes = [generator.integers(0, size, n_items) for size in (5, 17)] if positive else []
    items = ItemTable.of(
        generator.normal(0, 1, (n_items, rank)).astype(np.float32),
        generator.permutation(n_items + 40)[:n_items],
        weights=generator.random(n_items),
        codes=codes,
        positive=positive,
    )
    bounds = np.arange(n + 1, dtype=np.int64) * 6
    tilts = tuple(
        Tilt(
            generator.random(n),
            np.arange(n + 1, dtype=np.int64) * 2,
            np.tile(np.array([0, size - 2], dtype=np.int32), n),
            generator.random(2 * n) * 2,
            size,
        )
        for size in ((5, 17) if positive else ())
    )
    chosen = np.stack([generator.permutation(n_items + 40)[:6] for _ in range(n)])
    excluded = np.sort(chosen, axis=1).reshape(-1).astype(np.int32)
    return items, Customers(generator.normal(0, 1, (n, rank)), bounds, excluded, tilts)
