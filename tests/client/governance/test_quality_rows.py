"""Treatment of single rows: by the row alone, counted, and undone by decision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.source_config import Reading
from client.data.standards import load_standards
from client.data.standards_fields import TableStandard
from client.governance.quality_changes import Decision, Treatment, Undone
from client.governance.quality_rows import RowTreatment, Surroundings, TreatedRows, row_ids
from tests.support.further_tables import NOW_MS

STANDARDS = load_standards()
CATALOGUE = {"catalogue.category": {"milk": "dairy", "bread": "bakery"}}
KNOWN = {"catalogue.item": {"milk", "bread"}}
NAMES = ("customer", "time", "kind", "item", "category", "value")
NOTHING = Undone()
ROW = dict(zip(NAMES, ("c1", "2024-03-01 10:00:00", "dwell", "milk", "", "60"), strict=True))


def treatment_of(undone: Undone = NOTHING, **standard: Any) -> RowTreatment:
    around = Surroundings(lambda: NOW_MS, STANDARDS.missing, KNOWN, CATALOGUE, undone)
    made = STANDARDS.tables["events"].model_copy(update=standard)
    return RowTreatment("events", made, Reading(), around)


def apply(treatment: RowTreatment, rows: list[dict[str, Any]]) -> TreatedRows:
    raw = pa.table({name: [row[name] for row in rows] for name in rows[0]})
    return treatment.apply(raw, origin="The table")


def treat(rows: list[dict[str, Any]], undone: Undone = NOTHING, **standard: Any) -> TreatedRows:
    return apply(treatment_of(undone, **standard), rows)


def decision(treatment: Treatment, column: str, row: int | None = None) -> Decision:
    named = None if row is None else f"{row:016x}"
    return Decision(
        table="events", treatment=treatment, column=column, row=named, at="2024-06-01T00:00:00.000Z"
    )


def changed(treated: TreatedRows) -> list[tuple[str, str, str | None, str | None]]:
    return [
        (each["treatment"], each["column"], each["before"], each["after"])
        for each in treated.changes.to_pylist()
    ]


def test_what_the_catalogue_says_is_filled_in() -> None:
    treated = treat([ROW, ROW | {"category": "cheese"}, ROW | {"item": ""}])
    assert treated.rows.frame["category"].tolist()[:2] == ["dairy", "cheese"]
    assert treated.rows.frame["category"].isna().tolist() == [False, False, True]
    assert changed(treated) == [("looked-up", "category", None, "dairy")]
    # The catalogue is no guess.
    assert not treated.guessed.any()


def test_a_value_beyond_the_fence_is_put_to_it() -> None:
    treated = treat([ROW | {"value": "7200.5"}, ROW | {"value": "1800"}])
    assert treated.rows.frame["value"].tolist() == [1800.0, 1800.0]
    assert ("clipped", "value", "7200.5", "1800") in changed(treated)
    assert treated.guessed.tolist() == [True, False]
    assert treated.passed.all()


def test_what_is_not_possible_is_no_outlier() -> None:
    treated = treat([ROW | {"value": "1000001"}, ROW | {"value": "-1"}])
    assert treated.reasons["value-out-of-range"] == 2
    assert not treated.guessed.any()


def test_an_outlier_may_be_set_aside() -> None:
    columns = dict(STANDARDS.tables["events"].columns)
    columns["value"] = columns["value"].model_copy(
        update={"outliers": columns["value"].outliers.model_copy(update={"treat": "set-aside"})}
    )
    treated = treat([ROW | {"value": "7200"}, ROW], columns=columns)
    assert treated.passed.tolist() == [False, True]
    assert dict(treated.reasons) == {"value-implausible": 1}
    assert ("set-aside", "value", "7200", None) in changed(treated)


def purchase_treatment(undone: Undone = NOTHING) -> RowTreatment:
    around = Surroundings(lambda: NOW_MS, STANDARDS.missing, {}, {}, undone)
    return RowTreatment("purchases", STANDARDS.tables["purchases"], Reading(), around)


def test_a_missing_value_is_filled_in_and_an_unreadable_one_is_not() -> None:
    raw = pa.table(
        {
            "customer": ["a", "b", "c"],
            "item": ["milk"] * 3,
            "time": ["2024-03-01"] * 3,
            "quantity": ["", "many", "2"],
            "returned": ["NULL", "1", "2"],
        }
    )
    treated = purchase_treatment().apply(raw, origin="The table")
    assert treated.passed.tolist() == [True, False, True]
    assert dict(treated.reasons) == {"quantity-unreadable": 1}
    assert treated.rows.frame["quantity"].iloc[0] == 1.0
    assert treated.rows.frame["returned"].tolist() == [0.0, 1.0, 2.0]
    assert treated.guessed.tolist() == [True, False, False]
    assert treated.given == {"customer": 3, "item": 3, "time": 3, "quantity": 2, "returned": 2}


def test_undone_for_all_rows_or_for_one() -> None:
    rows = [ROW | {"value": "7200"}, ROW | {"value": "9000"}]
    first = int(treat(rows).ids[0])
    one = treat(rows, Undone((decision("clipped", "value", first),)))
    assert one.rows.frame["value"].tolist() == [7200.0, 1800.0]
    every = treat(rows, Undone((decision("clipped", "value"),)))
    assert every.rows.frame["value"].tolist() == [7200.0, 9000.0]
    # Decisions about another column or treatment change nothing.
    other = Undone((decision("clipped", "item"), decision("completed", "value")))
    assert treat(rows, other).rows.frame["value"].tolist() == [1800.0, 1800.0]


VALUES = st.fixed_dictionaries(
    {
        "customer": st.sampled_from(["a", "b", "", "é", "Ã©"]),
        "time": st.sampled_from(["2024-03-01", "2024-02-30", "2099-01-01", ""]),
        "kind": st.sampled_from(["view", "dwell", "stare"]),
        "item": st.sampled_from(["milk", "bread", "glue", ""]),
        "category": st.sampled_from(["", "cheese", "N/A"]),
        "value": st.sampled_from(["", "-1", "60", "1800", "5000", "much"]),
    }
)


#: Made once: what it costs is to make contracts.
USUAL = treatment_of()
EVERYTHING_UNDONE = treatment_of(
    Undone(
        tuple(
            decision(treatment, column)
            for treatment in ("completed", "looked-up", "clipped", "set-aside")
            for column in NAMES
        )
    )
)
NEVER = treatment_of(
    columns={
        name: each.model_copy(update={"complete": None, "outliers": None})
        for name, each in STANDARDS.tables["events"].columns.items()
    }
)


@settings(max_examples=5)
@given(st.lists(VALUES, min_size=2, max_size=12), st.integers(1, 11))
def test_what_becomes_of_a_row_depends_on_no_other(rows: list[dict[str, str]], at: int) -> None:
    """The sensitivity of a statistic over treated rows rests on this."""
    together = apply(USUAL, rows)
    parts = [apply(USUAL, part) for part in (rows[:at], rows[at:]) if part]
    for name in ("passed", "guessed", "ids"):
        apart = np.concatenate([getattr(part, name) for part in parts])
        assert getattr(together, name).tolist() == apart.tolist()
    frames = [part.rows.frame.astype(object) for part in parts]
    assert pd.concat(frames, ignore_index=True).equals(together.rows.frame.astype(object))


@settings(max_examples=4)
@given(st.lists(VALUES, min_size=1, max_size=12))
def test_all_undone_is_what_the_store_has(rows: list[dict[str, str]]) -> None:
    left, never = apply(EVERYTHING_UNDONE, rows), apply(NEVER, rows)
    assert left.changes.num_rows == 0
    assert left.rows.frame.astype(object).equals(never.rows.frame.astype(object))
    # And what was changed is told from what was before, row by row.
    treated = apply(USUAL, rows)
    for change in treated.changes.to_pylist():
        at = int(np.flatnonzero(treated.ids == np.uint64(change["row"]))[0])
        stored = never.rows.frame[change["column"]].iloc[at]
        if change["before"] is None:
            assert stored != stored
        else:
            assert float(change["before"]) == stored


def test_a_row_is_known_by_what_it_says_in_any_order_of_columns() -> None:
    treated = treat([ROW, ROW | {"customer": "c2"}, ROW])
    assert treated.ids[0] == treated.ids[2] != treated.ids[1]
    turned = treated.rows.frame[list(reversed(treated.rows.frame.columns))]
    assert row_ids(turned).tolist() == row_ids(treated.rows.frame).tolist()


def test_whoever_follows_for_days_goes_by_the_clock_of_the_day() -> None:
    clock = [NOW_MS]
    around = Surroundings(lambda: clock[0], STANDARDS.missing)
    treatment = RowTreatment("events", STANDARDS.tables["events"], Reading(), around)
    raw = pa.table({"customer": ["a"], "time": ["2024-06-05"], "kind": ["view"]})
    assert not treatment.apply(raw, origin="The table").passed.any()
    clock[0] += 4 * 86_400_000
    assert treatment.apply(raw, origin="The table").passed.all()


def test_a_table_is_read_by_its_own_standard() -> None:
    narrow = TableStandard.model_validate(
        {
            "meaning": "T.",
            "key": ["flag"],
            "columns": {
                "flag": {"type": "flag", "meaning": "F.", "grade": "low", "filled": True},
                "number": {"type": "integer", "meaning": "N.", "grade": "low"},
            },
        }
    )
    treatment = RowTreatment("t", narrow, Reading(), Surroundings(lambda: NOW_MS))
    raw = pa.table({"flag": ["yes", "0", "maybe", None], "number": ["1", "1.5", "2", ""]})
    treated = treatment.apply(raw, origin="The table")
    assert treated.rows.frame["flag"].isna().tolist() == [False, False, True, True]
    assert treated.rows.frame["flag"].tolist()[:2] == [True, False]
    assert dict(treated.reasons) == {
        "flag-unreadable": 1,
        "flag-missing": 1,
        "number-unreadable": 1,
    }
    assert treated.table().schema.field("flag").type == pa.bool_()


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64(), pa.string(), pa.large_string()])
def test_references_are_text_whatever_the_store_has(kind: pa.DataType) -> None:
    raw = pa.table(
        {
            "customer": pa.array([17, 18]).cast(kind),
            "time": pa.array([NOW_MS - 1, NOW_MS - 2], pa.timestamp("ms", "UTC")),
            "kind": pa.array(["view", "view"]).dictionary_encode(),
        }
    )
    around = Surroundings(lambda: NOW_MS)
    treatment = RowTreatment("events", STANDARDS.tables["events"], Reading(), around)
    treated = treatment.apply(raw, origin="The table")
    assert treated.passed.all()
    assert treated.kept().column("customer").to_pylist() == ["17", "18"]
