"""What a step costs against items and against customers: exponents, and a chart of the points.

Each point is a process of its own, for the memory; a cost that is linear has the exponent 1, and
one with a part that does not grow has less.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.results import Bar, Figure
from common.report_charts import Scale, Stroke, Tick

CHART = Path(__file__).parent.parent / "steps-scaling.svg"
ITEMS = (2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000)
CUSTOMERS = (1_000, 10_000, 100_000, 1_000_000)
_STEP_CUSTOMERS, _FEW_ITEMS, _PROBABILITY = 1_024, 2_000, 0.1
_TEMPLATES = Path(__file__).parent.parent / "templates"

_BY_ITEMS = Bar(f"cost against items, {ITEMS[0]:,} to {ITEMS[-1]:,}", "exponent", 1.1)
_BY_CUSTOMERS = Bar(
    f"cost against customers, {CUSTOMERS[0]:,} to {CUSTOMERS[-1]:,}", "exponent", 1.1
)
_GROWTH = Bar(f"memory that steps add, {CUSTOMERS[-1]:,} over {CUSTOMERS[0]:,} customers", "MB", 50)
BARS: tuple[Bar, ...] = (_BY_ITEMS, _BY_CUSTOMERS, _GROWTH)


@dataclass(frozen=True)
class Point:
    """One size.

    Attributes:
        size: How many items, or customers.
        seconds: Processor time of a step.
        added_mb: The most memory while stepping, less what was there before.
    """

    size: int
    seconds: float
    added_mb: float


@dataclass(frozen=True)
class Dot:
    """A point of a panel, in percent; y counts from the top."""

    x1: float
    y1: float
    label: str


@dataclass(frozen=True)
class Panel:
    """One plot, both axes logarithmic."""

    title: str
    x_label: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    strokes: Sequence[Stroke]
    dots: Sequence[Dot]


def measure() -> dict[str, Figure]:
    """Measures these bars and writes the chart."""
    by_items = [_point(size, size, _STEP_CUSTOMERS, 1.0) for size in ITEMS]
    by_customers = [_point(size, _FEW_ITEMS, size, _PROBABILITY) for size in CUSTOMERS]
    CHART.write_text(chart(by_items, by_customers))
    growth = by_customers[-1].added_mb - by_customers[0].added_mb
    return {
        _BY_ITEMS.name: Figure(exponent(by_items), f"{_STEP_CUSTOMERS:,} customers a step"),
        _BY_CUSTOMERS.name: Figure(
            exponent(by_customers), f"{_FEW_ITEMS:,} items, {_PROBABILITY:.0%} of them a step"
        ),
        _GROWTH.name: Figure(growth, f"{by_customers[-1].added_mb:.0f} MB beside the data"),
    }


def exponent(points: Sequence[Point]) -> float:
    """The slope of the least-squares line through the logarithms of sizes and seconds."""
    x = [math.log(point.size) for point in points]
    y = [math.log(point.seconds) for point in points]
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((each - middle_x) ** 2 for each in x)
    both = zip(x, y, strict=True)
    return sum((one - middle_x) * (other - middle_y) for one, other in both) / spread


def chart(by_items: Sequence[Point], by_customers: Sequence[Point]) -> str:
    """The SVG: time against items, time and memory against customers."""
    panels = [
        _panel("seconds a step", "items", [(p.size, p.seconds) for p in by_items]),
        _panel("seconds a step", "customers", [(p.size, p.seconds) for p in by_customers]),
        _panel(
            "MB that steps add",
            "customers",
            [(p.size, max(p.added_mb, 1.0)) for p in by_customers],
        ),
    ]
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("scaling.svg.j2").render(panels=panels) + "\n"


def _point(size: int, n_items: int, customers: int, probability: float) -> Point:
    command = [sys.executable, "-m", "benchmarks.steps.memory"]
    sizes = [str(n_items), str(customers), str(probability)]
    done = subprocess.run([*command, *sizes], check=True, capture_output=True, text=True)  # noqa: S603
    seconds, highest_mb, before_mb = map(float, done.stdout.split())
    return Point(size, seconds, highest_mb - before_mb)


def _panel(title: str, x_label: str, values: Sequence[tuple[float, float]]) -> Panel:
    across, up = _powers([x for x, _ in values]), _powers([y for _, y in values])
    dots = [
        Dot(across.at(math.log10(x)), round(100.0 - up.at(math.log10(y)), 3), f"{x:,.0f}: {y:,.3g}")
        for x, y in values
    ]
    strokes = [Stroke(one.x1, one.y1, other.x1, other.y1) for one, other in pairwise(dots)]
    return Panel(title, x_label, _ticks(across), _ticks(up), strokes, dots)


def _powers(values: Sequence[float]) -> Scale:
    """A scale of decimal logarithms from a power of ten to another that hold all values."""
    low = math.floor(math.log10(min(values)))
    return Scale(low, max(math.ceil(math.log10(max(values))), low + 1))


def _ticks(scale: Scale) -> list[Tick]:
    return [
        Tick(scale.at(power), f"{10.0**power:,g}" if power < 6 else f"10^{power}")
        for power in range(int(scale.low), int(scale.high) + 1)
    ]
