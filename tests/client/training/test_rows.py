from __future__ import annotations

import numpy as np
import pytest

from client.training.rows import factor_rows, popularity_values, recency
from common.errors import InputError
from common.model_state import ModelState
from tests.support.preference_data import dataset_of, random_dataset

DATASET = dataset_of(
    {"a": {0: [12.0, 30.0], 3: [0.0]}, "b": {5: [24.0]}, "c": {3: [1.0, 2.0, 3.0, 4.0]}}, n_items=8
)


def model_over(vocabulary: list[int], weights: list[float], n_items: int = 8) -> ModelState:
    return ModelState.from_arrays(
        {
            "popularity": np.ones(n_items, dtype=np.float32),
            "vocabulary": np.array(vocabulary, dtype=np.int64),
            "item_weights": np.array(weights, dtype=np.float32),
            "item_factors": np.eye(len(vocabulary), dtype=np.float32),
        }
    )


def test_recency_halves_every_twelve_weeks_since_the_last_purchase() -> None:
    expected = [0.5, 1.0, 0.25, 0.5 ** (1 / 12)]
    assert recency(DATASET) == pytest.approx(expected, rel=1e-6)


def test_popularity_rows_are_roots_of_counts_times_recency_at_norm_one() -> None:
    values = popularity_values(DATASET)
    whole = np.array([np.sqrt(2) * 0.5, 1.0])
    assert values[:2] == pytest.approx(whole / np.linalg.norm(whole), rel=1e-6)
    assert values[2:] == pytest.approx([1.0, 1.0])


def test_every_popularity_row_has_norm_one() -> None:
    dataset = random_dataset(40, 30)
    squares = np.add.reduceat(popularity_values(dataset) ** 2, dataset.indptr[:-1])
    assert squares == pytest.approx(np.ones(40), rel=1e-12)


def test_factor_rows_are_weighted_over_the_vocabulary_at_norm_one() -> None:
    (rows,) = factor_rows(DATASET, model_over([3, 0], [2.0, 1.0]))
    first = np.array([2.0 * 1.0, 1.0 * 0.5])
    assert rows[0] == pytest.approx(first / np.linalg.norm(first), rel=1e-6)
    assert rows[1] == pytest.approx([0.0, 0.0])
    assert rows[2] == pytest.approx([1.0, 0.0])


def test_chunks_are_the_whole_in_order() -> None:
    dataset, model = random_dataset(10, 8), model_over([0, 1, 2, 5], [1.0, 1.0, 2.0, 3.0])
    (whole,) = factor_rows(dataset, model)
    parts = list(factor_rows(dataset, model, chunk=3))
    assert [len(part) for part in parts] == [3, 3, 3, 1]
    assert np.array_equal(np.concatenate(parts), whole)


def test_without_customers_there_are_no_rows() -> None:
    empty = dataset_of({}, n_items=8)
    assert list(factor_rows(empty, model_over([0], [1.0]))) == []
    assert popularity_values(empty).shape == (0,)


def test_a_model_of_another_catalogue_is_refused() -> None:
    with pytest.raises(InputError, match="9 items"):
        list(factor_rows(DATASET, model_over([0], [1.0], n_items=9)))


def test_a_purchase_after_the_window_is_refused() -> None:
    with pytest.raises(InputError, match="after the end"):
        recency(dataset_of({"a": {0: [-1.0]}}, n_items=2))
