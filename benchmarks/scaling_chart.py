"""Draws what a round costs by the number of regions, as an SVG file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from common.report_charts import Scale, scale_of

_WIDTH, _HEIGHT, _LEFT, _TOP = 640, 400, 70, 40

_SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{ width + left + 30 }} {{ height + 110 }}" \
font-family="sans-serif" font-size="13" role="img" aria-labelledby="title">
<title id="title">What a round costs by the number of regions</title>
<rect width="100%" height="100%" fill="#fff"/>
<text x="{{ left }}" y="22" font-size="15">A round beside training, by the number of regions</text>
<g transform="translate({{ left }} {{ top }})">
{%- for tick in y_ticks %}
<line x1="0" x2="{{ width }}" y1="{{ tick.y }}" y2="{{ tick.y }}" stroke="#ddd"/>
<text x="-8" y="{{ tick.y + 4 }}" text-anchor="end">{{ tick.label }}</text>
{%- endfor %}
{%- for tick in x_ticks %}
<line x1="{{ tick.x }}" x2="{{ tick.x }}" y1="0" y2="{{ height }}" stroke="#eee"/>
<text x="{{ tick.x }}" y="{{ height + 18 }}" text-anchor="middle">{{ tick.label }}</text>
{%- endfor %}
<text x="{{ width / 2 }}" y="{{ height + 40 }}" text-anchor="middle">regions</text>
<text x="-8" y="-6" text-anchor="end">s</text>
{%- for line in lines %}
<polyline points="{{ line.points }}" fill="none" stroke="{{ line.colour }}" stroke-width="2"\
{{ ' stroke-dasharray="6 4"' | safe if line.dashed }}/>
{%- for x, y in line.dots if not line.dashed %}
<circle cx="{{ x }}" cy="{{ y }}" r="4" fill="{{ line.colour }}"/>
{%- endfor %}
<text x="{{ 8 + 210 * loop.index0 }}" y="{{ height + 62 }}" fill="{{ line.colour }}">\
{{ line.label }}</text>
{%- endfor %}
</g>
</svg>
"""


@dataclass(frozen=True)
class Point:
    """What a round took at a number of regions.

    Attributes:
        regions: How many regions.
        cpu_s: Processor time of a round, all parties in one process.
        wall_s: Its time by the clock.
    """

    regions: int
    cpu_s: float
    wall_s: float


@dataclass(frozen=True)
class _Line:
    label: str
    colour: str
    dashed: bool
    dots: tuple[tuple[float, float], ...]

    @property
    def points(self) -> str:
        """As SVG has them."""
        return " ".join(f"{x},{y}" for x, y in self.dots)


@dataclass(frozen=True)
class _Tick:
    x: float
    y: float
    label: str


def write_chart(points: Sequence[Point], path: Path) -> None:
    """Draws points, both axes linear from zero, with the straight line through the largest."""
    path.write_text(render_chart(points), encoding="utf-8")


def render_chart(points: Sequence[Point]) -> str:
    """The SVG of `write_chart`."""
    largest = max(points, key=lambda point: point.regions)
    across = Scale(0.0, largest.regions * 1.04)
    up = Scale(0.0, scale_of([0.0, *(max(each.cpu_s, each.wall_s) for each in points)]).high)

    def at(regions: float, seconds: float) -> tuple[float, float]:
        x, y = across.at(regions) * _WIDTH / 100, (100.0 - up.at(seconds)) * _HEIGHT / 100
        return round(x, 1), round(y, 1)

    lines = [
        _Line(
            "processor time",
            "#1b5e9e",
            False,
            tuple(at(each.regions, each.cpu_s) for each in points),
        ),
        _Line(
            "by the clock",
            "#b3541e",
            False,
            tuple(at(each.regions, each.wall_s) for each in points),
        ),
        _Line(
            "linear in regions",
            "#777",
            True,
            (at(0.0, 0.0), at(largest.regions, largest.cpu_s)),
        ),
    ]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_SVG).render(
        width=_WIDTH,
        height=_HEIGHT,
        left=_LEFT,
        top=_TOP,
        lines=lines,
        x_ticks=[_Tick(at(each.regions, 0.0)[0], 0.0, str(each.regions)) for each in points],
        y_ticks=[
            _Tick(0.0, round((100.0 - tick.x) * _HEIGHT / 100, 1), tick.label)
            for tick in up.ticks()
        ],
    )
