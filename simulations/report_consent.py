"""The report's view of the customers: who consented, who left when, what their data were like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.report_charts import Scale, Segment, Staircase, stacked, staircase
from simulations import report_numbers as numbers

Record = Mapping[str, Any]


@dataclass(frozen=True)
class RegionConsent:
    """One region's customers and their choices; exact, so for simulations only.

    Attributes:
        region: Its name.
        jurisdiction: Its country code.
        customers: All customers at home there.
        consented: Those who consented at first; whoever withdrew later is among them.
        refused: Those who refused from the start.
        withdrawn: Those who consented and withdrew.
        bar: Stayed, withdrew, refused and silent as parts of one bar.
        eligible: Customers learnt from in each round; None where the region took no part.
        withdrawn_before: Withdrawals logged since the round before; None likewise.
        steps: The change of ``eligible`` since the first round, drawn.
    """

    region: str
    jurisdiction: str
    customers: int
    consented: int
    refused: int
    withdrawn: int
    bar: tuple[Segment, ...]
    eligible: tuple[int | None, ...]
    withdrawn_before: tuple[int | None, ...]
    steps: Staircase

    @property
    def first(self) -> int | None:
        """Customers learnt from in the first round the region took part in."""
        return next((count for count in self.eligible if count is not None), None)

    @property
    def last(self) -> int | None:
        """Customers learnt from in the last round the region took part in."""
        return next((count for count in reversed(self.eligible) if count is not None), None)


@dataclass(frozen=True)
class ConsentView:
    """All regions' customers and the sums over them."""

    regions: tuple[RegionConsent, ...]
    rounds: tuple[int, ...]
    customers: int
    consented: int
    refused: int
    withdrawn: int
    deepest: int

    @property
    def share(self) -> str:
        """The share of customers who consented at first."""
        return numbers.share(self.consented, self.customers)


@dataclass(frozen=True)
class RegionDataQuality:
    """What one region's quality gate let in and left out, in rows."""

    region: str
    read: int
    out_of_home: int
    out_of_scope: int
    in_scope: int
    accepted: int
    score: float
    threshold: float
    reasons: Mapping[str, int]
    bar: tuple[Segment, ...]

    @property
    def failed(self) -> int:
        """Rows in scope that did not pass the contract."""
        return self.in_scope - self.accepted


def consent_view(history: Record) -> ConsentView:
    """Reads the customers' choices from a run's history."""
    rounds, regions = history["rounds"], history["regions"]
    eligible = {each["region"]: _by_round(rounds, each["region"], "eligible") for each in regions}
    changes = {name: _changes(counts) for name, counts in eligible.items()}
    deepest = min((c for each in changes.values() for c in each if c is not None), default=0)
    scale = Scale(min(deepest, -1), 0.0)
    largest = max((each["customers"] for each in regions), default=0)
    return ConsentView(
        regions=tuple(
            _region_consent(
                each,
                eligible[each["region"]],
                _by_round(rounds, each["region"], "withdrawn_before"),
                staircase(changes[each["region"]], scale),
                largest,
            )
            for each in regions
        ),
        rounds=tuple(each["round"] for each in rounds),
        customers=sum(each["customers"] for each in regions),
        consented=sum(each["consented"] for each in regions),
        refused=sum(each["refused"] for each in regions),
        withdrawn=sum(each["withdrawn"] for each in regions),
        deepest=deepest,
    )


def data_quality_view(history: Record) -> tuple[RegionDataQuality, ...]:
    """Reads the quality gates' reports from a run's history."""
    reports = [each["quality"] for each in history["regions"]]
    most_read = max((report["rows_read"] for report in reports), default=0)
    return tuple(_region_quality(report, most_read) for report in reports)


def reasons_of(regions: Sequence[RegionDataQuality]) -> list[str]:
    """All reasons for which rows failed, most frequent first."""
    totals: dict[str, int] = {}
    for region in regions:
        for reason, count in region.reasons.items():
            totals[reason] = totals.get(reason, 0) + count
    return sorted(totals, key=lambda reason: (-totals[reason], reason))


def _region_consent(
    region: Record,
    eligible: tuple[int | None, ...],
    withdrawn_before: tuple[int | None, ...],
    steps: Staircase,
    largest: int,
) -> RegionConsent:
    customers, consented = region["customers"], region["consented"]
    refused, withdrawn = region["refused"], region["withdrawn"]
    parts = [
        ("stayed", "consented throughout", consented - withdrawn),
        ("withdrew", "withdrew during the run", withdrawn),
        ("refused", "refused", refused),
        ("silent", "no answer", customers - consented - refused),
    ]
    return RegionConsent(
        region=region["region"],
        jurisdiction=region["jurisdiction"],
        customers=customers,
        consented=consented,
        refused=refused,
        withdrawn=withdrawn,
        bar=_labelled(parts, customers, fills=largest),
        eligible=eligible,
        withdrawn_before=withdrawn_before,
        steps=steps,
    )


def _region_quality(quality: Record, most_read: int) -> RegionDataQuality:
    read, in_scope, accepted = (
        quality["rows_read"],
        quality["rows_in_scope"],
        quality["rows_accepted"],
    )
    parts = [
        ("stayed", "accepted", accepted),
        ("failed", "failed the contract", in_scope - accepted),
        ("refused", "of customers at home elsewhere", quality["rows_out_of_home"]),
        ("silent", "of products out of scope", quality["rows_out_of_scope"]),
    ]
    return RegionDataQuality(
        region=quality["region"],
        read=read,
        out_of_home=quality["rows_out_of_home"],
        out_of_scope=quality["rows_out_of_scope"],
        in_scope=in_scope,
        accepted=accepted,
        score=float(quality["score"]),
        threshold=float(quality["threshold"]),
        reasons=quality["reasons"],
        bar=_labelled(parts, read, fills=most_read),
    )


def _labelled(
    parts: Sequence[tuple[str, str, int]], whole: int, *, fills: int
) -> tuple[Segment, ...]:
    return stacked(
        [
            (kind, f"{numbers.integer(count)} {label} ({numbers.share(count, whole)})", count)
            for kind, label, count in parts
        ],
        fills,
    )


def _by_round(rounds: Sequence[Record], region: str, field: str) -> tuple[int | None, ...]:
    return tuple(
        next(
            (
                part[field]
                for part in each["regions"]
                if part["region"] == region and part["status"] == "accepted"
            ),
            None,
        )
        for each in rounds
    )


def _changes(counts: Sequence[int | None]) -> list[int | None]:
    first = next((count for count in counts if count is not None), 0)
    return [None if count is None else count - first for count in counts]
