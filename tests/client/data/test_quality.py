from __future__ import annotations

import itertools
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.data.quality import (
    MAX_AMOUNT,
    MAX_QUANTITY,
    QualityReport,
    assess_quality,
    quality_gate,
)
from client.data.transactions import DeclaredScope, Transactions
from common import canonical_json
from common.catalogue import Catalogue
from common.errors import InputError, QualityGateError
from common.timestamps import parse_time
from tests.support.stages import purchases

Make = Callable[..., Transactions]
GOOD: list[dict[str, Any]] = [{"customer": f"c{number % 7}"} for number in range(99)]


def assess(transactions: Transactions, catalogue: Catalogue) -> QualityReport:
    return assess_quality(transactions, catalogue, region="r", threshold=0.98)


def test_good_rows_pass_unchanged(make_transactions: Make, catalogue: Catalogue) -> None:
    transactions = make_transactions(GOOD)
    checked = quality_gate(transactions, catalogue, region="r")
    time_ms = parse_time("2024-03-01T10:00:00.000Z")
    assert purchases(checked, catalogue) == sorted((row["customer"], "i0", time_ms) for row in GOOD)
    assert checked.report.score == 1.0
    assert checked.report.reasons == {}
    assert checked.report.rows_read == checked.report.rows_accepted == len(checked) == 99


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"customer": None}, "customer-missing"),
        ({"customer": " "}, "customer-missing"),
        ({"item": None}, "item-missing"),
        ({"item": "i99"}, "item-unknown"),
        ({"time": None}, "time-missing"),
        ({"time": "yesterday"}, "time-missing"),
        ({"time": "2023-12-31T23:59:59.999Z"}, "time-outside-period"),
        ({"time": "2025-01-01T00:00:00Z"}, "time-outside-period"),
        ({"quantity": None}, "quantity-missing"),
        ({"quantity": -1}, "quantity-out-of-range"),
        ({"quantity": MAX_QUANTITY + 1}, "quantity-out-of-range"),
        ({"amount": None}, "amount-missing"),
        ({"amount": math.nan}, "amount-missing"),
        ({"amount": -0.01}, "amount-out-of-range"),
        ({"amount": math.inf}, "amount-out-of-range"),
        ({"amount": MAX_AMOUNT * 1.01}, "amount-out-of-range"),
        ({"basket": None}, "basket-missing"),
        ({"store": None}, "store-missing"),
        ({"home_store": None}, "home-store-missing"),
        ({"customer": "c0", "basket": "b0"}, "duplicate-row"),
    ],
)
def test_each_reason_is_counted_and_its_row_left_out(
    make_transactions: Make, catalogue: Catalogue, row: dict[str, Any], reason: str
) -> None:
    transactions = make_transactions(
        [*GOOD, row],
        home_stores=("s1",),
        period_from="2024-01-01T00:00:00Z",
        period_until="2025-01-01T00:00:00Z",
    )
    checked = quality_gate(transactions, catalogue, region="r")
    assert dict(checked.report.reasons) == {reason: 1}
    assert len(checked) == checked.report.rows_accepted == 99
    assert len(purchases(checked, catalogue)) == 99
    assert checked.report.score == 0.99


@pytest.mark.parametrize(
    "row",
    [
        {"quantity": 0},
        {"quantity": MAX_QUANTITY},
        {"amount": 0.0},
        {"amount": MAX_AMOUNT},
        {"time": "2024-01-01T00:00:00Z"},
        {"time": "2024-12-31T23:59:59.999999Z"},
        {"customer": "c0", "basket": "b0", "item": "i1"},
        {"customer": "c0", "basket": "b0", "time": "2024-03-01T10:00:01Z"},
        {"customer": "c1", "basket": "b0"},
    ],
)
def test_the_edges_of_what_is_right(
    make_transactions: Make, catalogue: Catalogue, row: dict[str, Any]
) -> None:
    transactions = make_transactions(
        [*GOOD, row], period_from="2024-01-01T00:00:00Z", period_until="2025-01-01T00:00:00Z"
    )
    assert assess(transactions, catalogue).score == 1.0


def test_a_row_that_fails_twice_counts_twice_and_is_dropped_once(
    make_transactions: Make, catalogue: Catalogue
) -> None:
    rows = [*GOOD, {"quantity": -1, "amount": -1.0}, {"quantity": -1}]
    report = assess(make_transactions(rows), catalogue)
    assert dict(report.reasons) == {"quantity-out-of-range": 2, "amount-out-of-range": 1}
    assert list(report.reasons) == ["quantity-out-of-range", "amount-out-of-range"]
    assert report.rows_in_scope - report.rows_accepted == 2


def test_one_of_repeated_rows_stays(make_transactions: Make, catalogue: Catalogue) -> None:
    rows = [{"basket": "b", "quantity": number} for number in (5, 6, 7)]
    report, kept = _passed(make_transactions(rows), catalogue)
    assert dict(report.reasons) == {"duplicate-row": 2}
    assert len(kept) == 1


def test_without_baskets_only_rows_alike_in_all_are_repeats(
    make_transactions: Make, catalogue: Catalogue
) -> None:
    rows = [{"quantity": 1}, {"quantity": 2}, {"quantity": 1}]
    transactions = make_transactions(rows, mapped=("customer", "item", "time", "quantity"))
    report, kept = _passed(transactions, catalogue)
    assert dict(report.reasons) == {"duplicate-row": 1}
    assert len(kept) == 2


Kept = list[tuple[str, str, int]]


def _passed(
    transactions: Transactions | list[Transactions], catalogue: Catalogue
) -> tuple[QualityReport, Kept]:
    checked = quality_gate(transactions, catalogue, region="r", threshold=0.01)
    return checked.report, purchases(checked, catalogue)


@pytest.mark.parametrize("order", [1, -1])
def test_of_repeated_rows_one_that_passes_stays_wherever_it_stands(
    make_transactions: Make, catalogue: Catalogue, order: int
) -> None:
    rows = [{"basket": "b", "quantity": -1}, {"basket": "b", "quantity": 2}][::order]
    report, kept = _passed(make_transactions(rows), catalogue)
    assert dict(report.reasons) == {"duplicate-row": 1, "quantity-out-of-range": 1}
    assert (report.rows_accepted, len(kept)) == (1, 1)


def test_batches_are_judged_as_one(make_transactions: Make, catalogue: Catalogue) -> None:
    """Repeats and homes show only in the other batch."""
    home = {"home_stores": ("s1",)}
    batches = [
        make_transactions([{"customer": "a", "basket": "b"}, {"customer": "torn"}], **home),
        make_transactions(
            [{"customer": "a", "basket": "b"}, {"customer": "torn", "home_store": "s9"}], **home
        ),
    ]
    report, kept = _passed(batches, catalogue)
    assert dict(report.reasons) == {"duplicate-row": 1, "home-ambiguous": 1}
    assert (report.rows_read, report.rows_out_of_home, report.rows_in_scope) == (4, 1, 3)
    assert [customer for customer, _, _ in kept] == ["a"]


VALUES = {
    "customer": ["anna", "ben", None],
    "item": ["i0", "i1", "i9", "fuel", None],
    "time": ["2024-03-01T10:00:00Z", "2024-03-01T10:00:00.000001Z", None],
    "quantity": [1, 2, -1, None],
    "amount": [0.0, -0.0, -1.0, None],
    "basket": ["b", "c", None],
    "home_store": ["s1", "s9", None],
}
ROW = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in VALUES.items()})


ANY_ROWS = given(
    rows=st.lists(ROW, min_size=1, max_size=14),
    mapped=st.sets(st.sampled_from(["quantity", "amount", "basket", "home_store"])),
    cuts=st.lists(st.integers(0, 14), max_size=2),
    data=st.data(),
)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@ANY_ROWS
def test_it_is_what_a_plain_loop_judges_in_any_order_and_any_batches(
    make_transactions: Make,
    catalogue: Catalogue,
    rows: list[dict[str, Any]],
    mapped: set[str],
    cuts: list[int],
    data: st.DataObject,
) -> None:
    _judge_both_ways(make_transactions, catalogue, rows, mapped, cuts, data)


@pytest.mark.slow
@settings(
    max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@ANY_ROWS
def test_many_more_are_what_a_plain_loop_judges(
    make_transactions: Make,
    catalogue: Catalogue,
    rows: list[dict[str, Any]],
    mapped: set[str],
    cuts: list[int],
    data: st.DataObject,
) -> None:
    _judge_both_ways(make_transactions, catalogue, rows, mapped, cuts, data)


def _judge_both_ways(
    make_transactions: Make,
    catalogue: Catalogue,
    rows: list[dict[str, Any]],
    mapped: set[str],
    cuts: list[int],
    data: st.DataObject,
) -> None:
    names = ("customer", "item", "time", *sorted(mapped))
    scope = {"home_stores": ("s1",)} if "home_store" in mapped else {}
    expected = _plain_judgement(rows, names, catalogue)
    shuffled = data.draw(st.permutations(rows))
    bounds = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    batches = [
        make_transactions(shuffled[start:stop], mapped=names, **scope)
        for start, stop in itertools.pairwise(bounds)
    ]
    report = assess_quality(batches, catalogue, region="r")
    assert (dict(report.reasons), report.rows_in_scope, report.rows_accepted) == expected
    if report.rows_accepted:
        one = make_transactions(rows, mapped=names, **scope)
        assert _passed(batches, catalogue) == _passed(one, catalogue)


def _plain_judgement(
    rows: list[dict[str, Any]], names: tuple[str, ...], catalogue: Catalogue
) -> tuple[dict[str, int], int, int]:
    """The gate once more, row by row."""
    home = "home_store" in names
    away = {row["customer"] for row in rows if home and row["home_store"] == "s9"} - {None}
    reasons: Counter[str] = Counter()
    alike: dict[tuple[Any, ...], list[bool]] = defaultdict(list)
    for row in rows:
        if row["item"] == "fuel" or (home and row["home_store"] == "s9"):
            continue
        faults = [f"{name.replace('_', '-')}-missing" for name in names if row[name] is None]
        faults += ["item-unknown"] * (row["item"] == "i9")
        faults += [
            f"{name}-out-of-range"
            for name in ("quantity", "amount")
            if name in names and row[name] is not None and row[name] < 0
        ]
        faults += ["home-ambiguous"] * (
            home and row["home_store"] == "s1" and row["customer"] in away
        )
        reasons.update(faults)
        key = ("customer", "item", "time", "basket") if "basket" in names else names
        alike[tuple(row[name] for name in key)].append(not faults)
    reasons["duplicate-row"] = sum(len(those) - 1 for those in alike.values())
    in_scope = sum(map(len, alike.values()))
    return dict(+reasons), in_scope, sum(map(any, alike.values()))


def test_unmapped_columns_are_not_missed(make_transactions: Make, catalogue: Catalogue) -> None:
    transactions = make_transactions([{"customer": "a"}, {}], mapped=("customer", "item", "time"))
    assert assess(transactions, catalogue).score == 1.0


def test_products_out_of_scope_are_counted_apart(
    make_transactions: Make, catalogue: Catalogue
) -> None:
    rows = [*GOOD, *[{"item": "fuel", "quantity": -5}] * 40, {"item": "coupon"}]
    checked = quality_gate(make_transactions(rows), catalogue, region="r")
    assert checked.report.rows_out_of_scope == 41
    assert checked.report.rows_in_scope == checked.report.rows_accepted == 99
    assert {item for _, item, _ in purchases(checked, catalogue)} == {"i0"}


def test_customers_at_home_elsewhere_are_counted_apart(
    make_transactions: Make, catalogue: Catalogue
) -> None:
    visitors = [{"customer": "v", "home_store": "s9", "item": "i99"}] * 50
    both = [{"customer": "v2", "home_store": "s9", "item": "fuel"}]
    transactions = make_transactions([*GOOD, *visitors, *both], home_stores=("s1", "s2"))
    checked = quality_gate(transactions, catalogue, region="r")
    assert checked.report.rows_out_of_home == 51
    assert checked.report.rows_out_of_scope == 0
    assert checked.report.score == 1.0
    assert not {"v", "v2"} & {customer for customer, _, _ in purchases(checked, catalogue)}


def test_a_customer_with_two_homes_belongs_to_neither(
    make_transactions: Make, catalogue: Catalogue
) -> None:
    torn = [{"customer": "c9"}, {"customer": "c9", "home_store": "s9"}]
    moved = [{"customer": "c8", "home_store": "s2"}, {"customer": "c8"}]
    transactions = make_transactions([*GOOD, *torn, *moved], home_stores=("s1", "s2"))
    checked = quality_gate(transactions, catalogue, region="r")
    assert dict(checked.report.reasons) == {"home-ambiguous": 1}
    assert checked.report.rows_out_of_home == 1
    customers = {customer for customer, _, _ in purchases(checked, catalogue)}
    assert "c9" not in customers
    assert "c8" in customers


@pytest.mark.parametrize(("bad", "passes"), [(2, True), (3, False)])
def test_the_gate_closes_below_the_threshold(
    make_transactions: Make, catalogue: Catalogue, bad: int, passes: bool
) -> None:
    rows = [*GOOD, {}, *[{"item": "i99"}] * bad][bad:]
    transactions = make_transactions(rows)
    if passes:
        assert quality_gate(transactions, catalogue, region="r").report.score == 0.98
        return
    with pytest.raises(QualityGateError):
        quality_gate(transactions, catalogue, region="r")


def test_a_refusal_says_region_score_threshold_and_the_largest_reasons(
    make_transactions: Make, catalogue: Catalogue
) -> None:
    rows = [
        *GOOD,
        *[{"quantity": -1}] * 4,
        *[{"item": "i99"}] * 3,
        *[{"amount": -1}] * 2,
        {"customer": None},
    ]
    with pytest.raises(QualityGateError) as caught:
        quality_gate(make_transactions(rows), catalogue, region="region-7", threshold=0.95)
    assert caught.value.message == (
        "region-7: data quality 90.82 % is below the threshold 95.00%: 10 of 109 rows fail "
        "(quantity-out-of-range 4, item-unknown 3, amount-out-of-range 2 and 1 more); the region "
        "does not train."
    )
    assert caught.value.exit_code == 4
    assert caught.value.remedy


def test_a_score_just_below_is_not_rounded_up(
    make_transactions: Make, catalogue: Catalogue
) -> None:
    rows = [{"customer": f"c{number}"} for number in range(9799)] + [{"item": "i99"}] * 201
    with pytest.raises(QualityGateError, match=r"quality 97\.99 % is below the threshold 98\.00%"):
        quality_gate(make_transactions(rows), catalogue, region="r")


def test_a_region_with_no_row_in_scope_is_refused(
    make_transactions: Make, catalogue: Catalogue
) -> None:
    transactions = make_transactions([{"item": "fuel"}, {"home_store": "s9"}], home_stores=["s1"])
    with pytest.raises(QualityGateError, match=r"none of the 2 rows .*\(1 out of home, 1 out of"):
        quality_gate(transactions, catalogue, region="r")
    assert assess(transactions, catalogue).score == 0.0


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.01, math.nan, math.inf])
def test_a_threshold_that_is_no_share_is_refused(
    make_transactions: Make, catalogue: Catalogue, threshold: float
) -> None:
    with pytest.raises(InputError, match=r"is not in \(0, 1\]"):
        quality_gate(make_transactions(GOOD), catalogue, region="r", threshold=threshold)


def test_the_report_is_canonical_json(make_transactions: Make, catalogue: Catalogue) -> None:
    report = assess(make_transactions([*GOOD, {"item": "i99"}]), catalogue)
    record = report.to_record()
    assert canonical_json.decode(canonical_json.encode(record)) == record
    assert record == {
        "region": "r",
        "origin": "The file f",
        "rows_read": 100,
        "rows_out_of_home": 0,
        "rows_out_of_scope": 0,
        "rows_in_scope": 100,
        "rows_accepted": 99,
        "reasons": {"item-unknown": 1},
        "score": "0.990000",
        "threshold": "0.98",
    }
    with pytest.raises(TypeError):
        report.reasons["item-unknown"] = 0  # type: ignore[index]


def test_columns_of_other_types_are_no_transactions(make_transactions: Make) -> None:
    good = make_transactions(GOOD)
    wrong = good.frame.assign(quantity=good.frame["quantity"].astype("float64"))
    with pytest.raises(InputError, match="rows have the columns"):
        Transactions(wrong, good.mapped, good.scope, "f")
    with pytest.raises(InputError, match="must be mapped"):
        Transactions(good.frame, frozenset({"item_ref", "time"}), DeclaredScope(), "f")


def test_half_a_million_rows_take_seconds(make_transactions: Make, catalogue: Catalogue) -> None:
    small = make_transactions(GOOD)
    big = pd.concat([small.frame] * 5000, ignore_index=True)
    big["time"] = big["time"] + pd.to_timedelta(np.arange(len(big)), unit="ms")
    start = time.process_time()
    report = assess(Transactions(big, small.mapped, small.scope, "f"), catalogue)
    assert report.rows_accepted == 495_000
    assert time.process_time() - start < 20
