"""Plans with distributed noise."""

from __future__ import annotations

from typing import Any

from common.plan import RunPlan
from common.plan_defaults import default_plan


def shared_plan(*, n_items: int = 60, n_regions: int = 4, least: int = 3, **more: Any) -> RunPlan:
    """A plan in which each region's share is a third of the noise, of four regions."""
    return default_plan(
        run_id="run-1",
        federation="test.example",
        scenario="test",
        regions=[f"region-{number}" for number in range(1, n_regions + 1)],
        catalogue="c" * 64,
        n_items=n_items,
        train_from="2016-11-24T15:06:40.000Z",
        train_until="2017-10-26T15:06:40.000Z",
        mode="distributed",
        rule="secure-sum",
        honest_survivors_min=least,
        **{"quorum": least, "epsilon": "8", "planned_customers": 600, **more},
    )
