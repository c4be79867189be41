"""Steps of clusters: everybody computes the same centres, by plan and sums alone."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.analytics.clusters import Clusters
from common.analytics.estimates import FloatArray
from common.analytics.purchase_questions import CLUSTERS, REPEATS
from common.audit.verify.arrays_file import FileArray
from common.audit.verify.plan_facts import PlanFacts
from common.audit.verify.steps import first_steps, last_centres
from common.cluster_steps import MOVED_DEVIATIONS, clusters_after, least_count, question_in_round
from common.errors import FormatError, InputError, VerificationError
from common.plan import RunPlan
from tests.support.asked_federation import asked_plan, secure_plan

PLANS = {
    "local": asked_plan((REPEATS, CLUSTERS), scope="global"),
    "distributed": secure_plan("distributed", (REPEATS, CLUSTERS)),
}
PLAN = PLANS["local"]
MECHANISM = PLAN.mechanism_named(CLUSTERS)
ARRAY = "purchase_clusters"


def asked(plan: RunPlan = PLAN) -> Clusters:
    found = plan.question(CLUSTERS).asked
    assert isinstance(found, Clusters)
    return found


def state(rows: FloatArray) -> Mapping[str, np.ndarray]:
    return {"repeat_purchases": np.zeros(4), ARRAY: rows}


def crowd(*counts: float, seed: int = 1) -> FloatArray:
    """Sums of so many customers a centre, each anywhere."""
    generator = np.random.default_rng(seed)
    count, coordinate = asked().scales
    means = generator.uniform(-1, 1, (len(counts), 2))
    customers = np.array(counts)[:, None]
    return np.column_stack([customers * count, customers * means * coordinate]).ravel()


def test_the_first_step_is_the_plans_and_each_other_begins_where_the_last_ended() -> None:
    assert question_in_round(PLAN, 1, {}) is PLAN.question(REPEATS).asked
    assert question_in_round(PLAN, 2, {"repeat_purchases": np.zeros(4)}) is asked()
    rows = np.stack([crowd(4000, 3000), crowd(2000, 5000, seed=2)])
    second = question_in_round(PLAN, 3, state(rows[:1]))
    third = question_in_round(PLAN, 4, state(rows))
    assert isinstance(second, Clusters)
    assert isinstance(third, Clusters)
    np.testing.assert_array_equal(
        second.centres, asked().moved(rows[0], least_count(PLAN, MECHANISM)).centres
    )
    np.testing.assert_array_equal(
        third.centres, second.moved(rows[1], least_count(PLAN, MECHANISM)).centres
    )
    assert not np.array_equal(second.centres, asked().centres)
    assert (third.name, third.coordinates, third.steps) == (CLUSTERS, asked().coordinates, 3)


@pytest.mark.parametrize(
    "rows", [None, np.zeros((1, 6)), np.zeros((2, 5)), np.zeros(12), np.zeros((3, 6))], ids=str
)
def test_a_state_without_the_steps_before_is_refused(rows: FloatArray | None) -> None:
    given = {"repeat_purchases": np.zeros(4)} if rows is None else state(rows)
    with pytest.raises(FormatError, match="no 2 steps"):
        question_in_round(PLAN, 4, given)


def test_sums_that_are_not_finite_move_nothing() -> None:
    with pytest.raises(InputError, match="finite"):
        question_in_round(PLAN, 3, state(np.full((1, 6), math.nan)))


def test_what_a_cluster_needs_follows_from_the_plan_alone() -> None:
    noise = MECHANISM.noise_stddev
    assert least_count(PLAN, MECHANISM) == pytest.approx(MOVED_DEVIATIONS * math.sqrt(3) * noise)
    shared = PLANS["distributed"]
    mechanism = shared.mechanism_named(CLUSTERS)
    # All three regions are honest there: their shares come to one σ.
    assert least_count(shared, mechanism) == MOVED_DEVIATIONS * mechanism.noise_stddev


def test_a_centre_of_few_goes_halfway_to_the_largest_ones() -> None:
    least = least_count(PLAN, MECHANISM)
    found = asked().moved(crowd(0, 5000), least)
    np.testing.assert_allclose(found.centres[0], (asked().centres[0] + found.centres[1]) / 2)
    alone = asked().moved(crowd(0, 0), least)
    np.testing.assert_array_equal(alone.centres, asked().centres)


# -- the verifier reckons by code of its own -------------------------------------------------------


def facts(plan: RunPlan) -> PlanFacts:
    return PlanFacts(plan.digest, plan.to_record(), frozenset(plan.regions), plan.total_rounds)


def as_file(rows: FloatArray) -> FileArray:
    return FileArray("<f8", rows.shape, rows.astype("<f8").tobytes())


sums = st.lists(
    st.lists(st.integers(-(2**22), 2**22), min_size=6, max_size=6), min_size=3, max_size=3
).map(lambda rows: np.ldexp(np.array(rows, dtype=np.float64), -10))


@pytest.mark.parametrize("mode", PLANS)
@settings(max_examples=30)
@given(rows=sums)
def test_everybody_comes_to_the_same_to_the_last_bit(mode: str, rows: FloatArray) -> None:
    plan = PLANS[mode]
    mechanism = plan.mechanism_named(CLUSTERS)
    ours = clusters_after(plan, mechanism, asked(plan), rows[:-1])
    record = mechanism.model_dump(mode="json")
    theirs = last_centres(facts(plan), record, plan.question(CLUSTERS).question, as_file(rows))
    assert theirs == ours.centres_record
    assert (np.abs(ours.centres) <= 1).all()


def test_the_first_steps_of_a_file_are_its_first_rows() -> None:
    rows = np.arange(18.0).reshape(3, 6)
    assert first_steps(as_file(rows), 2) == as_file(rows[:2])


@pytest.mark.parametrize(
    ("question", "rows", "words"),
    [
        ({"centres": []}, np.zeros((3, 6)), "no centres"),
        ({"centres": [["0"], ["0", "1"]]}, np.zeros((3, 6)), "no centres"),
        ({"centres": [["zero"]]}, np.zeros((3, 6)), "no centres"),
        ({"centres": "0"}, np.zeros((3, 6)), "no centres"),
        ({}, np.zeros((3, 7)), "sums are not"),
        ({}, np.zeros(6), "sums are not"),
        ({}, np.full((3, 6), math.inf), "sums are not"),
    ],
    ids=str,
)
def test_a_verifier_says_what_is_none(
    question: dict[str, object], rows: FloatArray, words: str
) -> None:
    stated = {**PLAN.question(CLUSTERS).question, **question}
    with pytest.raises(VerificationError, match=words):
        last_centres(facts(PLAN), MECHANISM.model_dump(mode="json"), stated, as_file(rows))
