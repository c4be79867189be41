"""Baselines from a kept library: ItemKNN, iALS and BPR of `implicit`, with its own defaults.

They learn from all regions' records without privacy. None of their settings is chosen here: a
baseline that is tuned by what it is measured on says nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import scipy.sparse

from client.data.dataset import PreferenceDataset
from client.training.evaluation import Protocol as Counted
from client.training.personalisation import bought
from common.ranking import NO_ITEM, IntArray, fill
from simulations import baselines
from simulations.ease import binary_rows
from simulations.evaluation.contenders import Contender, Method, Question, Ranking
from simulations.evaluation.plans import Omission

LIBRARY = "implicit"
# Of their initial factors and samples: one seed, as a fit takes long where there are many items.
_SEED = 1
_MISSING = "the library implicit is not installed; pip install 'fedpref[evaluation]' brings it"
_STRONG = "it has no vectors for customers who are not in training"


class Neighbours:
    """Items like those in the history, by the cosine of their customers (Sarwar et al. 2001)."""

    has_chance = False
    methods = (Method("implicit/item-knn", "ItemKNN (implicit, cosine)", "library"),)

    def rank(self, question: Question, seed: int) -> Iterator[Ranking]:
        """By the similarities of the 20 nearest items, the library's default."""
        del seed
        model = _module("nearest_neighbours").CosineRecommender(num_threads=1)
        yield from _fitted(question, model, self.methods[0].key, by_row=False)


class AlternatingLeastSquares:
    """Weighted matrix factorisation (Hu, Koren and Volinsky 2008)."""

    has_chance = False
    methods = (Method("implicit/als", "iALS (implicit)", "library"),)

    def rank(self, question: Question, seed: int) -> Iterator[Ranking]:
        """By factors; each customer's are solved from her history."""
        del seed
        model = _module("als").AlternatingLeastSquares(random_state=_SEED, num_threads=1)
        yield from _fitted(
            question, model, self.methods[0].key, by_row=False, recalculate_user=True
        )


class PairwiseRanking:
    """Bayesian personalised ranking (Rendle et al. 2009); for customers who are in training."""

    has_chance = False
    methods = (Method("implicit/bpr", "BPR (implicit)", "library"),)

    def rank(self, question: Question, seed: int) -> Iterator[Ranking]:
        """By the factors that training gave customer and items."""
        del seed
        model = _module("bpr").BayesianPersonalizedRanking(random_state=_SEED, num_threads=1)
        yield from _fitted(question, model, self.methods[0].key, by_row=True)


def library_contenders(*, by_time: bool) -> tuple[list[Contender], list[Omission]]:
    """The library's contenders that can be measured, and those that cannot.

    Args:
        by_time: Whether the customers who are asked are in training.
    """
    every: Sequence[Contender] = (Neighbours(), AlternatingLeastSquares(), PairwiseRanking())
    titles = {each: each.methods[0].label for each in every}
    if importlib.util.find_spec(LIBRARY) is None:
        return [], [Omission(titles[each], _MISSING) for each in every]
    if by_time:
        return list(every), []
    return list(every[:2]), [Omission(titles[every[2]], _STRONG)]


def _module(name: str) -> Any:
    return importlib.import_module(f"{LIBRARY}.{name}")


def _fitted(
    question: Question, model: Any, key: str, *, by_row: bool, **options: bool
) -> Iterator[Ranking]:
    """Fits a model of the library, and ranks by it; free places go by popularity.

    Args:
        question: What is asked.
        model: The model, not fitted.
        key: Its method's key.
        by_row: Whether it ranks for rows of its training data, not for histories.
        options: Of its `recommend`.
    """
    population = question.population
    learnt = population.pooled
    everything = np.arange(learnt.n_items)
    # The library wants the older matrix type.
    with warnings.catch_warnings():
        # The library warns of a conversion of its own.
        warnings.simplefilter("ignore")
        model.fit(scipy.sparse.csr_matrix(binary_rows(learnt, everything)), show_progress=False)
    history = baselines.pool(
        [population.evaluated[region].history for region in population.regions]
    )
    rows = scipy.sparse.csr_matrix(binary_rows(history, everything))
    users, known = np.arange(history.n_customers), np.ones(history.n_customers, dtype=bool)
    if by_row:
        users, known = _rows_of(history, learnt)
    seen = bought(history)
    for counted in question.protocols:
        is_new = counted is Counted.NEW
        ranked = np.full((history.n_customers, question.places), NO_ITEM, dtype=np.int64)
        items, _ = model.recommend(
            users[known],
            rows[known],
            N=question.places,
            filter_already_liked_items=is_new,
            **options,
        )
        ranked[known, : items.shape[1]] = _distinct(items.astype(np.int64))
        excluded = seen if is_new else None
        yield key, counted, fill(ranked, question.popularity, excluded=excluded)


def _rows_of(history: PreferenceDataset, learnt: PreferenceDataset) -> tuple[IntArray, np.ndarray]:
    """int64[n], bool[n]: each customer's row in training, and whether there is one."""
    row_of = {sid: row for row, sid in enumerate(learnt.sids)}
    rows = np.array([row_of.get(sid, -1) for sid in history.sids], dtype=np.int64)
    return rows, rows >= 0


def _distinct(items: IntArray) -> IntArray:
    """The rankings without items that come a second time, free places last.

    Where candidates run out the library fills up with whatever comes.
    """
    ranked = np.full_like(items, NO_ITEM)
    for row, own in enumerate(items):
        kept = list(dict.fromkeys(own[own >= 0].tolist()))
        ranked[row, : len(kept)] = kept
    return ranked
