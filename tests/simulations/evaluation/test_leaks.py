"""Every check finds the leak that is planted for it, and nothing where there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from client.data.dataset import PreferenceDataset
from client.training.evaluation import select_customers
from common.errors import InputError
from common.ranking import ItemSets
from simulations import baselines
from simulations.evaluation import leaks
from simulations.evaluation.data import EvaluationData, mapped_data
from simulations.evaluation.leaks import CHECKS, find_leaks, require_no_leaks
from simulations.evaluation.protocols import Fold, Split, folds_of
from tests.support.evaluation_store import made_up_rows, write_store


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EvaluationData:
    more = "[evaluation]\nregions = 3\n"
    return mapped_data([write_store(tmp_path_factory.mktemp("shop"), made_up_rows(), more=more)])


@pytest.fixture(scope="module")
def temporal(data: EvaluationData) -> Fold:
    return folds_of(data, Split.TEMPORAL)[0]


@pytest.fixture(scope="module")
def strong(data: EvaluationData) -> Fold:
    return folds_of(data, Split.STRONG)[0]


def later(fold: Fold) -> Fold:
    """A customer's last purchase is in the test window after all, and learnt from."""
    train = fold.train["region-1"]
    last_ms = train.last_ms.copy()
    last_ms[0] = fold.test_from_ms
    return replace(fold, train={**fold.train, "region-1": replace(train, last_ms=last_ms)})


def known_later(fold: Fold) -> Fold:
    """Likewise what is known of someone who is asked."""
    history = fold.histories["region-2"]
    last_ms = history.last_ms.copy()
    last_ms[-1] = fold.test_from_ms + 5
    return replace(
        fold, histories={**fold.histories, "region-2": replace(history, last_ms=last_ms)}
    )


def younger(fold: Fold) -> Fold:
    """A purchase has an age below 0, so it lies after the window whatever its time says."""
    train = fold.train["region-1"]
    ages = train.ages_weeks.copy()
    ages[3] = -0.5
    return replace(fold, train={**fold.train, "region-1": replace(train, ages_weeks=ages)})


def answer_known(fold: Fold) -> Fold:
    """One customer is asked for an item that is in the history."""
    history = fold.histories["region-1"]
    answers = fold.answers["region-1"]
    items = answers.items.copy()
    row = int(np.flatnonzero(answers.sizes > 0)[0])
    items[answers.indptr[row]] = history.indices[history.indptr[row]]
    planted = ItemSets(answers.indptr, items, answers.n_items)
    return replace(fold, answers={**fold.answers, "region-1": planted})


def shared_customer(fold: Fold) -> Fold:
    """A customer of one region is in another's training too."""
    guest = select_customers(fold.train["region-1"], fold.train["region-1"].sids[:1])
    return replace(fold, train={**fold.train, "region-2": joined(fold.train["region-2"], guest)})


def renamed_customer(fold: Fold) -> Fold:
    """The same under another pseudonym: only the purchases tell."""
    train = fold.train["region-1"]
    sizes = np.diff(train.indptr)
    own = train.sids[int(np.argmax(sizes))]
    guest = replace(select_customers(train, [own]), sids=("f" * 64,))
    return replace(fold, train={**fold.train, "region-2": joined(fold.train["region-2"], guest)})


def learnt_and_asked(fold: Fold) -> Fold:
    """A customer who is asked is in the training of the same region."""
    history = fold.histories["region-3"]
    guest = select_customers(history, history.sids[:1])
    return replace(fold, train={**fold.train, "region-3": joined(fold.train["region-3"], guest)})


def tuned_later(fold: Fold) -> Fold:
    """Choices are made by the very split that is judged."""
    return replace(fold, tuning=replace(fold, tuning=None))


def tuned_in_training(fold: Fold) -> Fold:
    """Choices are made by models that learnt from customers who are asked."""
    assert fold.tuning is not None
    return replace(fold, tuning=replace(fold.tuning, train=fold.histories))


def joined(dataset: PreferenceDataset, guest: PreferenceDataset) -> PreferenceDataset:
    return baselines.pool([dataset, guest])


PLANTED: list[tuple[str, str, Callable[[Fold], Fold], str]] = [
    ("temporal", "future-in-training", later, "learnt from"),
    ("temporal", "future-in-training", known_later, "known"),
    ("temporal", "future-in-training", younger, "1 purchases of region-1"),
    ("strong", "answer-in-history", answer_known, "region-1 are asked for"),
    ("temporal", "customer-in-two-regions", shared_customer, "both in region-1 and in region-2"),
    ("strong", "customer-in-two-regions", shared_customer, "both in region-1 and in region-2"),
    ("strong", "customer-in-two-regions", renamed_customer, "the same purchases"),
    ("strong", "asked-in-training", learnt_and_asked, "1 customers who are asked"),
    ("temporal", "tuned-on-answers", tuned_later, "purchases of the test window"),
    ("strong", "tuned-on-answers", tuned_later, "customers who are asked"),
    ("strong", "tuned-on-answers", tuned_in_training, "customers who are asked"),
]


def test_a_sound_split_has_no_leak(temporal: Fold, strong: Fold) -> None:
    assert find_leaks([temporal]) == []
    assert find_leaks([strong]) == []
    require_no_leaks([temporal])


@pytest.mark.parametrize(
    ("split", "check", "plant", "problem"),
    PLANTED,
    ids=[f"{split}-{plant.__name__}" for split, _, plant, _ in PLANTED],
)
def test_a_planted_leak_ends_the_evaluation(
    temporal: Fold,
    strong: Fold,
    monkeypatch: pytest.MonkeyPatch,
    split: str,
    check: str,
    plant: Callable[[Fold], Fold],
    problem: str,
) -> None:
    planted = plant(temporal if split == "temporal" else strong)
    with pytest.raises(InputError, match=f"{problem}.*{check}"):
        require_no_leaks([planted])
    # Without the check nobody notices: each leak has the one check that is for it.
    assert {leak.check for leak in find_leaks([planted])} == {check}
    monkeypatch.setattr(
        leaks, "CHECKS", {name: own for name, own in CHECKS.items() if name != check}
    )
    require_no_leaks([planted])


def test_every_check_has_its_planted_leak() -> None:
    assert {check for _, check, _, _ in PLANTED} == CHECKS.keys()


def test_a_leak_in_what_choices_are_made_by_counts_too(temporal: Fold) -> None:
    assert temporal.tuning is not None
    with pytest.raises(InputError, match="future-in-training"):
        require_no_leaks([replace(temporal, tuning=later(temporal.tuning))])


def test_a_store_with_one_customer_in_two_regions_is_refused(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("chain")
    paths = [
        write_store(folder / name, made_up_rows(30, seed=seed), name=name)
        for seed, name in enumerate(("north", "south"))
    ]
    with pytest.raises(InputError, match="both in north and in south"):
        require_no_leaks(folds_of(mapped_data(paths), Split.TEMPORAL))
