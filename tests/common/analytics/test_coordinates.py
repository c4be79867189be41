"""Coordinates: public bounds, both ways, and public points to begin with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.analytics.coordinates import (
    CATEGORY,
    MEASURES,
    Coordinate,
    default_bounds,
    spread_points,
)
from common.errors import InputError
from tests.support.made_clusters import COORDINATES

bounds = st.tuples(st.floats(0, 1e6), st.floats(0.01, 1e6), st.sampled_from(["log", "linear"])).map(
    lambda each: Coordinate("recency", each[0], each[0] + each[1], each[2])
)  # type: ignore[arg-type]


@given(bounds, st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=8))
def test_whatever_the_number_the_place_is_inside_and_ascends(
    coordinate: Coordinate, numbers: list[float]
) -> None:
    ordered = np.sort(np.array(numbers))
    places = coordinate.place(ordered)
    assert (np.abs(places) <= 1).all()
    assert (np.diff(places) >= 0).all()
    found = coordinate.number(places)
    assert (np.diff(found) >= 0).all()
    wide = coordinate.most - coordinate.least
    limited = np.clip(ordered, coordinate.least, coordinate.most)
    np.testing.assert_allclose(found, limited, atol=1e-6 * (wide + coordinate.most))


def test_the_bounds_are_the_ends() -> None:
    for each in COORDINATES:
        np.testing.assert_allclose(each.place(np.array([each.least, each.most])), [-1.0, 1.0])
        assert each.number(np.array([-1.0, 1.0])).tolist() == pytest.approx([each.least, each.most])
        assert each.place(np.array([math.inf]))[0] == 1.0


def test_logarithms_tell_the_small_ones_apart() -> None:
    few, many = (
        COORDINATES[0].place(np.array([1.0, 100.0])),
        COORDINATES[0].place(np.array([2.0, 101.0])),
    )
    assert few[1] > few[0]
    assert (many - few)[0] > 10 * (many - few)[1]


@pytest.mark.parametrize("coordinate", COORDINATES, ids=lambda each: each.label)
def test_a_record_comes_back(coordinate: Coordinate) -> None:
    assert Coordinate.of_record(coordinate.to_record()) == coordinate


@pytest.mark.parametrize(
    "change",
    [
        {"least": 0},
        {"least": "none"},
        {"most": "-1"},
        {"most": "nan"},
        {"most": "1e12"},
        {"measure": "income"},
        {"category": "milk"},
        {"more": "1"},
    ],
    ids=str,
)
def test_what_is_no_coordinate_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises((InputError, TypeError, ValueError)):
        Coordinate.of_record({**COORDINATES[0].to_record(), **change})
    with pytest.raises(TypeError):
        Coordinate.of_record("recency")


def test_bounds_that_logarithms_do_not_tell_apart_are_refused_before_anything_is_paid() -> None:
    close = math.nextafter(1e9, 0.0)
    with pytest.raises(InputError, match="one by their logarithms"):
        Coordinate("recency", close, 1e9)
    assert Coordinate("recency", close, 1e9, "linear").place(np.array([1.0, 2e9])).tolist() == [
        -1,
        1,
    ]


def test_a_share_is_of_a_category_and_nothing_else_is() -> None:
    with pytest.raises(InputError, match="goes with the measure category"):
        Coordinate(CATEGORY, 0.0, 100.0, "linear")
    with pytest.raises(InputError, match="no measure"):
        default_bounds("income", days=30, categories=5)


@given(st.integers(1, 3000), st.integers(1, 5000))
def test_every_measure_has_usual_bounds_that_ascend(days: int, categories: int) -> None:
    for name in MEASURES:
        least, most, spacing = default_bounds(name, days=days, categories=categories)
        Coordinate(name, least, most, spacing, "milk" * (name == CATEGORY))


def test_points_to_begin_with_are_apart_and_the_same_for_all() -> None:
    points = spread_points(32, 8)
    np.testing.assert_array_equal(points, spread_points(32, 8))
    assert (np.abs(points) <= 0.5).all()
    assert len(np.unique(points, axis=0)) == 32
    # Halton's sequence in the bases 2 and 3, about 0.
    np.testing.assert_allclose(spread_points(3, 2), [[0, -1 / 6], [-0.25, 1 / 6], [0.25, -7 / 18]])
    with pytest.raises(InputError, match="at most 8"):
        spread_points(2, 9)
