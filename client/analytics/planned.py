"""A plan's question as the region's own statistic: made here, by name, and held to the plan.

The plan says what is asked, whole. What is computed is what this engine understands by the name; if
the two differ in any constant that a customer's row depends on, nothing is computed.
"""

from __future__ import annotations

from client.analytics.askable import statistics
from client.analytics.key_release import KeyStatistic, key_statistic
from client.analytics.points import purchase_clusters
from client.analytics.purchases import PurchaseStatistic
from client.recommend.local_statistics import Clock
from common.analytics.asked import DAYPARTS, LOCAL_ZONE
from common.analytics.clusters import Clusters
from common.analytics.further_questions import Named
from common.analytics.key_union import KeyUnion
from common.analytics.question_records import Question
from common.canonical_json import JsonValue
from common.catalogue import Catalogue
from common.errors import FedprefError, PolicyError
from common.plan import RunPlan
from common.planned_questions import PlannedQuestion
from common.timestamps import parse_time


def planned_statistic(
    plan: RunPlan,
    name: str,
    catalogue: Catalogue,
    *,
    time_zone: str,
    step: Question | None = None,
) -> PurchaseStatistic | KeyStatistic:
    """What a plan asks under a name, as this region computes it.

    Args:
        plan: A plan of questions.
        name: The question's name.
        catalogue: The region's own public catalogue.
        time_zone: The zone of the region's local time: moments are told apart in it.
        step: The step of it that is computed (`common.cluster_steps`); the first one if None.

    Raises:
        PolicyError: The region understands something else by it, or nothing.
        InputError: The plan does not ask it.
    """
    planned = plan.question(name)
    try:
        clock = _clock(planned.parameters, time_zone)
        own = _own(plan, planned, planned.asked, catalogue, clock)
    except FedprefError as error:
        raise PolicyError(
            f"The plan's question {name[:64]!r} cannot be asked here: {error.message}",
            remedy="Permit plans of questions that this release of the engine knows.",
        ) from error
    same = (
        type(own.question) is type(planned.asked)
        and own.spec == planned.released(own.spec.dtype)
        and _without_zone(own.parameters) == _without_zone(planned.parameters)
    )
    if not same:
        raise PolicyError(
            f"The plan asks something else under the name {name[:64]!r} than this region would "
            "answer.",
            remedy="Let the plan be made anew, with this release and the region's catalogue.",
        )
    return own if step is None else _own(plan, planned, step, catalogue, clock)


def _own(
    plan: RunPlan, planned: PlannedQuestion, step: Question, catalogue: Catalogue, clock: Clock
) -> PurchaseStatistic | KeyStatistic:
    """What the region understands by a question's name, with the plan's public names."""
    end_ms = parse_time(plan.train_until)
    if isinstance(step, Clusters):
        # By what customers are compared the plan chooses, among the measures that there are here.
        return purchase_clusters(step, catalogue, clock, end_ms=end_ms)
    if isinstance(step, KeyUnion):
        # The δ for keys is the plan's to state, and is charged as it is stated.
        return key_statistic(planned.name, step.key_delta)
    (own,) = statistics(
        [planned.name],
        catalogue,
        clock,
        start_ms=parse_time(plan.train_from),
        end_ms=end_ms,
        named=Named.of(planned.asked, planned.parameters),
    )
    return own


def _clock(parameters: dict[str, JsonValue], time_zone: str) -> Clock:
    """The plan's parts of the day in the region's local time; the usual ones where it has none."""
    stated = parameters.get("clock")
    if not isinstance(stated, dict):
        return Clock(DAYPARTS, time_zone)
    if stated.get("zone") != LOCAL_ZONE:
        raise PolicyError("The plan names a time zone; each region has its own.")
    return Clock.from_record({**stated, "zone": time_zone})


def _without_zone(parameters: dict[str, JsonValue]) -> dict[str, JsonValue]:
    clock = parameters.get("clock")
    if not isinstance(clock, dict):
        return parameters
    return {**parameters, "clock": {**clock, "zone": LOCAL_ZONE}}
