"""The quality gate: what a region's data must be like before anything learns from them.

A pandera contract checks each row. What fails is counted by reason and left out; a row that fails
for two reasons counts under both and is left out once. Rows that are right but not meant
(customers at home in another region, products that the catalogue excludes) are counted apart and
do not lower the score.

The report holds exact counts of the region's data: it stays in the region.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pandera.pandas as pandera
from pandera.errors import SchemaErrors

from client.data.transactions import (
    _GATE_SEAL,
    COLUMN_DTYPES,
    CheckedTransactions,
    DeclaredScope,
    Transactions,
)
from common.canonical_json import JsonValue
from common.catalogue import Catalogue
from common.errors import InputError, QualityGateError

DEFAULT_THRESHOLD = 0.98
# Goods sold by volume are counted in thousandths (a full tank is about 17,000 to 36,000).
MAX_QUANTITY = 100_000
# Above any household's row, in any currency's main unit; catches totals in cents or swapped fields.
MAX_AMOUNT = 1_000_000.0
_REASONS_SHOWN = 3

BoolArray = npt.NDArray[np.bool_]


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


def quality_gate(
    transactions: Transactions,
    catalogue: Catalogue,
    *,
    region: str,
    threshold: float = DEFAULT_THRESHOLD,
) -> CheckedTransactions:
    """Keeps the rows that are right, if enough of them are.

    Args:
        transactions: The store's rows.
        catalogue: The public catalogue.
        region: The region's name, for the report and messages.
        threshold: The least share of rows in scope that must pass, in (0, 1].

    Raises:
        QualityGateError: The share is below the threshold: names region, score, threshold and the
            most frequent reasons with their counts.
        InputError: The threshold is out of range.
    """
    report, accepted = _assess(transactions, catalogue, region, threshold)
    if not report.passed:
        raise QualityGateError(
            _refusal(report), remedy="Correct the store's data or its declaration; then try again."
        )
    kept = transactions.frame.loc[accepted].reset_index(drop=True)
    return CheckedTransactions(kept, report, seal=_GATE_SEAL)


def assess_quality(
    transactions: Transactions,
    catalogue: Catalogue,
    *,
    region: str,
    threshold: float = DEFAULT_THRESHOLD,
) -> QualityReport:
    """The gate's report, passed or not; for a region's operator.

    Raises:
        InputError: The threshold is out of range.
    """
    return _assess(transactions, catalogue, region, threshold)[0]


def _assess(
    transactions: Transactions, catalogue: Catalogue, region: str, threshold: float
) -> tuple[QualityReport, BoolArray]:
    if not 0.0 < threshold <= 1.0:
        raise InputError(
            f"{region}: the quality threshold {threshold} is not in (0, 1].",
            remedy="Set it to a share, 0.98 by default.",
        )
    frame = transactions.frame
    elsewhere, ambiguous = _away_from_home(transactions)
    excluded = _by_category(frame["item_ref"], lambda ref: ref in catalogue.excluded)
    examined = ~(elsewhere | excluded)
    rows = frame.loc[examined]
    facts = {
        "duplicate": _duplicates(transactions, examined),
        "home_ambiguous": ambiguous[examined],
        "item_known": rows["item_ref"].isna().to_numpy()
        | _by_category(rows["item_ref"], lambda ref: ref in catalogue.index_of),
    }
    passed, reasons = _check(rows.assign(**facts), transactions)
    accepted = examined.copy()
    accepted[examined] = passed
    report = QualityReport(
        region=region,
        origin=transactions.origin,
        rows_read=len(frame),
        rows_out_of_home=int(elsewhere.sum()),
        rows_out_of_scope=int((excluded & ~elsewhere).sum()),
        rows_in_scope=int(examined.sum()),
        rows_accepted=int(passed.sum()),
        reasons=MappingProxyType(reasons),
        threshold=threshold,
    )
    return report, accepted


def _by_category(references: pd.Series[Any], holds: Callable[[str], bool]) -> BoolArray:
    """A predicate of references, asked once for each distinct one; null gives False."""
    by_code = np.array([*(holds(ref) for ref in references.cat.categories), False])
    return by_code[references.cat.codes.to_numpy()]


def _away_from_home(transactions: Transactions) -> tuple[BoolArray, BoolArray]:
    """Rows of customers at home elsewhere, and home rows of customers who are that as well."""
    frame, home_stores = transactions.frame, transactions.scope.home_stores
    if not home_stores:
        nobody = np.zeros(len(frame), dtype=bool)
        return nobody, nobody
    at_home = _by_category(frame["home_store_ref"], lambda ref: ref in home_stores)
    elsewhere = ~at_home & frame["home_store_ref"].notna().to_numpy()
    customers = frame["customer_ref"].cat.codes.to_numpy()
    also_elsewhere = np.isin(customers, np.unique(customers[elsewhere & (customers >= 0)]))
    return elsewhere, at_home & also_elsewhere


def _duplicates(transactions: Transactions, examined: BoolArray) -> BoolArray:
    """Repeats of an earlier row.

    With baskets, a repeat has the same basket, item, customer and time; a till that scans an item
    twice adds to the quantity. Without, two rows alike in every mapped column are taken as one.
    """
    keys = ["customer_ref", "item_ref", "time", "basket_ref"]
    if "basket_ref" not in transactions.mapped:
        keys = sorted(transactions.mapped)
    return transactions.frame.loc[examined, keys].duplicated().to_numpy()


def _contract(transactions: Transactions) -> pandera.DataFrameSchema:
    """One check for each reason; its name is the reason's code."""
    mapped = transactions.mapped
    needed = {
        "customer_ref": "customer-missing",
        "item_ref": "item-missing",
        "basket_ref": "basket-missing" if "basket_ref" in mapped else None,
        "store_ref": "store-missing" if "store_ref" in mapped else None,
        "home_store_ref": "home-store-missing" if transactions.scope.home_stores else None,
        "time": "time-missing",
        "quantity": "quantity-missing",
        "amount": "amount-missing" if "amount" in mapped else None,
        "duplicate": None,
        "home_ambiguous": None,
        "item_known": None,
    }
    ranges: dict[str, tuple[str, Callable[[pd.Series[Any]], pd.Series[bool]]]] = {
        "time": ("time-outside-period", lambda times: _in_period(times, transactions.scope)),
        "quantity": ("quantity-out-of-range", lambda values: values.between(0, MAX_QUANTITY)),
        "amount": ("amount-out-of-range", lambda values: values.between(0.0, MAX_AMOUNT)),
        "duplicate": ("duplicate-row", lambda flags: ~flags),
        "home_ambiguous": ("home-ambiguous", lambda flags: ~flags),
        "item_known": ("item-unknown", lambda flags: flags),
    }
    columns = {}
    for name, missing in needed.items():
        checks = []
        if missing is not None:
            checks.append(pandera.Check(pd.Series.notna, name=missing, ignore_na=False))
        if name in ranges:
            reason, holds = ranges[name]
            # A null passes here: it is counted as missing, not as out of range too.
            checks.append(pandera.Check(holds, name=reason, ignore_na=True))
        columns[name] = pandera.Column(COLUMN_DTYPES.get(name, "bool"), checks, nullable=True)
    return pandera.DataFrameSchema(columns, strict=True)


def _in_period(times: pd.Series[Any], scope: DeclaredScope) -> pd.Series[bool]:
    inside = pd.Series(True, index=times.index)
    if scope.from_ms is not None:
        inside &= times >= pd.Timestamp(scope.from_ms, unit="ms", tz="UTC")
    if scope.until_ms is not None:
        inside &= times < pd.Timestamp(scope.until_ms, unit="ms", tz="UTC")
    return inside


def _check(rows: pd.DataFrame, transactions: Transactions) -> tuple[BoolArray, dict[str, int]]:
    """Which rows pass, and how many fail for each reason, most frequent first."""
    rows = rows.reset_index(drop=True)
    passed = np.ones(len(rows), dtype=bool)
    try:
        _contract(transactions).validate(rows, lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases
        if cases["index"].isna().any():
            broken = cases[cases["index"].isna()].iloc[0]
            raise QualityGateError(
                f"{transactions.origin}: the contract cannot be applied to {broken['column']}: "
                f"{broken['check']}.",
                remedy="Report this: the columns are not what the source promised.",
            ) from error
        passed[cases["index"].to_numpy(dtype=np.int64)] = False
        counts = cases["check"].value_counts()
        return passed, {str(reason): int(count) for reason, count in counts.items()}
    return passed, {}


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
