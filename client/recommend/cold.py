"""Scores of items that the shared model has no factors for: rare ones, and ones newer than it.

An item outside the model's vocabulary is scored by what is public or the customer's own: how
popular an item of its place in the catalogue is expected to be, and how much more the customer buys
of such items than others do.

    q(u, i) = expected popularity(i) ^ a · Π over levels (own share / global share) ^ b(level)
              · (shared score of i's category / an average customer's) ^ c

The same formula applies to the vocabulary's items, which do have shared scores. A customer's q are
scaled so that over the vocabulary they add up to her shared scores, and count `COLD_WEIGHT` of
those: what the shared model says comes first, and where it has nothing above 0 to say, of an item
of the vocabulary as of any other, the catalogue decides. A customer of whom the shared model knows
nothing has q for all items; one without any history has the expected popularity, as everybody
would.

Formal guarantees: a customer's own history, released values and the public catalogue enter. What
comes of it stays with the customer (joint differential privacy), so it costs no ε.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from client.recommend.catalogue_prior import expected_popularity
from client.recommend.item_tree import ItemTree
from common.catalogue import Catalogue
from common.errors import InputError
from common.model_state import ModelState
from common.ranking import ItemSets

FloatArray = npt.NDArray[np.float64]
Scores = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

#: The exponents of the formula, a, b by level and c. Public constants, chosen on earlier weeks of
#: public data (docs/decisions/0044-cold-items-and-personal-variants.md).
POPULARITY_EXPONENT = 0.75
CATEGORY_EXPONENT = 0.3
TYPE_EXPONENT = 0.3
BRAND_EXPONENT = 0.1
SHARED_EXPONENT = 0.3
#: What q counts beside a shared score. Measured: the more, the worse are the first ten.
COLD_WEIGHT = 0.001
#: A customer's shares are smoothed as if so many more items had been bought at the global shares.
SMOOTHING = 20.0
# Nothing is so rare that a single purchase of it makes all others vanish.
_LEAST_SHARE = 1e-5
#: Of items in one place of the catalogue only so many are candidates: they differ by their expected
#: popularity alone, so the others would come after them in every list.
PER_PLACE = 20


@dataclass(frozen=True, eq=False)
class ColdScores:
    """Scores of the items outside a model's vocabulary. Make it with `of`; immutable.

    Attributes:
        items: int64[n_cold], numbers of the candidates in the catalogue, ascending.
        popularity: float64[n_items of the catalogue], expected; see `expected_popularity`.
        vocabulary: int64[m], the model's.
        base: float64[n_items of the catalogue], popularity's part of the formula.
        levels: Of the catalogue, each with its part.
        shared_groups: The part of the categories' shared scores.
    """

    items: IntArray
    popularity: FloatArray = field(repr=False)
    vocabulary: IntArray = field(repr=False)
    base: FloatArray = field(repr=False)
    levels: tuple[Level, ...] = field(repr=False)
    shared_groups: SharedGroups = field(repr=False)

    @classmethod
    def of(
        cls,
        catalogue: Catalogue,
        model: ModelState,
        *,
        popularity_noise_stddev: float,
        per_place: int = PER_PLACE,
        tree: ItemTree | None = None,
    ) -> ColdScores:
        """Prepares the scores of a model's cold items.

        Args:
            catalogue: The region's own public catalogue, checked against the model's by
                `client.recommend.item_features.pinned_catalogue`: the plan's or one that extends
                it.
            model: The published model.
            popularity_noise_stddev: Of its popularity, from the run plan; 0 for none.
            per_place: How many items of each place in the catalogue are candidates.
            tree: The catalogue's, if it is there already; made otherwise.

        Raises:
            InputError: The catalogue has fewer items than the model, or there is no place.
        """
        if per_place < 1:
            raise InputError(f"{per_place} candidates of each place are none.")
        tree = tree or ItemTree.of(catalogue)
        expected = expected_popularity(
            catalogue, model.popularity, noise_stddev=popularity_noise_stddev, tree=tree
        )
        levels = tuple(
            Level.of(codes, expected, exponent)
            for codes, exponent in (
                (catalogue.category, CATEGORY_EXPONENT),
                (catalogue.product_type, TYPE_EXPONENT),
                (catalogue.brand, BRAND_EXPONENT),
            )
        )
        return cls(
            items=_candidates(tree, expected, model.vocabulary, per_place),
            popularity=expected,
            vocabulary=model.vocabulary,
            base=expected**POPULARITY_EXPONENT,
            levels=levels,
            shared_groups=SharedGroups.of(catalogue.category, model, expected),
        )

    def scores(self, own: ItemSets, shared: npt.NDArray[np.floating]) -> Scores:
        """Cold items' scores, comparable with the shared scores given.

        Args:
            own: What each of n customers bought, of this catalogue.
            shared: float[n, m], finite: their shared (and tilted) scores of the vocabulary.

        Returns:
            float32[n, n_cold], at least 0, for `items`.

        Raises:
            InputError: Numbers of customers or items differ, or a score is not finite.
        """
        return self._of_items(own, self.beside(own, shared), self.items)

    def floored(self, own: ItemSets, shared: npt.NDArray[np.floating]) -> FloatArray:
        """The vocabulary's scores: shared ones, the catalogue's where these are not above 0.

        Args:
            own: As of `scores`.
            shared: Likewise.

        Returns:
            float64[n, m].

        Raises:
            InputError: As of `scores`.
        """
        return self.beside(own, shared).floored

    def beside(self, own: ItemSets, shared: npt.NDArray[np.floating]) -> Beside:
        """What has to be known of customers' shared scores to score cold items beside them.

        Args:
            own: As of `scores`.
            shared: Likewise.

        Raises:
            InputError: As of `scores`.
        """
        if shared.shape != (own.n_customers, len(self.vocabulary)):
            raise InputError(
                f"Shared scores of shape {shared.shape} are not of {own.n_customers} customers and "
                f"{len(self.vocabulary)} items."
            )
        if own.n_items != len(self.popularity):
            raise InputError(
                f"Histories over {own.n_items} items are not over the {len(self.popularity)} of "
                "the catalogue."
            )
        if not np.isfinite(shared).all():
            raise InputError("A score is not a finite number; it has no place in a ranking.")
        positive = np.maximum(shared, 0.0).astype(np.float64)
        warm = np.tile(self.base[self.vocabulary], (own.n_customers, 1))
        for level, (groups, of_vocabulary) in zip(self.levels, self._named, strict=True):
            warm *= level.lifts(own, groups)[:, of_vocabulary]
        by_category = self.shared_groups.lifts(positive)
        warm *= by_category[:, self.shared_groups.of_vocabulary]
        known, formula = positive.sum(axis=1), warm.sum(axis=1)
        scale = np.where((known > 0) & (formula > 0), known / np.maximum(formula, 1e-300), 1.0)
        floored = np.where(shared > 0, shared.astype(np.float64), _weighed(warm, scale))
        return Beside(floored, scale, by_category)

    def whole(self, own: ItemSets) -> Scores:
        """Every item's score by the catalogue alone, of customers whom the shared model misses.

        Args:
            own: What each of n customers bought; nothing at all for a new one.

        Returns:
            float32[n, n_items]: for an empty history the expected popularity's order.
        """
        nothing = np.zeros((own.n_customers, len(self.vocabulary)))
        return self._of_items(own, self.beside(own, nothing), np.arange(len(self.popularity)))

    def within(self, universe: npt.NDArray[np.bool_] | None) -> ColdScores:
        """Those of the cold items that are in a part of the catalogue; all of them without one."""
        if universe is None:
            return self
        return replace(self, items=self.items[universe[self.items]])

    def extended(self, model: ModelState) -> ModelState:
        """The model with its cold items at the end of the vocabulary, for ranking only.

        Popularity is the expected one, so that places left over go by it. Cold items have no
        factors: what is ranked are the shared scores with those of `scores` beside them.
        """
        n_cold = len(self.items)
        return replace(
            model,
            popularity=self.popularity.astype(np.float32),
            vocabulary=np.concatenate([model.vocabulary, self.items]),
            item_weights=np.concatenate([model.item_weights, np.ones(n_cold, np.float32)]),
            item_factors=np.concatenate(
                [model.item_factors, np.zeros((n_cold, model.item_factors.shape[1]), np.float32)]
            ),
        )

    def _of_items(self, own: ItemSets, beside: Beside, items: IntArray) -> Scores:
        """float32[n, c]: the scores of some items."""
        q = np.tile(self.base[items], (own.n_customers, 1))
        for level in self.levels:
            q *= level.lifts(own)[:, level.codes[items]]
        q *= beside.by_category[:, self.shared_groups.codes[items]]
        return _weighed(q, beside.scale)

    @cached_property
    def _named(self) -> list[tuple[IntArray, IntArray]]:
        """For each level the groups that the vocabulary has, and which of them each item is of."""
        return [
            np.unique(level.codes[self.vocabulary], return_inverse=True) for level in self.levels
        ]


@dataclass(frozen=True, eq=False)
class Beside:
    """What n customers' cold scores have beside the catalogue and their own histories.

    Attributes:
        floored: float64[n, m]; see `ColdScores.floored`.
        scale: float64[n], what makes q comparable with the customer's shared scores.
        by_category: float64[n, n_categories], the part of the categories' shared scores.
    """

    floored: FloatArray = field(repr=False)
    scale: FloatArray = field(repr=False)
    by_category: FloatArray = field(repr=False)


@dataclass(frozen=True, eq=False)
class Level:
    """One level of the catalogue: each item's group, and the groups' shares of all purchases.

    Attributes:
        codes: int32[n_items].
        shares: float64[n_groups], above 0.
        exponent: What the ratio of shares is raised to.
    """

    codes: npt.NDArray[np.int32]
    shares: FloatArray
    exponent: float

    @classmethod
    def of(cls, codes: npt.NDArray[np.int32], expected: FloatArray, exponent: float) -> Level:
        """Prepares a level, of each item's group and expected popularity."""
        shares = np.bincount(codes, weights=expected)
        shares = np.maximum(shares / max(float(shares.sum()), 1e-300), _LEAST_SHARE)
        return cls(codes, shares / shares.sum(), exponent)

    def lifts(self, own: ItemSets, groups: IntArray | None = None) -> FloatArray:
        """What n customers' own shares make of groups: 1 for whoever has no history.

        Args:
            own: What each of n customers bought.
            groups: int64[c], distinct; all of them by default.

        Returns:
            float64[n, c]: (own share / global share) ** exponent.
        """
        owners, shares = own.owners, self.shares
        columns = self.codes[own.items].astype(np.int64)
        if groups is not None:
            column = np.full(len(shares), -1, dtype=np.int64)
            column[groups] = np.arange(len(groups))
            columns, shares = column[columns], shares[groups]
            owners, columns = owners[columns >= 0], columns[columns >= 0]
        n_groups = len(shares)
        counts = np.bincount(owners * n_groups + columns, minlength=own.n_customers * n_groups)
        lifted: FloatArray = self.lift(
            counts.reshape(own.n_customers, n_groups), own.sizes[:, None], shares
        )
        return lifted

    def lift(self, counts: IntArray, sizes: IntArray, shares: FloatArray) -> FloatArray:
        """float64[…]: the lift of whoever bought so many items of a group, and so many in all."""
        smoothed = counts + SMOOTHING * shares
        smoothed /= sizes + SMOOTHING
        lifted: FloatArray = (smoothed / shares) ** self.exponent
        return lifted


@dataclass(frozen=True, eq=False)
class SharedGroups:
    """The categories of the vocabulary, and what an average customer's shared scores are of each.

    Attributes:
        codes: int32[n_items], each item's category.
        of_vocabulary: int32[m], of the vocabulary's items.
        average: float64[n_groups], adding up to 1.
    """

    codes: npt.NDArray[np.int32]
    of_vocabulary: npt.NDArray[np.int32]
    average: FloatArray

    @classmethod
    def of(
        cls, codes: npt.NDArray[np.int32], model: ModelState, expected: FloatArray
    ) -> SharedGroups:
        """Prepares the categories of a model's vocabulary."""
        of_vocabulary = codes[model.vocabulary]
        scores = _average_scores(model, expected)
        average = np.bincount(of_vocabulary, weights=scores, minlength=int(codes.max()) + 1)
        return cls(codes, of_vocabulary, average / max(float(average.sum()), 1e-300))

    def lifts(self, positive: FloatArray) -> FloatArray:
        """float64[n, n_groups]: 1 for a group without vocabulary items, or without any scores."""
        n_customers, n_groups = len(positive), len(self.average)
        cells = np.arange(n_customers)[:, None] * n_groups + self.of_vocabulary
        sums = np.bincount(
            cells.ravel(), weights=positive.ravel(), minlength=n_customers * n_groups
        ).reshape(n_customers, n_groups)
        totals = positive.sum(axis=1, keepdims=True)
        shares = np.where(totals > 0, sums / np.where(totals > 0, totals, 1.0), self.average)
        # A category that the vocabulary hardly has says hardly anything.
        floor = 1.0 / max(1, len(self.of_vocabulary))
        lifted: FloatArray = ((shares + floor) / (self.average + floor)) ** SHARED_EXPONENT
        return lifted


def _weighed(q: FloatArray, scale: FloatArray) -> Scores:
    """float32[n, …]: what q comes to beside shared scores."""
    weighed: Scores = (q * (COLD_WEIGHT * scale)[:, None]).astype(np.float32)
    return weighed


def _average_scores(model: ModelState, expected: FloatArray) -> FloatArray:
    """float64[m], at least 0: the vocabulary's shared scores for a customer who is as all are."""
    popular = np.maximum(expected[model.vocabulary], 0.0)
    if model.parameters:
        # Scores are likelihoods of a purchase or near to it: on average popularity itself.
        return popular
    row = popular * model.item_weights.astype(np.float64)
    row /= max(float(np.linalg.norm(row)), 1e-300)
    averages: FloatArray = np.maximum(model.scores(row[None, :])[0], 0.0)
    return averages


def _candidates(
    tree: ItemTree, expected: FloatArray, vocabulary: IntArray, per_place: int
) -> IntArray:
    """int64[n_cold], ascending: of each place in the catalogue the most popular cold items."""
    chosen = np.ones(len(expected), dtype=bool)
    chosen[vocabulary] = False
    sizes = np.bincount(tree.places[chosen], minlength=len(tree.parents[-1]))
    # Of the other places all are.
    items = np.flatnonzero(chosen & (sizes > per_place)[tree.places])
    places = tree.places[items]
    # By place, then popularity, then number: ties go to the smaller number.
    order = np.lexsort((items, -expected[items], places))
    ordered = places[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    within = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    chosen[items[order[within >= per_place]]] = False
    return np.flatnonzero(chosen)
