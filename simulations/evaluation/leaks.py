"""Checks that no answer reaches what is asked: each looks at the data, not at how they were made.

A figure from a split that leaks is worth nothing, however good it looks, so an evaluation ends
where one of these finds something (Sachdeva, Wu and McAuley, "On sampling collaborative filtering
datasets", 2022; Ji et al., "A critical study on data leakage in recommender system offline
evaluation", 2023).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from client.data.dataset import PreferenceDataset
from client.training.personalisation import bought
from common.errors import InputError
from simulations.evaluation.protocols import Fold

# Fewer items may be the same by chance.
_TELLING_ITEMS = 8


@dataclass(frozen=True)
class Leak:
    """An answer, or a customer, where it must not be.

    Attributes:
        check: The check that found it; a key of `CHECKS`.
        problem: What was found, as a clause.
    """

    check: str
    problem: str


def _future_in_training(fold: Fold) -> str | None:
    """A purchase that is learnt from, or known, lies in the test window or after it."""
    if fold.test_from_ms is None:
        return None
    for what, datasets in (("learnt from", fold.train), ("known", fold.histories)):
        for region, dataset in datasets.items():
            late = int((dataset.last_ms >= fold.test_from_ms).sum())
            late += int((dataset.ages_weeks < 0).sum())
            if late:
                return f"{late} purchases of {region} that are {what} are not before the test"
    return None


def _answer_in_history(fold: Fold) -> str | None:
    """An item that is asked is known already, where the split is not by time."""
    if fold.test_from_ms is not None:
        return None
    for region, history in fold.histories.items():
        answers = fold.answers[region]
        known = int(bought(history).contains(answers.owners, answers.items).sum())
        if known:
            return f"{known} items that customers of {region} are asked for are in their histories"
    return None


def _customer_in_two_regions(fold: Fold) -> str | None:
    """One customer is in two regions, by the same pseudonym or by the very same purchases."""
    region_of: dict[str, str] = {}
    region_by_purchases: dict[bytes, str] = {}
    for region, datasets in _by_region(fold).items():
        for dataset in datasets:
            for sid in dataset.sids:
                if region_of.setdefault(sid, region) != region:
                    return f"a customer is both in {region_of[sid]} and in {region}"
            for digest in _digests(dataset):
                if region_by_purchases.setdefault(digest, region) != region:
                    there = region_by_purchases[digest]
                    return f"{there} and {region} have a customer each with the same purchases"
    return None


def _by_region(fold: Fold) -> Mapping[str, Sequence[PreferenceDataset]]:
    return {region: (fold.train[region], fold.histories[region]) for region in fold.train}


def _digests(dataset: PreferenceDataset) -> Iterable[bytes]:
    """A digest of what each customer with enough items bought, and when."""
    for start, stop in zip(dataset.indptr[:-1], dataset.indptr[1:], strict=True):
        if stop - start >= _TELLING_ITEMS:
            digest = hashlib.sha256(dataset.indices[start:stop].tobytes())
            digest.update(dataset.counts.values[start:stop].tobytes())
            digest.update(dataset.last_ms[start:stop].tobytes())
            yield digest.digest()


def _asked_in_training(fold: Fold) -> str | None:
    """A customer who is asked is learnt from too, where the split is by customers."""
    if fold.test_from_ms is not None:
        return None
    learnt = {sid for dataset in fold.train.values() for sid in dataset.sids}
    asked = {sid for history in fold.histories.values() for sid in history.sids}
    both = len(learnt & asked)
    return f"{both} customers who are asked are in training" if both else None


def _tuned_on_answers(fold: Fold) -> str | None:
    """What choices are made by has seen answers: later purchases, or customers who are asked."""
    tuning = fold.tuning
    if tuning is None:
        return None
    if fold.test_from_ms is not None:
        ends = tuning.test_until_ms
        if ends is None or ends > fold.test_from_ms:
            return "choices are made by purchases of the test window"
        return None
    asked = {sid for history in fold.histories.values() for sid in history.sids}
    used = {
        sid
        for datasets in (tuning.train, tuning.histories)
        for dataset in datasets.values()
        for sid in dataset.sids
    }
    both = len(asked & used)
    return f"choices are made by {both} customers who are asked" if both else None


CHECKS: Mapping[str, Callable[[Fold], str | None]] = {
    "future-in-training": _future_in_training,
    "answer-in-history": _answer_in_history,
    "customer-in-two-regions": _customer_in_two_regions,
    "asked-in-training": _asked_in_training,
    "tuned-on-answers": _tuned_on_answers,
}


def find_leaks(folds: Sequence[Fold]) -> list[Leak]:
    """What the checks find, in the folds and in what choices are made by."""
    looked_at = [each for fold in folds for each in (fold, fold.tuning) if each is not None]
    found = (
        Leak(name, problem)
        for name, check in CHECKS.items()
        for fold in looked_at
        if (problem := check(fold)) is not None
    )
    return list(dict.fromkeys(found))


def require_no_leaks(folds: Sequence[Fold]) -> None:
    """Ends an evaluation whose figures would be worth nothing.

    Raises:
        InputError: A check found something: names each.
    """
    leaks = find_leaks(folds)
    if leaks:
        told = "; ".join(f"{leak.problem} ({leak.check})" for leak in leaks)
        raise InputError(
            f"The evaluation leaks: {told}.",
            remedy="Correct the data or their mapping files: figures of this split mean nothing.",
        )
