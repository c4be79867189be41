"""Lists of thousands of customers at a time: those that each would be recommended by herself.

Scores are put together of a few candidates: the customer's own items, the best of the vocabulary,
the best of the cold items. Where a vocabulary is the whole catalogue, and for cold items, the best
come from the kernel, without a table of customers × items (`client.recommend.topk`); beside cold
items all shared scores are needed, since cold scores are made to match their sum.

Formal guarantees:
    The lists are those of `scoring.score_customer` and `filters.choose`. Scores differ from those
    by less than `CLOSE` of themselves; whoever has two such scores in a row, an item that may have
    been missed, too few scores, or one that is no number, is recommended by those very functions. A
    customer's list depends on no other customer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from client.data.dataset import PreferenceDataset
from client.recommend.bulk_parts import ColdParts, hidden_rows, row_range, tilt_of
from client.recommend.bulk_tables import BulkTables
from client.recommend.filters import choose
from client.recommend.scoring import ScoresNotFiniteError, score_customer
from client.recommend.topk import exact_scores, in_range, may_have_missed, with_spare
from client.recommend.topk_choice import chooser
from client.recommend.topk_tables import Candidates, Customers, ItemTable, Tilt
from client.training.personalisation import SHARED_WEIGHT, bought
from client.training.strategies import model_scores
from common.ranking import NO_ITEM, ItemSets
from common.strategies import SUMS

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
#: Item numbers int64[n, c] and their scores float64[n, c], in any order.
Part = tuple[IntArray, FloatArray]
#: What the kernel was given, and what it chose.
Chosen = tuple[ItemTable, Customers, Candidates]

#: Scores that differ by less, relative to themselves, may be in either order here: sums are in
#: another order than for one customer, and cold scores are in single precision there.
CLOSE = 1e-6


@dataclass(frozen=True, eq=False)
class BulkLists:
    """Makes lists for whole blocks of customers.

    Attributes:
        bulk: What all lists have in common.
        k: How long they are, from 1.
        new_only: Whether to leave out what a customer has bought before.
        threads: How many threads at most.
    """

    bulk: BulkTables
    k: int
    new_only: bool = False
    threads: int = 1

    def lists(self, rows: PreferenceDataset) -> tuple[IntArray, FloatArray, BoolArray]:
        """The customers' lists.

        Args:
            rows: n customers' histories, over the region's catalogue.

        Returns:
            int64[n, k] item numbers, the best first, `NO_ITEM` where items run out; their scores,
            float64[n, k], 0 for what popularity added; and bool[n], whose scores are finite: who
            has others gets what everybody gets.
        """
        finite = np.ones(rows.n_customers, dtype=bool)
        if not rows.n_customers:
            return np.empty((0, self.k), dtype=np.int64), np.empty((0, self.k)), finite
        own = bought(rows)
        # Scores that are no numbers are found below.
        with np.errstate(invalid="ignore", over="ignore"):
            warm = self.bulk.warm
            made = self._by_all(rows, own) if warm is None else self._by_products(rows, own, warm)
        parts, chosen, doubtful = made
        numbers, scores = _best(parts, self.k + 1)
        kth = scores[:, self.k - 1]
        doubtful |= ~(kth > 0) | _too_close(numbers, scores, self.bulk.twin)
        doubtful |= may_have_missed(*chosen, kth * (1.0 - CLOSE))
        numbers, scores = numbers[:, : self.k].copy(), scores[:, : self.k].copy()
        for row in np.flatnonzero(doubtful):
            alone = row_range(rows, int(row), int(row) + 1)
            numbers[row], scores[row], finite[row] = self._alone(alone)
        return numbers, scores, finite

    def _by_products(
        self, rows: PreferenceDataset, own: ItemSets, table: ItemTable
    ) -> tuple[list[Part], Chosen, BoolArray]:
        """Candidates where all scores are products; and for whom these are no good."""
        tables = self.bulk.tables
        hidden = hidden_rows(tables, rows)
        tilts = tuple(tilt_of(level, own) for level in (tables.category, tables.product_type))
        chosen, part, bad = self._from_kernel(table, hidden, own, tilts)
        hidden[bad] = 0.0
        shared = self._own_products(hidden, own, tilts)
        return [part, self._own(rows, own, shared)], chosen, bad

    def _by_all(
        self, rows: PreferenceDataset, own: ItemSets
    ) -> tuple[list[Part], Chosen, BoolArray]:
        """Candidates where the vocabulary has to be scored whole; and for whom they are no good."""
        tables = self.bulk.tables
        positive = self._positive(rows, own)
        # Of whom the model has nothing to say the catalogue does, in another way.
        bad = ~np.isfinite(positive).all(axis=1) | ~(positive > 0).any(axis=1)
        positive[bad] = 0.0
        made = ColdParts.of(tables.cold, own, positive)
        chosen, part, beyond = self._from_kernel(
            self.bulk.cold, made.scale[:, None], own, made.tilts
        )
        if len(tables.cold.items):
            positive = np.where(positive > 0, positive, made.warm)
        columns = tables.column[own.items]
        known = (columns >= 0) & (columns < tables.n_vocabulary)
        shared = np.zeros(len(own.items))
        shared[known] = positive[own.owners[known], columns[known]]
        cold = np.flatnonzero(self.bulk.is_cold[own.items])
        shared[cold] = made.scores(tables.cold, own.owners[cold], own.items[cold])
        return (
            [part, self._whole(own, positive), self._own(rows, own, shared)],
            chosen,
            bad | beyond,
        )

    def _from_kernel(
        self, table: ItemTable, hidden: FloatArray, own: ItemSets, tilts: tuple[Tilt, ...]
    ) -> tuple[Chosen, Part, BoolArray]:
        # Own items are scored apart.
        customers = Customers(hidden.copy(), own.indptr, own.items.astype(np.int32), tilts)
        bad = ~in_range(table, customers)
        customers.hidden[bad] = 0.0
        wanted = min(with_spare(self.k + 1), table.n_items)
        if wanted:
            found = chooser()(table, customers, wanted, threads=self.threads)
            part = found.numbers.astype(np.int64), exact_scores(table, customers, found)
        else:
            found = Candidates.none(customers.n_customers)
            part = found.numbers.astype(np.int64), found.products
        return (table, customers, found), part, bad

    def _positive(self, rows: PreferenceDataset, own: ItemSets) -> FloatArray:
        """float64[n, m]: the tilted shared scores of the vocabulary, 0 for those below."""
        tables = self.bulk.tables
        if tables.model.strategy in SUMS:
            scores = hidden_rows(tables, rows) @ tables.factors.T
        else:
            scores = model_scores(rows, tables.model)
        for level in (tables.category, tables.product_type):
            scores = scores * tilt_of(level, own).table()[:, level.of_vocabulary]
        # What is no number stays none.
        positive: FloatArray = np.maximum(scores, 0.0)
        return positive

    def _whole(self, own: ItemSets, positive: FloatArray) -> Part:
        """The best of the vocabulary, but for the customers' own items."""
        vocabulary = self.bulk.tables.model.vocabulary
        scores = positive * (SHARED_WEIGHT * self.bulk.factor[vocabulary])
        scores[:, ~self.bulk.allowed[vocabulary]] = 0.0
        columns = self.bulk.tables.column[own.items]
        known = (columns >= 0) & (columns < len(vocabulary))
        scores[own.owners[known], columns[known]] = 0.0
        wanted = min(self.k + 1, len(vocabulary))
        best = np.argpartition(-scores, wanted - 1, axis=1)[:, :wanted]
        return vocabulary[best], np.take_along_axis(scores, best, axis=1)

    def _own_products(
        self, hidden: FloatArray, own: ItemSets, tilts: tuple[Tilt, ...]
    ) -> FloatArray:
        """float64[n_entries]: the tilted shared scores of the customers' own items."""
        tables = self.bulk.tables
        columns = tables.column[own.items]
        known = np.flatnonzero((columns >= 0) & (columns < tables.n_vocabulary))
        owners, columns = own.owners[known], columns[known]
        found = np.einsum("ed,ed->e", hidden[owners], tables.factors[columns])
        for level, tilt in zip((tables.category, tables.product_type), tilts, strict=True):
            found = found * tilt.at(owners, level.of_vocabulary[columns])
        shared = np.zeros(len(own.items))
        shared[known] = found
        return shared

    def _own(self, rows: PreferenceDataset, own: ItemSets, shared: FloatArray) -> Part:
        """The customers' own items, the best k + 1 of each."""
        recent = rows.history().values.astype(np.float64)
        scores = (recent + SHARED_WEIGHT * np.maximum(shared, 0.0)) * self.bulk.factor[own.items]
        listed = self.bulk.allowed[own.items] & (not self.new_only)
        scores = np.where(listed, scores, 0.0)
        order = np.lexsort((own.items, -scores, own.owners))
        within = np.arange(len(order)) - np.repeat(own.indptr[:-1], own.sizes)
        kept = within < self.k + 1
        width = min(self.k + 1, int(own.sizes.max(initial=0)))
        numbers = np.full((own.n_customers, width), NO_ITEM, dtype=np.int64)
        table = np.zeros((own.n_customers, width))
        owners, places = own.owners[kept], within[kept]
        numbers[owners, places] = own.items[order][kept]
        table[owners, places] = scores[order][kept]
        return numbers, table

    def _alone(self, row: PreferenceDataset) -> tuple[IntArray, FloatArray, bool]:
        """One customer's list as she would be recommended it by herself."""
        numbers, scores = np.full(self.k, NO_ITEM, dtype=np.int64), np.zeros(self.k)
        allowed = self.bulk.allowed
        if self.new_only:
            allowed = allowed.copy()
            allowed[row.indices] = False
        try:
            scored = score_customer(self.bulk.tables, row, scene=self.bulk.scene)
        except ScoresNotFiniteError:
            return numbers, scores, False
        chosen = choose(self.bulk.tables, scored, self.k, allowed=allowed)
        numbers[: len(chosen.items)] = chosen.items
        scores[: len(chosen.items)] = chosen.scores
        return numbers, scores, True


def _best(parts: list[Part], k: int) -> tuple[IntArray, FloatArray]:
    """The k highest scores above 0 of each row, ties by number; `NO_ITEM` and −∞ behind them."""
    numbers, scores = (np.concatenate(each, axis=1) for each in zip(*parts, strict=True))
    scores = np.where(scores > 0, scores, -np.inf)
    order = np.lexsort((numbers, -scores), axis=1)[:, :k]
    scores = np.take_along_axis(scores, order, axis=1)
    numbers = np.where(scores > 0, np.take_along_axis(numbers, order, axis=1), NO_ITEM)
    missing = ((0, 0), (0, k - scores.shape[1]))
    return (
        np.pad(numbers, missing, constant_values=NO_ITEM),
        np.pad(scores, missing, constant_values=-np.inf),
    )


def _too_close(numbers: IntArray, scores: FloatArray, twin: IntArray) -> BoolArray:
    """bool[n]: whether two scores in a row might be in the other order by themselves."""
    upper, lower = scores[:, :-1], scores[:, 1:]
    # Behind the last there is nothing to be close to.
    close = (lower > 0) & ~(upper * (1.0 - CLOSE) > lower)
    alike = (twin[numbers[:, :-1]] == twin[numbers[:, 1:]]) & (upper == lower)
    found: BoolArray = (close & ~alike).any(axis=1)
    return found
