"""What a region's declarations have nothing to say to is not asked: the answer would be noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from client.analytics.answerability import require_answerable, silence_of
from client.analytics.askable import ASKABLE, answerable
from client.data.tables.declaration import DeclaredTables, tables_from
from client.data.tables.schema import TABLES
from common.analytics.further_questions import (
    BROWSED,
    CLICK_UPLIFT,
    FURTHER,
    JOURNEY,
    KANO,
    NPS,
    PAYMENTS,
    PURCHASE_UPLIFT,
    REPURCHASE_UPLIFT,
    RETURNS,
    STORE_SCENES,
    UPLIFTS,
    Named,
)
from common.errors import InputError

NAMES = Named(("bakery", "checkout"), ("city", "mall"), ("card", "cash"), "lists")
CODES = {
    "purchases": {"payment": {"K": "card"}, "store_type": {"C": "city"}},
    "feedback": {"topic": {"B": "bakery"}},
}


def declared(
    *names: str, without: Sequence[str] = (), codes: dict[str, Any] | None = None
) -> DeclaredTables:
    """Tables with all their columns but some."""
    tables: dict[str, Any] = {}
    for name in names:
        columns = {column: column for column in TABLES[name].columns if column not in without}
        listed = {
            column: each
            for column, each in (CODES if codes is None else codes).get(name, {}).items()
            if column in columns
        }
        tables[name] = {"kind": "files", "path": "f.csv", "columns": columns, "codes": listed}
    return tables_from(tables, Path("data"), "tables.toml")


EVERYTHING = declared("purchases", "events", "feedback", "exposures")


def test_only_what_a_regions_tables_can_say_is_asked_by_default() -> None:
    assert answerable(ASKABLE, Named(), {}) == [each for each in ASKABLE if each not in FURTHER]
    assert answerable(FURTHER, NAMES, EVERYTHING) == [*FURTHER]
    assert answerable([NPS, KANO, JOURNEY], Named(), declared("feedback")) == [NPS]
    assert answerable(UPLIFTS, Named(), EVERYTHING) == []


def test_exposures_that_are_not_declared_are_those_of_the_recommenders_own_experiment() -> None:
    of_purchases = [PURCHASE_UPLIFT, REPURCHASE_UPLIFT]
    assert answerable(UPLIFTS, NAMES, {}, experiment="lists") == of_purchases
    assert answerable(UPLIFTS, NAMES, declared("events"), experiment="lists") == [*UPLIFTS]
    for other in (None, "another"):
        assert answerable(UPLIFTS, NAMES, declared("events"), experiment=other) == []


@pytest.mark.parametrize(
    ("name", "table", "column"),
    [
        (NPS, "feedback", "score"),
        (KANO, "feedback", "topic"),
        (KANO, "feedback", "functional"),
        (KANO, "feedback", "dysfunctional"),
        (STORE_SCENES, "purchases", "store_type"),
        (PAYMENTS, "purchases", "payment"),
        (RETURNS, "purchases", "returned"),
    ],
)
def test_a_column_that_is_not_mapped_says_nothing(name: str, table: str, column: str) -> None:
    assert silence_of(name, NAMES, declared(table), experiment=None) is None
    silence = silence_of(name, NAMES, declared(table, without=[column]), experiment=None)
    assert silence == f"its table {table} has no column {column}"


def test_one_of_several_columns_is_enough_where_either_tells() -> None:
    for one in ("item", "category"):
        events = declared("events", without=[one])
        assert silence_of(BROWSED, NAMES, events, experiment=None) is None
    neither = declared("events", without=["item", "category"])
    assert silence_of(BROWSED, NAMES, neither, experiment=None) is not None


@pytest.mark.parametrize(
    ("name", "table", "column"),
    [
        (KANO, "feedback", "topic"),
        (STORE_SCENES, "purchases", "store_type"),
        (PAYMENTS, "purchases", "payment"),
    ],
)
def test_names_of_which_a_declaration_lists_none_are_not_asked_about(
    name: str, table: str, column: str
) -> None:
    others = declared(table, codes={table: {column: {"X": "something else"}}})
    silence = silence_of(name, NAMES, others, experiment=None)
    assert silence is not None
    assert f"{table}.{column}" in silence
    # Where none are listed any code may be in the table.
    assert silence_of(name, NAMES, declared(table, codes={}), experiment=None) is None


def test_it_is_said_of_whom_and_why() -> None:
    with pytest.raises(InputError, match=r"north: .* uplift-click .* no table events"):
        require_answerable("north", CLICK_UPLIFT, NAMES, {}, experiment="lists")
