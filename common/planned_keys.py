"""What holds of questions of keys in a plan: where they are asked, and what their δ is."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from common.analytics.key_arrays import check_keys
from common.analytics.key_union import KeyUnion
from common.errors import InputError
from common.parameters import Arrays, check_arrays
from common.release_bounds import release_grid

if TYPE_CHECKING:  # A plan checks its questions by what is here.
    from common.plan import Mechanism, RunPlan


def keys_of(plan: RunPlan, mechanism: Mechanism) -> KeyUnion | None:
    """The question of keys that a mechanism is; None if it is another one, or training."""
    asked = plan.question(mechanism.name).asked if plan.asks else None
    return asked if isinstance(asked, KeyUnion) else None


def stated_delta(plan: RunPlan) -> str:
    """A plan's δ in words: with the part of it that is for keys, if it asks for any."""
    taken = sum(
        (Decimal(each.key_delta) * len(each.rounds) * each.steps for each in plan.mechanisms),
        start=Decimal(0),
    )
    return plan.delta if not taken else f"{plan.delta} ({taken.normalize():f} of it for keys)"


def problem_of_keys(plan: RunPlan) -> str | None:
    """What does not hold of a plan's questions of keys; None if all does.

    Which keys pass is decided by noise in one place: each region decides on its own, and what it
    released is published as its own.
    """
    for question in plan.questions:
        mechanism, asked = plan.mechanism_named(question.name), question.asked
        if not isinstance(asked, KeyUnion):
            if mechanism.stated_key_delta:
                return f"{question.name} asks for no keys, and has no δ for them"
            continue
        if float(mechanism.key_delta) != asked.key_delta:
            return f"the δ for keys of {question.name} is not its question's"
        if plan.aggregation.rule != "sum" or plan.mode != "local":
            return f"{question.name} is decided in each region: it goes with the rule sum only"
        if question.scope != "regions":
            return f"{question.name} is decided in each region: its scope is regions"
        try:
            asked.least_released(mechanism.noise_stddev, mechanism.grid_exponent)
        except InputError as error:
            return error.message
    return None


def check_release(
    arrays: Arrays, plan: RunPlan, mechanism: Mechanism, *, max_norm: float | None = None
) -> None:
    """Checks what a region released in a round of a plan against what it must be.

    Args:
        arrays: The arrays, from a parsed body, never from its own description.
        plan: The run plan.
        mechanism: The round's mechanism.
        max_norm: The greatest L2 norm of any one array, and of keys' values.

    Raises:
        FormatError: Says which array is wrong, and how.
    """
    asked = keys_of(plan, mechanism)
    if asked is None:
        check_arrays(
            arrays,
            plan.released_arrays(mechanism.name),
            grid=release_grid(plan, mechanism),
            max_norm=max_norm,
        )
        return
    check_keys(
        arrays,
        asked,
        noise_stddev=mechanism.noise_stddev,
        grid_exponent=mechanism.grid_exponent,
        max_norm=max_norm,
    )
