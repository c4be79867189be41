"""How good rankings are on what customers bought after the training window.

Temporal split: histories end where the test window begins. Rankings are over the full catalogue.
Two protocols: *all* (whatever was bought in the test window is relevant) and *new* (only items that
the customer never bought before; earlier items are not ranked).

These figures are computed from customers' records without noise. They may leave a region only in a
simulation, labelled so, or noised and charged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from client.data.dataset import CustomerItemMatrix, PreferenceDataset
from client.training.personalisation import bought
from common.errors import InputError
from common.metrics import coverage_at_k, hit_rate_at_k, ndcg_at_k, recall_at_k
from common.ranking import BoolArray, IntArray, ItemSets

FloatArray = npt.NDArray[np.float64]

NDCG_PLACES = 10
RECALL_PLACES = 20
HIT_RATE_PLACES = 10
COVERAGE_PLACES = 10
# How long a ranking must be.
RANKED_PLACES = 20


class Protocol(StrEnum):
    """Which items count."""

    NEW = "new"
    ALL = "all"


@dataclass(frozen=True, eq=False)
class EvaluationSet:
    """The customers who bought something in the test window.

    Attributes:
        history: Their purchases before the test window; a customer without any has an empty row.
        test: What each bought in the test window.
    """

    history: PreferenceDataset = field(repr=False)
    test: ItemSets = field(repr=False)

    @classmethod
    def of(cls, train: PreferenceDataset, test: PreferenceDataset) -> EvaluationSet:
        """Pairs the customers of the test window with their histories.

        Raises:
            InputError: The test window begins before the training window ends, or the two are over
                different catalogues.
        """
        if test.start_ms < train.end_ms:
            raise InputError(
                "The test window begins before the training window ends: the future would leak.",
                remedy="Let the test window begin where the training window ends.",
            )
        if test.n_items != train.n_items:
            raise InputError(
                f"The test is over {test.n_items} items, training over {train.n_items}.",
                remedy="Build both of the same catalogue.",
            )
        return cls(select_customers(train, test.sids), bought(test))

    @property
    def seen(self) -> ItemSets:
        """What each customer bought before the test window."""
        return bought(self.history)

    def relevant(self, protocol: Protocol, universe: BoolArray | None = None) -> ItemSets:
        """Each customer's relevant items, within bool[n_items] if given."""
        items = self.test if protocol is Protocol.ALL else self.test.without(self.seen)
        return items if universe is None else items.within(universe)


@dataclass(frozen=True, eq=False)
class RankingQuality:
    """One ranking's quality.

    Attributes:
        by_customer: For ``ndcg@10``, ``recall@20`` and ``hit_rate@10`` float64[n], one value for
            each customer, NaN without a relevant item.
        coverage: Share of the candidates that are in anybody's first ten.
    """

    by_customer: dict[str, FloatArray] = field(repr=False)
    coverage: float


METRICS = (
    f"ndcg@{NDCG_PLACES}",
    f"recall@{RECALL_PLACES}",
    f"hit_rate@{HIT_RATE_PLACES}",
)


def evaluate(ranked: IntArray, relevant: ItemSets, *, n_candidates: int) -> RankingQuality:
    """The quality of rankings.

    Args:
        ranked: int64[n, ≥ `RANKED_PLACES`], item numbers, best first.
        relevant: The n customers' relevant items.
        n_candidates: How many items could have been ranked.
    """
    values = (
        ndcg_at_k(ranked, relevant, NDCG_PLACES),
        recall_at_k(ranked, relevant, RECALL_PLACES),
        hit_rate_at_k(ranked, relevant, HIT_RATE_PLACES),
    )
    return RankingQuality(
        dict(zip(METRICS, values, strict=True)),
        coverage_at_k(ranked, n_candidates, COVERAGE_PLACES),
    )


def select_customers(dataset: PreferenceDataset, sids: Sequence[str]) -> PreferenceDataset:
    """The data set of just these customers, ascending; one without purchases has an empty row."""
    row_of = {sid: row for row, sid in enumerate(dataset.sids)}
    chosen = sorted(set(sids))
    rows = np.array([row_of.get(sid, -1) for sid in chosen], dtype=np.int64)
    sizes = np.where(rows >= 0, np.diff(dataset.indptr)[rows], 0) if dataset.sids else 0 * rows
    starts = dataset.indptr[np.maximum(rows, 0)]
    entries = _ranges(starts, sizes)
    # Of each entry, as many purchases as it counts lie together, in the order of the entries.
    per_entry = dataset.counts.values.astype(np.int64)
    first_purchase = np.cumsum(per_entry) - per_entry
    purchases = _ranges(first_purchase[entries], per_entry[entries])
    return PreferenceDataset(
        sids=tuple(chosen),
        counts=CustomerItemMatrix(
            np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            dataset.indices[entries],
            dataset.counts.values[entries],
            dataset.n_items,
        ),
        last_ms=dataset.last_ms[entries],
        ages_weeks=dataset.ages_weeks[purchases],
        start_ms=dataset.start_ms,
        end_ms=dataset.end_ms,
    )


def without_customers(dataset: PreferenceDataset, sids: Iterable[str]) -> PreferenceDataset:
    """The data set without these customers."""
    excluded = frozenset(sids)
    return select_customers(dataset, [sid for sid in dataset.sids if sid not in excluded])


def keep_entries(dataset: PreferenceDataset, keep: BoolArray) -> PreferenceDataset:
    """The same customers with some of their items only.

    Args:
        dataset: The customers.
        keep: bool[n_entries], of the entries of its counts; all purchases of an item stay or go.
    """
    entries = np.flatnonzero(keep)
    per_entry = dataset.counts.values.astype(np.int64)
    first_purchase = np.cumsum(per_entry) - per_entry
    purchases = _ranges(first_purchase[entries], per_entry[entries])
    bounds = np.concatenate([[0], np.cumsum(keep)])[dataset.indptr]
    return PreferenceDataset(
        sids=dataset.sids,
        counts=CustomerItemMatrix(
            bounds.astype(np.int64),
            dataset.indices[entries],
            dataset.counts.values[entries],
            dataset.n_items,
        ),
        last_ms=dataset.last_ms[entries],
        ages_weeks=dataset.ages_weeks[purchases],
        start_ms=dataset.start_ms,
        end_ms=dataset.end_ms,
    )


def _ranges(starts: IntArray, sizes: IntArray) -> IntArray:
    """start, start + 1 …, `size` numbers for each start, one range after the other."""
    total = int(sizes.sum())
    before = np.cumsum(sizes) - sizes
    numbers: IntArray = np.arange(total) + np.repeat(starts - before, sizes)
    return numbers
