from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from common.errors import FormatError
from common.model_state import ModelState

Arrays = dict[str, Any]


def good() -> Arrays:
    return {
        "popularity": np.arange(6, dtype=np.float32),
        "vocabulary": np.array([5, 4, 1], dtype=np.int64),
        "item_weights": np.array([1.0, 0.5, 2.0], dtype=np.float32),
        "item_factors": np.array([[2, 0], [0, 0.5], [0, 0]], dtype=np.float32),
    }


def test_directions_are_unit_columns_and_scores_use_the_norms() -> None:
    state = ModelState.from_arrays(good())
    assert state.n_items == 6
    assert state.directions.tolist() == [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    assert state.scores(np.array([[1.0, 1.0, 1.0]])).tolist() == [[4.0, 0.25, 0.0]]


def changed(**arrays: Any) -> Callable[[], Arrays]:
    return lambda: {**good(), **arrays}


@pytest.mark.parametrize(
    "make",
    [
        dict,
        lambda: {key: value for key, value in good().items() if key != "popularity"},
        changed(extra=np.zeros(1, dtype=np.float32)),
        changed(vocabulary=np.array([5, 5, 1], dtype=np.int64)),
        changed(vocabulary=np.array([6, 4, 1], dtype=np.int64)),
        changed(vocabulary=np.array([-1, 4, 1], dtype=np.int64)),
        changed(vocabulary=np.array([5, 4, 1], dtype=np.int32)),
        changed(item_weights=np.array([1, 0, 1], dtype=np.float32)),
        changed(item_weights=np.array([1, np.nan, 1], dtype=np.float32)),
        changed(item_weights=np.ones(2, dtype=np.float32)),
        changed(item_factors=np.ones((3, 4), dtype=np.float32)),
        changed(item_factors=np.ones(3, dtype=np.float32)),
        changed(item_factors=np.array([[1, 0], [1, 0], [1, 0]], dtype=np.float32)),
        changed(item_factors=np.full((3, 2), np.inf, dtype=np.float32)),
        changed(popularity=np.zeros(2, dtype=np.float32)),
    ],
)
def test_a_malformed_model_is_refused(make: Callable[[], Arrays]) -> None:
    with pytest.raises(FormatError):
        ModelState.from_arrays(make())
