"""Geometry of the report's charts, drawn by the templates as static SVG.

Areas fill a box of 1,000 by 100 that is stretched to whatever width there is; bars are in percent.
No text is inside what is stretched, so it keeps its size on a phone, on a desk and on paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.audit.report.budget import Spent
from common.audit.report.consents import RegionConsents
from common.audit.report.standing import Tally
from common.timestamps import parse_time

_WIDTH, _HEIGHT = 1000.0, 100.0

#: From the ground up: what counts first.
LAYERS = ("in_force", "over", "left", "refused")


@dataclass(frozen=True)
class Layer:
    """One coloured area of a consent chart: its kind, and the path around it."""

    kind: str
    path: str


@dataclass(frozen=True)
class ConsentChart:
    """One region's consents over time.

    Attributes:
        layers: The areas, from the ground up; kinds that never occur are left out.
        rounds: Where each round took its consents, from 0 to 1,000.
        top: How many customers the upper edge stands for.
        since_ms: The time at the left edge.
        until_ms: The time at the right edge.
    """

    layers: tuple[Layer, ...]
    rounds: tuple[float, ...]
    top: int
    since_ms: int
    until_ms: int


def consent_chart(consents: RegionConsents) -> ConsentChart | None:
    """Draws a region's consents over time; None if there is nothing to draw."""
    moments = consents.moments
    top = max((each.tally.total for each in moments), default=0)
    if not top:
        return None
    since, until = moments[0].at_ms, moments[-1].at_ms
    span = max(until - since, 1)

    def x(time_ms: int) -> float:
        return round(_WIDTH * min(max(time_ms - since, 0), span) / span, 2)

    edges = [x(each.at_ms) for each in moments[:-1]] or [0.0]
    tallies = [each.tally for each in moments[: len(edges)]]
    # What holds at the very last moment is drawn up to the right edge as well.
    if until == since or moments[-1].tally != tallies[-1]:
        edges.append(_WIDTH - 4.0 if until > since else 0.0)
        tallies.append(moments[-1].tally)
    layers = []
    below = [0] * len(tallies)
    for kind in LAYERS:
        above = [low + _number(tally, kind) for low, tally in zip(below, tallies, strict=True)]
        if above != below:
            layers.append(Layer(kind, _band(edges, below, above, top)))
        below = above
    rounds = sorted({x(parse_time(each.at)) for each in consents.snapshots})
    return ConsentChart(tuple(layers), tuple(rounds), top, since, until)


def _number(tally: Tally, kind: str) -> int:
    return {
        "in_force": tally.in_force,
        "over": tally.over,
        "left": tally.left,
        "refused": tally.refused,
    }[kind]


def _band(edges: Sequence[float], below: Sequence[int], above: Sequence[int], top: int) -> str:
    """The path around what lies between two staircases of equal steps."""

    def y(number: int) -> str:
        return f"{_HEIGHT - _HEIGHT * number / top:.2f}"

    ends = [*edges[1:], _WIDTH]
    steps = list(zip(edges, ends, below, above, strict=True))
    there = "".join(f"L{left:g} {y(high)}L{right:g} {y(high)}" for left, right, _, high in steps)
    back = "".join(
        f"L{right:g} {y(low)}L{left:g} {y(low)}" for left, right, low, _ in reversed(steps)
    )
    return f"M{there[1:]}{back}Z"


@dataclass(frozen=True)
class BudgetBar:
    """What a region spent, beside its cap; lengths in percent.

    Attributes:
        spent: The numbers that are drawn.
        length: How long the bar is.
        cap_at: Where the cap stands; None if none is logged.
    """

    spent: Spent
    length: float
    cap_at: float | None


def budget_bars(items: Sequence[Spent]) -> tuple[BudgetBar, ...]:
    """Draws what was spent, all on one scale that begins at 0."""
    values = [float(each.recomputed or each.stated) for each in items]
    caps = [float(each.cap) for each in items if each.cap is not None]
    most = 1.04 * max([*values, *caps, 1e-9])
    return tuple(
        BudgetBar(
            spent=each,
            length=round(max(100 * value / most, 0.4), 2),
            cap_at=None if each.cap is None else round(100 * float(each.cap) / most, 2),
        )
        for each, value in zip(items, values, strict=True)
    )
