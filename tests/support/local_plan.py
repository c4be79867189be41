"""Plans of the strategies that train in the regions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.plan import RunPlan
from tests.support.preference_data import plan_of

OPTIONS: Mapping[str, Mapping[str, str]] = {
    "tied-autoencoder": {},
    "matrix-factorisation": {"regularisation": "0.1", "unobserved_weight": "0.01"},
    "sasrec": {"blocks": "1", "heads": "1", "max_length": "8", "negatives": "16"},
}


def local_plan(
    strategy: str = "tied-autoencoder", *, training: Mapping[str, Any] | None = None, **changes: Any
) -> RunPlan:
    """A plan of two rounds of five steps after popularity, with a budget that is never short."""
    record: dict[str, Any] = plan_of(epsilon="50").to_record()
    popularity = record["mechanisms"][0]
    record |= {
        "strategy": strategy,
        "vocabulary_size": 20,
        "rank": 4,
        "training_rounds": 2,
        "mechanisms": [
            {**popularity, "noise_multiplier": "2", "grid_exponent": -20},
            {
                "name": strategy,
                "rounds": [2, 3],
                "steps": 5,
                "noise_multiplier": "1",
                "clipping_norm": "0.5",
                "sampling_probability": "0.5",
                "grid_exponent": -20,
            },
        ],
        "local_training": {
            "expected_batch_size": "50",
            "optimizer": "sgd",
            "learning_rate": "0.5",
            "learning_rate_decay": "0.5",
            "weight_decay": "0",
            "server_optimizer": "mean",
            "server_learning_rate": "1",
            "server_learning_rate_decay": "1",
            "server_momentum": "0",
            "options": dict(OPTIONS[strategy]),
            **(training or {}),
        },
        **changes,
    }
    return RunPlan.from_record(record)
