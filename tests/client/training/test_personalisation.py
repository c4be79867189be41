from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from client.training.personalisation import (
    CATEGORY_TILT,
    POPULARITY_EXPONENT,
    SHARED_WEIGHT,
    TILT_SMOOTHING,
    TYPE_TILT,
    bought,
    rank_fused,
    rank_shared,
    shared_scores,
    tilted_scores,
)
from client.training.rows import factor_rows
from common.catalogue import Catalogue
from common.model_state import ModelState
from tests.support.preference_data import dataset_of

# Items 0 to 3 are of category x, 4 to 7 of y; the vocabulary is 5, 0, 1.
CATALOGUE = Catalogue.of(
    [f"i{number}" for number in range(8)],
    category=["x"] * 4 + ["y"] * 4,
    product_type=["p", "q", "p", "q"] * 2,
)
HISTORY = dataset_of({"a": {0: [1.0], 2: [4.0, 6.0]}, "b": {}, "c": {6: [0.0], 0: [20.0]}}, 8)


def model(**arrays: Any) -> ModelState:
    return ModelState.from_arrays(
        {
            "popularity": np.array([40, 30, 20, 10, 5, 50, 2, 1], dtype=np.float32),
            "vocabulary": np.array([5, 0, 1], dtype=np.int64),
            "item_weights": np.array([0.9, 1.0, 1.1], dtype=np.float32),
            "item_factors": np.array([[0.8, 0.1], [0.5, -0.2], [0.3, 0.1]], dtype=np.float32),
            **arrays,
        }
    )


def test_shared_scores_are_rows_times_factors() -> None:
    state = model()
    (rows,) = factor_rows(HISTORY, state)
    factors = state.item_factors.astype(np.float64)
    assert shared_scores(HISTORY, state) == pytest.approx(rows @ factors @ factors.T)
    assert shared_scores(HISTORY, state)[1].tolist() == [0.0, 0.0, 0.0]
    assert shared_scores(dataset_of({}, 8), state).shape == (0, 3)


def test_the_tilt_is_own_share_over_released_share() -> None:
    state, scores = model(), np.array([[1.0, 1.0, -1.0], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
    tilted = tilted_scores(scores, HISTORY, state, CATALOGUE)
    # Released popularity of the vocabulary: y has item 5, x has items 0 and 1; 5 and 1 are q.
    x, y, p, q = 70 / 120, 50 / 120, 40 / 120, 80 / 120

    def ratio(own: int, share: float, n_own: int) -> float:
        return (own + TILT_SMOOTHING * share) / (n_own + TILT_SMOOTHING) / share

    # Customer a has two distinct items, both x and p.
    assert tilted[0, 0] == pytest.approx(
        ratio(0, y, 2) ** CATEGORY_TILT * ratio(0, q, 2) ** TYPE_TILT
    )
    assert tilted[0, 1] == pytest.approx(
        ratio(2, x, 2) ** CATEGORY_TILT * ratio(2, p, 2) ** TYPE_TILT
    )
    assert tilted[0, 2] == -1.0
    # Nothing known about b: no tilt.
    assert tilted[1] == pytest.approx(scores[1])
    assert tilted[0, 1] > 1 > tilted[0, 0]


def test_a_code_without_released_popularity_does_not_break_the_tilt() -> None:
    popularity = np.array([0, -3, 0, 0, 0, 7, 0, 0], dtype=np.float32)
    tilted = tilted_scores(np.ones((3, 3)), HISTORY, model(popularity=popularity), CATALOGUE)
    assert np.isfinite(tilted).all()
    silent = model(popularity=np.zeros(8, dtype=np.float32))
    assert np.isfinite(tilted_scores(np.ones((3, 3)), HISTORY, silent, CATALOGUE)).all()


def test_the_vocabulary_comes_first_then_released_popularity() -> None:
    scores = np.array([[0.1, -0.2, 0.1]] * 3)
    ranked = rank_shared(scores, model(), 8)
    # 5 and 1 tie: the smaller number first.
    assert ranked[0].tolist() == [1, 5, 0, 2, 3, 4, 6, 7]
    fresh = rank_shared(scores, model(), 6, excluded=bought(HISTORY))
    assert fresh[0].tolist() == [1, 5, 3, 4, 6, 7]
    assert fresh[2].tolist() == [1, 5, 2, 3, 4, 7]
    universe = np.array([True, False, True, True, False, True, False, False])
    assert rank_shared(scores, model(), 4, universe=universe)[0].tolist() == [5, 0, 2, 3]


def test_fusion_is_recent_purchases_plus_shared_score_times_liking() -> None:
    state, scores = model(), np.array([[0.3, 0.1, 0.05], [0.3, 0.2, 0.1], [-1.0, 0.01, 0.2]])
    stddev = 2.0
    ranked = rank_fused(scores, HISTORY, state, 8, popularity_noise_stddev=stddev)
    recent = {0: 0.5 ** (1 / 12), 2: 0.5 ** (4 / 12) + 0.5 ** (6 / 12)}
    shared = {5: 0.3, 0: 0.1, 1: 0.05}
    expected = {
        item: (recent.get(item, 0) + SHARED_WEIGHT * shared.get(item, 0))
        * (state.popularity[item] + 3 * stddev) ** POPULARITY_EXPONENT
        for item in {*recent, *shared}
    }
    by_score = sorted(expected, key=lambda item: -expected[item])
    assert ranked[0].tolist() == [*by_score, 3, 4, 6, 7]
    # Without a history the shared scores decide, then popularity.
    assert ranked[1].tolist() == [5, 0, 1, 2, 3, 4, 6, 7]
    # A negative shared score counts as none.
    assert ranked[2].tolist()[0] == 6
    universe = np.array([True, True, False, False, False, False, True, True])
    part = rank_fused(scores, HISTORY, state, 3, popularity_noise_stddev=stddev, universe=universe)
    assert part.tolist() == [[0, 1, 6], [0, 1, 6], [6, 1, 0]]
