from __future__ import annotations

import numpy as np
import pytest

from client.training.evaluation import (
    EvaluationSet,
    Protocol,
    evaluate,
    select_customers,
    without_customers,
)
from client.training.personalisation import bought
from common.errors import InputError
from common.ranking import ItemSets
from tests.support.preference_data import END_MS, START_MS, dataset_of, random_dataset

WEEK = 7 * 24 * 3600 * 1000
TEST_END_MS = END_MS + 5 * WEEK
TRAIN = dataset_of({"a": {1: [3.0], 2: [1.0, 9.0]}, "b": {4: [2.0]}, "c": {0: [5.0]}}, 6)
TEST = dataset_of(
    {"a": {2: [1.0], 5: [0.5]}, "c": {0: [1.0]}, "new": {3: [2.0]}},
    6,
    start_ms=END_MS,
    end_ms=TEST_END_MS,
)


def plain(sets: ItemSets) -> list[list[int]]:
    return [part.tolist() for part in np.split(sets.items, sets.indptr[1:-1])]


def test_the_customers_of_the_test_window_meet_their_histories() -> None:
    evaluation = EvaluationSet.of(TRAIN, TEST)
    assert evaluation.history.sids == ("a", "c", "new")
    assert plain(evaluation.seen) == [[1, 2], [0], []]
    assert plain(evaluation.relevant(Protocol.ALL)) == [[2, 5], [0], [3]]
    assert plain(evaluation.relevant(Protocol.NEW)) == [[5], [], [3]]
    universe = np.array([False, False, True, True, True, False])
    assert plain(evaluation.relevant(Protocol.ALL, universe)) == [[2], [], [3]]


def test_a_test_that_begins_before_training_ends_is_refused() -> None:
    overlapping = dataset_of({"a": {0: [1.0]}}, 6, start_ms=END_MS - 1, end_ms=TEST_END_MS)
    with pytest.raises(InputError, match="leak"):
        EvaluationSet.of(TRAIN, overlapping)
    other = dataset_of({"a": {0: [1.0]}}, 7, start_ms=END_MS, end_ms=TEST_END_MS)
    with pytest.raises(InputError, match="7 items"):
        EvaluationSet.of(TRAIN, other)


def test_quality_by_customer() -> None:
    evaluation = EvaluationSet.of(TRAIN, TEST)
    ranked = np.tile(np.concatenate([[5, 0, 3], np.full(17, -1)]), (3, 1))
    quality = evaluate(ranked, evaluation.relevant(Protocol.NEW), n_candidates=6)
    assert quality.by_customer["ndcg@10"] == pytest.approx([1.0, np.nan, 0.5], nan_ok=True)
    assert quality.by_customer["recall@20"] == pytest.approx([1.0, np.nan, 1.0], nan_ok=True)
    assert quality.by_customer["hit_rate@10"] == pytest.approx([1.0, np.nan, 1.0], nan_ok=True)
    assert quality.coverage == 0.5


def test_selecting_customers_keeps_all_that_belongs_to_them() -> None:
    dataset = random_dataset(30, 40)
    chosen = [dataset.sids[row] for row in (4, 20, 7)]
    part = select_customers(dataset, [*chosen, "unknown"])
    assert part.sids == tuple(sorted([*chosen, "unknown"]))
    for row, sid in enumerate(part.sids):
        if sid == "unknown":
            assert part.indptr[row] == part.indptr[row + 1]
            continue
        source = dataset.sids.index(sid)
        for whole, selected in (
            (dataset.indices, part.indices),
            (dataset.counts.values, part.counts.values),
            (dataset.last_ms, part.last_ms),
            (dataset.history().values, part.history().values),
        ):
            expected = whole[dataset.indptr[source] : dataset.indptr[source + 1]]
            assert np.array_equal(selected[part.indptr[row] : part.indptr[row + 1]], expected)
    assert (part.start_ms, part.end_ms) == (START_MS, END_MS)


def test_leaving_customers_out() -> None:
    dataset = random_dataset(10, 20)
    rest = without_customers(dataset, [*dataset.sids[2:5], "unknown"])
    assert rest.sids == dataset.sids[:2] + dataset.sids[5:]
    nobody = without_customers(dataset, dataset.sids)
    assert (nobody.n_customers, len(nobody.indices)) == (0, 0)
    assert select_customers(nobody, ["x"]).indptr.tolist() == [0, 0]
    assert plain(bought(select_customers(nobody, ["x"]))) == [[]]
