"""What a plan of questions asks: each question whole, and of whom its answers are.

A run of questions is a run whose mechanisms are questions, one a round, or one for all the steps of
a question that has several: permit, charge, seal, masks, aggregate and verification are those of
every round. A question is in the plan with all its public constants: the digest that a region
permits is of exactly what it is asked, labels and all.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict, model_validator

from common.analytics.answers import GLOBAL, Scope, array_of
from common.analytics.clusters import Clusters
from common.analytics.key_arrays import key_specs
from common.analytics.key_union import KeyUnion
from common.analytics.question_records import Question, question_of, steps_of
from common.errors import FormatError
from common.parameters import ArraySpec
from common.planned_keys import problem_of_keys

if TYPE_CHECKING:  # A plan checks its questions by what is here.
    from common.plan import RunPlan

#: What every customer's row in an answer is held to. Rows are made no longer; a smaller bound would
#: cut them, and answers would be read as if it had not.
ROW_NORM: Final = "1"
#: What customers must have consented to, and what pays: as `common.consent_record` spells it.
QUESTIONS_PURPOSE: Final = "fedpref:FederatedAnalytics"
#: What a sum of answers is kept as: exact for whole numbers of grid units up to 2^53.
SUM_DTYPE: Final = "<f8"


class PlannedQuestion(BaseModel):
    """One question of a plan.

    Attributes:
        scope: ``global``: the sum over regions is published; ``regions``: each region's own answer
            too.
        question: The question's record (`common.analytics.question_records`).
        parameters: All public constants that a customer's row depends on: those of the question,
            and those of how it is asked. A region answers only if its own are the same.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    scope: Scope
    question: dict[str, Any]
    parameters: dict[str, Any]

    @model_validator(mode="after")
    def _holds(self) -> PlannedQuestion:
        try:
            stated = self.asked.parameters
        except FormatError as error:
            raise ValueError(error.message) from error
        if any(self.parameters.get(name) != value for name, value in stated.items()):
            raise ValueError(f"the parameters of {self.name} are not its question's")
        return self

    @cached_property
    def asked(self) -> Question:
        """The question.

        Raises:
            FormatError: The record is none.
        """
        return question_of(self.question)

    @property
    def name(self) -> str:
        """What is asked."""
        return self.asked.name

    @property
    def array(self) -> str:
        """The name of the array that answers it."""
        return array_of(self.name)

    @property
    def goes_by_steps(self) -> bool:
        """Whether its rounds are steps, each of which begins where the one before it ended."""
        return isinstance(self.asked, Clusters)

    @property
    def steps(self) -> int:
        """In how many rounds it is asked, one after the other."""
        return steps_of(self.asked)

    def released(self, dtype: str) -> ArraySpec:
        """What leaves a region in one round."""
        return ArraySpec(self.array, dtype, (self.asked.size,))

    def releases(self, dtype: str) -> tuple[ArraySpec, ...]:
        """All arrays that leave a region in one round, the values first."""
        if isinstance(self.asked, KeyUnion):
            return key_specs(self.asked)
        return (self.released(dtype),)

    @property
    def is_summed(self) -> bool:
        """Whether its answers have a sum: keys that each region decides on have none."""
        return not isinstance(self.asked, KeyUnion)

    def total(self, steps: int) -> ArraySpec:
        """What the regions' answers come to after so many of its rounds.

        Of a question that goes by steps, one row for each: what customers were counted by in any of
        them follows from those before it.
        """
        shape = (steps, self.asked.size) if self.goes_by_steps else (self.asked.size,)
        return ArraySpec(self.array, SUM_DTYPE, shape)


def problem_of(plan: RunPlan) -> str | None:
    """What does not hold together in a plan of questions; None if all does."""
    names = [each.name for each in plan.questions]
    arrays = [spec.name for each in plan.questions for spec in each.releases("<f4")]
    asked = [(each.name, each.rounds) for each in plan.mechanisms]
    mechanical = {
        (each.steps, each.sampling_probability, each.clipping_norm) for each in plan.mechanisms
    }
    if not names or len(set(arrays)) != len(arrays):
        return "a plan of questions asks nothing, or the same twice"
    if asked != [(each.name, each_of) for each, each_of in question_rounds(plan.questions)]:
        return "the mechanisms are not the questions, one in each round, in their order"
    if mechanical != {(1, "1", ROW_NORM)}:
        return f"a question takes every customer, once, by a clipping norm of {ROW_NORM}"
    if plan.purpose != QUESTIONS_PURPOSE:
        return f"questions are asked of who consents to {QUESTIONS_PURPOSE}"
    return problem_of_keys(plan) or _problem_of_scope(plan)


def _problem_of_scope(plan: RunPlan) -> str | None:
    if plan.aggregation.name == "robust":
        return "answers are sums: no robust rule makes one of them"
    if GLOBAL in plan.regions:
        return f"a region is called {GLOBAL}, as the sum of all is"
    by_region = any(each.scope == "regions" for each in plan.questions)
    if by_region and plan.aggregation.rule != "sum":
        return "a region's own answer is published only where the rule is sum"
    if any(each.goes_by_steps and each.scope == "regions" for each in plan.questions):
        return "steps are of all regions together: their question has the scope global"
    return None


def question_rounds(
    questions: Sequence[PlannedQuestion],
) -> list[tuple[PlannedQuestion, tuple[int, ...]]]:
    """Each question with the rounds in which it is asked, from 1 on, ascending."""
    found, first = [], 1
    for each in questions:
        found.append((each, tuple(range(first, first + each.steps))))
        first += each.steps
    return found


def sums_before(questions: Sequence[PlannedQuestion], server_round: int) -> tuple[ArraySpec, ...]:
    """The sums that there are before a round, by name: what rounds hand on to each other."""
    done = (
        (each, sum(number < server_round for number in rounds))
        for each, rounds in question_rounds(questions)
    )
    sums = (each.total(steps) for each, steps in done if steps and each.is_summed)
    return tuple(sorted(sums, key=lambda spec: spec.name))
