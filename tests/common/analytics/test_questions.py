"""Questions: what they refuse, what they say of noise beforehand, what they read off answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from common.analytics.cuts import Cuts
from common.analytics.estimates import LEVEL, Estimates, deviations_of
from common.analytics.funnels import Funnel
from common.analytics.groups import Groups
from common.analytics.kano import Kano
from common.analytics.outlook import Outlook, require_worth
from common.analytics.scores import Score
from common.analytics.shares import Shares
from common.analytics.trends import Trend
from common.analytics.uplift import Uplift
from common.errors import BudgetError, InputError
from tests.support.made_clusters import made_clusters

EDGES = tuple(float(each) for each in range(65))
CENTRES = np.array([[-0.5, 0.1], [0.5, -0.1]])
QUESTIONS = [
    Groups.counts("counts", tuple("abc"), most=2),
    Groups("sums", tuple("abc"), 100.0, unit="euros", wanted=5.0),
    Shares("scenes", (("am", "pm"), ("mon", "tue"))),
    Cuts("cuts", EDGES),
    Funnel("funnel", ("seen", "bought", "again")),
    Trend("trend", tuple("abc"), most=2),
    Score.nps(),
    Score.csat(),
    Uplift("uplift"),
    made_clusters("clusters", CENTRES),
    Kano("kano", ("delivery", "receipts", "parking"), most=2),
]
NAMES = [each.name for each in QUESTIONS]


# -- before anything is spent ----------------------------------------------------------------------


@pytest.mark.parametrize("question", QUESTIONS, ids=NAMES)
def test_noise_swamps_an_answer_about_few_and_not_one_about_many(question: Any) -> None:
    few, many = question.outlook(64, 10.0), question.outlook(1 << 22, 10.0)
    assert few.swamped
    assert not many.swamped
    assert few.name == question.name
    with pytest.raises(BudgetError, match=f"swamp the answer to {question.name}"):
        require_worth([many, few])
    require_worth([many])
    require_worth([few], anyway=True)


@pytest.mark.parametrize("question", QUESTIONS, ids=NAMES)
def test_no_customers_at_all_are_swamped(question: Any) -> None:
    assert question.outlook(0, 10.0).swamped


@pytest.mark.parametrize("question", [each for each in QUESTIONS if each.name != "uplift"], ids=str)
def test_with_the_customers_it_asks_for_an_answer_is_of_use(question: Any) -> None:
    needed = question.outlook(64, 10.0).customers_needed
    assert not question.outlook(needed, 10.0).swamped
    assert question.outlook(needed // 2, 10.0).swamped


def test_what_is_not_a_number_counts_as_swamped() -> None:
    outlook = Outlook("x", math.nan, 1.0, "points", 10)
    assert outlook.swamped
    with pytest.raises(InputError, match="no number of customers"):
        _ = outlook.customers_needed


HALF_WIDTHS: list[tuple[Any, Callable[[Any, Estimates], float]]] = [
    (QUESTIONS[0], lambda q, e: float((e.high - e.value)[0]) / 4096),
    (QUESTIONS[2], lambda q, e: 100 * float((e.high - e.low)[0]) / 2),
    (QUESTIONS[4], lambda q, e: 100 * float((e.high - e.value)[0]) / 4096),
]


@pytest.mark.parametrize(("question", "seen"), HALF_WIDTHS, ids=["counts", "scenes", "funnel"])
def test_the_outlook_is_what_the_answers_interval_turns_out_to_be(
    question: Any, seen: Callable[[Any, Estimates], float]
) -> None:
    released = np.full(question.size, 4096.0 / question.size)
    found = seen(question, question.read(released, 10.0))
    # A share's interval is a little narrower: its own cell is in the total, too.
    assert 0.8 * question.outlook(4096, 10.0).half_width <= found
    assert found <= 1.001 * question.outlook(4096, 10.0).half_width


def test_a_cuts_outlook_holds_for_the_worst_of_them() -> None:
    question = Cuts("cuts", EDGES, tuple(n / 20 for n in range(1, 20)))
    cells = np.full(64, 4096 / 64)
    total = np.zeros(question.size)
    for places in question.tree.places():
        np.add.at(total, places, cells * question.tree.scale)
    found = question.read(total, 10.0)
    # Evenly spread: one cell of 64 is a 64th of the customers.
    reach = 100 * np.maximum(found.high - found.value, found.value - found.low) / 64
    assert float(reach.max()) <= 1.15 * question.outlook(4096, 10.0).half_width


# -- groups ----------------------------------------------------------------------------------------


def test_the_largest_groups_are_named_and_those_that_are_sure() -> None:
    groups = Groups.counts("g", tuple("abcdef"), most=1)
    ranking = groups.top(np.array([10.0, 500.0, 90.0, 400.0, 88.0, -5.0]), 2.0, 3)
    assert ranking.places.tolist() == [1, 3, 2]
    assert ranking.sure.tolist() == [True, True, False]
    assert 2.6 / 3 < ranking.precision < 1.0


def test_of_pure_noise_the_largest_are_as_good_as_drawn() -> None:
    groups = Groups.counts("g", tuple(f"g{n}" for n in range(300)), most=1)
    generator = np.random.default_rng(2)
    found = [groups.top(generator.normal(0, 10.0, 300), 10.0, 20) for _ in range(20)]
    assert not any(each.sure.any() for each in found)
    assert max(each.precision for each in found) < 0.6


def test_the_expected_precision_is_about_what_comes_true() -> None:
    generator = np.random.default_rng(4)
    groups = Groups.counts("g", tuple(f"g{n}" for n in range(300)), most=1)
    truth = 3000.0 / (1 + np.arange(300)) ** 0.7
    expected, reached, wrong = [], [], 0
    for _ in range(200):
        ranking = groups.top(truth + generator.normal(0, 20.0, 300), 20.0, 20)
        expected.append(ranking.precision)
        reached.append(float((ranking.places < 20).mean()))
        wrong += int((ranking.sure & (ranking.places >= 20)).any())
    assert np.mean(expected) == pytest.approx(np.mean(reached), abs=0.06)
    # All statements of an answer together are wrong in one of twenty at most.
    assert wrong <= 20


def test_a_group_nobody_is_in_is_not_told_from_a_small_one() -> None:
    groups = Groups.counts("g", tuple("ab"), most=1)
    found = groups.read(np.array([-3.0, 400.0]), 10.0)
    assert (found.value[0], found.low[0]) == (0.0, 0.0)
    assert found.high[0] > 10.0
    assert found.low[1] > 0.0


@pytest.mark.parametrize("k", [0, 3, -1])
def test_not_so_many_groups_are_refused(k: int) -> None:
    with pytest.raises(InputError, match="cannot be told"):
        Groups.counts("g", tuple("abc"), most=1).top(np.zeros(3), 1.0, k)


def test_the_names_of_groups_are_pinned_by_the_question() -> None:
    one, other = (Groups.counts("g", labels, most=1) for labels in (("a", "b"), ("b", "a")))
    assert one.parameters != other.parameters


# -- funnels, trends, scores -----------------------------------------------------------------------


def test_who_reached_a_stage_reached_all_before_it() -> None:
    funnel = Funnel("f", ("a", "b", "c"))
    found = funnel.read(np.array([50.0, 30.0, 20.0]), 0.001)
    np.testing.assert_allclose(found.value, [100.0, 50.0, 20.0])
    conversions = funnel.conversions(np.array([50.0, 30.0, 20.0]), 0.001)
    np.testing.assert_allclose(conversions.value, [0.5, 0.4])


def test_a_threshold_is_crossed_only_if_the_whole_interval_is_beyond() -> None:
    trend = Trend("t", tuple("abc"), most=1, threshold=2.0)
    # +300%, about +200%, and no change.
    released = np.array([1000.0, 1000.0, 1000.0, 4000.0, 3010.0, 1000.0]) / trend.bound
    assert trend.alerts(trend.read(released, 10.0)) == ["crossed", "not told", "not crossed"]


def test_a_threshold_may_be_a_fall() -> None:
    trend = Trend("t", tuple("abc"), most=1, threshold=-0.5)
    released = np.array([1000.0, 1000.0, 5.0, 100.0, 1000.0, 5.0]) / trend.bound
    assert trend.alerts(trend.read(released, 5.0)) == ["crossed", "not crossed", "not told"]


def test_a_group_that_was_hardly_there_before_has_no_change() -> None:
    trend = Trend("t", ("a",), most=1)
    change = trend.read(np.array([3.0, 900.0]), 10.0)
    assert not change.known.any()
    assert trend.alerts(change) == ["not told"]


def test_answers_are_classed_as_the_scores_are_defined() -> None:
    nps, csat = Score.nps(), Score.csat()
    assert nps.class_of(np.arange(11)).tolist() == [0] * 7 + [1] * 2 + [2] * 2
    assert csat.class_of(np.arange(1, 6)).tolist() == [0, 0, 0, 1, 1]
    assert nps.read(np.array([20.0, 30.0, 50.0]), 0.001).value == pytest.approx(30.0)
    assert csat.read(np.array([25.0, 75.0]), 0.001).value == pytest.approx(75.0)


@pytest.mark.parametrize("answer", [-1, 11])
def test_an_answer_off_the_scale_is_refused(answer: int) -> None:
    with pytest.raises(InputError, match="is not from 0 to 10"):
        Score.nps().class_of(np.array([5, answer]))


def test_a_cluster_that_nothing_is_said_of_goes_halfway_to_the_largest() -> None:
    clusters = made_clusters("c", CENTRES)
    count, coordinate = clusters.scales
    released = np.array(
        [400 * count, 400 * coordinate * 0.2, 400 * coordinate * -0.3, 1.0, 3.0, -2.0]
    )
    moved = clusters.moved(released, 5.0)
    np.testing.assert_allclose(moved.centres[0], [0.2, -0.3])
    np.testing.assert_allclose(moved.centres[1], (CENTRES[1] + [0.2, -0.3]) / 2)
    assert not clusters.read(released, 5.0).known[2:].any()


def test_what_sets_a_cluster_apart_is_told_only_beyond_noise() -> None:
    clusters = made_clusters("c", np.array([[-0.5, 0.0], [0.5, 0.0], [0.0, 0.5]]))
    count, coordinate = clusters.scales
    customers, means = np.array([5000, 4000, 12]), np.array([[-0.6, 0.1], [0.7, 0.1], [0.9, 0.9]])
    sums = np.column_stack([customers * count, customers[:, None] * means * coordinate])
    assert clusters.traits(sums.ravel(), 5.0).tolist() == [[-1, 0], [1, 0], [0, 0]]
    generator = np.random.default_rng(3)
    alike = np.column_stack([customers * count, np.zeros((3, 2))])
    told = [
        clusters.traits((alike + generator.normal(0, 5, alike.shape)).ravel(), 5.0)
        for _ in range(400)
    ]
    assert sum(each.any() for each in told) <= 0.05 * 400
    shares = clusters.shares(sums.ravel(), 5.0)
    np.testing.assert_allclose(shares.value, customers / 9012)


# -- what is no question ---------------------------------------------------------------------------

BAD: list[Callable[[], Any]] = [
    lambda: Groups("g", (), 1.0),
    lambda: Groups("g", ("a", "a"), 1.0),
    lambda: Groups("g", ("a",), 0.0),
    lambda: Groups("g", ("a",), math.nan),
    lambda: Groups.counts("g", ("a",), most=0),
    lambda: Shares("s", ()),
    lambda: Shares("s", (("a", "a"),)),
    lambda: Shares("s", (("a",), ())),
    lambda: Cuts("c", (0.0, 1.0)),
    lambda: Cuts("c", (0.0, 2.0, 1.0)),
    lambda: Cuts("c", (0.0, 1.0, math.inf)),
    lambda: Cuts("c", (0.0, 1.0, math.nan)),
    lambda: Cuts("c", EDGES, (0.0,)),
    lambda: Cuts("c", EDGES, (math.nan,)),
    lambda: Cuts("c", EDGES, ()),
    lambda: Cuts("c", tuple(float(n) for n in range(600))),
    lambda: Funnel("f", ("a",)),
    lambda: Funnel("f", ("a", "a")),
    lambda: Trend("t", (), most=1),
    lambda: Trend("t", ("a",), most=0),
    lambda: Trend("t", ("a",), most=1, threshold=0.0),
    lambda: Trend("t", ("a",), most=1, threshold=math.nan),
    lambda: Trend("t", ("a",), most=1, usual_share=0.0),
    lambda: Score("s", (3, 2), (0.0, 1.0), 1),
    lambda: Score("s", (2, 3), (0.0,), 1),
    lambda: Score("s", (2, 3), (0.0, 1.0), 1, answering_share=0.0),
    lambda: Uplift("u", treated_share=1.0),
    lambda: Uplift("u", experiment_share=math.nan),
    lambda: made_clusters("c", np.array([[2.0, 0.0]])),
    lambda: made_clusters("c", np.array([[math.nan, 0.0]])),
    lambda: made_clusters("c", np.zeros((0, 2))),
]


@pytest.mark.parametrize("make", BAD)
def test_what_is_no_question_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(InputError):
        make()


@pytest.mark.parametrize("question", QUESTIONS, ids=NAMES)
def test_an_answer_to_another_question_is_refused(question: Any) -> None:
    with pytest.raises(InputError, match="none to a question"):
        question.read(np.zeros(question.size + 1), 1.0)


def test_the_level_is_the_one_that_outlooks_are_reckoned_with() -> None:
    question = QUESTIONS[0]
    reach = question.outlook(1000, 10.0).half_width
    assert reach == pytest.approx(deviations_of(LEVEL) * 10.0 * math.sqrt(2) / 1000)
