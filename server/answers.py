"""What a run of questions comes to: sums that are handed on, and regions' answers that are kept.

The coordinator adds, and that is all. After a round the sum of its question joins those before;
the regions' own answers, where the plan publishes them, are kept beside the checkpoint till the
run is done. Nothing but released values and public constants enters, so nothing here costs ε.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from common import canonical_json
from common.analytics.answers import (
    FILE_VERSION,
    GLOBAL,
    MAX_FACTS_BYTES,
    answers_bytes,
    array_of,
    region_array,
)
from common.analytics.clusters import Clusters
from common.canonical_json import JsonValue
from common.cluster_steps import clusters_after
from common.errors import FormatError, InputError
from common.noise_of_answers import answer_noise_stddev
from common.parameters import MAX_HEAD_BYTES, arrays_digest
from common.plan import Mechanism, RunPlan, epsilon_bound
from common.plan_parts import MAX_PLAN_BYTES
from common.planned_questions import PlannedQuestion, question_rounds
from server.audit_trail import Aggregate
from server.round_total import ExactSum, RoundTotal

Arrays = Mapping[str, npt.NDArray[np.generic]]
Kept = dict[str, npt.NDArray[np.generic]]

# Beside the regions' answers: of how many customers each is at least, in the order of the regions.
# No region is called so: names begin with a letter or a digit.
_CUSTOMERS = "#customers"
# What an answer says besides its question and regions, the file besides its answers, and the head
# of a file of arrays of each besides its name: at most.
_FIELDS_BYTES, _FILE_BYTES, _HEAD_BYTES = 400, 4096, 100
# A number as a text in a list: 17 digits, a sign, an exponent.
_NUMBER_BYTES = 28


class KeptAnswers(ExactSum):
    """A sum of answers that keeps each of them, because the plan publishes them one by one.

    Args:
        plan: The plan of questions.
        mechanism: The question's mechanism.
        max_magnitude: The largest magnitude a released value may have.

    Attributes:
        kept: Each region's answer, by the name it is published under.
    """

    def __init__(self, plan: RunPlan, mechanism: Mechanism, *, max_magnitude: float) -> None:
        super().__init__(
            plan.released_arrays(mechanism.name),
            grid_exponent=mechanism.grid_exponent,
            max_magnitude=max_magnitude,
            max_regions=len(plan.regions),
        )
        self._name = mechanism.name
        self.kept: Kept = {}

    def add(self, region: str, arrays: Arrays) -> None:
        """Adds an answer and keeps it; see `server.round_total.Aggregator`."""
        super().add(region, arrays)
        # What is received is a view of its message, which is not to be kept.
        self.kept[region_array(region, self._name)] = np.array(arrays[array_of(self._name)])


def publishes_regions(plan: RunPlan, mechanism: Mechanism) -> bool:
    """Whether a round's answers are published region by region, too."""
    return plan.asks and plan.question(mechanism.name).scope == "regions"


def require_publishable(plan: RunPlan) -> None:
    """Requires, before anybody is asked, that the answers will fit the files they are published in.

    Raises:
        InputError: They would not: what regions had paid for could not be published.
    """
    if not plan.asks:
        return
    told, listed = facts_bytes_at_most(plan), head_bytes_at_most(plan)
    if told > MAX_FACTS_BYTES or listed > MAX_HEAD_BYTES:
        raise InputError(
            f"Answers of {len(plan.regions)} regions to {len(plan.questions)} questions do not fit "
            f"the files that they are published in.",
            remedy="Ask for fewer questions with the scope regions, or of fewer groups, at a time.",
        )


def facts_bytes_at_most(plan: RunPlan) -> int:
    """The longest that a plan's ``answers.json`` can be, whoever takes part."""
    names = sum(len(region) + 3 for region in plan.regions)
    length = _FILE_BYTES + names
    for question in plan.questions:
        own = len(plan.regions) if question.scope == "regions" else 0
        stated = canonical_json.encode(
            [question.question, question.parameters], max_bytes=MAX_PLAN_BYTES
        )
        # Each region's own answer names it twice, the sum names all of them; centres that steps
        # came to are as many numbers as an answer has at most.
        moved = _NUMBER_BYTES * question.asked.size if question.goes_by_steps else 0
        each_of = len(stated) + moved + _FIELDS_BYTES
        length += (own + 1) * each_of + names + (2 * names if own else 0)
    return length


def head_bytes_at_most(plan: RunPlan) -> int:
    """The longest that the head of the file of a plan's arrays can be, whoever takes part."""
    length = 0
    for question in plan.questions:
        name, regions = array_of(question.name), plan.regions
        arrays = [spec.name for spec in question.releases("<f4")]
        own = [region_array(each, array) for each in regions for array in arrays]
        # Besides the sum, and the numbers of customers that are kept meanwhile.
        names = [name, f"{_CUSTOMERS}/{name}", *(own if question.scope == "regions" else [])]
        length += sum(len(each) + _HEAD_BYTES for each in names)
    return length


def sums_after(
    model: Arrays, total: RoundTotal, plan: RunPlan, server_round: int
) -> dict[str, npt.NDArray[np.generic]]:
    """The sums after a round: those before it, and its own, of a step a row; of keys none.

    Args:
        model: The sums before it.
        total: What the regions' answers come to.
        plan: The plan of questions.
        server_round: The round.
    """
    mechanism = plan.mechanism_of(server_round)
    question = plan.question(mechanism.name)
    if not question.is_summed:
        return {**model}
    # Whole numbers of grid units, so this is their sum to the bit, whatever the order.
    values: npt.NDArray[np.generic] = total.values(question.array)
    if question.goes_by_steps:
        earlier = [] if server_round == mechanism.rounds[0] else [model[question.array]]
        values = np.concatenate([*earlier, values[None, :]])
    return {**model, question.array: values}


def customers_kept(name: str, buckets: Mapping[str, str | None]) -> Kept:
    """Of how many customers a round's answers are at least, by region in order.

    Args:
        name: The question's name.
        buckets: Each region's logged interval, such as ``256-511``; None where it states none.
    """
    least = [_least(bucket) for _, bucket in sorted(buckets.items())]
    return {f"{_CUSTOMERS}/{array_of(name)}": np.array(least, dtype=np.int64)}


def answer_arrays(sums: Arrays, kept: Arrays) -> Kept:
    """The arrays that a finished run publishes: the sums, and the regions' own answers.

    Args:
        sums: The sums, by name.
        kept: What was kept beside the checkpoint.
    """
    return {**sums, **{name: kept[name] for name in kept if not name.startswith(_CUSTOMERS + "/")}}


def answers_file(
    plan: RunPlan, aggregates: Mapping[int, Aggregate], arrays: Arrays, kept: Arrays
) -> bytes:
    """``answers.json``: what each array answers, of whom, and with how much noise.

    Args:
        plan: The plan of questions.
        aggregates: Each round's aggregate, by round.
        arrays: What is published.
        kept: What was kept beside the checkpoint.

    Raises:
        FormatError: What was kept is not this run's.
    """
    answers: list[JsonValue] = []
    for question, rounds in question_rounds(plan.questions):
        # Of a question with steps, the last one is its answer.
        regions = [used.region for used in aggregates[rounds[-1]].used]
        stepped = _stepped(plan, question, arrays)
        answers += [
            {**each, **stepped} for each in _answers(plan, question, rounds[-1], regions, kept)
        ]
    facts: dict[str, JsonValue] = {
        "v": FILE_VERSION,
        "plan_name": plan.scenario,
        "run": plan.run_id,
        "plan": plan.digest,
        "federation": plan.federation,
        "catalogue": plan.catalogue,
        "window": {"start": plan.train_from, "end": plan.train_until},
        "mode": plan.mode,
        "rule": plan.aggregation.rule,
        "regions": [*plan.regions],
        "epsilon": plan.epsilon,
        "delta": plan.delta,
        "neighboring_relation": plan.neighboring_relation,
        "privacy_unit": plan.privacy_unit,
        "arrays": arrays_digest(arrays),
        "answers": answers,
    }
    return answers_bytes(facts)


def _stepped(plan: RunPlan, question: PlannedQuestion, arrays: Arrays) -> dict[str, JsonValue]:
    """What the answer to a question with steps says besides: where its last step began."""
    if not isinstance(question.asked, Clusters):
        return {}
    earlier = arrays[question.array][:-1]
    mechanism = plan.mechanism_named(question.name)
    return {"centres": clusters_after(plan, mechanism, question.asked, earlier).centres_record}


def _answers(
    plan: RunPlan, question: PlannedQuestion, number: int, regions: list[str], kept: Arrays
) -> Iterator[dict[str, JsonValue]]:
    """A question's answers: the sum first, then the regions' own in their order."""
    mechanism = plan.mechanism_of(number)
    customers = kept.get(f"{_CUSTOMERS}/{array_of(question.name)}")
    if customers is None or customers.shape != (len(regions),):
        raise FormatError(f"The state has no numbers of customers of {question.name}.")
    least = [int(each) for each in customers.tolist()]
    spent = epsilon_bound((mechanism.event,), float(plan.delta))
    scopes = [(GLOBAL, regions, sum(least))]
    if question.scope == "regions":
        scopes += [(region, [region], n) for region, n in zip(regions, least, strict=True)]
    for scope, of, customers_at_least in scopes:
        # Keys have no sum: the noise is that in each region's own values.
        n_regions = len(of) if question.is_summed else 1
        yield {
            "round": number,
            "question": question.question,
            "parameters": question.parameters,
            "scope": scope,
            "regions": [*of],
            "noise_stddev": f"{answer_noise_stddev(plan, mechanism, n_regions):.9g}",
            "epsilon": f"{math.ceil(spent * 1e6) / 1e6:.6f}",
            "customers_at_least": max(1, customers_at_least),
        }


def _least(bucket: str | None) -> int:
    """The lower end of an interval that was checked when it arrived; 1 where none was stated."""
    return 1 if bucket is None else int(bucket.partition("-")[0])
