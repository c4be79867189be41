"""The quality gate: what a region's data must be like before anything learns from them.

Single rows are judged by `client.data.row_checks`. Here is judged what takes all rows of a
customer, part by part, so that a store may be larger than memory: repeats, and customers at home in
two regions. A row that fails for two reasons counts under both and is left out once. Rows that are
right but not meant (customers at home in another region, products that the catalogue excludes) are
counted apart and do not lower the score.

What is judged does not depend on the order of a store's rows or files: of repeated rows one stays,
if there is one that passed the other checks.

The report holds exact counts of the region's data: it stays in the region.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from client.data.row_blocks import AT_HOME, AWAY, PARTS, PASSED, RowBlock, concatenate, split
from client.data.row_checks import (
    MAX_AMOUNT,
    MAX_QUANTITY,
    USUAL_LIMITS,
    PurchaseLimits,
    RowChecks,
    RowCounts,
)
from client.data.transactions import (
    _GATE_SEAL,
    CheckedTransactions,
    Purchases,
    Transactions,
)
from common.canonical_json import JsonValue
from common.catalogue import Catalogue
from common.errors import InputError, QualityGateError

__all__ = [
    "DEFAULT_THRESHOLD",
    "MAX_AMOUNT",
    "MAX_QUANTITY",
    "ExaminedRows",
    "QualityReport",
    "assess_quality",
    "pass_gate",
    "quality_gate",
]

DEFAULT_THRESHOLD = 0.98
# Of so many rows at most, what passed is kept in memory (16 bytes a row); of more, it is read again
# from where the rows are kept.
HELD_ROWS = 2_000_000
_REASONS_SHOWN = 3

BoolArray = npt.NDArray[np.bool_]
ByteArray = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class QualityReport:
    """What a store gave, what was left out and why.

    Attributes:
        region: The region.
        origin: The store.
        rows_read: All rows of the store.
        rows_out_of_home: Rows of customers whose home store is another region's; dropped.
        rows_out_of_scope: Rows of products that the public catalogue excludes; dropped.
        rows_in_scope: The rows that remain; the contract was checked on them.
        rows_accepted: Those that passed.
        reasons: Reason → rows in scope that failed for it, most frequent first.
        threshold: The least score that the region trains with.
    """

    region: str
    origin: str
    rows_read: int
    rows_out_of_home: int
    rows_out_of_scope: int
    rows_in_scope: int
    rows_accepted: int
    reasons: Mapping[str, int]
    threshold: float

    @property
    def score(self) -> float:
        """Accepted rows / rows in scope; 0 when there are none."""
        return self.rows_accepted / self.rows_in_scope if self.rows_in_scope else 0.0

    @property
    def passed(self) -> bool:
        """Whether the score reaches the threshold."""
        return self.rows_in_scope > 0 and self.score >= self.threshold

    def to_record(self) -> dict[str, JsonValue]:
        """The report as canonical JSON values."""
        return {
            "region": self.region,
            "origin": self.origin,
            "rows_read": self.rows_read,
            "rows_out_of_home": self.rows_out_of_home,
            "rows_out_of_scope": self.rows_out_of_scope,
            "rows_in_scope": self.rows_in_scope,
            "rows_accepted": self.rows_accepted,
            "reasons": dict(self.reasons),
            "score": f"{self.score:.6f}",
            "threshold": f"{self.threshold:g}",
        }


class ExaminedRows(Protocol):
    """A store's rows after the checks of single rows, by parts."""

    @property
    def origin(self) -> str:
        """The store, for messages."""
        ...

    @property
    def catalogue(self) -> str:
        """The digest of the catalogue that items are numbers of."""
        ...

    @property
    def counts(self) -> RowCounts:
        """What was read."""
        ...

    def part(self, number: int) -> RowBlock:
        """The rows of one of the `PARTS`; the same ones whenever it is asked."""
        ...


def quality_gate(
    transactions: Transactions | Iterable[Transactions],
    catalogue: Catalogue,
    *,
    region: str,
    threshold: float = DEFAULT_THRESHOLD,
    limits: PurchaseLimits = USUAL_LIMITS,
) -> CheckedTransactions:
    """Keeps the rows that are right, if enough of them are.

    Args:
        transactions: The store's rows, in one batch or several; examined rows stay in memory.
        catalogue: The public catalogue.
        region: The region's name, for the report and messages.
        threshold: The least share of rows in scope that must pass, in (0, 1].
        limits: What the numbers of a purchase may be.

    Raises:
        QualityGateError: The share is below the threshold: names region, score, threshold and the
            most frequent reasons with their counts.
        InputError: The threshold is out of range, or there are no rows.
    """
    rows = _examine(transactions, catalogue, limits)
    return pass_gate(rows, region=region, threshold=threshold)


def pass_gate(rows: ExaminedRows, *, region: str, threshold: float) -> CheckedTransactions:
    """Keeps what is right of rows that were examined one by one; see `quality_gate`."""
    report, accepted = _judge(rows, region, threshold)
    if not report.passed:
        raise QualityGateError(
            _refusal(report), remedy="Correct the store's data or its declaration; then try again."
        )
    return CheckedTransactions(accepted, rows.catalogue, report, seal=_GATE_SEAL)


def assess_quality(
    transactions: Transactions | Iterable[Transactions],
    catalogue: Catalogue,
    *,
    region: str,
    threshold: float = DEFAULT_THRESHOLD,
) -> QualityReport:
    """The gate's report, passed or not; for a region's operator.

    Raises:
        InputError: The threshold is out of range, or there are no rows.
    """
    return _judge(_examine(transactions, catalogue, USUAL_LIMITS), region, threshold)[0]


@dataclass
class _RowsInMemory:
    """Examined rows that are kept in memory."""

    origin: str
    catalogue: str
    counts: RowCounts = field(default_factory=RowCounts)
    parts: list[list[RowBlock]] = field(default_factory=lambda: [[] for _ in range(PARTS)])

    def part(self, number: int) -> RowBlock:
        return concatenate(self.parts[number])


def _examine(
    transactions: Transactions | Iterable[Transactions],
    catalogue: Catalogue,
    limits: PurchaseLimits,
) -> _RowsInMemory:
    checks = RowChecks(catalogue, limits)
    rows = _RowsInMemory("The store", catalogue.digest)
    for batch in [transactions] if isinstance(transactions, Transactions) else transactions:
        block, counts = checks.examine(batch)
        rows.origin, rows.counts = batch.origin, rows.counts + counts
        for number, part in split(block):
            rows.parts[number].append(part)
    return rows


@dataclass(frozen=True)
class _AcceptedRows:
    """Reads the rows that passed, part by part.

    Args:
        rows: Where they are.
        accepted: For each part, which of its rows passed, eight to a byte.
        held: The parts themselves, if they are few enough to be kept.
    """

    rows: ExaminedRows
    accepted: list[ByteArray]
    held: list[Purchases] | None

    def __call__(self) -> Iterator[Purchases]:
        if self.held is not None:
            yield from self.held
            return
        for number, packed in enumerate(self.accepted):
            block = self.rows.part(number)
            kept = np.unpackbits(packed, count=len(block)).astype(bool)
            yield _purchases(block.take(kept))


def _purchases(block: RowBlock) -> Purchases:
    owners = tuple(block.customers.to_pylist())
    return Purchases(owners, block.customer, block.item, block.time_us // 1000)


def _judge(
    rows: ExaminedRows, region: str, threshold: float
) -> tuple[QualityReport, _AcceptedRows]:
    if not 0.0 < threshold <= 1.0:
        raise InputError(
            f"{region}: the quality threshold {threshold} is not in (0, 1].",
            remedy="Set it to a share, 0.98 by default.",
        )
    if not rows.counts.read:
        raise InputError(
            f"{rows.origin} has no rows.",
            remedy="Check the path or table in the store's declaration.",
        )
    reasons = Counter(rows.counts.reasons)
    accepted: list[ByteArray] = []
    held: list[Purchases] | None = [] if rows.counts.in_scope <= HELD_ROWS else None
    n_accepted = 0
    for number in range(PARTS):
        block = rows.part(number)
        kept, found = _judge_part(block)
        reasons.update(found)
        n_accepted += int(kept.sum())
        accepted.append(np.packbits(kept))
        if held is not None:
            held.append(_purchases(block.take(kept)))
    report = QualityReport(
        region=region,
        origin=rows.origin,
        rows_read=rows.counts.read,
        rows_out_of_home=rows.counts.out_of_home,
        rows_out_of_scope=rows.counts.out_of_scope,
        rows_in_scope=rows.counts.in_scope,
        rows_accepted=n_accepted,
        reasons=_by_frequency(reasons),
        threshold=threshold,
    )
    return report, _AcceptedRows(rows, accepted, held)


def _by_frequency(reasons: Counter[str]) -> Mapping[str, int]:
    present = [(reason, count) for reason, count in reasons.items() if count]
    return MappingProxyType(dict(sorted(present, key=lambda item: (-item[1], item[0]))))


def _judge_part(block: RowBlock) -> tuple[BoolArray, dict[str, int]]:
    """Which rows of whole customers are kept, and how many fail for what others tell."""
    examined = block.flags & AWAY == 0
    # The last place is that of rows without a customer, of whom none is seen elsewhere.
    seen_away = np.zeros(len(block.customers) + 1, dtype=bool)
    seen_away[block.customer[~examined]] = True
    ambiguous = examined & (block.flags & AT_HOME != 0) & seen_away[block.customer]
    repeated = _repeats(block, examined)
    kept = examined & (block.flags & PASSED != 0) & ~ambiguous & ~repeated
    return kept, {
        "duplicate-row": int(repeated.sum()),
        "home-ambiguous": int(ambiguous.sum()),
    }


def _repeats(block: RowBlock, examined: BoolArray) -> BoolArray:
    """All but one of rows that are alike; the one is a row that passed, if there is any."""
    # In front, the rows that passed: the first of those alike is the one that stays.
    order = np.argsort((block.flags & PASSED == 0).astype(np.uint8), kind="stable")
    order = order[examined[order]]
    alike = pd.DataFrame(
        {
            "customer": block.customer[order],
            "time": block.time_us[order],
            "rest": block.rest[order],
        },
        copy=False,
    )
    repeated = np.zeros(len(block), dtype=bool)
    repeated[order] = alike.duplicated().to_numpy()
    return repeated


def _refusal(report: QualityReport) -> str:
    """Says why a region does not train."""
    if not report.rows_in_scope:
        return (
            f"{report.region}: none of the {report.rows_read} rows of {report.origin} is of a "
            f"home customer and a product in scope ({report.rows_out_of_home} out of home, "
            f"{report.rows_out_of_scope} out of scope)."
        )
    # Rounded down, so that a score below the threshold never reads as if it reached it.
    percent = math.floor(report.score * 10_000) / 100
    reasons = list(report.reasons.items())
    shown = ", ".join(f"{reason} {count}" for reason, count in reasons[:_REASONS_SHOWN])
    more = f" and {len(reasons) - _REASONS_SHOWN} more" if len(reasons) > _REASONS_SHOWN else ""
    failed = report.rows_in_scope - report.rows_accepted
    return (
        f"{report.region}: data quality {percent:.2f} % is below the threshold "
        f"{report.threshold:.2%}: {failed} of {report.rows_in_scope} rows fail ({shown}{more}); "
        "the region does not train."
    )
