"""A table's quality: every kind of bad input is named, counted, and refused or bounded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from client.data.source_config import Reading
from client.data.standards import load_standards
from client.governance.quality_changes import Decision, Undone
from client.governance.quality_repeats import rows_beyond
from client.governance.quality_rows import Surroundings
from client.governance.quality_score import TableQuality
from client.governance.quality_table import Examined, TableExamination
from common.errors import FormatError
from tests.support.further_tables import NOW_MS

STANDARDS = load_standards()
Rows = dict[str, list[Any]]


@dataclass
class Place:
    """A place whose rows are at hand."""

    parts: list[Rows]
    origin: str = "The table"
    reading: Reading = Reading()  # noqa: RUF009 # frozen

    def batches(self) -> Iterator[pa.Table]:
        yield from map(pa.table, self.parts)


def examine(
    name: str, *parts: Rows, undone: tuple[Decision, ...] = (), **standard: Any
) -> Examined:
    return TableExamination(
        name,
        STANDARDS.tables[name].model_copy(update=standard),
        STANDARDS.threshold,
        Surroundings(lambda: NOW_MS, STANDARDS.missing, undone=Undone(undone)),
        {term: each for term, each in STANDARDS.definitions.items() if each.table == name},
    ).examine([Place(list(parts))])


def views(count: int, **columns: list[Any]) -> Rows:
    """Events without a fault, each of another minute."""
    return {
        "customer": [f"c{n % 7}" for n in range(count)],
        "time": [f"2024-03-01 {n // 60:02d}:{n % 60:02d}:00" for n in range(count)],
        "kind": ["view"] * count,
        "value": [""] * count,
        **columns,
    }


def test_a_good_table_may_be_used() -> None:
    quality = examine("events", views(100)).quality
    assert quality.passed
    assert (quality.read, quality.accepted, quality.score, quality.customers) == (100, 100, 1.0, 7)
    assert quality.sides == {
        "completeness": 0.75,
        "validity": 1.0,
        "uniqueness": 1.0,
        "consistency": 1.0,
    }
    assert quality.newest == "2024-03-01T01:39:00.000Z"


def test_below_98_percent_it_may_not() -> None:
    for bad, passed in ((2, True), (3, False)):
        kinds = ["view"] * (100 - bad) + ["stare"] * bad
        quality = examine("events", views(100, kind=kinds)).quality
        assert quality.passed is passed
        assert quality.reasons == {"kind-unknown-code": bad}
    assert "97.0000% of its rows are right, and 98.00% have to be" in quality.problems


def test_a_feed_that_lost_a_column_does_not_pass_filled_in() -> None:
    """All rows are right once a value is filled in; a fifth of them is a guess."""
    rows = {
        "customer": [f"c{n}" for n in range(100)],
        "item": ["milk"] * 100,
        "time": ["2024-03-01"] * 100,
        "quantity": ["2"] * 80 + [""] * 20,
    }
    quality = examine("purchases", rows).quality
    assert quality.score == 1.0
    assert not quality.passed
    assert quality.problems == [
        "treatment guessed in 20.0000% of its rows, and may in 5.00%",
    ]
    assert quality.treatments == {"completed quantity": 20}
    assert examine("purchases", rows, changed_most=0.2).quality.passed


def test_no_rows_are_no_quality() -> None:
    for parts in ([], [views(0)]):
        quality = examine("events", *parts).quality
        assert quality.problems == ["it has no rows"]
        assert not quality.passed
        assert quality.score == 0.0


def test_repeats_are_counted_in_any_batch_and_can_be_had_back() -> None:
    rows = views(50)
    first = examine("events", rows, rows)
    assert (first.quality.read, first.quality.accepted) == (100, 50)
    assert first.quality.reasons == {"row-repeated": 50}
    assert not first.quality.passed
    undone = Decision(table="events", treatment="repeated", at="2024-06-01T00:00:00.000Z")
    again = examine("events", rows, rows, undone=(undone,))
    assert again.quality.accepted == 100
    assert again.quality.reasons == {}
    assert int(again.spared.sum()) == 50


def test_of_two_entries_of_a_member_the_newer_one_stays() -> None:
    rows = {
        "customer": ["a", "a", "b"],
        "joined": ["2020-01-01", "2023-01-01", "2021-01-01"],
        "level": ["silver", "gold", "silver"],
    }
    examined = examine("members", rows)
    assert examined.quality.reasons == {"row-replaced": 1}
    assert examined.accepted.tolist() == [False, True, True]


def test_without_a_part_of_its_key_rows_are_told_apart_by_all_they_say() -> None:
    rows = {
        "customer": ["a", "a", "a"],
        "item": ["milk"] * 3,
        "time": ["2024-03-01"] * 3,
        "amount": ["1", "2", "2"],
    }
    assert examine("purchases", rows).accepted.sum() == 2
    assert examine("purchases", rows | {"receipt": ["r"] * 3}).accepted.sum() == 1


def test_a_customer_with_a_million_events_is_bounded_and_closes_no_table() -> None:
    facts = _facts_of_one(1_000_000, NOW_MS)
    beyond, customers = rows_beyond(facts, facts.passed, 100_000)
    assert (int(beyond.sum()), customers) == (900_000, 1)
    quality = examine(
        "events", views(100, customer=["bot"] * 90 + ["c"] * 10), most_per_customer=10
    ).quality
    assert (quality.beyond_bound, quality.bounded_customers) == (80, 1)
    assert (quality.accepted, quality.in_scope, quality.score) == (20, 20, 1.0)
    assert quality.passed


def _facts_of_one(count: int, now_ms: int) -> Any:
    from client.governance.quality_repeats import RowFacts

    ids = np.arange(count, dtype=np.uint64)
    return RowFacts(
        ids=ids,
        keys=ids,
        customers=np.full(count, 7, dtype=np.uint64),
        times=now_ms - ids.astype(np.int64),
        newest=np.zeros(count, dtype=np.int64),
        filled=np.ones(count, dtype=np.uint8),
        passed=np.ones(count, dtype=bool),
    )


def test_order_and_batches_do_not_matter() -> None:
    rows = views(60, kind=["view"] * 55 + ["stare"] * 5, value=["60"] * 30 + ["9000"] * 30)
    whole = examine("events", rows)
    turned = {name: list(reversed(values)) for name, values in rows.items()}
    parts = [{name: values[n::3] for name, values in turned.items()} for n in range(3)]
    pieces = examine("events", *parts)
    assert pieces.quality == whole.quality
    assert sorted(map(str, pieces.changes.to_pylist())) == sorted(
        map(str, whole.changes.to_pylist())
    )
    assert pieces.meant == whole.meant


def test_terms_are_counted_as_of_the_newest_row() -> None:
    rows = {
        "customer": ["a", "a", "a", "b", "b", "c"],
        "item": ["milk"] * 6,
        "time": [
            "2020-03-01",
            "2020-03-02",
            "2020-03-30",
            "2020-03-30",
            "2020-03-30",
            "2019-01-01",
        ],
        "amount": ["1", "2", "3", "4", "5", "6"],
    }
    assert examine("purchases", rows).meant == {"active": 1, "current": 2}


def test_mixed_kinds_and_encodings_and_dates() -> None:
    rows = views(
        200,
        customer=["c"] * 199 + ["MÃ¼ller"],
        time=["2024-02-30"] + [f"2024-03-{1 + n // 24:02d} {n % 24:02d}:00" for n in range(199)],
    )
    quality = examine("events", rows).quality
    assert quality.reasons == {"customer-mixed-encoding": 1, "time-unreadable": 1}
    assert quality.columns["time"].faulty == 1
    assert quality.passed


def test_its_record_is_read_back() -> None:
    quality = examine("events", views(20, value=["9000"] * 20)).quality
    assert TableQuality.of_record(quality.to_record()) == quality
    unread = TableQuality.unread("events", 0.98, "The file is gone.")
    assert TableQuality.of_record(unread.to_record()) == unread
    assert unread.problems == ["The file is gone."]


@pytest.mark.parametrize(
    "edit",
    [
        lambda record: record.pop("read"),
        lambda record: record.update(read="many"),
        lambda record: record.update(columns=[1]),
        lambda record: record.update(newest="yesterday"),
        lambda record: record.update(threshold=None),
    ],
)
def test_a_record_that_is_none_is_refused(edit: Any) -> None:
    record = examine("events", views(3)).quality.to_record()
    edit(record)
    with pytest.raises(FormatError):
        TableQuality.of_record(record)
