"""The report's view of the quality study: every method beside every other, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simulations import report_numbers as numbers
from simulations.report_charts import Scale, Tick, scale_of

Record = Mapping[str, Any]
# The figures of one panel: (setting, method, metric) → row of the study.
Rows = Mapping[tuple[str, str, str], Record]

SETTINGS = {"no_refusals": "nobody refuses", "with_refusals": "this run’s refusals"}
#: What a customer would be served, by protocol; the page's headlines are about these.
SERVED = {"new": "fedpref_tilt", "all": "fedpref_fused"}
MAIN_METRIC = "ndcg@10"
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
_MARK_OFFSET = 6  # pixels between the marks of two settings in one row


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval; coverage has none.

    Attributes:
        mean: The mean over customers and seeds.
        low: The interval's lower end.
        high: The interval's upper end.
    """

    mean: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, record: Record | None) -> Estimate | None:
        """Reads one from a row, or from a ratio within a row."""
        if record is None:
            return None
        return cls(record["mean"], record["ci_low"], record["ci_high"])

    def text(self, digits: int) -> str:
        """The mean, with so many decimals."""
        return f"{self.mean:.{digits}f}"

    def interval(self, digits: int) -> str:
        """The interval, or nothing."""
        if self.low is None or self.high is None:
            return ""
        return f"{self.low:.{digits}f}–{self.high:.{digits}f}"

    @property
    def against_one(self) -> str:
        """How a ratio stands to 1, by its interval."""
        if self.low is not None and self.low > 1:
            return "clearly better"
        return "clearly worse" if self.high is not None and self.high < 1 else "no clear difference"


@dataclass(frozen=True)
class Figures:
    """One method in one setting, as a row of the table.

    Attributes:
        setting: Who was in training.
        estimates: By metric, in the table's order; None where the study has no such row.
        to_popularity: NDCG@10 over global popularity's, paired.
        to_recency: NDCG@10 over that of own recent purchases, paired.
        per_seed: NDCG@10 seed by seed; one value for a method without chance.
    """

    setting: str
    estimates: tuple[Estimate | None, ...]
    to_popularity: Estimate | None
    to_recency: Estimate | None
    per_seed: tuple[float, ...]


@dataclass(frozen=True)
class Mark:
    """A dot and its interval in the chart, in percent of the plot; y in pixels."""

    setting: str
    x: float
    low: float
    high: float
    y: int
    label: str


@dataclass(frozen=True)
class Method:
    """One method of a panel.

    Attributes:
        key: Its key in the study.
        label: Its name for people.
        kind: ours, compared or open (without privacy).
        mean: NDCG@10 in the first setting it was measured in; what methods are sorted by.
        figures: One for each setting it was measured in.
        marks: Likewise, drawn.
    """

    key: str
    label: str
    kind: str
    mean: float
    figures: tuple[Figures, ...]
    marks: tuple[Mark, ...]

    @property
    def first(self) -> Figures:
        """Its figures in the first setting it was measured in."""
        return self.figures[0]


@dataclass(frozen=True)
class Panel:
    """One protocol in one universe of candidates.

    Attributes:
        protocol: new or all.
        title: What is judged.
        candidates: What could be recommended.
        methods: All methods, best first.
        ticks: Of the axis.
        popularity_at: Where global popularity stands; None if it was not measured.
        customers: Customers evaluated.
        ahead: Methods that rank better than the one that would be served.
    """

    protocol: str
    title: str
    candidates: str
    methods: tuple[Method, ...]
    ticks: tuple[Tick, ...]
    popularity_at: float | None
    customers: int
    ahead: tuple[str, ...]

    @property
    def has_recency(self) -> bool:
        """Whether anything here is compared with own recent purchases."""
        return any(each.to_recency for method in self.methods for each in method.figures)

    @property
    def served(self) -> Method | None:
        """The method that a customer would be served."""
        return next((m for m in self.methods if m.key == SERVED[self.protocol]), None)


@dataclass(frozen=True)
class QualityView:
    """The whole study.

    Attributes:
        panels: By protocol, then by universe; the whole catalogue first.
        metrics: Titles of the table's metric columns.
        settings: Name of each setting, with the customers it trained on.
        seeds: How many seeds.
        replicates: Bootstrap resamples.
        epsilon: ε of the private rows.
        customers: Customers in training and in the test, by region.
        not_applicable: Method, protocol and why it was not measured.
    """

    panels: tuple[Panel, ...]
    metrics: tuple[str, ...]
    settings: tuple[tuple[str, str], ...]
    seeds: int
    replicates: int
    epsilon: str
    customers: Mapping[str, Mapping[str, int]]
    not_applicable: tuple[tuple[str, str, str], ...]

    def panel(self, protocol: str) -> Panel | None:
        """A protocol's panel over the whole catalogue."""
        return next((panel for panel in self.panels if panel.protocol == protocol), None)


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
    methods = [_method(method, rows, names, scale) for method in dict.fromkeys(m for _, m, _ in rows)]
    methods.sort(key=lambda method: -method.mean)
    served = next((each for each in methods if each.key == SERVED[protocol]), None)
    popularity = next((each for each in methods if each.key == "popularity"), None)
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
        popularity_at=popularity.marks[0].x if popularity else None,
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
    return "open" if method == "ease" or method.endswith("_no_dp") else "compared"


def _trained_on(counts: Sequence[int]) -> str:
    """The customers in training, of the first and the last round."""
    first, last = numbers.integer(counts[0]), numbers.integer(counts[-1])
    if first == last:
        return f"{first} customers in training"
    return f"{first} customers in training in the first round, {last} in the last"
