"""The checks of single rows: what a row must be like, whatever the others are.

A pandera contract checks each row of a batch. What fails is counted by reason; a row that fails for
two reasons counts under both. What takes other rows to judge (repeats, customers with two homes) is
left to `client.data.quality`, for which a row keeps what that needs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pandera.pandas as pandera
import pyarrow as pa
from pandera.errors import SchemaErrors

from client.data.row_blocks import (
    AT_HOME,
    AWAY,
    NONE,
    PASSED,
    ByteArray,
    DigestArray,
    IntArray,
    RowBlock,
)
from client.data.standards import ColumnStandard, Standards
from client.data.transactions import COLUMN_DTYPES, DeclaredScope, Transactions
from common.canonical_json import JsonValue
from common.catalogue import Catalogue
from common.errors import FormatError, QualityGateError

# Goods sold by volume are counted in thousandths (a full tank is about 17,000 to 36,000).
MAX_QUANTITY = 100_000
# Above any household's row, in any currency's main unit; catches totals in cents or swapped fields.
MAX_AMOUNT = 1_000_000.0

BoolArray = npt.NDArray[np.bool_]
Ends = tuple[float, float]
# In the digest of a row: a value that is missing.
_MISSING = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIER = np.uint64(0xFF51AFD7ED558CCD)
_HALF = np.uint64(32)
_EXCLUDED = -2


@dataclass(frozen=True)
class PurchaseLimits:
    """What the numbers of a purchase may be.

    Attributes:
        quantity: The least and greatest quantity.
        amount: The least and greatest amount.
    """

    quantity: Ends = (0.0, float(MAX_QUANTITY))
    amount: Ends = (0.0, MAX_AMOUNT)

    @classmethod
    def of(cls, standards: Standards) -> PurchaseLimits:
        """Those that a region's data standards state; what they do not, stays as it is."""
        table = standards.tables.get("purchases")
        columns = {} if table is None else table.columns
        usual = cls()
        return cls(
            _ends(columns.get("quantity"), usual.quantity),
            _ends(columns.get("amount"), usual.amount),
        )

    def to_record(self) -> dict[str, JsonValue]:
        """As canonical JSON values."""
        return {
            "quantity": [f"{end:g}" for end in self.quantity],
            "amount": [f"{end:g}" for end in self.amount],
        }


USUAL_LIMITS = PurchaseLimits()


def _ends(column: ColumnStandard | None, usual: Ends) -> Ends:
    if column is None or column.range is None:
        return usual
    low, high = column.range
    return (
        low if isinstance(low, float) else -np.inf,
        high if isinstance(high, float) else np.inf,
    )


@dataclass(frozen=True)
class RowCounts:
    """What was read, and what became of it, as far as single rows tell.

    Attributes:
        read: All rows.
        out_of_home: Rows of customers whose home store is another region's.
        out_of_scope: Other rows of products that the public catalogue excludes.
        in_scope: The rows that remain, which were checked.
        reasons: Reason → rows in scope that failed for it.
    """

    read: int = 0
    out_of_home: int = 0
    out_of_scope: int = 0
    in_scope: int = 0
    reasons: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def __add__(self, other: RowCounts) -> RowCounts:
        return RowCounts(
            self.read + other.read,
            self.out_of_home + other.out_of_home,
            self.out_of_scope + other.out_of_scope,
            self.in_scope + other.in_scope,
            Counter(self.reasons) + Counter(other.reasons),
        )

    def to_record(self) -> dict[str, JsonValue]:
        """The counts as canonical JSON values."""
        return {
            "read": self.read,
            "out_of_home": self.out_of_home,
            "out_of_scope": self.out_of_scope,
            "in_scope": self.in_scope,
            "reasons": dict(self.reasons),
        }

    @classmethod
    def of_record(cls, record: Mapping[str, JsonValue]) -> RowCounts:
        """Reads what `to_record` gave.

        Raises:
            FormatError: It is nothing like it.
        """
        reasons = record["reasons"]
        if not isinstance(reasons, dict):
            raise FormatError("Counts of rows have no reasons.")
        return cls(
            read=int(str(record["read"])),
            out_of_home=int(str(record["out_of_home"])),
            out_of_scope=int(str(record["out_of_scope"])),
            in_scope=int(str(record["in_scope"])),
            reasons={reason: int(str(count)) for reason, count in reasons.items()},
        )


class RowChecks:
    """Examines batches of a store's rows.

    Args:
        catalogue: The public catalogue.
        limits: What the numbers of a purchase may be.
    """

    def __init__(self, catalogue: Catalogue, limits: PurchaseLimits = USUAL_LIMITS) -> None:
        self.catalogue = catalogue
        self._limits = limits
        self._number_of = {
            **dict.fromkeys(catalogue.excluded, _EXCLUDED),
            **catalogue.index_of,
        }

    def examine(self, transactions: Transactions, unit: int = 0) -> tuple[RowBlock, RowCounts]:
        """Checks a batch.

        Args:
            transactions: The batch.
            unit: The number of the part of the store that it is from.

        Returns:
            The rows in scope, passed or not, with a row for each customer seen at home elsewhere;
            and the counts.
        """
        frame = transactions.frame
        at_home, elsewhere = _homes(transactions)
        number = self._numbers(frame["item_ref"])
        excluded = number == _EXCLUDED
        examined = ~(elsewhere | excluded)
        rows = frame.loc[examined].reset_index(drop=True)
        items = number[examined]
        unknown = (items == NONE) & rows["item_ref"].notna().to_numpy()
        passed, reasons = _check(rows.assign(item_known=~unknown), transactions, self._limits)
        counts = RowCounts(
            read=len(frame),
            out_of_home=int(elsewhere.sum()),
            out_of_scope=int((excluded & ~elsewhere).sum()),
            in_scope=len(rows),
            reasons=reasons,
        )
        flags = PASSED * passed.astype(np.uint8) + AT_HOME * at_home[examined].astype(np.uint8)
        rest = _digests(rows, transactions.mapped)
        return _block(frame["customer_ref"], rows, items, flags, rest, elsewhere, unit), counts

    def _numbers(self, references: pd.Series[Any]) -> IntArray:
        """Each row's number in the catalogue; asked once for each distinct reference."""
        find = self._number_of.get
        by_code = np.array(
            [*(find(reference, NONE) for reference in references.cat.categories), NONE],
            dtype=np.int32,
        )
        numbers: IntArray = by_code[references.cat.codes.to_numpy()]
        return numbers


def _homes(transactions: Transactions) -> tuple[BoolArray, BoolArray]:
    """Which rows are of customers at home in this region, and which of another region's."""
    frame, home_stores = transactions.frame, transactions.scope.home_stores
    if not home_stores:
        return np.ones(len(frame), dtype=bool), np.zeros(len(frame), dtype=bool)
    stores = frame["home_store_ref"]
    by_code = np.array([*(store in home_stores for store in stores.cat.categories), False])
    at_home: BoolArray = by_code[stores.cat.codes.to_numpy()]
    return at_home, ~at_home & stores.notna().to_numpy()


def _block(
    references: pd.Series[Any],
    rows: pd.DataFrame,
    items: IntArray,
    flags: ByteArray,
    rest: DigestArray,
    elsewhere: BoolArray,
    unit: int,
) -> RowBlock:
    """The examined rows, then a row for each customer seen at home elsewhere."""
    codes = references.cat.codes.to_numpy()
    away = np.unique(codes[elsewhere])
    away = away[away != NONE]
    times = rows["time"].to_numpy(dtype="datetime64[us]").astype(np.int64)
    n_rows = len(rows) + len(away)
    filler = np.zeros(len(away), dtype=np.int64)
    block = RowBlock(
        customers=pa.array(references.cat.categories.tolist(), pa.string()),
        customer=np.concatenate([rows["customer_ref"].cat.codes.to_numpy(), away]).astype(np.int32),
        item=np.concatenate([np.maximum(items, NONE), filler + NONE]).astype(np.int32),
        time_us=np.concatenate([times, filler]),
        rest=np.concatenate([rest, filler.astype(np.uint64)]),
        unit=np.full(n_rows, unit, dtype=np.int32),
        flags=np.concatenate([flags, filler + AWAY]).astype(np.uint8),
    )
    # Forgets customers whose rows were all out of scope.
    return block.take(np.ones(n_rows, dtype=bool))


def _digests(rows: pd.DataFrame, mapped: frozenset[str]) -> DigestArray:
    """What tells rows of one customer and time apart.

    With baskets, a repeat has the same basket, item, customer and time; a till that scans an item
    twice adds to the quantity. Without, two rows alike in every mapped column are taken as one.
    """
    keys = ["item_ref", "basket_ref"]
    if "basket_ref" not in mapped:
        keys = sorted(mapped - {"customer_ref", "time"})
    return digests_of((rows[name] for name in keys), len(rows))


def digests_of(columns: Iterable[pd.Series[Any]], n_rows: int) -> DigestArray:
    """uint64[n]: a digest of each row's values; the same for the same values at any time.

    Args:
        columns: Categories of text, whole numbers that may be missing, or float64.
        n_rows: How many rows they have.
    """
    digests: DigestArray = np.zeros(n_rows, dtype=np.uint64)
    for column in columns:
        digests = (digests ^ _digest_of(column)) * _MULTIPLIER
        digests ^= digests >> _HALF
    return digests


def _digest_of(column: pd.Series[Any]) -> DigestArray:
    """A digest of each value; the same for the same value at any time."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        texts = column.cat.categories.to_numpy(dtype=object)
        by_code = np.append(pd.util.hash_array(texts, categorize=False), _MISSING)
        digests: DigestArray = by_code[column.cat.codes.to_numpy()]
        return digests
    if isinstance(column.dtype, pd.Int64Dtype):
        values: npt.NDArray[Any] = column.to_numpy(dtype=np.int64, na_value=0)
    else:
        # Adding zero makes one of the two zeros.
        values = np.nan_to_num(column.to_numpy(dtype=np.float64), nan=0.0) + 0.0
    return np.where(column.isna().to_numpy(), _MISSING, pd.util.hash_array(values))


@lru_cache(maxsize=8)
def _contract(
    mapped: frozenset[str], scope: DeclaredScope, limits: PurchaseLimits
) -> pandera.DataFrameSchema:
    """One check for each reason; its name is the reason's code."""
    needed = {
        "customer_ref": "customer-missing",
        "item_ref": "item-missing",
        "basket_ref": "basket-missing" if "basket_ref" in mapped else None,
        "store_ref": "store-missing" if "store_ref" in mapped else None,
        "home_store_ref": "home-store-missing" if scope.home_stores else None,
        "time": "time-missing",
        "quantity": "quantity-missing",
        "amount": "amount-missing" if "amount" in mapped else None,
        "item_known": None,
    }
    ranges: dict[str, tuple[str, Callable[[pd.Series[Any]], pd.Series[bool]]]] = {
        "time": ("time-outside-period", lambda times: _in_period(times, scope)),
        "quantity": ("quantity-out-of-range", lambda values: values.between(*limits.quantity)),
        "amount": ("amount-out-of-range", lambda values: values.between(*limits.amount)),
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


def _check(
    rows: pd.DataFrame, transactions: Transactions, limits: PurchaseLimits
) -> tuple[BoolArray, Counter[str]]:
    """Which rows pass, and how many fail for each reason."""
    passed = np.ones(len(rows), dtype=bool)
    try:
        _contract(transactions.mapped, transactions.scope, limits).validate(rows, lazy=True)
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
        return passed, Counter({str(reason): int(count) for reason, count in counts.items()})
    return passed, Counter()
