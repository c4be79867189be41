"""Segments are nearly as good as the best there are, and their intervals true; few draws of it."""

from __future__ import annotations

import numpy as np
import pytest

from simulations.cluster_study import explained, one_region, retail


def test_variance_between_centres_is_a_share() -> None:
    points = np.array([[0.0, 0.0], [0.2, 0.0], [1.0, 1.0], [0.8, 1.0]])
    assert explained(points, points) == 1.0
    assert explained(points, points.mean(axis=0, keepdims=True)) == pytest.approx(0.0)
    assert explained(points, np.array([[0.1, 0.0], [0.9, 1.0]])) > 0.9


def test_a_region_of_a_thousand_is_parted_at_an_epsilon_of_one() -> None:
    found = one_region(1_000, "1", draws=10)
    assert found.with_noise >= 0.85 * found.best
    assert 0.7 * found.best <= found.worst <= found.with_noise <= found.best
    assert found.told >= 4


@pytest.mark.slow
@pytest.mark.parametrize("where", ["retail", "region"])
def test_segments_are_nearly_as_good_as_the_best_there_are(where: str) -> None:
    found = retail("1", draws=100) if where == "retail" else one_region(5_000, "1", draws=100)
    assert found.with_noise >= 0.92 * found.best
    assert found.without_noise >= 0.93 * found.best
    assert found.told >= 4.8
    assert 0.93 <= found.covered <= 0.97
