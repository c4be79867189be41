"""Rankings of some customers by one model; see `simulations.served_rankings`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from client.recommend.cold import COLD_WEIGHT, Beside
from client.recommend.cold_places import ColdLifts
from client.training.evaluation import Protocol, select_customers
from client.training.personalisation import SHARED_WEIGHT, bought, rank_fused, rank_shared
from common.ranking import BoolArray, IntArray, ranked_pairs, top_k
from simulations.served_customers import ServedCustomers
from simulations.served_rankings import ServedModel

FloatArray = npt.NDArray[np.float64]
# Cold scores are in single precision: what differs by less may come in either order.
_CLOSE = 1e-6
# So many customers at a time are ranked with cold items, each beside what any of them needs.
_TOGETHER = 16


@dataclass(frozen=True, eq=False)
class ServedRows:
    """Some customers' rankings by one model. Make it with `of`.

    Attributes:
        by: The model.
        customers: The customers.
        tilted: float64[n, m], the shared model's scores, tilted.
        beside: What their cold scores are made of.
        unknown: bool[n], of whom the model has nothing to say.
        highest: float64[n], what no cold item's lifts, made comparable, come to more than.
    """

    by: ServedModel
    customers: ServedCustomers
    tilted: FloatArray = field(repr=False)
    beside: Beside = field(repr=False)
    unknown: BoolArray = field(repr=False)
    highest: FloatArray = field(repr=False)

    @classmethod
    def of(cls, by: ServedModel, customers: ServedCustomers, tilted: FloatArray) -> ServedRows:
        """Prepares the customers' scores.

        Args:
            by: The model.
            customers: The customers.
            tilted: float64[n, m], the shared model's scores, tilted.
        """
        beside = by.cold.beside(customers.own, tilted)
        highest = beside.scale * (COLD_WEIGHT * (1.0 + _CLOSE)) * beside.by_category.max(axis=1)
        for level, purchased in zip(by.cold.levels, customers.purchased, strict=True):
            highest *= purchased.highest(level, customers.own.sizes)
        unknown: BoolArray = np.logical_not((tilted > 0).any(axis=1))
        return cls(by, customers, tilted, beside, unknown, highest)

    def ranked(self, protocol: Protocol, universe: str) -> IntArray:
        """int64[n, places]: the customers' rankings.

        Args:
            protocol: Whether only items count that the customer has not bought.
            universe: The name of the part of the catalogue that is ranked.
        """
        new = protocol is Protocol.NEW
        found, least = self._new(universe) if new else self._all(universe)
        highest = self.highest * (self.by.highest_part * (1.0 if new else SHARED_WEIGHT))
        # Where there are fewer items than places, the last score is 0, which anything reaches.
        rows = np.flatnonzero((highest >= least * (1.0 - _CLOSE)) | self.unknown)
        for start in range(0, len(rows), _TOGETHER):
            some = rows[start : start + _TOGETHER]
            found[some] = self._with_cold(some, protocol, universe)
        return found

    def _new(self, universe: str) -> tuple[IntArray, FloatArray]:
        """The best of the vocabulary that the customer has not bought; each one's last score."""
        vocabulary = self.by.model.vocabulary
        allowed = ~self._own_columns & self._within(universe)[vocabulary]
        scores = self.beside.floored * self.by.power[vocabulary]
        ranked = top_k(scores, vocabulary, self.by.places, allowed=allowed)
        return ranked, _last_places(np.where(allowed, scores, 0.0), self.by.places)

    def _all(self, universe: str) -> tuple[IntArray, FloatArray]:
        """The best of the vocabulary and the customer's own; the last score of the vocabulary."""
        by, owners = self.by, self.customers.owners
        within, vocabulary = self._within(universe), by.model.vocabulary
        own, at_most, table = self._fused
        columns = np.flatnonzero(within[vocabulary])
        least = _last_places(table[:, columns], by.places)
        kept = np.flatnonzero((at_most >= least[owners]) & within[self.customers.own.items])
        mine, own = self.customers.own.items[kept], own[kept]
        cold = np.flatnonzero(by.is_cold[mine])
        if len(cold):
            entries = kept[cold]
            shared = self._cold(owners[entries], mine[cold]) * SHARED_WEIGHT
            own[cold] = (self.customers.recent[entries] + shared) * by.power[mine[cold]]
        fresh = ~self._own_columns[:, columns] & (table[:, columns] >= least[:, None])
        others, places = np.nonzero(fresh)
        ranked = ranked_pairs(
            np.concatenate([owners[kept], others]),
            np.concatenate([mine, vocabulary[columns[places]]]),
            np.concatenate([own, table[others, columns[places]]]),
            self.customers.n_customers,
            by.places,
        )
        return ranked, least

    @cached_property
    def _fused(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """The fused scores of the customers' own items, and of the vocabulary.

        Returns:
            float64[n_entries], without what the catalogue says of cold items; float64[n_entries],
            with at most that; float64[n, m].
        """
        by, owners, items = self.by, self.customers.owners, self.customers.own.items
        shared = np.maximum(self.beside.floored, 0.0) * SHARED_WEIGHT
        columns = by.column[items]
        known = np.flatnonzero(columns >= 0)
        owners_known, columns = owners[known], columns[known]
        own, power = self.customers.recent.copy(), by.power[items]
        own[known] += shared[owners_known, columns]
        own *= power
        most = self.highest[owners] * by.cold.base[items] * SHARED_WEIGHT
        at_most = own + np.where(by.is_cold[items], most * power, 0.0)
        table = shared * by.power[by.model.vocabulary]
        table[owners_known, columns] = own[known]
        return own, at_most * (1.0 + _CLOSE), table

    @cached_property
    def _own_columns(self) -> BoolArray:
        return self.customers.own.table(self.by.model.vocabulary)

    def _within(self, universe: str) -> BoolArray:
        within = self.by.universes[universe]
        return np.ones(self.by.catalogue.n_items, dtype=bool) if within is None else within

    def _cold(self, customers: IntArray, items: IntArray) -> FloatArray:
        """float64[n_pairs]: as `ColdScores.scores`, number for number, of pairs."""
        cold, sizes = self.by.cold, self.customers.own.sizes
        q = cold.base[items]
        for level, purchased in zip(cold.levels, self.customers.purchased, strict=True):
            q = q * purchased.lifts(level, sizes, customers, level.codes[items].astype(np.int64))
        q = q * self.beside.by_category[customers, cold.shared_groups.codes[items]]
        return (q * (COLD_WEIGHT * self.beside.scale)[customers]).astype(np.float32).astype(float)

    def _with_cold(self, rows: IntArray, protocol: Protocol, universe: str) -> IntArray:
        """int64[c, places]: rankings of some customers among all cold items.

        Of the cold items only those are taken that reach the last place of what there is without
        them, for any of the customers, and those that one of them has bought.
        """
        by, within = self.by, self.by.universes[universe]
        sids = self.customers.history.sids
        history = select_customers(self.customers.history, [sids[row] for row in rows])
        own, power, vocabulary = bought(history), by.power, by.model.vocabulary
        floored = self.beside.floored[rows]
        allowed = np.broadcast_to(self._within(universe)[vocabulary], floored.shape)
        wanted = [own.items[by.is_cold[own.items]]]
        if protocol is Protocol.NEW:
            allowed = allowed & ~own.table(vocabulary)
            wanted = []
        least = _last_places(np.where(allowed, floored * power[vocabulary], 0.0), by.places)
        for row, (score, lowest) in enumerate(zip(self.tilted[rows], least, strict=True)):
            lifts = ColdLifts.of(by.by_place[universe], own.rows(row, row + 1), score)
            wanted.append(lifts.above(float(lowest)))
        taken = replace(by.cold, items=np.unique(np.concatenate(wanted)))
        both = np.concatenate([floored, taken.scores(own, self.tilted[rows])], axis=1)
        unknown = np.flatnonzero(self.unknown[rows])
        if len(unknown):
            both[unknown] *= (by.usual_total / np.maximum(floored[unknown].sum(axis=1), 1e-300))[
                :, None
            ]
        extended = taken.extended(by.model)
        if protocol is Protocol.NEW:
            both *= power[extended.vocabulary]
            return rank_shared(both, extended, by.places, excluded=own, universe=within)
        return rank_fused(
            both,
            history,
            extended,
            by.places,
            popularity_noise_stddev=by.floor_stddev,
            universe=within,
        )


def _last_places(scores: FloatArray, places: int) -> FloatArray:
    """float64[n]: each customer's score of the last place; 0 where there are not so many."""
    if scores.shape[1] < places:
        return np.zeros(len(scores))
    cut = scores.shape[1] - places
    least: FloatArray = np.partition(scores, cut, axis=1)[:, cut]
    return np.maximum(least, 0.0)
