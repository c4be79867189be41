"""Rows of customers: whatever the facts, one bounded row each, made of her own facts alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.analytics.rows import (
    cluster_rows,
    count_rows,
    cut_rows,
    funnel_rows,
    kano_rows,
    score_rows,
    share_rows,
    sum_rows,
    trend_rows,
    uplift_rows,
)
from client.training.bounded_sums import Contributions
from common.analytics.cuts import Cuts
from common.analytics.funnels import Funnel
from common.analytics.groups import Groups
from common.analytics.kano import CLASSES, Kano
from common.analytics.scores import Score
from common.analytics.shares import Shares
from common.analytics.trends import Trend
from common.analytics.uplift import Uplift
from common.errors import InputError
from tests.support.made_clusters import made_clusters

LongArray = npt.NDArray[np.int64]
CUSTOMERS = 5
ROUNDING = 1e-12


@dataclass(frozen=True)
class Facts:
    """Facts of five customers: whose, which of six groups, an amount, when."""

    owner: LongArray
    group: LongArray
    amount: npt.NDArray[np.float64]
    time_ms: LongArray

    def of(self, customers: list[int]) -> Facts:
        kept = np.isin(self.owner, customers)
        return Facts(self.owner[kept], self.group[kept], self.amount[kept], self.time_ms[kept])


FACT = st.tuples(
    st.integers(0, CUSTOMERS - 1),
    st.integers(0, 5),
    st.floats(-1e200, 1e200),
    st.integers(0, 20),
)
FACTS = st.lists(FACT, max_size=60).map(
    lambda facts: Facts(
        np.array([each[0] for each in facts], dtype=np.int64),
        np.array([each[1] for each in facts], dtype=np.int64),
        np.array([each[2] for each in facts], dtype=np.float64),
        np.array([each[3] for each in facts], dtype=np.int64),
    )
)

LABELS = tuple("abcdef")
COUNTS = Groups.counts("counts", LABELS, most=3)
SUMS = Groups("sums", LABELS, 50.0)
SCENES = Shares("scenes", (("am", "pm"), ("mon", "tue", "wed")))
CUTS = Cuts("cuts", tuple(float(n) for n in range(33)))
FUNNEL = Funnel("funnel", LABELS)
TREND = Trend("trend", LABELS, most=2)
NPS, UPLIFT = Score.nps(), Uplift("uplift")
KANO = Kano("kano", LABELS, most=3)
CENTRES = made_clusters("clusters", np.array([[-0.5, 0.1], [0.5, -0.1], [0.0, 0.9]]))


def once(facts: Facts) -> Facts:
    """Each customer's first fact."""
    _, first = np.unique(facts.owner, return_index=True)
    return Facts(facts.owner[first], facts.group[first], facts.amount[first], facts.time_ms[first])


def points(facts: Facts) -> npt.NDArray[np.float64]:
    return np.column_stack([facts.amount, facts.group / 3.0 - 1])


Make = Callable[[Facts], Contributions]
KINDS: dict[str, tuple[int, Make]] = {
    "counts": (COUNTS.size, lambda f: count_rows(COUNTS, f.owner, f.group)),
    "sums": (SUMS.size, lambda f: sum_rows(SUMS, f.owner, f.group, f.amount)),
    "shares": (SCENES.size, lambda f: share_rows(SCENES, f.owner, f.group)),
    "cuts": (CUTS.size, lambda f: cut_rows(CUTS, once(f).owner, once(f).amount)),
    "funnel": (FUNNEL.size, lambda f: funnel_rows(FUNNEL, f.owner, f.group, f.time_ms)),
    "trend": (TREND.size, lambda f: trend_rows(TREND, f.owner, f.group, f.time_ms > 9)),
    "score": (NPS.size, lambda f: score_rows(NPS, f.owner, f.time_ms % 11, f.time_ms)),
    "uplift": (
        UPLIFT.size,
        lambda f: uplift_rows(UPLIFT, once(f).owner, once(f).group > 2, once(f).time_ms > 9),
    ),
    "kano": (
        KANO.size,
        lambda f: kano_rows(KANO, f.owner, f.group, f.time_ms % 5, f.time_ms // 5, f.time_ms // 2),
    ),
    "clusters": (CENTRES.size, lambda f: cluster_rows(CENTRES, once(f).owner, points(once(f)))),
}


def table(size: int, rows: Contributions) -> npt.NDArray[np.float64]:
    found = np.zeros((CUSTOMERS, size))
    np.add.at(found, (rows.owner, rows.place), rows.value)
    return found


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20)
@given(facts=FACTS)
def test_no_row_is_longer_than_one_whatever_the_facts(kind: str, facts: Facts) -> None:
    size, make = KINDS[kind]
    rows = table(size, make(facts))
    assert np.isfinite(rows).all()
    assert (np.linalg.norm(rows, axis=1) <= 1 + ROUNDING).all()
    without = np.setdiff1d(np.arange(CUSTOMERS), facts.owner)
    assert not rows[without].any()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20)
@given(facts=FACTS)
def test_a_row_depends_on_nobody_else(kind: str, facts: Facts) -> None:
    size, make = KINDS[kind]
    together = table(size, make(facts))
    for customer in range(CUSTOMERS):
        alone = table(size, make(facts.of([customer])))
        np.testing.assert_allclose(alone[customer], together[customer], rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("kind", ["counts", "shares", "funnel", "trend", "score", "kano"])
@settings(max_examples=15)
@given(facts=FACTS, seed=st.integers(0, 2**32))
def test_the_order_of_facts_does_not_matter(kind: str, facts: Facts, seed: int) -> None:
    size, make = KINDS[kind]
    order = np.random.default_rng(seed).permutation(len(facts.owner))
    shuffled = Facts(*(each[order] for each in vars(facts).values()))
    np.testing.assert_array_equal(table(size, make(facts)), table(size, make(shuffled)))


def test_a_customer_with_a_million_events_counts_as_one() -> None:
    generator = np.random.default_rng(1)
    group = generator.integers(0, 6, 1_000_000)
    owner = np.zeros(len(group), dtype=np.int64)
    for make in (
        lambda: count_rows(COUNTS, owner, group),
        lambda: share_rows(SCENES, owner, group),
        lambda: sum_rows(SUMS, owner, group, np.full(len(group), 1e6)),
        lambda: funnel_rows(FUNNEL, owner, group, np.arange(len(group))),
    ):
        rows = make()
        assert len(rows.owner) <= 6
        assert np.linalg.norm(rows.value) == pytest.approx(1.0, rel=0.6)
        assert np.linalg.norm(rows.value) <= 1 + ROUNDING


def test_of_many_groups_those_with_most_facts_count_and_ties_go_to_the_earlier() -> None:
    owner = np.zeros(9, dtype=np.int64)
    group = np.array([5, 5, 5, 4, 4, 1, 2, 3, 0])
    rows = count_rows(COUNTS, owner, group)
    assert sorted(rows.place.tolist()) == [0, 4, 5]
    assert rows.value == pytest.approx(1 / 3**0.5)


def test_amounts_within_the_bound_are_as_they_are_and_others_scaled_as_a_whole() -> None:
    owner = np.array([0, 0, 1, 1])
    group, amount = np.array([0, 1, 0, 1]), np.array([30.0, 10.0, 300.0, 100.0])
    rows = table(6, sum_rows(SUMS, owner, group, amount))
    np.testing.assert_allclose(rows[0, :2], [0.6, 0.2])
    np.testing.assert_allclose(rows[1, :2], np.array([3.0, 1.0]) / 10**0.5)


@pytest.mark.parametrize(
    ("stages", "times", "last"),
    [
        ([0, 1, 2], [1, 2, 3], 2),
        ([2, 1, 0], [1, 2, 3], 0),
        ([0, 2], [1, 2], 0),
        ([1, 2], [1, 2], None),
        ([0, 1, 0, 1, 2], [5, 4, 6, 7, 7], 2),
        ([0, 1, 2, 1], [5, 9, 6, 5], 2),
    ],
)
def test_a_stage_counts_only_after_the_one_before_it(
    stages: list[int], times: list[int], last: int | None
) -> None:
    owner = np.zeros(len(stages), dtype=np.int64)
    rows = funnel_rows(FUNNEL, owner, np.array(stages), np.array(times))
    assert rows.place.tolist() == ([] if last is None else [last])


def test_of_several_answers_the_newest_counts() -> None:
    owner, answer = np.array([0, 0, 1, 1]), np.array([10, 3, 9, 7])
    rows = score_rows(NPS, owner, answer, np.array([1, 2, 5, 5]))
    assert rows.owner.tolist() == [0, 1]
    assert rows.place.tolist() == [0, 1]


def test_of_a_customers_pairs_the_newest_of_each_feature_count_and_of_features_the_newest() -> None:
    owner, feature = np.zeros(6, dtype=np.int64), np.array([0, 0, 1, 2, 3, 4])
    functional = np.array([0, 0, 0, 2, 0, 4])
    dysfunctional = np.array([2, 4, 4, 2, 4, 4])
    time_ms = np.array([1, 9, 2, 8, 7, 1])
    rows = kano_rows(KANO, owner, feature, functional, dysfunctional, time_ms)
    named = {divmod(place, len(CLASSES)) for place in rows.place.tolist()}
    assert named == {
        (0, CLASSES.index("performance")),
        (2, CLASSES.index("indifferent")),
        (3, CLASSES.index("performance")),
    }


# -- refusals --------------------------------------------------------------------------------------

ONE = np.zeros(1, dtype=np.int64)
TWO = np.zeros(2, dtype=np.int64)
BAD: list[tuple[str, Callable[[], Contributions]]] = [
    ("group that there is not", lambda: count_rows(COUNTS, ONE, ONE + 6)),
    ("group that there is not", lambda: share_rows(SCENES, ONE, ONE - 1)),
    ("group that there is not", lambda: trend_rows(TREND, ONE, ONE + 9, ONE > 0)),
    ("group that there is not", lambda: funnel_rows(FUNNEL, ONE, ONE + 6, ONE)),
    ("not for counts", lambda: count_rows(SUMS, ONE, ONE)),
    ("not finite", lambda: sum_rows(SUMS, ONE, ONE, np.array([np.nan]))),
    ("not finite", lambda: sum_rows(SUMS, ONE, ONE, np.array([np.inf]))),
    ("a number is none", lambda: cut_rows(CUTS, ONE, np.array([np.nan]))),
    ("in it twice", lambda: cut_rows(CUTS, TWO, np.ones(2))),
    ("in it twice", lambda: uplift_rows(UPLIFT, TWO, TWO > 0, TWO > 0)),
    ("in it twice", lambda: cluster_rows(CENTRES, TWO, np.zeros((2, 2)))),
    ("are no 2 numbers", lambda: cluster_rows(CENTRES, ONE, np.zeros((1, 3)))),
    ("are no 2 numbers", lambda: cluster_rows(CENTRES, ONE, np.full((1, 2), np.nan))),
    ("group that there is not", lambda: kano_rows(KANO, ONE, ONE + 6, ONE, ONE, ONE)),
    ("none of like", lambda: kano_rows(KANO, ONE, ONE, ONE + 5, ONE, ONE)),
    ("none of like", lambda: kano_rows(KANO, ONE, ONE, ONE, ONE - 1, ONE)),
    ("is not from 0 to 10", lambda: score_rows(NPS, ONE, ONE + 11, ONE)),
]


@pytest.mark.parametrize(("words", "make"), BAD)
def test_facts_that_cannot_be_are_refused(words: str, make: Callable[[], Contributions]) -> None:
    with pytest.raises(InputError, match=words):
        make()
