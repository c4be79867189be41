"""An evaluation's result for a terminal: the table, the segments, and what was found out about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    for protocol, title in _TITLES.items():
        if any(key[1] == protocol for key in rows):
            console.print()
            console.print(_methods(result, rows, protocol, title))
    for table in (*_segments(result), *_refusals(result)):
        console.print()
        console.print(table)
    console.print()
    for line in (*_omitted(result), *result["notes"]):
        console.print(line, style="dim")


def _methods(result: Record, rows: Rows, protocol: str, title: str) -> Table:
    first = result["places"][0]
    metrics = [
        metric
        for metric in dict.fromkeys(row["metric"] for row in result["rows"])
        if metric != result["main_metric"]
    ]
    table = _table(title)
    for name in ("method", f"NDCG@{first} (95%)", "× popularity", "of EASE"):
        table.add_column(name, justify="left" if name == "method" else "right")
    if protocol == "all":
        table.add_column("× own recent", justify="right")
    for metric in metrics:
        table.add_column(_short(metric), justify="right")
    for method in result["methods"]:
        row = rows.get((method["method"], protocol, result["main_metric"]))
        if row is None:
            continue
        cells = [
            method["label"],
            _estimate(row),
            _ratio(row["ratio_to_popularity"]),
            _percent(row["ratio_to_ease"]),
        ]
        if protocol == "all":
            cells.append(_ratio(row["ratio_to_own_recent"]))
        cells += [_figure(rows[method["method"], protocol, metric]) for metric in metrics]
        table.add_row(*cells, style="bold" if method["kind"] == "private" else None)
    return table


def _segments(result: Record) -> Iterator[Table]:
    """By region and activity: the first private method, beside popularity."""
    methods = _shown(result)
    for protocol, title in _TITLES.items():
        rows = [row for row in result["segments"] if row["protocol"] == protocol]
        if not rows:
            continue
        table = _table(f"Who is served how, {title}")
        for name in ("segment", "customers", *(label for _, label in methods)):
            table.add_column(name, justify="left" if name == "segment" else "right")
        for segmentation, segment in dict.fromkeys(
            (row["segmentation"], row["segment"]) for row in rows
        ):
            own = {
                row["method"]: row
                for row in rows
                if (row["segmentation"], row["segment"]) == (segmentation, segment)
            }
            table.add_row(
                f"{segmentation}: {segment}",
                f"{next(iter(own.values()))['customers']:,}",
                *(_estimate(own[method]) if method in own else "" for method, _ in methods),
            )
        yield table


def _shown(result: Record) -> list[tuple[str, str]]:
    """The methods whose segments are shown: of the first strategy and mode each ε; popularity."""
    private = [each for each in result["methods"] if each["kind"] == "private"]
    first = private[0]
    same = [
        (each["method"], each["label"])
        for each in private
        if (each["strategy"], each["mode"]) == (first["strategy"], first["mode"])
    ]
    return [*same, ("popularity", "popularity")]


def _refusals(result: Record) -> Iterator[Table]:
    """What refusing training changes."""
    labels = {each["method"]: each["label"] for each in result["methods"]}
    kinds = {each["method"]: each["kind"] for each in result["methods"]}
    for protocol, title in _TITLES.items():
        rows = [
            row
            for row in result["refusals"]
            if row["protocol"] == protocol and kinds[row["method"]] == "private"
        ]
        if not rows:
            continue
        share = f"{100 * result['refusal_share']:g}%"
        table = _table(f"If {share} refuse training, {title}")
        for name in ("method", "who", "customers", "nobody refuses", "they refuse"):
            table.add_column(name, justify="left" if name in ("method", "who") else "right")
        table.add_column("difference (95%)", justify="right")
        table.add_column("popularity", justify="right")
        for row in rows:
            change = row["difference"]
            table.add_row(
                labels[row["method"]],
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


def _table(title: str) -> Table:
    return Table(box=None, header_style="dim", title=title, title_justify="left")


def _short(metric: str) -> str:
    name, _, place = metric.partition("@")
    short = {"ndcg": "NDCG", "recall": "Recall", "hit_rate": "HR", "long_tail": "tail"}
    return f"{short.get(name, name)}@{place}"


def _figure(row: Record) -> str:
    return f"{row['mean']:.2f}" if row["metric"].startswith("novelty") else f"{row['mean']:.4f}"


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
