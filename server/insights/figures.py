"""Figures of the page as data: charts in percent of their plot, heat tables, planes, tables.

The templates draw them. Numbers in charts are said in words beside each mark, and all of them again
in a table; where noise leaves nothing to say, a row says so and has no mark.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from markupsafe import Markup

from common.analytics.estimates import Estimates
from common.report_charts import Scale, Segment, Tick, scale_of

#: Shades of a heat table, from none to full.
SHADES = 8
_LEAST_BAR = 0.4  # percent; a bar this short is still seen


@dataclass(frozen=True)
class Told:
    """A value with its interval; not a number where noise leaves nothing to say.

    Attributes:
        value: The value.
        low: The interval's lower end.
        high: Its upper end.
    """

    value: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether anything is said."""
        return math.isfinite(self.value)


@dataclass(frozen=True)
class Mark:
    """A value on a line, in percent of the plot.

    Attributes:
        x: The value's place.
        low: The interval's lower end.
        high: Its upper end.
        kind: What it stands for, a class of the style sheet: plain, sure, alert or second.
    """

    x: float
    low: float
    high: float
    kind: str


@dataclass(frozen=True)
class Row:
    """One line of a chart.

    Attributes:
        label: What it is about.
        marks: The values; none where nothing is said.
        value: The values in words.
        note: What else is to be said.
        ticked: Whether what the figure says of ticks holds for it.
    """

    label: Markup
    marks: tuple[Mark, ...]
    value: Markup
    note: Markup = field(default=Markup(""))
    ticked: bool = False


@dataclass(frozen=True)
class Chart:
    """Values with their intervals, one below the other.

    Attributes:
        rows: The lines.
        ticks: Of the axis.
        zero: Where 0 is; bars begin there. None: dots, which need no zero.
        threshold: Where an alert begins.
        middle: A line to compare with, such as 0 of a score that goes both ways.
    """

    rows: tuple[Row, ...]
    ticks: tuple[Tick, ...]
    zero: float | None = None
    threshold: float | None = None
    middle: float | None = None

    @property
    def form(self) -> str:
        """By which the template knows it."""
        return "chart"


@dataclass(frozen=True)
class Cell:
    """A cell of a heat table.

    Attributes:
        text: Its value in words; empty where nothing is said.
        shade: From 0 to `SHADES`.
        sign: ``up`` or ``down`` if it is told to be above or below what it is compared with.
    """

    text: Markup
    shade: int = 0
    sign: str = ""


@dataclass(frozen=True)
class Heat:
    """A table whose cells are shaded by their values.

    Attributes:
        corner: What the rows are.
        columns: The columns' names.
        rows: Each row's name and cells.
        wordy: Whether cells are words, which may take several lines.
    """

    corner: Markup
    columns: tuple[Markup, ...]
    rows: tuple[tuple[Markup, tuple[Cell, ...]], ...]
    wordy: bool = False

    @property
    def form(self) -> str:
        """By which the template knows it."""
        return "heat"


@dataclass(frozen=True)
class Point:
    """A point with the intervals of both its coordinates, in percent; y counts from the top."""

    number: int
    label: Markup
    x: Mark
    y: Mark
    note: Markup = field(default=Markup(""))


@dataclass(frozen=True)
class Plane:
    """Points in a square.

    Attributes:
        points: The points, numbered; those of which nothing is said are not among them.
        x_label: What goes to the right.
        y_label: What goes up.
        corners: What the quarters are called: upper left, upper right, lower left, lower right.
        x_ticks: Of the lower edge.
        y_ticks: Of the left edge, their places from the top.
    """

    points: tuple[Point, ...]
    x_label: Markup
    y_label: Markup
    corners: tuple[Markup, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]

    @property
    def form(self) -> str:
        """By which the template knows it."""
        return "plane"


@dataclass(frozen=True)
class Stack:
    """One bar of parts."""

    label: Markup
    segments: tuple[Segment, ...]
    value: Markup


@dataclass(frozen=True)
class Stacks:
    """Bars of parts, one below the other.

    Attributes:
        rows: The bars.
        legend: Each part's class and name.
    """

    rows: tuple[Stack, ...]
    legend: tuple[tuple[str, Markup], ...]

    @property
    def form(self) -> str:
        """By which the template knows it."""
        return "stacks"


@dataclass(frozen=True)
class Table:
    """All numbers of a figure.

    Attributes:
        head: The columns' names; the first one is of the rows.
        rows: Each row's cells.
    """

    head: tuple[Markup, ...]
    rows: tuple[tuple[Markup, ...], ...]


Body: TypeAlias = Chart | Heat | Plane | Stacks


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        caption: What it shows.
        cost: Its ε and noise.
        body: What is drawn; None if it would be noise.
        said: What is said instead, or besides.
        table: All its numbers; None if they are beside the marks already.
        small: Whether it is one of several of the same, such as one for each region.
    """

    caption: Markup
    cost: Markup
    body: Body | None
    said: Markup = field(default=Markup(""))
    table: Table | None = None
    small: bool = False


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Attributes:
        name: Its anchor, and what its messages begin with.
        figures: What it shows.
        headline: Its one sentence for who reads no further; empty if there is none to say.
        alerts: What crossed a threshold, one sentence each.
    """

    name: str
    figures: tuple[Figure, ...]
    headline: Markup = field(default=Markup(""))
    alerts: tuple[Markup, ...] = ()


def told(estimates: Estimates) -> list[Told]:
    """A vector of estimates as single values."""
    ends = (estimates.value, estimates.low, estimates.high)
    return [Told(*each) for each in zip(*(end.tolist() for end in ends), strict=True)]


def spoken(each: Told, unit: str = "") -> Markup:
    """A value and its interval with as many digits as the interval allows."""
    digits = _digits(each)
    value, low, high = (_number(part, digits) for part in (each.value, each.low, each.high))
    return Markup('<b>{}{}</b> <span class="soft">{}…{}</span>').format(value, unit, low, high)


def brief(each: Told) -> Markup:
    """A value alone, with as many digits as its interval allows, where that stands elsewhere."""
    return Markup(_number(each.value, _digits(each)))  # noqa: S704 - a number


def plain(value: float, digits: int) -> str:
    """A number as it is shown."""
    return _number(value, digits)


def ticks_of(scale: Scale, *, small: bool = False) -> tuple[Tick, ...]:
    """A scale's ticks; few where there is little room."""
    return tuple(scale.ticks(2 if small else 5))


def scale_for(values: Iterable[Told], *, from_zero: bool) -> Scale:
    """A scale that holds values and intervals; of what nothing is said, nothing."""
    ends = [end for each in values if each.known for end in (each.low, each.high)]
    finite = [end for end in ends if math.isfinite(end)]
    if not from_zero:
        return scale_of(finite)
    most, least = max(finite, default=1.0), min(finite, default=0.0)
    return Scale(min(1.04 * least, 0.0), 1.04 * most if most > 0 else 1.0)


def mark(each: Told, scale: Scale, kind: str = "plain") -> Mark:
    """A known value's place."""
    return Mark(scale.at(each.value), scale.at(each.low), scale.at(each.high), kind)


def bar_width(zero: float, x: float) -> tuple[float, float]:
    """Where a bar from 0 to a value begins, and how wide it is; never too short to be seen."""
    return min(zero, x), max(abs(x - zero), _LEAST_BAR)


def shade(value: float, most: float) -> int:
    """The shade of a value, of `SHADES` for the largest."""
    if not (math.isfinite(value) and most > 0):
        return 0
    return round(SHADES * min(max(value / most, 0.0), 1.0))


def upright(ticks: Sequence[Tick]) -> tuple[Tick, ...]:
    """Ticks of a scale that goes up: their places from the top."""
    return tuple(Tick(round(100.0 - each.x, 3), each.label) for each in ticks)


def _digits(each: Told) -> int:
    half = (each.high - each.low) / 2
    if not (math.isfinite(half) and half > 0):
        return 0
    return min(3, max(0, 1 - math.floor(math.log10(half))))


def _number(value: float, digits: int) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    rounded = f"{value:,.{digits}f}"
    # Nothing is below nothing: a rounded 0 has no sign.
    text = rounded.lstrip("-") if float(rounded.replace(",", "")) == 0 else rounded
    return text.replace("-", "−")
