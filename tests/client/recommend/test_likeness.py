"""Which items the shared model finds alike."""

from __future__ import annotations

import numpy as np
import pytest

from client.recommend.likeness import Likeness
from common.model_state import ModelState

VOCABULARY = np.array([7, 2, 9, 4, 0], dtype=np.int64)
FACTORS = np.array([[3.0, 0.0], [1.0, 1.0], [0.5, 0.5], [-1.0, 0.1], [0.0, 0.0]], dtype=np.float32)


@pytest.fixture
def likeness() -> Likeness:
    model = ModelState.from_arrays(
        {
            "popularity": np.ones(10, dtype=np.float32),
            "vocabulary": VOCABULARY,
            "item_weights": np.ones(5, dtype=np.float32),
            "item_factors": FACTORS,
        }
    )
    return Likeness.of(model, 12)


def test_items_are_alike_by_the_cosine_of_their_factors(likeness: Likeness) -> None:
    items, cosines = likeness.like(2, 10)
    # 9 points the same way; 7 is half a right angle off; 4 points elsewhere, 0 nowhere.
    assert items.tolist() == [9, 7]
    assert cosines == pytest.approx([1.0, np.sqrt(0.5)], rel=1e-6)
    assert likeness.like(7, 1)[0].tolist() == [2]


def test_ties_go_to_the_smaller_number(likeness: Likeness) -> None:
    assert likeness.like(7, 5)[0].tolist() == [2, 9]


@pytest.mark.parametrize("item", [0, 1, 11])
def test_an_item_without_factors_is_like_nothing(likeness: Likeness, item: int) -> None:
    items, cosines = likeness.like(item, 5)
    assert (items.tolist(), cosines.tolist()) == ([], [])
