"""A simulated run whose local work is the comparison's torch model, on its regions' customers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.federations import run, set_up
from benchmarks.local_work import TiedAutoencoder, Work, rows_of, train
from client.data.dataset import PreferenceDataset
from client.training.releases import release
from common.parameters import snap_to_grid
from common.plan import RunPlan
from common.plan_defaults import CHANGE_GRID_EXPONENT, default_plan
from common.strategies import change_of

STRATEGY = "tied-autoencoder"


def compared_run(
    root: Path, *, n_regions: int, customers_each: int, items: int, rank: int, rounds: int
) -> tuple[Work, dict[str, float]]:
    """Runs it.

    Args:
        root: A new folder.
        n_regions: How many regions there are.
        customers_each: About how many customers each has.
        items: m, the model's number of items.
        rank: d.
        rounds: How many rounds of the work; one of popularity goes before them.

    Returns:
        The users and the first model, for the others; seconds of the rounds of work but the first,
        and seconds until that was done.
    """
    federation = set_up(
        root,
        n_regions=n_regions,
        customers_each=customers_each,
        **_changes(n_regions, customers_each, items, rank, rounds),
    )
    work = _TorchWork(federation.plan)
    times = run(federation, work)
    closed_s = times.closed_s
    taken = {
        "rounds_s": closed_s[-1] - closed_s[1],
        "first_s": closed_s[1],
    }
    start = {name: work.start[name] for name in sorted(work.start)}
    return Work(start, [work.rows[region] for region in sorted(work.rows)]), taken


class _TorchWork:
    """Stands in for the engines' training from round 2 on."""

    def __init__(self, plan: RunPlan) -> None:
        self._names = [spec.name for spec in plan.parameter_arrays()]
        #: By the region's first customer, its rows: what identifies it to everybody alike.
        self.rows: dict[str, np.ndarray] = {}
        self.start: dict[str, np.ndarray] = {}

    def __call__(
        self, dataset: PreferenceDataset, model: Mapping[str, np.ndarray], **asked: Any
    ) -> Mapping[str, np.ndarray]:
        plan, server_round = asked["plan"], asked["server_round"]
        if server_round == 1:
            return release(dataset, model, **asked)
        start = {name: np.asarray(model[name]) for name in self._names}
        if server_round == 2:
            self.start = start
            self.rows[dataset.sids[0]] = rows_of(dataset, model["vocabulary"])
        rows = torch.from_numpy(self.rows[dataset.sids[0]])
        module = TiedAutoencoder(start)
        train(module, rows)
        exponent = plan.mechanism_of(server_round).grid_exponent
        return {
            change_of(name): snap_to_grid(
                array.astype(np.float64) - start[name].astype(np.float64), exponent
            )
            for name, array in module.arrays().items()
        }


def _changes(
    n_regions: int, customers_each: int, items: int, rank: int, rounds: int
) -> dict[str, Any]:
    """What a plan of the comparison has in the place of the default's values."""
    template = default_plan(
        run_id="template",
        federation="template",
        scenario="template",
        regions=[str(number) for number in range(n_regions)],
        quorum=1,
        catalogue="0" * 64,
        n_items=items,
        train_from="2024-01-01T00:00:00.000Z",
        train_until="2024-01-02T00:00:00.000Z",
        epsilon="8",
        planned_customers=n_regions * customers_each,
        strategy=STRATEGY,
    ).to_record()
    popularity, training, *_ = template["mechanisms"]
    return {
        "strategy": STRATEGY,
        "vocabulary_size": items,
        "rank": rank,
        "training_rounds": rounds,
        "popularity_share": template["popularity_share"],
        "mechanisms": [
            popularity,
            {
                **training,
                "rounds": list(range(2, rounds + 2)),
                # The steps are the stand-in's; its noise is not drawn, and its ε is nobody's.
                "noise_multiplier": "8",
                "grid_exponent": CHANGE_GRID_EXPONENT,
            },
        ],
        "local_training": template["local_training"],
    }
