"""Statistics of further tables: what rows become, what is read off, whose rows they may be."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.analytics.further import further_statistic, named_in
from client.analytics.purchases import PurchaseStatistic
from client.data.tables.declaration import tables_from
from client.data.tables.schema import TABLES
from client.data.transactions import Purchases
from client.recommend.local_statistics import Clock
from client.training.bounded_sums import bounded_sum, tables_of
from common.analytics.further_questions import (
    BROWSED,
    CLICK_UPLIFT,
    CSAT,
    EVENT_KINDS,
    EVENTS_DONE,
    FEEDBACK_GIVEN,
    FEEDBACK_KINDS,
    FURTHER,
    JOURNEY,
    KANO,
    NPS,
    PAYMENTS,
    PURCHASE_UPLIFT,
    REPURCHASE_UPLIFT,
    RETURNS,
    REVIEWS,
    STORE_SCENES,
    TABLES_OF,
    Named,
)
from common.analytics.kano import CLASSES
from common.catalogue import Catalogue
from common.errors import InputError
from tests.support.beside import DAY_MS, NAMES, beside, crowd, only

CATALOGUE = Catalogue.of(
    ["a", "b", "c", "d", *(f"item-{n}" for n in range(60))],
    category=["food", "food", "toys", "wine", *(["food", "toys", "wine"] * 20)],
)
CLOCK = Clock({"day": (6, 18), "night": (18, 6)}, "UTC")
END_MS = 90 * DAY_MS
STATISTICS = [further_statistic(name, NAMES, CATALOGUE, CLOCK, end_ms=END_MS) for name in FURTHER]


def statistic(name: str) -> PurchaseStatistic:
    return STATISTICS[FURTHER.index(name)]


def summed(name: str, given: Purchases) -> npt.NDArray[np.float64]:
    return bounded_sum([given], statistic(name), start_ms=0, end_ms=END_MS, clipping_norm=1.0)


def counts(name: str, given: Purchases) -> list[float]:
    """The sum in units of one customer's value."""
    bound = getattr(statistic(name).question, "bound", 1.0)
    return [round(each, 3) for each in (summed(name, given) * bound).tolist()]


def event(customer: int, day: float, kind: str, **more: Any) -> dict[str, Any]:
    return {"customer": customer, "day": day, "kind": kind, **more}


def test_a_journey_counts_each_stage_after_the_one_before_it() -> None:
    events = [
        *[event(0, day, kind) for day, kind in ((1, "search"), (2, "click"), (3, "cart"))],
        *[event(1, day, kind) for day, kind in ((1, "view"), (2, "dwell"), (3, "cart"))],
        *[event(2, day, kind) for day, kind in ((3, "view"), (2, "click"))],
        event(3, 1, "cart"),
    ]
    # 0 buys and comes back on another day, 1 twice on the same; 4 was never seen.
    bought = [(0, 0, 3.5), (0, 0, 5.0), (1, 0, 3.5), (1, 1, 3.6), (4, 0, 9.0), (2, 0, 1.0)]
    assert counts(JOURNEY, beside(5, bought, events=events)) == [1, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("bought", "last"),
    [([4.0], 3), ([4.0, 4.0], 3), ([4.0, 5.0], 4), ([4.9, 5.0], 4), ([2.0, 4.0], 3)],
)
def test_coming_back_is_on_a_later_day_than_the_purchase_that_counts(
    bought: list[float], last: int
) -> None:
    events = [event(0, 1 + n, kind) for n, kind in enumerate(("view", "click", "cart"))]
    found = counts(JOURNEY, beside(1, [(0, 0, day) for day in bought], events=events))
    assert found.index(1.0) == last


def test_kinds_of_events_are_counted_once_a_customer() -> None:
    events = [event(0, 1, "view"), event(0, 2, "view"), event(0, 2, "cart"), event(1, 1, "dwell")]
    found = dict(zip(EVENT_KINDS, counts(EVENTS_DONE, beside(2, events=events)), strict=True))
    assert found == {"view": 1, "cart": 1, "dwell": 1, "click": 0, "search": 0, "favourite": 0}


def test_browsed_categories_are_the_events_or_its_items() -> None:
    events = [
        event(0, 1, "view", item="c"),
        event(0, 1, "search", category="wine"),
        event(1, 1, "view", item="a", category="toys"),
        event(1, 1, "view", item="nothing known"),
        event(2, 1, "view"),
    ]
    assert CATALOGUE.category_names == ("food", "toys", "wine")
    found = counts(BROWSED, beside(3, events=events))
    assert found == [0, 2, 1]


def test_scores_are_the_newest_of_their_kind_on_the_scale() -> None:
    def said(customer: int, day: float, kind: str, score: float | None) -> dict[str, Any]:
        return event(customer, day, kind, score=score)

    feedback = [
        said(0, 1, "nps", 10),
        said(0, 2, "nps", 3),
        said(1, 1, "nps", 9),
        said(2, 1, "nps", None),
        said(2, 1, "csat", 5),
        said(3, 1, "csat", 9),
        said(3, 1, "review", 1),
    ]
    given = beside(4, feedback=feedback)
    assert counts(NPS, given) == [1, 0, 1]
    assert counts(CSAT, given) == [0, 1]
    assert counts(REVIEWS, given) == [1, 0]
    kinds = dict(zip(FEEDBACK_KINDS, counts(FEEDBACK_GIVEN, given), strict=True))
    assert kinds == {"nps": 3, "csat": 2, "review": 1, "complaint": 0, "service": 0, "kano": 0}


def test_kano_pairs_are_classes_of_features() -> None:
    def pair(customer: int, topic: str, functional: float | None, other: float) -> dict[str, Any]:
        answers = {"topic": topic, "functional": functional, "dysfunctional": other}
        return event(customer, 1, "kano", **answers)

    feedback = [
        pair(0, "bakery", 1, 3),
        pair(0, "checkout", 3, 5),
        pair(1, "bakery", 1, 5),
        pair(1, "parking", 1, 5),
        pair(2, "bakery", None, 5),
    ]
    found = np.array(counts(KANO, beside(3, feedback=feedback))).reshape(2, len(CLASSES))
    assert found[0, CLASSES.index("attractive")] == 1
    assert found[0, CLASSES.index("performance")] == 1
    assert found[1, CLASSES.index("must-be")] == 1
    assert found.sum() == 3


def shown(customer: int, day: float, arm: str, **more: Any) -> dict[str, Any]:
    return {"customer": customer, "day": day, "experiment": "lists", "arm": arm, **more}


def test_uplift_follows_each_customer_for_the_same_days_and_leaves_out_what_is_unclear() -> None:
    exposures = [
        shown(0, 10, "control"),
        shown(1, 10, "treated"),
        shown(1, 12, "treated"),
        shown(2, 10, "treated"),
        shown(2, 11, "control"),
        shown(3, 85, "treated"),
        {**shown(4, 10, "treated"), "experiment": "other"},
        shown(5, 10, "treated"),
    ]
    bought = [(0, 0, 9.0), (0, 0, 21.0), (1, 0, 11.0), (1, 0, 11.5), (3, 0, 86.0), (4, 0, 11.0)]
    bought += [(5, 0, 10.0), (5, 1, 19.9)]
    given = beside(6, bought, exposures=exposures, events=[])
    # Control, then treated; did not, then did. 2 was in both arms, 3's days are not over.
    assert counts(PURCHASE_UPLIFT, given) == [1, 0, 0, 2]
    assert counts(REPURCHASE_UPLIFT, given) == [1, 0, 1, 1]


def test_clicks_count_on_what_was_shown() -> None:
    exposures = [
        shown(0, 10, "treated", item="a"),
        shown(1, 10, "treated", item="a"),
        shown(2, 10, "control"),
        shown(3, 10, "control", item="b"),
    ]
    events = [
        event(0, 11, "click", item="a"),
        event(1, 11, "click", item="b"),
        event(1, 11, "view", item="a"),
        event(2, 11, "click", item="d"),
        event(3, 30, "click", item="b"),
    ]
    assert counts(CLICK_UPLIFT, beside(4, exposures=exposures, events=events)) == [1, 1, 1, 1]


def test_receipts_say_where_how_paid_and_what_came_back() -> None:
    receipts = [
        # Noon of Thursday, 1970-01-01, and at night of the Friday after it.
        {"customer": 0, "day": 0.5, "store_type": "city", "payment": "card", "returned": 0},
        {"customer": 0, "day": 1.9, "store_type": "market", "payment": "card", "returned": 2},
        {"customer": 1, "day": 0.5, "store_type": "elsewhere", "payment": "cash"},
        {"customer": 1, "day": 0.5, "payment": "cheque"},
    ]
    given = beside(2, purchases=receipts)
    table = summed(STORE_SCENES, given).reshape(2, 2, 7)
    assert table[0, 0, 3] == pytest.approx(0.5, abs=1e-5)
    assert table[1, 1, 4] == pytest.approx(0.5, abs=1e-5)
    assert table.sum() == pytest.approx(1.0, abs=1e-5)
    assert counts(PAYMENTS, given) == [1.0, 1.0]
    # Whose receipts say nothing of returns is in no share.
    assert counts(RETURNS, given) == [0.5, 0.5]


@pytest.mark.parametrize("name", FURTHER)
def test_without_its_table_a_question_is_refused(name: str) -> None:
    assert tables_of(statistic(name)) == statistic(name).tables != ()
    with pytest.raises(InputError, match="were not given"):
        summed(name, beside(1, [(0, 0, 1.0)]))


def test_rows_outside_of_the_window_do_not_count() -> None:
    events = [event(0, 1, "view"), event(0, 90, "cart"), event(1, 91, "view")]
    found = dict(zip(EVENT_KINDS, counts(EVENTS_DONE, beside(2, events=events)), strict=True))
    assert {kind for kind, count in found.items() if count} == {"view"}
    assert found["view"] == 1


@pytest.mark.parametrize("name", FURTHER)
def test_nobody_in_a_table_is_nobody_in_the_answer(name: str) -> None:
    tables = {
        each: () for each in TABLES if TABLES[each].of_customers and "time" in TABLES[each].columns
    }
    assert not summed(name, beside(3, **tables)).any()


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1 << 30))
def test_a_row_is_of_one_customer_and_no_longer_than_one(seed: int) -> None:
    whole = crowd(5, seed, rows=40)
    for each in STATISTICS:
        rows = each.contributions(whole)
        table = np.zeros((len(whole.owners), each.question.size))
        np.add.at(table, (rows.owner, rows.place), rows.value)
        assert np.linalg.norm(table, axis=1).max() <= 1 + 1e-9, each.name
        for customer in range(len(whole.owners)):
            alone = each.contributions(only(whole, [customer]))
            own = np.zeros(each.question.size)
            np.add.at(own, alone.place, alone.value)
            np.testing.assert_allclose(own, table[customer], atol=1e-12, err_msg=each.name)


def test_public_names_are_those_that_declarations_list(tmp_path: Any) -> None:
    columns = {name: name for name in ("customer", "time", "kind", "topic")}
    topics = {"B": "bakery", "C": "checkout"}
    feedback = {"kind": "files", "path": "f.csv", "columns": columns, "codes": {"topic": topics}}
    declared = tables_from({"feedback": feedback}, tmp_path, "tables.toml")
    named = named_in(declared, experiment="lists", follow_days=7)
    assert named == Named(("bakery", "checkout"), (), (), "lists", 7)
    assert named_in({}) == Named()


@pytest.mark.parametrize("name", FURTHER)
def test_each_question_states_the_tables_that_it_is_asked_of(name: str) -> None:
    assert TABLES_OF[name] == set(statistic(name).tables)
