"""Questions of further tables: made of public names, and the same when they are made again."""

from __future__ import annotations

import pytest

from common.analytics.further_questions import (
    CLICK_UPLIFT,
    FURTHER,
    KANO,
    PAYMENTS,
    STAGE_OF,
    STORE_SCENES,
    UPLIFTS,
    Named,
    further_constants,
    further_question,
)
from common.analytics.question_records import Question, question_of, question_record
from common.errors import InputError

NAMED = Named(("bakery", "checkout"), ("city", "market"), ("card", "cash"), "lists", 10)


def made(name: str, named: Named = NAMED) -> Question:
    return further_question(name, named, categories=["food", "toys"], dayparts=["day", "night"])


@pytest.mark.parametrize("name", FURTHER)
def test_a_plan_can_state_each_and_a_region_make_the_same(name: str) -> None:
    question = made(name)
    assert question.name == name
    again = question_of(question_record(question))
    assert question_record(again) == question_record(question)
    more = further_constants(name, NAMED, end_ms=5, clock={"zone": "local"})
    named = Named.of(again, {**again.parameters, **more})
    assert question_record(made(name, named)) == question_record(question)
    assert further_constants(name, named, end_ms=5, clock={"zone": "local"}) == more


@pytest.mark.parametrize("name", [KANO, STORE_SCENES, PAYMENTS, *UPLIFTS])
def test_what_needs_names_says_so(name: str) -> None:
    with pytest.raises(InputError, match=name) as caught:
        made(name, Named())
    assert caught.value.remedy


def test_other_names_and_other_days_are_none() -> None:
    with pytest.raises(InputError, match="nothing that further tables are asked"):
        made("weather")
    with pytest.raises(InputError, match="cannot be followed for 0 days"):
        Named(follow_days=0)
    # A plan that says nonsense about days is refused, not answered with the usual ones.
    with pytest.raises(InputError, match="cannot be followed"):
        Named.of(made(CLICK_UPLIFT), {"experiment": "lists", "follow_days": "10"})


def test_every_kind_of_event_is_of_a_stage() -> None:
    from common.analytics.further_questions import EVENT_KINDS, JOURNEY_STAGES

    assert set(STAGE_OF) == set(EVENT_KINDS)
    assert set(STAGE_OF.values()) <= set(JOURNEY_STAGES[:3])
