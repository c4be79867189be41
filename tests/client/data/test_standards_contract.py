"""Contracts made from standards: each fault has a name, and nothing else has it."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.source_config import Reading
from client.data.standards import load_standards
from client.data.standards_contract import FAULTS, Judgement, RowContract, reason
from client.data.standards_fields import TableStandard
from client.data.standards_values import read_values
from common.errors import InputError

NOW = datetime(2024, 6, 1, tzinfo=UTC)
NOW_MS = round(NOW.timestamp() * 1000)
STANDARDS = load_standards()
GOOD = {"customer": "c1", "item": "milk", "time": "2024-03-01 10:00:00"}


def judge(table: str, row: dict[str, object], *, known: Any = None) -> Judgement:
    return judge_rows(STANDARDS.tables[table], [row], known=known)


def judge_rows(
    standard: TableStandard, rows: list[dict[str, object]], *, known: Any = None
) -> Judgement:
    raw = pa.table({name: [row[name] for row in rows] for name in rows[0]})
    typed = read_values(raw, standard, Reading(), missing=STANDARDS.missing, origin="The table")
    return RowContract(standard, NOW_MS, known or {}).judge(typed, {}, origin="The table")


FAULTY: list[tuple[str, object, str]] = [
    ("customer", "", "customer-missing"),
    ("customer", "NULL", "customer-missing"),
    ("item", None, "item-missing"),
    ("time", "2023-02-30", "time-unreadable"),
    ("time", "31.12.2023", "time-unreadable"),
    ("time", "1066-10-14", "time-out-of-range"),
    ("time", "2024-06-03", "time-out-of-range"),
    ("amount", "-0.01", "amount-out-of-range"),
    ("amount", "1000000.01", "amount-out-of-range"),
    ("amount", "1,50", "amount-unreadable"),
    ("amount", "inf", "amount-unreadable"),
    ("amount", "", "amount-missing"),
    ("quantity", "-1", "quantity-out-of-range"),
    ("currency", "EURO", "currency-unknown-code"),
    ("currency", "eur", "currency-unknown-code"),
    ("currency", "", "currency-missing"),
    ("channel", "sm\u00c3\u00b8r", "channel-mixed-encoding"),
    ("store", "M�nchen", "store-mixed-encoding"),
    ("store", "MÃ¼nchen", "store-mixed-encoding"),
    ("store", "M\x81nchen", "store-mixed-encoding"),
    ("item", "cheese", "item-not-found"),
]


@pytest.mark.parametrize(("column", "value", "said"), FAULTY)
def test_a_fault_has_its_name_and_no_other(column: str, value: object, said: str) -> None:
    found = judge("purchases", GOOD | {column: value}, known={"catalogue.item": {"milk"}})
    assert dict(found.reasons) == {said: 1}
    assert not found.passed.any()
    assert said.removeprefix(f"{column}-") in FAULTS


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("amount", "0"),
        ("amount", "1e3"),
        ("time", "2024-06-01T23:00:00Z"),  # a day of slack: clocks differ, and so do zones
        ("store", "München"),
        ("store", "Â"),
        ("store", "北京"),
        ("currency", " EUR "),
        ("quantity", "0.25"),
        ("payment", ""),
    ],
)
def test_what_is_right_passes(column: str, value: object) -> None:
    found = judge("purchases", GOOD | {column: value})
    assert not found.reasons
    assert found.passed.all()


@pytest.mark.parametrize(
    ("kind", "score", "said"),
    [
        ("nps", "11", "score-out-of-range"),
        ("nps", "", "nps-answer-wrong"),
        ("csat", "0", "csat-answer-wrong"),
        ("review", "9", "review-score-wrong"),
        ("kano", "", "kano-feature-missing"),
    ],
)
def test_rules_across_columns(kind: str, score: str, said: str) -> None:
    row = {"customer": "c", "time": "2024-03-01", "kind": kind, "score": score, "topic": ""}
    assert said in judge("feedback", row).reasons
    complaint = {**row, "kind": "complaint", "score": ""}
    assert not judge("feedback", complaint).reasons


def test_what_ends_before_it_begins() -> None:
    row = {"promotion": "p", "begins": "2024-03-02", "ends": "2024-03-01"}
    assert dict(judge("promotions", row).reasons) == {"ends-before-it-begins": 1}
    assert not judge("promotions", row | {"ends": "2024-03-02"}).reasons


def test_a_column_that_is_required_and_not_there_is_named() -> None:
    row = {name: value for name, value in GOOD.items() if name != "time"}
    with pytest.raises(InputError, match="no column for 'time', which its data standard requires"):
        judge("purchases", row)


def test_bytes_that_are_no_text_are_refused_by_column() -> None:
    broken = pa.array([b"M\xfcnchen"]).view(pa.binary()).cast(pa.string(), safe=False)
    raw = pa.table({"customer": ["c"], "item": ["milk"], "time": ["2024-03-01"], "store": broken})
    with pytest.raises(InputError, match="column 'store' holds text that is not UTF-8"):
        read_values(raw, STANDARDS.tables["purchases"], Reading(), origin="The table")


NUMBERS = st.floats(allow_nan=True, allow_infinity=True, width=64)


@settings(max_examples=20)
@given(
    low=st.floats(-1e6, 1e6),
    high=st.floats(-1e6, 1e6),
    values=st.lists(NUMBERS, min_size=1, max_size=8),
)
def test_ranges_are_those_of_plain_python(low: float, high: float, values: list[float]) -> None:
    low, high = sorted((low, high))
    standard = TableStandard.model_validate(
        {
            "meaning": "T.",
            "key": ["value"],
            "columns": {
                "value": {"type": "number", "meaning": "V.", "grade": "low", "range": [low, high]}
            },
        }
    )
    found = judge_rows(standard, [{"value": each} for each in values])
    expected = [math.isnan(each) or low <= each <= high for each in values]
    assert found.passed.tolist() == expected


@settings(max_examples=15)
@given(st.datetimes(datetime(1980, 1, 1), datetime(2040, 1, 1)))
def test_times_are_held_to_the_clock(moment: datetime) -> None:
    found = judge("purchases", GOOD | {"time": moment.isoformat()})
    at = moment.replace(tzinfo=UTC)
    right = datetime(1990, 1, 1, tzinfo=UTC) <= at <= NOW + timedelta(days=1)
    assert bool(found.passed.all()) == right


def test_reasons_have_one_spelling() -> None:
    assert reason("store_type", "unknown-code") == "store-type-unknown-code"
