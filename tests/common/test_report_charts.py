from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.report_charts import Scale, bar, scale_of, stacked, staircase

finite = st.floats(-1e9, 1e9, allow_nan=False)


def test_scale_places_values_and_holds_them_within_the_plot():
    scale = Scale(10.0, 20.0)
    assert [scale.at(value) for value in (10, 15, 20, 5, 99)] == [0, 50, 100, 0, 100]


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0, 8.64, ["0", "2", "4", "6", "8"]),
        (0.031, 0.0652, ["0.04", "0.05", "0.06"]),
        (0, 100, ["0", "20", "40", "60", "80", "100"]),
        (-1, 1, ["−1.0", "−0.5", "0.0", "0.5", "1.0"]),
    ],
)
def test_ticks_are_round_and_told_apart(low, high, labels):
    assert [tick.label for tick in Scale(low, high).ticks(6)] == labels


@given(st.lists(finite, min_size=1, max_size=30))
def test_a_scale_of_values_holds_them_all(values):
    scale = scale_of(values)
    assert scale.low <= min(values)
    assert scale.high >= max(values)
    assert all(0 <= tick.x <= 100 for tick in scale.ticks())
    labels = [tick.label for tick in scale.ticks()]
    assert len(labels) == len(set(labels))


def test_stacked_parts_touch_and_nothing_is_drawn_for_nothing():
    parts = stacked([("a", "A", 1), ("b", "B", 0), ("c", "C", 3)], 8)
    assert [(part.kind, part.x, part.width) for part in parts] == [
        ("a", 0, 12.5),
        ("c", 12.5, 37.5),
    ]
    assert stacked([("a", "A", 0)], 0) == ()


def test_a_bar_is_never_too_short_to_see_and_never_leaves_the_plot():
    scale = Scale(0.0, 1000.0)
    assert bar("k", "", 10, 10, scale).width > 0
    last = bar("k", "", 1000, 1000, scale)
    assert last.x + last.width <= 100


def test_a_staircase_falls_where_the_value_falls_and_has_gaps():
    stairs = staircase([0, -5, None, -10], Scale(-10.0, 0.0))
    drawn = [(s.x1, s.y1, s.x2, s.y2) for s in stairs.strokes]
    assert drawn == [(0, 0, 25, 0), (25, 0, 25, 50), (25, 50, 50, 50), (75, 100, 100, 100)]
    assert [(area.x1, area.y2) for area in stairs.areas] == [(0, 0), (25, 50), (75, 100)]
    assert staircase([], Scale(-1.0, 0.0)).strokes == ()
