"""Geometry of the report's charts, in percent of the plot.

The templates draw it as inline SVG whose lengths are percentages: a chart then fills whatever width
its box has while text, strokes and dots keep their size, on a phone as on a desk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_LEAST_BAR = 0.4  # percent; a bar this short is still seen


@dataclass(frozen=True)
class Scale:
    """A linear scale from values to percent of the plot.

    Attributes:
        low: The value at 0%.
        high: The value at 100%; above ``low``.
    """

    low: float
    high: float

    def at(self, value: float) -> float:
        """The place of a value, held within the plot."""
        place = 100.0 * (value - self.low) / (self.high - self.low)
        return round(min(max(place, 0.0), 100.0), 3)

    def ticks(self, about: int = 5) -> list[Tick]:
        """Round values inside the scale, about so many."""
        step = _round_step((self.high - self.low) / about)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        values = [number * step for number in range(first, last + 1)]
        return [Tick(self.at(value), f"{value:.{digits}f}".replace("-", "−")) for value in values]


@dataclass(frozen=True)
class Tick:
    """A grid line and its label."""

    x: float
    label: str


@dataclass(frozen=True)
class Segment:
    """A part of a bar.

    Attributes:
        kind: The CSS class that colours it.
        label: What it is, with its number.
        x: Where it begins, in percent.
        width: Its length, in percent.
    """

    kind: str
    label: str
    x: float
    width: float


@dataclass(frozen=True)
class Stroke:
    """A straight line between two points, in percent; y counts from the top."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class Staircase:
    """A value that changes from round to round and holds in between.

    Attributes:
        strokes: Level and falling parts, in order.
        areas: What lies between the top and the line, a box for each step, for shading.
    """

    strokes: tuple[Stroke, ...]
    areas: tuple[Stroke, ...]


def scale_of(values: Sequence[float], *, margin: float = 0.06) -> Scale:
    """A scale that holds all values with some room at both ends; for dots, which need no zero."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = margin * ((high - low) or abs(high) or 1.0)
    return Scale(max(low - room, 0.0) if low >= 0 else low - room, high + room)


def stacked(parts: Sequence[tuple[str, str, float]], whole: float) -> tuple[Segment, ...]:
    """One bar of parts, end to end.

    Args:
        parts: Kind, label and value of each part; parts of nothing are left out.
        whole: The value that fills the bar; at least the sum of the parts.
    """
    segments, done = [], 0.0
    scale = Scale(0.0, whole or 1.0)
    for kind, label, value in parts:
        if value > 0:
            begin = scale.at(done)
            segments.append(Segment(kind, label, begin, round(scale.at(done + value) - begin, 3)))
        done += value
    return tuple(segments)


def bar(kind: str, label: str, begin: float, end: float, scale: Scale) -> Segment:
    """A bar between two values, never too short to be seen."""
    x = min(scale.at(begin), 100.0 - _LEAST_BAR)
    return Segment(kind, label, x, round(max(scale.at(end) - x, _LEAST_BAR), 3))


def staircase(values: Sequence[float | None], scale: Scale) -> Staircase:
    """Steps of equal width, one for each value; high values are at the top, None leaves a gap."""
    width = 100.0 / max(len(values), 1)
    strokes: list[Stroke] = []
    areas: list[Stroke] = []
    before: float | None = None
    for number, value in enumerate(values):
        left, right = round(number * width, 3), round((number + 1) * width, 3)
        y = None if value is None else round(100.0 - scale.at(value), 3)
        if y is not None:
            if before is not None and before != y:
                strokes.append(Stroke(left, before, left, y))
            strokes.append(Stroke(left, y, right, y))
            areas.append(Stroke(left, 0.0, right, y))
        before = y
    return Staircase(tuple(strokes), tuple(areas))


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5 × 10ⁿ that is not below ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(
        factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= least * 0.999
    )
