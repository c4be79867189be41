"""What makes one round's release: the only part of an engine that imports what trains.

Opening an engine, signing a permit or asking a question of the region's own needs none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from client.analytics.key_release import KeyStatistic, key_answer
from client.engine.preparation import ConsentSnapshot, RegionData
from client.training.answer_sums import answer_release
from client.training.noise import NoiseSource
from client.training.releases import release
from client.training.shared_sums import shared_round
from common.cluster_steps import question_in_round
from common.plan import Mechanism, RunPlan


def release_maker(
    data: RegionData,
    noise: NoiseSource,
    *,
    plan: RunPlan,
    mechanism: Mechanism,
    server_round: int,
    model: Mapping[str, np.ndarray],
    snapshot: ConsentSnapshot,
) -> Callable[[], Mapping[str, np.ndarray]]:
    """What makes the round's release of the customers of a snapshot, once it is paid for.

    Args:
        data: The region's store.
        noise: Where noise comes from.
        plan: The run's plan.
        mechanism: The round's mechanism.
        server_round: The round, from 1.
        model: The model, or the answers so far, that the round starts from.
        snapshot: Who consents.

    Raises:
        FedprefError: The question or the store is wrong; nothing was paid.
    """
    if plan.asks:
        # What is wrong with the question or the store is found before anything is paid.
        step = question_in_round(plan, server_round, model)
        statistic = data.statistic(plan, mechanism.name, step)
        purchases = data.consented(snapshot.eligible, plan.catalogue, statistic.tables)
        if isinstance(statistic, KeyStatistic):
            return lambda: key_answer(
                purchases, statistic, plan=plan, mechanism=mechanism, noise=noise
            )
        return lambda: answer_release(
            purchases, statistic, plan=plan, mechanism=mechanism, noise=noise
        )
    return lambda: (shared_round if plan.mode == "distributed" else release)(
        data.dataset(plan, snapshot.eligible),
        model,
        plan=plan,
        server_round=server_round,
        noise=noise,
    )
