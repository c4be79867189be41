"""How customers' purchases are split into what is learnt from, what is known and what is asked.

``temporal``: what was bought before a moment is learnt from, what was bought after it is asked.
``strong`` (strong generalisation, Marlin 2004; as Liang et al. 2018 use it): customers are asked
who are not in training at all. Of each a part of the items is known, drawn by chance, and the rest
is asked. Customers are divided into folds, each of which is asked once.

Whatever ranks is given a fold's `questions`, in which the answers are blank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from client.data.dataset import PreferenceDataset
from client.training.evaluation import (
    EvaluationSet,
    Protocol,
    keep_entries,
    select_customers,
    without_customers,
)
from client.training.personalisation import bought
from common.errors import InputError
from common.ranking import ItemSets
from simulations.evaluation.data import EvaluationData
from simulations.prepared import EvaluationWindows

FOLDS = 5
ASKED_SHARE = 0.2
LEAST_ITEMS = 5
# More are not asked: the first by pseudonym, which is a hash.
MOST_CUSTOMERS = 20_000
_SPLIT_SEED = 0


class Split(StrEnum):
    """How purchases are split."""

    TEMPORAL = "temporal"
    STRONG = "strong"

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """Which items count: with strong generalisation none that is asked is known."""
        return (Protocol.NEW, Protocol.ALL) if self is Split.TEMPORAL else (Protocol.NEW,)


@dataclass(frozen=True, eq=False)
class Fold:
    """One split of all regions' customers.

    Attributes:
        train: For each region, in order, what is learnt from.
        histories: For each region, what is known of the customers who are asked.
        answers: For each region, what the same customers went on to buy, row by row.
        test_from_ms: When the test window begins; None where the split is not by time.
        test_until_ms: When it ends; likewise.
        tuning: A split of what is learnt from, for choices that are not to see the answers.
    """

    train: Mapping[str, PreferenceDataset] = field(repr=False)
    histories: Mapping[str, PreferenceDataset] = field(repr=False)
    answers: Mapping[str, ItemSets] = field(repr=False)
    test_from_ms: int | None = None
    test_until_ms: int | None = None
    tuning: Fold | None = field(default=None, repr=False)

    @property
    def questions(self) -> dict[str, EvaluationSet]:
        """The customers who are asked, with nothing of what they went on to buy."""
        return {
            region: EvaluationSet(history, _nothing(history.n_customers, history.n_items))
            for region, history in self.histories.items()
        }

    def relevant(self, protocol: Protocol) -> ItemSets:
        """The answers that count, of all regions' customers in order."""
        return ItemSets.concatenated(
            [
                EvaluationSet(self.histories[region], answers).relevant(protocol)
                for region, answers in self.answers.items()
            ]
        )


def folds_of(data: EvaluationData, split: Split) -> list[Fold]:
    """The data's folds.

    Raises:
        InputError: There is nobody to ask.
    """
    folds = [_temporal(data)] if split is Split.TEMPORAL else _strong(data)
    if not any(fold.relevant(Protocol.NEW).sizes.sum() for fold in folds):
        raise InputError(
            "No customer has a purchase that could be asked for.",
            remedy="Choose the other protocol, or another test window.",
        )
    return folds


def _temporal(data: EvaluationData) -> Fold:
    windows = data.windows
    length = windows.test_until_ms - windows.train_until_ms
    earlier = EvaluationWindows(
        windows.train_from_ms, windows.train_until_ms - length, windows.train_until_ms
    )
    tuning = None
    if earlier.train_from_ms < earlier.train_until_ms:
        tuning = _cut(data, earlier, tuning=None)
    return _cut(data, windows, tuning)


def _cut(data: EvaluationData, windows: EvaluationWindows, tuning: Fold | None) -> Fold:
    train, histories, answers = {}, {}, {}
    for region in data.regions:
        before, after = (
            PreferenceDataset.from_consented(
                region.consented, data.catalogue, start_ms=start, end_ms=end
            )
            for start, end in (
                (windows.train_from_ms, windows.train_until_ms),
                (windows.train_until_ms, windows.test_until_ms),
            )
        )
        train[region.name] = before
        evaluated = EvaluationSet.of(before, after)
        histories[region.name], answers[region.name] = evaluated.history, evaluated.test
    return _at_most(
        Fold(train, histories, answers, windows.train_until_ms, windows.test_until_ms, tuning)
    )


def _strong(data: EvaluationData) -> list[Fold]:
    whole = {
        region.name: PreferenceDataset.from_consented(
            region.consented,
            data.catalogue,
            start_ms=data.windows.train_from_ms,
            end_ms=data.windows.test_until_ms,
        )
        for region in data.regions
    }
    generator = np.random.default_rng(_SPLIT_SEED)
    fold_of: dict[str, dict[str, int]] = {}
    for region, dataset in whole.items():
        numbers = generator.permutation(dataset.n_customers) % FOLDS
        fold_of[region] = dict(zip(dataset.sids, numbers.tolist(), strict=True))
    folds = []
    for number in range(FOLDS):
        learnt = {
            region: without_customers(dataset, _members(fold_of[region], number))
            for region, dataset in whole.items()
        }
        # The next fold is in training, and is asked where something is to be chosen.
        tuning = _asked(learnt, fold_of, (number + 1) % FOLDS, tuning=None)
        folds.append(_asked(whole, fold_of, number, tuning))
    return folds


def _members(fold_of: Mapping[str, int], number: int) -> list[str]:
    return [sid for sid, own in fold_of.items() if own == number]


def _asked(
    whole: Mapping[str, PreferenceDataset],
    fold_of: Mapping[str, Mapping[str, int]],
    number: int,
    tuning: Fold | None,
) -> Fold:
    """The fold in which the customers of one number are asked, and the others learnt from."""
    train, histories, answers = {}, {}, {}
    for place, (region, dataset) in enumerate(whole.items()):
        members = _members(fold_of[region], number)
        train[region] = without_customers(dataset, members)
        generator = np.random.default_rng([_SPLIT_SEED, number, place])
        known, asked = _divided(select_customers(dataset, members), generator)
        histories[region], answers[region] = known, asked
    return _at_most(Fold(train, histories, answers, tuning=tuning))


def _divided(
    dataset: PreferenceDataset, generator: np.random.Generator
) -> tuple[PreferenceDataset, ItemSets]:
    """What is known of customers with enough items, and what is asked: a part drawn by chance."""
    sizes = np.diff(dataset.indptr)
    kept = [sid for sid, size in zip(dataset.sids, sizes, strict=True) if size >= LEAST_ITEMS]
    chosen = select_customers(dataset, kept)
    items = bought(chosen)
    order = np.lexsort((generator.random(len(items.items)), items.owners))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order)) - chosen.indptr[:-1][items.owners[order]]
    n_asked = np.maximum(1, np.rint(ASKED_SHARE * items.sizes)).astype(np.int64)
    asked: npt.NDArray[np.bool_] = place < n_asked[items.owners]
    return keep_entries(chosen, ~asked), items.kept(asked)


def _at_most(fold: Fold) -> Fold:
    """The fold with no more customers to ask than `MOST_CUSTOMERS`."""
    sids = sorted(sid for history in fold.histories.values() for sid in history.sids)
    if len(sids) <= MOST_CUSTOMERS:
        return fold
    last = sids[MOST_CUSTOMERS - 1]
    histories, answers = {}, {}
    for region, history in fold.histories.items():
        count = int(np.searchsorted(np.array(history.sids), last, side="right"))
        histories[region] = select_customers(history, history.sids[:count])
        answers[region] = fold.answers[region].rows(0, count)
    return Fold(fold.train, histories, answers, fold.test_from_ms, fold.test_until_ms, fold.tuning)


def _nothing(n_customers: int, n_items: int) -> ItemSets:
    return ItemSets(np.zeros(n_customers + 1, dtype=np.int64), np.zeros(0, dtype=np.int64), n_items)


def n_asked(folds: Sequence[Fold]) -> int:
    """How many customers are asked in all folds."""
    return sum(history.n_customers for fold in folds for history in fold.histories.values())
