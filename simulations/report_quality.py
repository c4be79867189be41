"""The report's view of the quality study: every method beside every other, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from common.report_charts import Scale, Tick, scale_of
from simulations import report_numbers as numbers
from simulations.report_gains import (
    MAIN_METRIC,
    cost_of_privacy,
    regions_alone,
    rows_of,
    source_of_gain,
)
from simulations.report_panels import (
    SERVED,
    EarlierRow,
    EarlierView,
    Estimate,
    Figures,
    Mark,
    Method,
    Panel,
    QualityView,
)

Record = Mapping[str, Any]
# The figures of one panel: (setting, method, metric) → row of the study.
Rows = Mapping[tuple[str, str, str], Record]

SETTINGS = {"no_refusals": "nobody refuses", "with_refusals": "this run’s refusals"}
_METRICS = {
    "ndcg@10": "NDCG@10",
    "recall@20": "Recall@20",
    "hit_rate@10": "HR@10",
    "coverage@10": "Coverage",
}
_PROTOCOLS = {
    "new": ("Items the customer had never bought", "NEW"),
    "all": ("All later purchases, repeats included", "ALL"),
}
# What a model must be better than to be worth its noise: by method, its name in the chart.
_REFERENCES = {"popularity": "popularity", "personal_recency": "own recent purchases"}
_MARK_OFFSET = 6  # pixels between the marks of two settings in one row


def quality_view(metrics: Record) -> QualityView:
    """Reads the result of `run_quality_study`."""
    rows = metrics["rows"]
    names = list(dict.fromkeys(row["metric"] for row in rows))
    grouped: dict[tuple[str, str], dict[tuple[str, str, str], Record]] = {}
    for row in rows:
        panel = grouped.setdefault((row["protocol"], row["universe"]), {})
        panel[row["setting"], row["method"], row["metric"]] = row
    scales = {protocol: _scale(rows, protocol) for protocol in _PROTOCOLS}
    # The whole catalogue first: it is what a customer would be ranked over.
    order = sorted(grouped, key=lambda key: (list(_PROTOCOLS).index(key[0]), key[1] != "catalogue"))
    labels = {each["method"]: each["label"] for each in metrics["methods"]}
    return QualityView(
        panels=tuple(
            _panel(key, grouped[key], names, scales[key[0]], metrics["universe_size"])
            for key in order
        ),
        metrics=tuple(_METRICS.get(name, name) for name in names),
        settings=tuple(
            (SETTINGS.get(name, name), _trained_on(each["customers"]))
            for name, each in metrics["settings"].items()
        ),
        seeds=len(metrics["seeds"]),
        replicates=metrics["replicates"],
        epsilon=metrics["epsilon"],
        customers=metrics["customers"],
        not_applicable=tuple(
            (labels[each["method"]], _PROTOCOLS[each["protocol"]][1], each["why"])
            for each in metrics["not_applicable"]
        ),
        sources={protocol: _sources(rows, protocol) for protocol in _PROTOCOLS},
        cost=cost_of_privacy(rows_of(rows, "new", "no_refusals")),
        earlier=_earlier(metrics["earlier"]) if metrics["earlier"] else None,
    )


def _sources(rows: list[Record], protocol: str) -> str:
    """Where the gain comes from if nobody refuses, and what a region has of it alone."""
    measured = rows_of(rows, protocol, "no_refusals")
    return " ".join(
        filter(None, (source_of_gain(measured, protocol), regions_alone(measured, protocol)))
    )


def _earlier(earlier: Record) -> EarlierView:
    shown, sources = [], []
    for protocol, (_, title) in _PROTOCOLS.items():
        measured = rows_of(earlier["rows"], protocol, "earlier_weeks")
        sources.append(source_of_gain(measured, protocol))
        shown += [
            EarlierRow(
                title=title,
                label=row["label"],
                kind=_kind(method),
                value=Estimate(row["mean"], row["ci_low"], row["ci_high"]),
                to_popularity=Estimate.of(row["ratio_to_popularity"]),
                to_recency=Estimate.of(row["ratio_to_personal_recency"]),
                served=method == SERVED[protocol],
            )
            for method, row in sorted(measured.items(), key=lambda each: -each[1]["mean"])
        ]
    return EarlierView(
        weeks=earlier["weeks"],
        judged=earlier["judged"],
        note=earlier["note"],
        rows=tuple(shown),
        sources=tuple(filter(None, sources)),
    )


def _scale(rows: Sequence[Record], protocol: str) -> Scale:
    """One scale for a protocol's panels, so that they can be compared by eye."""
    values = [
        row[end]
        for row in rows
        if row["protocol"] == protocol and row["metric"] == MAIN_METRIC
        for end in ("ci_low", "ci_high")
    ]
    return scale_of(values)


def _panel(
    key: tuple[str, str], rows: Rows, names: Sequence[str], scale: Scale, universe_size: int
) -> Panel:
    protocol, universe = key
    methods = [
        _method(method, rows, names, scale) for method in dict.fromkeys(m for _, m, _ in rows)
    ]
    methods.sort(key=lambda method: -method.mean)
    served = next((each for each in methods if each.key == SERVED[protocol]), None)
    some_row = next(row for row in rows.values() if row["metric"] == MAIN_METRIC)
    title, short = _PROTOCOLS[protocol]
    return Panel(
        protocol=protocol,
        title=f"{title} ({short})",
        candidates="any item of the catalogue"
        if universe == "catalogue"
        else f"the {numbers.integer(universe_size)} items that most customers bought",
        methods=tuple(methods),
        ticks=tuple(scale.ticks(6)),
        references=tuple(
            Tick(each.marks[0].x, _REFERENCES[each.key])
            for each in methods
            if each.key in _REFERENCES
        ),
        customers=some_row["customers"],
        ahead=tuple(each.label for each in methods if served and each.mean > served.mean),
    )


def _method(method: str, rows: Rows, names: Sequence[str], scale: Scale) -> Method:
    settings = [name for name in SETTINGS if (name, method, MAIN_METRIC) in rows]
    figures = tuple(_figures(rows, setting, method, names) for setting in settings)
    label = next(row["label"] for (_, key, _), row in rows.items() if key == method)
    offsets = (0,) if len(settings) == 1 else (-_MARK_OFFSET, _MARK_OFFSET)
    return Method(
        key=method,
        label=label,
        kind=_kind(method),
        mean=rows[settings[0], method, MAIN_METRIC]["mean"],
        figures=figures,
        marks=tuple(
            _mark(label, setting, rows[setting, method, MAIN_METRIC], offset, scale)
            for setting, offset in zip(settings, offsets, strict=True)
        ),
    )


def _figures(rows: Rows, setting: str, method: str, names: Sequence[str]) -> Figures:
    main = rows[setting, method, MAIN_METRIC]
    return Figures(
        setting=SETTINGS[setting],
        estimates=tuple(Estimate.of(rows.get((setting, method, name))) for name in names),
        to_popularity=Estimate.of(main["ratio_to_popularity"]),
        to_recency=Estimate.of(main["ratio_to_personal_recency"]),
        to_served=Estimate.of(main["ratio_to_served"]),
        per_seed=tuple(main["per_seed"]),
    )


def _mark(label: str, setting: str, row: Record, offset: int, scale: Scale) -> Mark:
    ratio = Estimate.of(row["ratio_to_popularity"])
    times = f", {ratio.text(2)} × popularity" if ratio else ""
    return Mark(
        setting=setting,
        x=scale.at(row["mean"]),
        low=scale.at(row["ci_low"]),
        high=scale.at(row["ci_high"]),
        y=offset,
        label=f"{label}, {SETTINGS[setting]}: {row['mean']:.4f} "
        f"({row['ci_low']:.4f}–{row['ci_high']:.4f}){times}",
    )


def _kind(method: str) -> str:
    if method.startswith("fedpref"):
        return "ours"
    return "open" if method == "ease" or "_no_dp" in method else "compared"


def _trained_on(counts: Sequence[int]) -> str:
    """The customers in training, of the first and the last round."""
    first, last = numbers.integer(counts[0]), numbers.integer(counts[-1])
    if first == last:
        return f"{first} customers in training"
    return f"{first} customers in training in the first round, {last} in the last"
