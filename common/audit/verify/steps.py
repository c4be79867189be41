"""The steps of a question of clusters, reckoned anew: where its last step counted customers.

Each step begins at the means that the step before came to, and its sums are published. So whoever
has the plan and the sums can say where every centre was; this says it with code of its own.
"""

from __future__ import annotations

import math
import struct

from common.audit.verify.arrays_file import FileArray
from common.audit.verify.fields import Record
from common.audit.verify.plan_facts import PlanFacts
from common.canonical_json import JsonValue
from common.errors import VerificationError

# A cluster's count is ½ a customer; the point has the other ¾ of a row's squared norm.
_COUNT, _POINT = 0.5, 0.75
# A centre goes to its mean if its count is so many standard deviations of the noise above 0.
_MOVED_DEVIATIONS = 4.0
_VALUE_BYTES = 8


def first_steps(array: FileArray, steps: int) -> FileArray:
    """What an array of sums, a row a step, was after so many steps."""
    _, size = array.shape
    return FileArray(array.dtype, (steps, size), array.data[: steps * size * _VALUE_BYTES])


def last_centres(
    plan: PlanFacts, mechanism: Record, question: Record, array: FileArray
) -> list[JsonValue]:
    """The centres of a question's last step, as its file states them.

    Args:
        plan: The plan.
        mechanism: The question's mechanism in it.
        question: The question as the plan has it.
        array: The sums of its steps, ``<f8``, a row a step.

    Raises:
        VerificationError: The question or a sum is none.
    """
    centres = _centres(question)
    values = struct.unpack(f"<{len(array.data) // _VALUE_BYTES}d", array.data)
    block = 1 + len(centres[0])
    size = len(centres) * block
    if array.shape[1:] != (size,) or not all(map(math.isfinite, values)):
        raise VerificationError("Its sums are not those of its clusters.")
    least = _least_count(plan, mechanism)
    for start in range(0, len(values) - size, size):
        blocks = [values[n : n + block] for n in range(start, start + size, block)]
        centres = _moved(centres, blocks, least)
    return [[repr(each) for each in centre] for centre in centres]


def _moved(
    centres: list[list[float]], sums: list[tuple[float, ...]], least: float
) -> list[list[float]]:
    """Where centres go: to the mean; those of too few customers halfway to the largest one's."""
    largest = max(range(len(sums)), key=lambda number: sums[number][0])
    if not sums[largest][0] > least:
        return centres
    goal = _mean(sums[largest])
    return [
        _mean(each) if each[0] > least else [(a + b) / 2 for a, b in zip(centre, goal, strict=True)]
        for centre, each in zip(centres, sums, strict=True)
    ]


def _mean(sums: tuple[float, ...]) -> list[float]:
    """The mean of those at one centre: their count, then the sums of their coordinates."""
    customers, scale = sums[0] / _COUNT, math.sqrt(_POINT / (len(sums) - 1))
    return [min(max(each / scale / customers, -1.0), 1.0) for each in sums[1:]]


def _centres(question: Record) -> list[list[float]]:
    """The plan's centres, all of one length."""
    stated = question.get("centres")
    rows = [row for row in stated if isinstance(row, list)] if isinstance(stated, list) else []
    try:
        centres = [[float(str(each)) for each in row] for row in rows]
    except ValueError as error:
        raise VerificationError("Its plan states no centres.") from error
    if not centres or not centres[0] or len({len(row) for row in centres}) != 1:
        raise VerificationError("Its plan states no centres.")
    return centres


def _least_count(plan: PlanFacts, mechanism: Record) -> float:
    shares = plan.honest_survivors_min if plan.record["mode"] == "distributed" else 1
    if shares < 1:
        raise VerificationError("Its plan names no least survivors.")
    noise = float(str(mechanism["noise_multiplier"])) * float(str(mechanism["clipping_norm"]))
    return _MOVED_DEVIATIONS * math.sqrt(len(plan.regions) / shares) * noise
