from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.data.dataset import PreferenceDataset
from client.training.evaluation import Protocol
from client.training.personalisation import bought
from common.errors import InputError
from simulations.evaluation import protocols
from simulations.evaluation.data import EvaluationData, mapped_data
from simulations.evaluation.protocols import FOLDS, LEAST_ITEMS, Fold, Split, folds_of, n_asked
from tests.support.evaluation_store import START_S, made_up_rows, write_store


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EvaluationData:
    more = "[evaluation]\nregions = 3\n"
    return mapped_data([write_store(tmp_path_factory.mktemp("shop"), made_up_rows(), more=more)])


@pytest.fixture(scope="module")
def temporal(data: EvaluationData) -> Fold:
    (fold,) = folds_of(data, Split.TEMPORAL)
    return fold


@pytest.fixture(scope="module")
def strong(data: EvaluationData) -> list[Fold]:
    return folds_of(data, Split.STRONG)


def sids(datasets: dict[str, PreferenceDataset]) -> set[str]:
    return {sid for dataset in datasets.values() for sid in dataset.sids}


def test_by_time_what_is_asked_comes_after_what_is_learnt(
    data: EvaluationData, temporal: Fold
) -> None:
    assert temporal.test_from_ms == data.windows.train_until_ms
    for region, train in temporal.train.items():
        assert train.last_ms.max() < data.windows.train_until_ms
        history = temporal.histories[region]
        assert temporal.answers[region].n_customers == history.n_customers
        # Whoever is asked and was there before has the very history that is learnt from.
        known = {sid: row for row, sid in enumerate(train.sids)}
        for row, sid in enumerate(history.sids):
            own = history.indices[history.indptr[row] : history.indptr[row + 1]]
            if sid in known:
                there = known[sid]
                learnt = train.indices[train.indptr[there] : train.indptr[there + 1]]
                assert np.array_equal(own, learnt)
            else:
                assert not len(own)
    assert temporal.relevant(Protocol.NEW).sizes.sum() < temporal.relevant(Protocol.ALL).sizes.sum()
    tuning = temporal.tuning
    assert tuning is not None
    assert tuning.test_until_ms == temporal.test_from_ms
    length = data.windows.test_until_ms - data.windows.train_until_ms
    assert tuning.test_from_ms == data.windows.train_until_ms - length


def test_everyone_is_asked_once_and_never_learnt_from_then(strong: list[Fold]) -> None:
    asked = [sids(dict(fold.histories)) for fold in strong]
    assert len(strong) == FOLDS
    assert sum(map(len, asked)) == len(set.union(*asked)) == n_asked(strong)
    for fold, own in zip(strong, asked, strict=True):
        assert not own & sids(dict(fold.train))
        assert fold.tuning is not None
        assert not own & sids(dict(fold.tuning.train)) | own & sids(dict(fold.tuning.histories))
        assert sids(dict(fold.tuning.histories)) <= sids(dict(fold.train))


def test_a_fifth_of_each_customers_items_is_asked(strong: list[Fold]) -> None:
    for fold in strong:
        for region, history in fold.histories.items():
            answers, known = fold.answers[region], bought(history)
            assert not known.contains(answers.owners, answers.items).any()
            whole = answers.sizes + known.sizes
            assert (whole >= LEAST_ITEMS).all()
            assert np.array_equal(answers.sizes, np.maximum(1, np.rint(0.2 * whole)))


def test_the_same_split_each_time(data: EvaluationData, strong: list[Fold]) -> None:
    for one, other in zip(strong, folds_of(data, Split.STRONG), strict=True):
        for region in one.answers:
            assert np.array_equal(one.answers[region].items, other.answers[region].items)
            assert one.histories[region].sids == other.histories[region].sids


def test_questions_have_no_answers(temporal: Fold, strong: list[Fold]) -> None:
    for fold in (temporal, *strong):
        for region, question in fold.questions.items():
            assert question.history is fold.histories[region]
            assert question.test.n_customers == question.history.n_customers
            assert not question.test.sizes.any()


def test_no_more_customers_are_asked_than_there_is_memory_for(
    data: EvaluationData, temporal: Fold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocols, "MOST_CUSTOMERS", 10)
    (fold,) = folds_of(data, Split.TEMPORAL)
    assert n_asked([fold]) == 10
    everyone = sorted(sids(dict(temporal.histories)))
    assert sorted(sids(dict(fold.histories))) == everyone[:10]
    for region, history in fold.histories.items():
        count = history.n_customers
        whole = temporal.answers[region].rows(0, count)
        assert np.array_equal(fold.answers[region].items, whole.items)
    assert fold.train.keys() == temporal.train.keys()


def test_nobody_to_ask_is_an_error(tmp_path: Path) -> None:
    rows = [(f"c{number}", f"i{number}", START_S + number, 1) for number in range(20)]
    path = write_store(tmp_path, rows, more="[evaluation]\nregions = 1\n")
    with pytest.raises(InputError, match="could be asked for"):
        folds_of(mapped_data([path]), Split.STRONG)
