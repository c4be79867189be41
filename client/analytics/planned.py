"""A plan's question as the region's own statistic: made here, by name, and held to the plan.

The plan says what is asked, whole. What is computed is what this engine understands by the name; if
the two differ in any constant that a customer's row depends on, nothing is computed.
"""

from __future__ import annotations

from client.analytics.askable import statistics
from client.analytics.purchases import PurchaseStatistic
from client.recommend.local_statistics import Clock
from common.analytics.asked import DAYPARTS, LOCAL_ZONE
from common.analytics.further_questions import Named
from common.canonical_json import JsonValue
from common.catalogue import Catalogue
from common.errors import FedprefError, PolicyError
from common.plan import RunPlan
from common.timestamps import parse_time


def planned_statistic(
    plan: RunPlan, name: str, catalogue: Catalogue, *, time_zone: str
) -> PurchaseStatistic:
    """What a plan asks under a name, as this region computes it.

    Args:
        plan: A plan of questions.
        name: The question's name.
        catalogue: The region's own public catalogue.
        time_zone: The zone of the region's local time: moments are told apart in it.

    Raises:
        PolicyError: The region understands something else by it, or nothing.
        InputError: The plan does not ask it.
    """
    planned = plan.question(name)
    try:
        (own,) = statistics(
            [name],
            catalogue,
            _clock(planned.parameters, time_zone),
            start_ms=parse_time(plan.train_from),
            end_ms=parse_time(plan.train_until),
            named=Named.of(planned.asked, planned.parameters),
        )
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
