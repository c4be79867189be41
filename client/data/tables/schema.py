"""The canonical tables of a region and their columns: the words that declarations map to."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from common.analytics.further_questions import EVENT_KINDS, FEEDBACK_KINDS
from common.errors import InputError

#: What a column holds: a reference or words, one of a list of codes, a moment, or a number.
Holds = Literal["reference", "code", "time", "number", "whole"]

PURCHASES, EVENTS, MEMBERS, FEEDBACK = "purchases", "events", "members", "feedback"
EXPOSURES, PROMOTIONS, CATALOGUE, KEYS = "exposures", "promotions", "catalogue", "keys"

#: What answers there are, by kind of feedback: others are off the scale.
SCALES = {"review": (1.0, 5.0), "csat": (1.0, 5.0), "nps": (0.0, 10.0)}
PROMOTION_KINDS = ("price", "coupon", "display", "mailer")
#: The arms of an experiment, as uplift compares them.
CONTROL, TREATED = "control", "treated"

# Limits that hold for any shop: beyond them a value is a mistake, not an outlier.
_MOST_AMOUNT, _MOST_QUANTITY = 1_000_000.0, 100_000.0
_FIRST_YEAR, _LAST_YEAR = 1900.0, 2100.0


@dataclass(frozen=True)
class Column:
    """What a column of a canonical table may hold.

    Attributes:
        holds: What kind of value.
        required: Whether a row without it is none.
        codes: The codes there are; empty: any, or those that the declaration lists.
        least: The lowest number.
        most: The highest number.
        past: Whether a moment that is still to come is a mistake.
    """

    holds: Holds
    required: bool = False
    codes: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    past: bool = False


@dataclass(frozen=True)
class TableSchema:
    """A canonical table.

    Attributes:
        name: Its name.
        columns: Its columns, by name, in order.
        once: The column of which each value has one row; None: a row is a fact, and rows that are
            alike in all columns are one.
    """

    name: str
    columns: Mapping[str, Column]
    once: str | None = None

    @property
    def of_customers(self) -> bool:
        """Whether its rows are of customers."""
        return "customer" in self.columns and self.name != KEYS

    def holding(self, *kinds: Holds) -> tuple[str, ...]:
        """The columns that hold one of these."""
        return tuple(name for name, each in self.columns.items() if each.holds in kinds)


_NEEDED = Column("reference", required=True)
_WORD = Column("reference")
_WHEN = Column("time", required=True, past=True)


def _table(name: str, columns: Mapping[str, Column], *, once: str | None = None) -> TableSchema:
    return TableSchema(name, MappingProxyType(dict(columns)), once=once)


#: All canonical tables, by name.
TABLES: Mapping[str, TableSchema] = MappingProxyType(
    {
        each.name: each
        for each in (
            _table(
                PURCHASES,
                {
                    "customer": _NEEDED,
                    "time": _WHEN,
                    "item": _NEEDED,
                    "category": _WORD,
                    "quantity": Column("number", least=0.0, most=_MOST_QUANTITY),
                    "amount": Column("number", least=0.0, most=_MOST_AMOUNT),
                    "currency": Column("code"),
                    "payment": Column("code"),
                    "receipt": _WORD,
                    "store": _WORD,
                    "store_type": Column("code"),
                    "channel": Column("code"),
                    "returned": Column("number", least=0.0, most=_MOST_QUANTITY),
                },
            ),
            _table(
                EVENTS,
                {
                    "customer": _NEEDED,
                    "time": _WHEN,
                    "kind": Column("code", required=True, codes=EVENT_KINDS),
                    "item": _WORD,
                    "category": _WORD,
                    "value": Column("number", least=0.0, most=_MOST_AMOUNT),
                    "channel": Column("code"),
                    "query": _WORD,
                },
            ),
            _table(
                MEMBERS,
                {
                    "customer": _NEEDED,
                    "joined": Column("time", past=True),
                    "birth_year": Column("whole", least=_FIRST_YEAR, most=_LAST_YEAR),
                    "gender": Column("code"),
                    "level": Column("code"),
                    "city": _WORD,
                    "channel": Column("code"),
                },
                once="customer",
            ),
            _table(
                FEEDBACK,
                {
                    "customer": _NEEDED,
                    "time": _WHEN,
                    "kind": Column("code", required=True, codes=FEEDBACK_KINDS),
                    "score": Column("whole", least=0.0, most=10.0),
                    "functional": Column("whole", least=1.0, most=5.0),
                    "dysfunctional": Column("whole", least=1.0, most=5.0),
                    "topic": Column("code"),
                    "item": _WORD,
                    "category": _WORD,
                },
            ),
            _table(
                EXPOSURES,
                {
                    "customer": _NEEDED,
                    "time": _WHEN,
                    "experiment": _NEEDED,
                    "arm": Column("code", required=True, codes=(CONTROL, TREATED)),
                    "item": _WORD,
                },
            ),
            _table(
                PROMOTIONS,
                {
                    "promotion": _NEEDED,
                    "begins": Column("time"),
                    "ends": Column("time"),
                    "kind": Column("code", codes=PROMOTION_KINDS),
                    "item": _WORD,
                    "category": _WORD,
                    "discount": Column("number", least=0.0, most=1.0),
                },
            ),
            _table(
                CATALOGUE,
                {
                    "item": _NEEDED,
                    "category": _WORD,
                    "name": _WORD,
                    "brand": _WORD,
                    "price": Column("number", least=0.0, most=_MOST_AMOUNT),
                },
                once="item",
            ),
            _table(KEYS, {"channel": _NEEDED, "key": _NEEDED, "customer": _NEEDED}),
        )
    }
)


def closest_of(name: str, known: tuple[str, ...]) -> str:
    """A hint for a name that there is not, empty if nothing comes close."""
    closest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {closest[0]!r}?" if closest else ""


def schema_of(name: str) -> TableSchema:
    """The schema of a table.

    Raises:
        InputError: There is no such table: lists what there is.
    """
    found = TABLES.get(name)
    if found is None:
        raise InputError(
            f"There is no table {name[:64]!r}; there are {', '.join(TABLES)}."
            f"{closest_of(name, tuple(TABLES))}",
            remedy="Name one of these.",
        )
    return found
