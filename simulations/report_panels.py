"""What the report shows of a quality study: panels of methods with their figures and marks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.report_charts import Tick
from simulations import quality_table

Record = Mapping[str, Any]

#: What a customer would be served, by protocol; the page's headlines are about these.
SERVED = {protocol.value: method for protocol, method in quality_table.SERVED.items()}


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
        to_served: NDCG@10 over that of what a customer would be served, paired.
        per_seed: NDCG@10 seed by seed; one value for a method without chance.
    """

    setting: str
    estimates: tuple[Estimate | None, ...]
    to_popularity: Estimate | None
    to_recency: Estimate | None
    to_served: Estimate | None
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
        references: Where the methods that it must be better than stand, each with its name.
        customers: Customers evaluated.
        ahead: Methods that rank better than the one that would be served.
    """

    protocol: str
    title: str
    candidates: str
    methods: tuple[Method, ...]
    ticks: tuple[Tick, ...]
    references: tuple[Tick, ...]
    customers: int
    ahead: tuple[str, ...]

    def ratio_of(self, method: Method) -> str:
        """A method's ratio to this protocol's last reference, for the chart."""
        first = method.first
        if self.protocol == "all":
            return f"{first.to_recency.text(3)} ×" if first.to_recency else ""
        return f"{first.to_popularity.text(2)} ×" if first.to_popularity else ""

    def ratios_of(self, figures: Figures) -> tuple[Estimate | None, ...]:
        """A row's ratios, in the order of the table's columns."""
        if self.has_recency:
            return (figures.to_popularity, figures.to_recency, figures.to_served)
        return (figures.to_popularity, figures.to_served)

    @property
    def has_recency(self) -> bool:
        """Whether anything here is compared with own recent purchases."""
        return any(each.to_recency for method in self.methods for each in method.figures)

    @property
    def served(self) -> Method | None:
        """The method that a customer would be served."""
        return next((m for m in self.methods if m.key == SERVED[self.protocol]), None)


@dataclass(frozen=True)
class EarlierRow:
    """One method on the earlier weeks."""

    title: str
    label: str
    kind: str
    value: Estimate
    to_popularity: Estimate | None
    to_recency: Estimate | None
    served: bool


@dataclass(frozen=True)
class EarlierView:
    """What is served, and its references, on an earlier cut.

    Attributes:
        weeks: The test weeks.
        judged: The test weeks of the study proper.
        note: What part either had in choosing the constants.
        rows: Protocol by protocol, best first.
        sources: Where the gains come from, in sentences.
    """

    weeks: str
    judged: str
    note: str
    rows: tuple[EarlierRow, ...]
    sources: tuple[str, ...]

    def ratio(self, protocol: str) -> Estimate | None:
        """What is served over its reference: popularity on new items, else own purchases."""
        served = next(
            (row for row in self.rows if row.title == protocol.upper() and row.served), None
        )
        if served is None:
            return None
        return served.to_popularity if protocol == "new" else served.to_recency


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
        sources: For each protocol, where the gain of what is served comes from, in sentences.
        cost: What privacy costs, in a sentence, if that was measured.
        earlier: The same plan on an earlier cut, if that was measured.
    """

    panels: tuple[Panel, ...]
    metrics: tuple[str, ...]
    settings: tuple[tuple[str, str], ...]
    seeds: int
    replicates: int
    epsilon: str
    customers: Mapping[str, Mapping[str, int]]
    not_applicable: tuple[tuple[str, str, str], ...]
    sources: Mapping[str, str]
    cost: str
    earlier: EarlierView | None

    def panel(self, protocol: str) -> Panel | None:
        """A protocol's panel over the whole catalogue."""
        return next((panel for panel in self.panels if panel.protocol == protocol), None)
