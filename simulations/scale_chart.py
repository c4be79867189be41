"""Draws quality against the number of customers, as an SVG file: a plot for each ε."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import jinja2

from common.report_charts import Scale, Stroke, Tick
from simulations.scale_figures import NO_PRIVACY, POPULARITY, Measured

_TEMPLATES = Path(__file__).parent / "templates"
_ROOM_ABOVE = 1.08
# Told apart by those who see no red or green, too (Okabe and Ito, 2008).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_PLAIN = {POPULARITY: "#777777", NO_PRIVACY: "#333333"}
_LABELS = {POPULARITY: "popularity, no privacy", NO_PRIVACY: "factors, no privacy"}


@dataclass(frozen=True)
class Dot:
    """A point, in percent; y counts from the top."""

    x: float
    y: float
    label: str


@dataclass(frozen=True)
class Line:
    """One way of training.

    Attributes:
        label: What it is.
        colour: Its colour.
        dashes: An SVG pattern of dashes; "none" for a whole line.
        strokes: From dot to dot.
        dots: A figure each, the mean over seeds.
    """

    label: str
    colour: str
    dashes: str
    strokes: Sequence[Stroke]
    dots: Sequence[Dot]


@dataclass(frozen=True)
class Plot:
    """The lines of one ε; the x axis is logarithmic."""

    title: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    lines: Sequence[Line]


def write_chart(measured: Sequence[Measured], path: Path) -> None:
    """Draws what was measured, both axes alike in all plots."""
    path.write_text(render_chart(measured), encoding="utf-8")


def render_chart(measured: Sequence[Measured]) -> str:
    """The SVG of `write_chart`."""
    sizes = [each.customers for each in measured]
    across = Scale(math.floor(math.log10(min(sizes))), math.ceil(math.log10(max(sizes))))
    up = Scale(0.0, max(each.ndcg for each in measured) * _ROOM_ABOVE)
    epsilons = sorted({each.epsilon for each in measured if each.epsilon}, key=float, reverse=True)
    ways = sorted({_way(each) for each in measured if each.epsilon})
    plots = [_plot(measured, epsilon, ways, across, up) for epsilon in epsilons]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("scale.svg.j2").render(plots=plots, key=_key(plots)) + "\n"


def _way(each: Measured) -> tuple[str, str]:
    return each.method, each.mode


def _plot(
    measured: Sequence[Measured],
    epsilon: str,
    ways: Sequence[tuple[str, str]],
    across: Scale,
    up: Scale,
) -> Plot:
    lines = [
        _line(
            [each for each in measured if each.method == name],
            _LABELS[name],
            _PLAIN[name],
            "2 4",
            (across, up),
        )
        for name in (NO_PRIVACY, POPULARITY)
    ]
    methods = sorted({method for method, _ in ways})
    for method, mode in ways:
        here = [each for each in measured if _way(each) == (method, mode)]
        shared = mode == "distributed"
        lines.append(
            _line(
                [each for each in here if each.epsilon == epsilon],
                f"{method}, shared noise" if shared else method,
                _COLOURS[methods.index(method) % len(_COLOURS)],
                "7 3" if shared else "none",
                (across, up),
            )
        )
    powers = range(int(across.low), int(across.high) + 1)
    return Plot(
        f"ε = {epsilon}",
        [Tick(across.at(power), f"{10**power:,}") for power in powers],
        up.ticks(),
        [line for line in lines if line.dots],
    )


def _line(
    figures: Iterable[Measured], label: str, colour: str, dashes: str, scales: tuple[Scale, Scale]
) -> Line:
    across, up = scales
    by_size: dict[int, list[float]] = {}
    for each in figures:
        by_size.setdefault(each.customers, []).append(each.ndcg)
    dots = [
        Dot(
            across.at(math.log10(size)),
            round(100.0 - up.at(fmean(values)), 3),
            f"{label}, {size:,} customers: {fmean(values):.4f}",
        )
        for size, values in sorted(by_size.items())
    ]
    strokes = [Stroke(one.x, one.y, other.x, other.y) for one, other in pairwise(dots)]
    return Line(label, colour, dashes, strokes, dots)


def _key(plots: Sequence[Plot]) -> list[Line]:
    """Every line once, in the order of their first plot."""
    found: dict[str, Line] = {}
    for plot in plots:
        for line in plot.lines:
            found.setdefault(line.label, line)
    return list(found.values())
