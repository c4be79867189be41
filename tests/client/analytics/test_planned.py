"""A plan's question as the region's own statistic: the same to the last constant, or nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from client.analytics.planned import planned_statistic
from common.analytics.asked import PLANNABLE, Asking
from common.analytics.further_questions import Named
from common.analytics.key_questions import KEY_QUESTIONS
from common.analytics.purchase_questions import (
    CATEGORIES,
    CATEGORY_TREND,
    CLUSTERS,
    RECENCY,
    SCENES,
)
from common.catalogue import Catalogue
from common.cluster_steps import question_in_round
from common.errors import InputError, PolicyError
from common.plan import RunPlan
from common.questions_plan import NamesTable, QuestionsFile, QuestionTable, questions_plan
from tests.support.asked_federation import CATALOGUE, WINDOW, WINDOW_MS, asked_plan

ZONE = "Europe/Berlin"
PLAN = asked_plan((CATEGORIES, CATEGORY_TREND, SCENES, RECENCY))


def altered(name: str, **fields: Any) -> RunPlan:
    """The plan with another question or other parameters under a name."""
    record: Any = PLAN.to_record()
    for each in record["questions"]:
        if each["question"]["name"] == name:
            each |= fields
    return RunPlan.from_record(record)


def test_every_question_that_a_plan_can_ask_is_what_a_region_answers() -> None:
    names = NamesTable(
        features=("gift wrap", "returns"),
        store_types=("city", "mall"),
        payments=("card", "cash"),
        experiment="spring",
        follow_days=14,
    )
    plan = questions_plan(
        QuestionsFile(
            names=names,
            question=tuple(
                QuestionTable(name=name, scope="regions" if name in KEY_QUESTIONS else "global")
                for name in PLANNABLE
            ),
        ),
        Asking(tuple(CATALOGUE.category_names), *WINDOW_MS, named=Named()),
        run_id="r",
        federation="f",
        scenario="s",
        regions=["a", "b"],
        quorum=1,
        catalogue=CATALOGUE.digest,
        n_items=CATALOGUE.n_items,
        window=WINDOW,
        epsilon="8",
        planned_customers=100,
    )
    for planned in plan.questions:
        own = planned_statistic(plan, planned.name, CATALOGUE, time_zone=ZONE)
        assert own.name == planned.name
        assert own.spec == planned.released("<f4")
        assert type(own.question) is type(planned.asked)


def test_moments_are_told_apart_in_the_regions_own_time() -> None:
    own = planned_statistic(PLAN, SCENES, CATALOGUE, time_zone=ZONE)
    clock: Any = own.parameters["clock"]
    assert clock["zone"] == ZONE


def test_other_categories_are_not_answered_for() -> None:
    other = Catalogue.of(["item-00"], category=["category-0"])
    with pytest.raises(PolicyError, match="something else under the name"):
        planned_statistic(PLAN, CATEGORIES, other, time_zone=ZONE)


def test_what_the_plan_does_not_ask_is_not_made() -> None:
    with pytest.raises(InputError, match="does not ask"):
        planned_statistic(PLAN, "nps", CATALOGUE, time_zone=ZONE)


def clock_of(**changes: Any) -> dict[str, Any]:
    clock: Any = PLAN.question(SCENES).parameters["clock"]
    return {**PLAN.question(SCENES).parameters, "clock": clock | changes}


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        # Rows that depend on other constants than the region's own.
        (CATEGORY_TREND, {"parameters": PLAN.question(CATEGORY_TREND).parameters}),
        (RECENCY, {"parameters": PLAN.question(RECENCY).parameters}),
    ],
    ids=str,
)
def test_another_constant_is_refused(name: str, fields: dict[str, Any]) -> None:
    planned_statistic(altered(name, **fields), name, CATALOGUE, time_zone=ZONE)
    moved = {
        key: value - 1 if isinstance(value, int) and key.endswith("_ms") else value
        for key, value in fields["parameters"].items()
    }
    with pytest.raises(PolicyError, match="something else"):
        planned_statistic(altered(name, parameters=moved), name, CATALOGUE, time_zone=ZONE)
    more = {**fields["parameters"], "more": 1}
    with pytest.raises(PolicyError, match="something else"):
        planned_statistic(altered(name, parameters=more), name, CATALOGUE, time_zone=ZONE)


def test_a_plan_names_no_zone_and_no_parts_of_the_day_that_are_none() -> None:
    with pytest.raises(PolicyError, match="each region has its own"):
        planned_statistic(
            altered(SCENES, parameters=clock_of(zone="UTC")), SCENES, CATALOGUE, time_zone=ZONE
        )
    for parts in ([], [{"name": "x"}], "none"):
        with pytest.raises((PolicyError, InputError)):
            planned_statistic(
                altered(SCENES, parameters=clock_of(dayparts=parts)),
                SCENES,
                CATALOGUE,
                time_zone=ZONE,
            )


def test_a_kind_of_another_size_under_a_known_name_is_refused() -> None:
    question = dict(PLAN.question(CATEGORIES).question)
    question |= {"labels": ["only"], "most": 1, "bound": "1.0"}
    from common.analytics.question_records import question_of

    other = altered(CATEGORIES, question=question, parameters=question_of(question).parameters)
    with pytest.raises(PolicyError, match="something else"):
        planned_statistic(other, CATEGORIES, CATALOGUE, time_zone=ZONE)


CLUSTERED = asked_plan((CLUSTERS,), scope="global")


def test_a_step_is_computed_at_other_centres_and_else_as_the_plan_has_it() -> None:
    asked = CLUSTERED.question(CLUSTERS).asked
    own = planned_statistic(CLUSTERED, CLUSTERS, CATALOGUE, time_zone=ZONE)
    assert own.question is asked
    step = question_in_round(CLUSTERED, 2, {"purchase_clusters": np.full((1, 6), 9e3)})
    moved = planned_statistic(CLUSTERED, CLUSTERS, CATALOGUE, time_zone=ZONE, step=step)
    assert moved.question is step
    assert moved.spec == own.spec
    assert moved.more == own.more


@pytest.mark.parametrize(
    "change",
    [
        {
            "coordinates": [
                {
                    "measure": "category",
                    "category": "gold",
                    "least": "0.0",
                    "most": "100.0",
                    "spacing": "linear",
                }
            ],
            "centres": [["0.0"], ["0.5"]],
        },
        {"end_ms": 5},
        {"more": 1},
    ],
    ids=str,
)
def test_clusters_of_what_there_is_not_here_are_refused(change: dict[str, Any]) -> None:
    record: Any = CLUSTERED.to_record()
    (question,) = record["questions"]
    question["question"] |= {k: v for k, v in change.items() if k in question["question"]}
    question["parameters"] |= change
    plan = RunPlan.from_record(record)
    with pytest.raises(PolicyError, match=r"cannot be asked here|something else"):
        planned_statistic(plan, CLUSTERS, CATALOGUE, time_zone=ZONE)


def test_a_name_that_the_engine_does_not_know_is_refused() -> None:
    record: Any = PLAN.to_record()
    record["questions"][0]["question"]["name"] = "all-purchases"
    record["mechanisms"][0]["name"] = "all-purchases"
    plan = RunPlan.from_record(record)
    with pytest.raises(PolicyError, match="cannot be asked here"):
        planned_statistic(plan, "all-purchases", CATALOGUE, time_zone=ZONE)
