"""An evaluation's result for a terminal: the table, the segments, and what was found out about."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

Record = Mapping[str, Any]
Rows = Mapping[tuple[str, str, str], Record]

_TITLES = {"new": "NEW: items the customer had never bought", "all": "ALL: repeats included"}
_PROTOCOLS = {
    "temporal": "learnt before, asked after",
    "strong": "customers who are asked are not in training",
}


def show(result: Record, console: Console) -> None:
    """Prints the tables of a result."""
    data = result["data"]
    console.print(f"[bold]{data['title']}[/bold]")
    console.print(
        f"{result['protocol']} protocol ({_PROTOCOLS[result['protocol']]}): "
        f"{result['customers']['learnt']:,} customers learnt from, "
        f"{result['customers']['asked']:,} asked, in {len(data['regions'])} regions; "
        f"all {data['items']:,} items ranked."
    )
    console.print(
        f"ε of a run for one customer, added or removed, at δ = {result['delta']}; "
        f"{len(result['seeds'])} seeds, {result['replicates']:,} resamples, 95% intervals."
    )
    rows = {
        (row["method"], row["protocol"], row["metric"]): row
        for row in result["rows"]
        if row["setting"] == "everyone"
    }
    for protocol in _TITLES:
        if any(key[1] == protocol for key in rows):
            console.print()
            console.print(_accuracy(result, rows, protocol))
            console.print(_others(result, rows, protocol))
    for table in (*_segments(result), *_refusals(result)):
        console.print()
        console.print(table)
    console.print()
    for line in (*_omitted(result), *result["notes"]):
        console.print(line, style="dim")


def _accuracy(result: Record, rows: Rows, protocol: str) -> Table:
    """The main metric with its interval, and what it is of each reference."""
    told: list[tuple[str, str, Callable[[Record | None], str]]] = [
        ("× popularity", "ratio_to_popularity", _ratio),
        ("of EASE", "ratio_to_ease", _percent),
    ]
    if protocol == "all":
        told.append(("× own recent", "ratio_to_own_recent", _ratio))
    first = result["places"][0]
    table = _table(_TITLES[protocol], "method")
    _columns(table, f"NDCG@{first} (95%)", *(title for title, _, _ in told))
    for method in result["methods"]:
        row = rows.get((method["method"], protocol, result["main_metric"]))
        if row is not None:
            ratios = [tell(row[field]) for _, field, tell in told]
            table.add_row(method["label"], _estimate(row), *ratios, style=_style(method))
    return table


def _others(result: Record, rows: Rows, protocol: str) -> Table:
    """All other metrics."""
    metrics = [
        metric
        for metric in dict.fromkeys(row["metric"] for row in result["rows"])
        if metric != result["main_metric"]
    ]
    table = _table("", "method")
    _columns(table, *(_short(metric) for metric in metrics))
    for method in result["methods"]:
        if (method["method"], protocol, result["main_metric"]) in rows:
            figures = (_figure(rows[method["method"], protocol, metric]) for metric in metrics)
            table.add_row(method["label"], *figures, style=_style(method))
    return table


def _segments(result: Record) -> Iterator[Table]:
    """By region and activity: the first strategy and mode at each ε, beside popularity."""
    private = [each for each in result["methods"] if each["kind"] == "private"]
    strategy, mode = private[0]["strategy"], private[0]["mode"]
    shown = {
        each["method"]: f"ε = {each['epsilon']}"
        for each in private
        if (each["strategy"], each["mode"]) == (strategy, mode)
    } | {"popularity": "popularity"}
    for protocol, title in _TITLES.items():
        rows = [row for row in result["segments"] if row["protocol"] == protocol]
        if not rows:
            continue
        table = _table(f"Who is served how by {strategy}, {mode} noise; {title}", "segment")
        _columns(table, "customers", *shown.values())
        own: dict[tuple[str, str], dict[str, Record]] = {}
        for row in rows:
            place = (row["segmentation"], row["segment"])
            own.setdefault(place, {})[row["method"]] = row
        for (segmentation, segment), figures in own.items():
            table.add_row(
                f"{segmentation}: {segment}",
                f"{next(iter(figures.values()))['customers']:,}",
                *(_estimate(figures[method]) if method in figures else "" for method in shown),
            )
        yield table


def _refusals(result: Record) -> Iterator[Table]:
    """What refusing training changes."""
    private = {
        each["method"]: each["label"] for each in result["methods"] if each["kind"] == "private"
    }
    for protocol, title in _TITLES.items():
        rows = [
            row
            for row in result["refusals"]
            if row["protocol"] == protocol and row["method"] in private
        ]
        if not rows:
            continue
        share = f"{100 * result['refusal_share']:g}%"
        table = _table(f"If {share} refuse training; {title}", "method", "who")
        _columns(table, "customers", "nobody refuses", "they do", "difference (95%)", "popularity")
        for row in rows:
            change = row["difference"]
            table.add_row(
                private[row["method"]],
                row["group"],
                f"{row['customers']:,}",
                f"{row['everyone']:.4f}",
                f"{row['with_refusals']:.4f}",
                f"{change['mean']:+.4f} ({change['ci_low']:+.4f} to {change['ci_high']:+.4f})",
                f"{row['popularity']:.4f}",
            )
        yield table


def _omitted(result: Record) -> Iterator[str]:
    for each in result["omitted"]:
        yield f"Not measured: {each['what']}: {each['why']}."


def _table(title: str, *names: str) -> Table:
    """A table whose first columns are of words."""
    table = Table(box=None, header_style="dim", title=title, title_justify="left")
    for name in names:
        table.add_column(name, overflow="fold")
    return table


def _columns(table: Table, *titles: str) -> None:
    """Columns of figures, which are not broken over lines."""
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)


def _style(method: Record) -> str | None:
    return "bold" if method["kind"] == "private" else None


def _short(metric: str) -> str:
    name, _, place = metric.partition("@")
    short = {"ndcg": "NDCG", "recall": "recall", "hit_rate": "HR", "long_tail": "tail"}
    return f"{short.get(name, name)}@{place}"


def _figure(row: Record) -> str:
    digits = 2 if row["metric"].startswith("novelty") else 3
    return f"{row['mean']:.{digits}f}"


def _estimate(row: Record) -> str:
    if row["ci_low"] is None:
        return f"{row['mean']:.4f}"
    return f"{row['mean']:.4f} ({row['ci_low']:.4f}–{row['ci_high']:.4f})"


def _ratio(ratio: Record | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio['mean']:.2f} ({ratio['ci_low']:.2f}–{ratio['ci_high']:.2f})"


def _percent(ratio: Record | None) -> str:
    return "" if ratio is None else f"{100 * ratio['mean']:.0f}%"
