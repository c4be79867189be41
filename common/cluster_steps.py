"""The steps of a question that has several: what each asks, by the plan and the sums before it.

A step of k-means counts customers at the centres that the step before has moved
(`common.analytics.clusters`). The sums of that step are a part of the state that the round starts
from, and that state's digest is in every log. So the centres are nobody's message: regions,
coordinator and verifier each compute them, and come to the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from common.analytics.clusters import Clusters
from common.analytics.question_records import Question
from common.errors import FormatError

if TYPE_CHECKING:
    from common.plan import RunPlan
    from common.plan_parts import Mechanism

Arrays = Mapping[str, npt.NDArray[np.generic]]
#: A centre goes where its mean is if its count is so many standard deviations of the noise above 0.
#: Fewer than what is stated of a cluster needs: the next step mends one that is off.
MOVED_DEVIATIONS = 4.0


def question_in_round(plan: RunPlan, server_round: int, state: Arrays) -> Question:
    """What a round asks.

    Args:
        plan: A plan of questions.
        server_round: The round, from 1.
        state: The sums before it, as `RunPlan.model_arrays` has them.

    Raises:
        InputError: The plan has no such round.
        FormatError: The state lacks the question's earlier steps.
    """
    mechanism = plan.mechanism_of(server_round)
    planned = plan.question(mechanism.name)
    done = server_round - mechanism.rounds[0]
    if not isinstance(planned.asked, Clusters) or done == 0:
        return planned.asked
    rows = state.get(planned.array)
    if rows is None or rows.shape != planned.total(done).shape:
        raise FormatError(f"The state has no {done} steps of {planned.name}.")
    return clusters_after(plan, mechanism, planned.asked, rows)


def clusters_after(
    plan: RunPlan, mechanism: Mechanism, asked: Clusters, rows: npt.NDArray[np.generic]
) -> Clusters:
    """A question of clusters with the centres that some steps came to.

    Args:
        plan: The plan of questions.
        mechanism: The question's mechanism.
        asked: The plan's question.
        rows: float64[steps, size], the sums of its first steps.

    Raises:
        InputError: A sum is not finite.
    """
    least = least_count(plan, mechanism)
    for row in rows:
        asked = asked.moved(row, least)
    return asked


def least_count(plan: RunPlan, mechanism: Mechanism) -> float:
    """What the sum of a cluster's counts must be above for its centre to go to the mean.

    `MOVED_DEVIATIONS` times the noise of a sum over all the plan's regions, reckoned from decimals
    of the plan alone: how many took part in a round its state does not say.

    Args:
        plan: The plan of questions.
        mechanism: The question's mechanism.
    """
    shares = plan.aggregation.honest_survivors_min if plan.mode == "distributed" else 1
    return MOVED_DEVIATIONS * math.sqrt(len(plan.regions) / shares) * mechanism.noise_stddev
