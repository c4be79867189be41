"""Lists for many customers beside those of `implicit`, a library for this kind of model.

Both are given the same factors, which `implicit` has learnt of made-up purchases, and leave out
what a customer has bought; both take one thread, in turns, in processor time. Whole lists are made
of histories, with tilts and own purchases in them; `implicit` is given each customer's vector.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from implicit.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from benchmarks.results import Bar, Figure
from benchmarks.steps import made_up
from benchmarks.steps.alternating import alternate
from client.data.dataset import MS_PER_WEEK, CustomerItemMatrix, PreferenceDataset
from client.recommend.bulk_lists import BulkLists
from client.recommend.bulk_tables import BulkTables
from client.recommend.scoring import ScoringTables
from client.recommend.topk import top_k
from client.recommend.topk_choice import is_compiled
from client.recommend.topk_tables import Customers, ItemTable
from common.catalogue import Catalogue
from common.model_state import ModelState

ITEMS, RANK, CUSTOMERS, PLACES, TURNS = 20_000, 64, 4_096, 10, 5
_ITERATIONS = 2
# Of places with the same item; equal scores may come in either order there.
_LEAST_SAME = 0.99
_CATEGORIES, _TYPES = 300, 2_000
_END_MS = 1_700_000_000_000

LISTS = Bar(
    f"batch: implicit's recommend over ours, {ITEMS:,} items, d = {RANK}, a core",
    "ratio",
    1.5,
    least=True,
)
WHOLE = Bar("… over whole lists, from histories, tilted and fused", "ratio", 1.5, least=True)
BARS = (LISTS, WHOLE)

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Contest:
    """What both are given.

    Attributes:
        bought: The customers' purchases, binary.
        model: implicit's, fitted.
        histories: The same purchases with times.
    """

    bought: csr_matrix = field(repr=False)
    model: AlternatingLeastSquares = field(repr=False)
    histories: PreferenceDataset = field(repr=False)


def measure() -> dict[str, Figure]:
    """Measures these bars."""
    with threadpool_limits(1):
        return {bar.name: figure for bar, figure in hold(contest(ITEMS, RANK, CUSTOMERS)).items()}


def contest(n_items: int, rank: int, customers: int) -> Contest:
    """Made-up purchases, and a model that was fitted to them."""
    rows = made_up.unit_rows(customers, n_items)
    bought = csr_matrix(
        (np.ones(len(rows.indices), dtype=np.float32), rows.indices, rows.indptr),
        shape=(customers, n_items),
    )
    model = AlternatingLeastSquares(
        factors=rank, iterations=_ITERATIONS, num_threads=1, random_state=1, use_gpu=False
    )
    model.fit(bought, show_progress=False)
    return Contest(bought, model, _histories(rows))


def hold(given: Contest, *, turns: int = TURNS) -> dict[Bar, Figure]:
    """Makes all lists in turn, and compares what they took; the lists must be the same."""
    theirs, ours = _both(given, given.model)
    same = float((theirs() == ours()).mean())
    if same < _LEAST_SAME:
        raise RuntimeError(f"only {same:.1%} of the places have the same items")
    lists = BulkLists(_bulk_tables(given), PLACES)
    things = {"theirs": theirs, "ours": ours, "whole": lambda: lists.lists(given.histories)}
    things["theirs alike"], things["ours alike"] = _both(given, _of_equal_length(given.model))
    times = alternate(things, turns=turns)
    each_us = {name: 1e6 * times.median_s(name) / given.bought.shape[0] for name in things}
    kernel = "compiled kernel" if is_compiled() else "NumPy, for want of a C compiler"
    alike = times.ratio("theirs alike", "ours alike")
    return {
        LISTS: Figure(
            times.ratio("theirs", "ours"),
            f"{each_us['ours']:.1f} µs a customer, {kernel}; implicit {each_us['theirs']:.1f}; "
            f"{same:.2%} of the places are the same, the others rounding's; with items of equal "
            f"length, none of which can be passed over: {alike:.1f}",
        ),
        WHOLE: Figure(times.ratio("theirs", "whole"), f"{each_us['whole']:.1f} µs a customer"),
    }


def _both(
    given: Contest, model: AlternatingLeastSquares
) -> tuple[Callable[[], IntArray], Callable[[], IntArray]]:
    """The same lists by implicit and by ours."""
    who = np.arange(given.bought.shape[0])
    items = ItemTable.of(model.item_factors, np.arange(given.bought.shape[1]))
    customers = Customers(
        model.user_factors.astype(np.float64),
        given.bought.indptr.astype(np.int64),
        given.bought.indices.astype(np.int32),
    )

    def theirs() -> IntArray:
        found: IntArray = model.recommend(who, given.bought, N=PLACES)[0]
        return found

    def ours() -> IntArray:
        return top_k(items, customers, PLACES).numbers

    return theirs, ours


def _of_equal_length(fitted: AlternatingLeastSquares) -> AlternatingLeastSquares:
    """The same model with random item factors of length 1."""
    model = copy(fitted)
    drawn = np.random.default_rng(5).normal(0, 1, fitted.item_factors.shape)
    model.item_factors = (drawn / np.linalg.norm(drawn, axis=1)[:, None]).astype(np.float32)
    return model


def _bulk_tables(given: Contest) -> BulkTables:
    """The item factors as a published model over the whole catalogue."""
    n_items = given.bought.shape[1]
    popularity = np.bincount(given.bought.indices, minlength=n_items).astype(np.float32)
    model = ModelState.from_arrays(
        {
            "popularity": popularity,
            "vocabulary": np.argsort(-popularity, kind="stable").astype(np.int64),
            "item_weights": np.ones(n_items, dtype=np.float32),
            "item_factors": given.model.item_factors[np.argsort(-popularity, kind="stable")],
        }
    )
    numbers = range(n_items)
    catalogue = Catalogue.of(
        [f"item-{number}" for number in numbers],
        category=[f"category-{number % _CATEGORIES}" for number in numbers],
        product_type=[f"type-{number % _TYPES}" for number in numbers],
    )
    tables = ScoringTables.of(model, catalogue, popularity_noise_stddev=1.0)
    return BulkTables.of(tables, allowed=np.ones(n_items, dtype=bool))


def _histories(rows: CustomerItemMatrix) -> PreferenceDataset:
    """A purchase of each item, some time in the year before."""
    weeks = np.random.default_rng(3).random(len(rows.indices)) * 52
    return PreferenceDataset(
        sids=tuple(f"{number:064x}" for number in range(rows.n_rows)),
        counts=CustomerItemMatrix(
            rows.indptr, rows.indices, np.ones(len(weeks), dtype=np.float32), rows.n_items
        ),
        last_ms=_END_MS - (weeks * MS_PER_WEEK).astype(np.int64),
        ages_weeks=weeks.astype(np.float32),
        start_ms=_END_MS - 53 * MS_PER_WEEK,
        end_ms=_END_MS,
    )
