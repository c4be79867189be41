"""Geometry of the quality page's charts, drawn by its template as static SVG.

Lines fill a box of 1,000 by 100 that is stretched to whatever width there is; no text is inside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from client.governance.quality_files import QualityReport
from common.timestamps import parse_time

_WIDTH, _HEIGHT = 1000.0, 100.0
#: The lower edge of a chart of scores, unless one is lower still.
_FLOOR = 0.9


@dataclass(frozen=True)
class ScoreChart:
    """A table's score over time.

    Attributes:
        line: The path through the scores.
        points: Where each report stands, x and y, and whether it passed.
        threshold_y: Where the threshold is.
        floor: What score the lower edge stands for.
        since: When the first report was made, UTC.
        until: When the last one was.
    """

    line: str
    points: tuple[tuple[float, float, bool], ...]
    threshold_y: float
    floor: float
    since: str
    until: str


def score_chart(table: str, history: Sequence[QualityReport]) -> ScoreChart | None:
    """Draws a table's score; None if no report has the table.

    Args:
        table: The table.
        history: The reports, oldest first.
    """
    # By their times: a clock that was set back makes a later report an earlier one.
    seen = sorted(
        ((report.at, each) for report in history for each in report.tables if each.table == table),
        key=lambda each: each[0],
    )
    if not seen:
        return None
    times = [parse_time(at) for at, _ in seen]
    span = max(times[-1] - times[0], 1)
    threshold = seen[-1][1].threshold
    lowest = min([threshold, *(each.score for _, each in seen)])
    floor = _FLOOR if lowest >= _FLOOR else 0.0

    def y(score: float) -> float:
        return round(_HEIGHT * (1.0 - (score - floor) / (1.0 - floor)), 2)

    points = tuple(
        (
            round(_WIDTH * (time - times[0]) / span, 2) if len(seen) > 1 else _WIDTH / 2,
            y(each.score),
            each.passed,
        )
        for time, (_, each) in zip(times, seen, strict=True)
    )
    line = "M" + "L".join(f"{x:g} {height:g}" for x, height, _ in points)
    return ScoreChart(line, points, y(threshold), floor, seen[0][0], seen[-1][0])


def share_of(part: int, whole: int) -> float:
    """A share in percent, for the length of a bar; never 0 for what is there."""
    if not whole or not part:
        return 0.0
    return max(100.0 * part / whole, 0.4)
