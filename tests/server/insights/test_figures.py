"""Figures: digits that the interval allows, bars that are seen, shades, scales."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.report_charts import Scale
from server.insights.figures import SHADES, Told, bar_width, mark, scale_for, shade, spoken

NAN = math.nan


@pytest.mark.parametrize(
    ("each", "text"),
    [
        (Told(1234.56, 1190.2, 1280.9), "<b>1,235</b> "),
        (Told(12.345, 11.9, 12.8), "<b>12.35</b> "),
        (Told(-3.21, -8.0, 2.0), "<b>−3.2</b> "),
        (Told(0.0, 0.0, 31.0), "<b>0</b> "),
        (Told(-0.2, -31.0, 31.0), "<b>0</b> "),
    ],
)
def test_as_many_digits_as_the_interval_allows(each: Told, text: str) -> None:
    assert spoken(each).startswith(text)


def test_an_interval_without_an_end_is_said_to_have_none() -> None:
    assert "0…∞" in spoken(Told(5.0, 0.0, math.inf))


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_a_bar_is_within_its_plot_and_seen(value: float, other: float) -> None:
    scale = scale_for([Told(each, each, each) for each in (value, other)], from_zero=True)
    begin, width = bar_width(scale.at(0.0), scale.at(value))
    assert 0 <= begin <= 100
    assert width >= 0.4
    assert begin + width <= 100.4


@given(st.floats(allow_nan=True, allow_infinity=True), st.floats(0, 1e9))
def test_every_shade_is_one_of_the_style_sheets(value: float, most: float) -> None:
    assert 0 <= shade(value, most) <= SHADES


def test_what_is_not_told_does_not_stretch_a_scale() -> None:
    scale = scale_for([Told(NAN, -math.inf, math.inf), Told(5.0, 4.0, 6.0)], from_zero=False)
    assert 3 < scale.low < 4
    assert 6 < scale.high < 7
    assert isinstance(scale_for([], from_zero=True), Scale)


def test_intervals_beyond_the_scale_end_at_its_edge() -> None:
    found = mark(Told(5.0, -math.inf, math.inf), Scale(0.0, 10.0))
    assert (found.low, found.x, found.high) == (0.0, 50.0, 100.0)
