"""How good rankings are: accuracy, and what a shop sees besides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from client.training.evaluation import Protocol
from common.errors import UsageError
from common.metrics import (
    coverage_at_k,
    gini_at_k,
    hit_rate_at_k,
    long_tail,
    ndcg_at_k,
    novelty_at_k,
    recall_at_k,
    tail_share_at_k,
)
from common.ranking import IntArray, ItemSets
from simulations.evaluation.protocols import Fold, Split

FloatArray = npt.NDArray[np.float64]

MOST_PLACES = 100


@dataclass(frozen=True)
class Metrics:
    """What is measured, by name.

    Attributes:
        places: At which places, ascending; the first is that of the main metric.
    """

    places: tuple[int, ...]

    def __post_init__(self) -> None:
        distinct = sorted(set(self.places))
        if not distinct or not 1 <= distinct[0] <= distinct[-1] <= MOST_PLACES:
            raise UsageError(
                f"The places of metrics are 1 to {MOST_PLACES}.", remedy="Use --k 10,20, say."
            )
        object.__setattr__(self, "places", tuple(distinct))

    @property
    def main(self) -> str:
        """The metric that intervals, ratios, segments and the picture are of."""
        return f"ndcg@{self.places[0]}"

    @property
    def accuracy(self) -> tuple[str, ...]:
        """Those of relevance, a value for each customer."""
        return tuple(f"{name}@{k}" for k in self.places for name in ("ndcg", "recall", "hit_rate"))

    @property
    def beyond(self) -> tuple[str, ...]:
        """Those of what is shown, a value for each customer."""
        return (f"novelty@{self.places[0]}", f"long_tail@{self.places[0]}")

    @property
    def overall(self) -> tuple[str, ...]:
        """Those of what is shown to all customers together."""
        return (f"coverage@{self.places[0]}", f"gini@{self.places[0]}")


@dataclass(frozen=True, eq=False)
class Quality:
    """One method's quality, with one seed.

    Attributes:
        by_customer: For each metric of accuracy and beyond it float64[n]; NaN for a customer
            without an answer that counts.
        overall: For each metric of all together its value.
    """

    by_customer: dict[str, FloatArray] = field(repr=False)
    overall: dict[str, float]


class Judge:
    """Knows the answers, and what was popular; judges rankings of all folds' customers.

    Args:
        folds: The folds.
        split: How they were made.
        metrics: What is measured.
    """

    def __init__(self, folds: Sequence[Fold], split: Split, metrics: Metrics) -> None:
        self.metrics = metrics
        self._relevant = {
            counted: [fold.relevant(counted) for fold in folds] for counted in split.protocols
        }
        self._popularity, self._n_learnt = [], []
        for fold in folds:
            counts = [
                np.bincount(each.indices, minlength=each.n_items) for each in fold.train.values()
            ]
            self._popularity.append(np.sum(counts, axis=0).astype(np.float64))
            learnt = sum(each.n_customers for each in fold.train.values())
            self._n_learnt.append(max(1, learnt))

    def asked(self, counted: Protocol) -> npt.NDArray[np.bool_]:
        """bool[n]: which customers, of all folds in order, have an answer that counts."""
        return np.concatenate([each.sizes > 0 for each in self._relevant[counted]])

    def judge(self, counted: Protocol, rankings: Sequence[IntArray]) -> Quality:
        """The quality of int64[customers, places], one for each fold."""
        parts = [
            self._fold(number, relevant, ranked)
            for number, (relevant, ranked) in enumerate(
                zip(self._relevant[counted], rankings, strict=True)
            )
        ]
        by_customer = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        shown = np.concatenate(rankings)[self.asked(counted)]
        k, n_items = self.metrics.places[0], len(self._popularity[0])
        values = (coverage_at_k(shown, n_items, k), gini_at_k(shown, n_items, k))
        return Quality(by_customer, dict(zip(self.metrics.overall, values, strict=True)))

    def to_arrays(
        self, qualities: Mapping[tuple[str, Protocol], Quality]
    ) -> dict[str, npt.NDArray[np.generic]]:
        """Qualities by method and which items count as named arrays, for a file."""
        arrays: dict[str, npt.NDArray[np.generic]] = {}
        for (method, counted), quality in qualities.items():
            values = {name: np.array([value]) for name, value in quality.overall.items()}
            for metric, array in (quality.by_customer | values).items():
                arrays["|".join((method, counted.value, metric))] = array
        return arrays

    def from_arrays(
        self, arrays: Mapping[str, npt.NDArray[np.generic]]
    ) -> dict[tuple[str, Protocol], Quality]:
        """What `to_arrays` was given, in any order."""
        found: dict[tuple[str, Protocol], Quality] = {}
        for name, array in arrays.items():
            method, counted, metric = name.rsplit("|", 2)
            quality = found.setdefault((method, Protocol(counted)), Quality({}, {}))
            values = array.astype(np.float64)
            if metric in self.metrics.overall:
                quality.overall[metric] = float(values[0])
            else:
                quality.by_customer[metric] = values
        return found

    def _fold(self, number: int, relevant: ItemSets, ranked: IntArray) -> dict[str, FloatArray]:
        values: dict[str, FloatArray] = {}
        for k in self.metrics.places:
            values[f"ndcg@{k}"] = ndcg_at_k(ranked, relevant, k)
            values[f"recall@{k}"] = recall_at_k(ranked, relevant, k)
            values[f"hit_rate@{k}"] = hit_rate_at_k(ranked, relevant, k)
        k, popularity = self.metrics.places[0], self._popularity[number]
        shown = (
            novelty_at_k(ranked, popularity, self._n_learnt[number], k),
            tail_share_at_k(ranked, long_tail(popularity), k),
        )
        for name, each in zip(self.metrics.beyond, shown, strict=True):
            values[name] = np.where(relevant.sizes > 0, each, np.nan)
        return values
