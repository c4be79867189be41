"""What a table's quality comes to: a score, its sides, and whether the region may use the table.

The score is the share of rows that are right once they are treated. Rows beyond what counts of one
customer are right but not meant: they are counted apart, or one busy machine would close a table. A
table in which treatment had to guess much is as broken as one whose rows fail: a feed that lost a
column would otherwise pass, filled in from top to bottom.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from client.data.standards_contract import FAULTS, MISSING, reason
from common.canonical_json import JsonValue
from common.errors import FormatError
from common.timestamps import parse_time

#: A share below this is none that a bound of a percent would let through by rounding.
_DECIMALS = 6


@dataclass(frozen=True)
class ColumnQuality:
    """A column as it came.

    Attributes:
        kind: What the store holds in it (`client.data.store_units`).
        given: How many rows have something there.
        faulty: In how many of these it is not what it should be.
    """

    kind: str
    given: int
    faulty: int

    def to_record(self) -> dict[str, JsonValue]:
        """As canonical JSON values."""
        return {"kind": self.kind, "given": self.given, "faulty": self.faulty}


@dataclass(frozen=True)
class TableQuality:
    """A table's quality.

    Attributes:
        table: The table.
        origin: Where its rows are.
        read: All rows.
        beyond_bound: Rows beyond what counts of a customer.
        bounded_customers: Whose they are, how many.
        repeated: Rows that repeat another, or say something else under its key.
        broken_rules: Rows that break a rule across columns.
        accepted: The rows that are used.
        guessed: Of these, in how many a value was filled in or fenced.
        reasons: Reason → rows that failed for it, most frequent first.
        treatments: ``treatment`` or ``treatment column`` → how many changes.
        columns: Each column as it came.
        customers: How many customers the accepted rows are of; None for a table without any.
        newest: The newest moment of an accepted row; empty for a table without moments.
        threshold: The least share of rows that must be right.
        changed_most: The greatest share in which treatment may guess.
        refused: Why it could not be read, or why it no longer means what it did.
    """

    table: str
    origin: str
    read: int
    beyond_bound: int
    bounded_customers: int
    repeated: int
    broken_rules: int
    accepted: int
    guessed: int
    reasons: Mapping[str, int]
    treatments: Mapping[str, int]
    columns: Mapping[str, ColumnQuality]
    customers: int | None
    newest: str
    threshold: float
    changed_most: float
    refused: tuple[str, ...] = field(default=())

    @property
    def kinds(self) -> dict[str, str]:
        """What each column holds."""
        return {name: each.kind for name, each in self.columns.items()}

    @property
    def in_scope(self) -> int:
        """The rows that are judged."""
        return self.read - self.beyond_bound

    @property
    def score(self) -> float:
        """Accepted rows ÷ rows in scope; 0 when there are none."""
        return self.accepted / self.in_scope if self.in_scope else 0.0

    @property
    def guessed_share(self) -> float:
        """Accepted rows in which treatment guessed ÷ accepted rows."""
        return self.guessed / self.accepted if self.accepted else 0.0

    @property
    def sides(self) -> dict[str, float]:
        """The sides of quality, each a share: as the rows came, before any treatment."""
        rows = self.read
        cells = rows * len(self.columns)
        given = sum(each.given for each in self.columns.values())
        faulty = sum(each.faulty for each in self.columns.values())
        return {
            "completeness": given / cells if cells else 0.0,
            "validity": 1.0 - faulty / given if given else 0.0,
            "uniqueness": 1.0 - self.repeated / rows if rows else 0.0,
            "consistency": 1.0 - self.broken_rules / rows if rows else 0.0,
        }

    @property
    def problems(self) -> list[str]:
        """Why the region may not use the table; empty if it may."""
        found = list(self.refused)
        if not self.in_scope:
            return found or ["it has no rows"]
        return found + shortfalls(
            self.score, self.guessed_share, threshold=self.threshold, changed_most=self.changed_most
        )

    @property
    def passed(self) -> bool:
        """Whether the region may use the table."""
        return not self.problems

    @classmethod
    def unread(cls, table: str, threshold: float, why: str) -> Self:
        """Of a table that could not be read."""
        return cls(
            table=table,
            origin="",
            read=0,
            beyond_bound=0,
            bounded_customers=0,
            repeated=0,
            broken_rules=0,
            accepted=0,
            guessed=0,
            reasons={},
            treatments={},
            columns={},
            customers=None,
            newest="",
            threshold=threshold,
            changed_most=0.0,
            refused=(why,),
        )

    def to_record(self) -> dict[str, JsonValue]:
        """As canonical JSON values."""
        return {
            "table": self.table,
            "origin": self.origin,
            "read": self.read,
            "beyond_bound": self.beyond_bound,
            "bounded_customers": self.bounded_customers,
            "repeated": self.repeated,
            "broken_rules": self.broken_rules,
            "accepted": self.accepted,
            "guessed": self.guessed,
            "reasons": dict(self.reasons),
            "treatments": dict(self.treatments),
            "columns": {name: each.to_record() for name, each in self.columns.items()},
            "customers": self.customers,
            "newest": self.newest,
            "threshold": f"{self.threshold:g}",
            "changed_most": f"{self.changed_most:g}",
            "refused": list(self.refused),
            "score": f"{self.score:.{_DECIMALS}f}",
            "sides": {name: f"{share:.{_DECIMALS}f}" for name, share in self.sides.items()},
            "passed": self.passed,
        }

    @classmethod
    def of_record(cls, record: Any) -> Self:
        """Reads what `to_record` gave.

        Raises:
            FormatError: It is nothing like it.
        """
        try:
            columns = {
                str(name): ColumnQuality(str(each["kind"]), int(each["given"]), int(each["faulty"]))
                for name, each in record["columns"].items()
            }
            newest = str(record["newest"])
            if newest:
                parse_time(newest)
            customers = record["customers"]
            numbers = {
                name: int(record[name])
                for name in (
                    "read",
                    "beyond_bound",
                    "bounded_customers",
                    "repeated",
                    "broken_rules",
                    "accepted",
                    "guessed",
                )
            }
            return cls(
                table=str(record["table"]),
                origin=str(record["origin"]),
                **numbers,
                reasons={str(name): int(n) for name, n in record["reasons"].items()},
                treatments={str(name): int(n) for name, n in record["treatments"].items()},
                columns=columns,
                customers=None if customers is None else int(customers),
                newest=newest,
                threshold=float(record["threshold"]),
                changed_most=float(record["changed_most"]),
                refused=tuple(str(each) for each in record["refused"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"A table's quality is malformed: {error!r}.") from error


def shortfalls(
    score: float, guessed_share: float, *, threshold: float, changed_most: float
) -> list[str]:
    """What a table's rows lack of what they have to be; empty if nothing.

    Args:
        score: Right rows ÷ all rows that are judged.
        guessed_share: Right rows in which treatment guessed ÷ right rows.
        threshold: The least score.
        changed_most: The greatest share in which treatment may guess.
    """
    found = []
    if not score >= threshold:
        found.append(f"{_percent(score)} of its rows are right, and {threshold:.2%} have to be")
    if not guessed_share <= changed_most:
        found.append(
            f"treatment guessed in {_percent(guessed_share)} of its rows, and may in "
            f"{changed_most:.2%}"
        )
    return found


def faults_of(column: str, reasons: Mapping[str, int]) -> int:
    """In how many rows a column's value is not what it should be; missing ones do not count."""
    return sum(reasons.get(reason(column, fault), 0) for fault in FAULTS if fault != MISSING)


def _percent(share: float) -> str:
    """In percent; never rounded to what it is not."""
    return f"{share:.4%}"
