"""Measured figures beside their bars: what a benchmark gives, how it is printed and kept."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results.json"
NOT_RUN = "not run"


@dataclass(frozen=True)
class Bar:
    """What a figure must keep to.

    Attributes:
        name: What is measured.
        unit: The unit of figure and bar.
        limit: The most it may be, or the least.
        least: Whether ``limit`` is the least.
    """

    name: str
    unit: str
    limit: float
    least: bool = False

    def held_by(self, figure: float) -> bool:
        """Whether a figure keeps to the bar; a figure that is no number does not."""
        return figure >= self.limit if self.least else figure <= self.limit


@dataclass(frozen=True)
class Figure:
    """One measurement.

    Attributes:
        value: The figure.
        baseline: What was measured beside it in the same run, and gave what; None if nothing was.
    """

    value: float
    baseline: str | None = None


def report(areas: Mapping[str, Sequence[Bar]], measured: Mapping[str, Figure]) -> bool:
    """Prints every bar with its figure, writes ``results.json``, and says whether all hold.

    What was not measured now is listed as not run, never with an earlier figure.

    Args:
        areas: Every area's bars.
        measured: The figures, by the bar's name.
    """
    rows: list[dict[str, object]] = []
    for area, bars in areas.items():
        print(f"{area}:")  # noqa: T201
        for bar in bars:
            figure = measured.get(bar.name)
            rows.append({"name": bar.name, **_row(bar, figure)})
            print(f"  {_line(bar, figure)}")  # noqa: T201
    print(f"Load at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.")  # noqa: T201
    RESULTS.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    return all(row["holds"] in (True, NOT_RUN) for row in rows)


def _row(bar: Bar, figure: Figure | None) -> dict[str, object]:
    fields = asdict(bar)
    return {
        "figure": NOT_RUN if figure is None else round(figure.value, 3),
        "unit": bar.unit,
        "bar": f"{'≥' if bar.least else '≤'} {fields['limit']:g}",
        "baseline": None if figure is None else figure.baseline,
        "holds": NOT_RUN if figure is None else bar.held_by(figure.value),
    }


def _line(bar: Bar, figure: Figure | None) -> str:
    asked = f"bar {'≥' if bar.least else '≤'} {bar.limit:,g} {bar.unit}"
    if figure is None:
        return f"{bar.name}: {NOT_RUN} ({asked})"
    mark = "holds" if bar.held_by(figure.value) else "DOES NOT HOLD"
    beside = f"; {figure.baseline}" if figure.baseline else ""
    return f"{bar.name}: {figure.value:,.3f} {bar.unit} ({asked}): {mark}{beside}"
