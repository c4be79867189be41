"""The privacy–utility picture: what each strategy and mode reaches by ε, as an SVG file.

Like the report's charts it is written by a template, without script and without a library. It
stands alone, so its colours and sizes are its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2

from common.report_charts import Scale, scale_of

Record = Mapping[str, Any]

_LEFT, _RIGHT, _PLOT_WIDTH, _PLOT_HEIGHT = 70, 290, 480, 260
_LEGEND_TOP, _LEGEND_STEP, _LEGEND_COLUMN, _LEGEND_COLUMNS = 84, 24, 270, 3
_PANEL_TOP, _PANEL_STEP = 44, 370
_LABEL_STEP, _DODGE = 19.0, 5.0
_EDGE = 0.08  # of the plot's width, left free at either side
_COLOURS = ("#0b5a86", "#b4540a", "#17633f", "#6b3fa0", "#a12a1c")
_DASHES = {"local": "", "distributed": "8 4", "alone": "2 3"}
_TITLES = {
    "new": "items the customer had never bought (NEW)",
    "all": "all later purchases, repeats included (ALL)",
}
#: The horizontal lines: method, colour. Others are in the table.
_REFERENCES = {
    "popularity": "#535e69",
    "own-recent": "#535e69",
    "ease": "#838c95",
    "factors/no-privacy-large": "#838c95",
    "implicit/als": "#838c95",
}
_SHORT = {
    "popularity": "popularity",
    "own-recent": "own recent purchases",
    "ease": "EASE, no privacy",
    "factors/no-privacy-large": "factors, no privacy, large",
    "implicit/als": "iALS, no privacy",
}


@dataclass(frozen=True)
class _Series:
    """One line: a strategy in a mode."""

    strategy: str
    mode: str
    colour: str

    @property
    def label(self) -> str:
        where = "each region alone" if self.mode == "alone" else f"{self.mode} noise"
        return f"{self.strategy}, {where}"

    @property
    def dash(self) -> str:
        return _DASHES.get(self.mode, "")

    @property
    def filled(self) -> bool:
        return self.mode == "local"


def picture(result: Record) -> str:
    """The SVG of an evaluation's result, as `simulations.evaluation.command` writes it."""
    rows = {
        (row["method"], row["protocol"]): row
        for row in result["rows"]
        if row["setting"] == "everyone" and row["metric"] == result["main_metric"]
    }
    private = [each for each in result["methods"] if each["kind"] == "private"]
    series = _series(private)
    epsilons = sorted({each["epsilon"] for each in private}, key=float)
    across = _across(epsilons)
    legend = [
        {
            "x": (place % _LEGEND_COLUMNS) * _LEGEND_COLUMN,
            "y": _LEGEND_TOP + (place // _LEGEND_COLUMNS) * _LEGEND_STEP,
            "label": each.label,
            "colour": each.colour,
            "dash": each.dash,
            "filled": each.filled,
        }
        for place, each in enumerate(series)
    ]
    begin = _LEGEND_TOP + math.ceil(len(series) / _LEGEND_COLUMNS) * _LEGEND_STEP + _PANEL_TOP
    protocols = [each for each in _TITLES if any(key[1] == each for key in rows)]
    panels = [
        _panel(result, rows, series, protocol, across, begin + place * _PANEL_STEP)
        for place, protocol in enumerate(protocols)
    ]
    return _template().render(
        width=_LEFT + _PLOT_WIDTH + _RIGHT,
        height=begin + len(panels) * _PANEL_STEP - _PANEL_TOP,
        left=_LEFT,
        plot_width=_PLOT_WIDTH,
        plot_height=_PLOT_HEIGHT,
        title=result["data"]["title"],
        subtitle=_subtitle(result),
        description=_description(result, rows, private),
        legend=legend,
        panels=panels,
        x_ticks=[{"x": across[each], "label": each} for each in epsilons],
    )


def _series(private: Sequence[Record]) -> list[_Series]:
    strategies = list(dict.fromkeys(each["strategy"] for each in private))
    pairs = dict.fromkeys((each["strategy"], each["mode"]) for each in private)
    return [
        _Series(strategy, mode, _COLOURS[strategies.index(strategy) % len(_COLOURS)])
        for strategy, mode in pairs
    ]


def _across(epsilons: Sequence[str]) -> dict[str, float]:
    """Where each ε lies: by its logarithm, with room at both ends."""
    logs = [math.log(float(each)) for each in epsilons]
    low, high = min(logs), max(logs)
    inner = _PLOT_WIDTH * (1 - 2 * _EDGE)
    return {
        each: round(
            _PLOT_WIDTH / 2
            if high == low
            else _PLOT_WIDTH * _EDGE + inner * (log - low) / (high - low),
            1,
        )
        for each, log in zip(epsilons, logs, strict=True)
    }


def _panel(
    result: Record,
    rows: Mapping[tuple[str, str], Record],
    series: Sequence[_Series],
    protocol: str,
    across: Mapping[str, float],
    top: float,
) -> dict[str, Any]:
    shown = [
        rows[each["method"], protocol]
        for each in result["methods"]
        if (each["method"], protocol) in rows
        and (each["kind"] == "private" or each["method"] in _REFERENCES)
    ]
    ends = [row[end] for row in shown for end in ("ci_low", "ci_high") if row[end] is not None]
    up = scale_of([*(row["mean"] for row in shown), *ends])
    middle = (len(series) - 1) / 2
    return {
        "top": top,
        "title": f"{result['main_metric'].upper()}: {_TITLES[protocol]}",
        "y_ticks": [{"y": _y(tick.x), "label": tick.label} for tick in up.ticks()],
        "references": _references(rows, protocol, up),
        "lines": [
            _line(result, rows, each, protocol, across, up, (place - middle) * _DODGE)
            for place, each in enumerate(series)
        ],
    }


def _y(percent: float) -> float:
    return round((100.0 - percent) * _PLOT_HEIGHT / 100, 1)


def _line(
    result: Record,
    rows: Mapping[tuple[str, str], Record],
    series: _Series,
    protocol: str,
    across: Mapping[str, float],
    up: Scale,
    aside: float,
) -> dict[str, Any]:
    dots: list[dict[str, Any]] = []
    for method in result["methods"]:
        row = rows.get((method["method"], protocol))
        own = (method["strategy"], method["mode"]) == (series.strategy, series.mode)
        if row is None or not own or method["kind"] != "private":
            continue
        low, high = (row["mean"] if row[end] is None else row[end] for end in ("ci_low", "ci_high"))
        dots.append(
            {
                "x": round(across[method["epsilon"]] + aside, 1),
                "y": _y(up.at(row["mean"])),
                "low": _y(up.at(low)),
                "high": _y(up.at(high)),
                "label": f"{method['label']}: {row['mean']:.4f} ({low:.4f}–{high:.4f})",
            }
        )
    dots.sort(key=lambda dot: dot["x"])
    return {
        "colour": series.colour,
        "dash": series.dash,
        "filled": series.filled,
        "dots": dots,
        "points": " ".join(f"{dot['x']},{dot['y']}" for dot in dots),
    }


def _references(
    rows: Mapping[tuple[str, str], Record], protocol: str, up: Scale
) -> list[dict[str, Any]]:
    """The horizontal lines, best first, their labels moved apart where they would overlap."""
    found = [
        (rows[method, protocol]["mean"], method, colour)
        for method, colour in _REFERENCES.items()
        if (method, protocol) in rows
    ]
    found.sort(reverse=True)
    heights = apart([_y(up.at(mean)) for mean, _, _ in found], _LABEL_STEP)
    return [
        {
            "y": _y(up.at(mean)),
            "label_y": height,
            "label": f"{_SHORT[method]} {mean:.4f}",
            "colour": colour,
        }
        for (mean, method, colour), height in zip(found, heights, strict=True)
    ]


def apart(places: Sequence[float], step: float) -> list[float]:
    """Ascending places moved so that neighbours are at least a step apart, as little as that takes.

    Args:
        places: Where labels would be, ascending.
        step: The least distance of two.
    """
    groups: list[list[float]] = []
    for place in places:
        groups.append([place])
        # Labels that touch share their room around the middle of where they would all be.
        while len(groups) > 1 and _begin(groups[-1], step) < _begin(groups[-2], step) + step * len(
            groups[-2]
        ):
            last = groups.pop()
            groups[-1].extend(last)
    return [
        round(_begin(group, step) + number * step, 1)
        for group in groups
        for number in range(len(group))
    ]


def _begin(group: Sequence[float], step: float) -> float:
    """Where the first label of a group lies."""
    return sum(place - number * step for number, place in enumerate(group)) / len(group)


def _subtitle(result: Record) -> str:
    seeds = len(result["seeds"])
    protocol = "temporal split" if result["protocol"] == "temporal" else "strong generalisation"
    return (
        f"{protocol}, whole catalogue ranked, {seeds} seed{'s' if seeds > 1 else ''}, "
        f"δ = {result['delta']}; bars: 95% over customers and seeds"
    )


def _description(
    result: Record, rows: Mapping[tuple[str, str], Record], private: Sequence[Record]
) -> str:
    """The picture in words, for whoever cannot see it."""
    parts = [
        f"{method['label']} ({protocol}): {rows[method['method'], protocol]['mean']:.4f}"
        for protocol in _TITLES
        for method in (*private, *result["methods"])
        if (method["method"], protocol) in rows
        and (method["kind"] == "private" or method["method"] in _REFERENCES)
    ]
    return f"{result['main_metric']} by ε. " + "; ".join(dict.fromkeys(parts)) + "."


def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    file = resources.files("simulations").joinpath("templates", "privacy_utility.svg.j2")
    return environment.from_string(file.read_text(encoding="utf-8"))
