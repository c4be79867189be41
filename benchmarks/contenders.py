"""``python -m benchmarks.contenders NAME WORK ROUNDS``: one simulator's rounds of the same work.

Each runs in a process of its own, on one core, and prints JSON: seconds of its rounds but the
first, and seconds until the first was done. The users and the model to start from are in WORK;
``fedpref`` makes that file, of its own regions, and the others read it.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.local_work import BATCH_SIZE, EPOCHS, LEARNING_RATE, TiedAutoencoder, Work, train

#: The federation that fedpref runs: about as many customers a region as retail-5 has.
N_REGIONS, CUSTOMERS_EACH, ITEMS, RANK = 8, 500, 400, 16

Taken = dict[str, float]


def bare(work: Work, rounds: int) -> Taken:
    """A loop over the regions: no messages, no checks, the mean in float32."""
    started = time.perf_counter()
    model, ends = work.start, []
    regions = [torch.from_numpy(rows) for rows in work.regions]
    for _ in range(rounds):
        total = {name: np.zeros_like(array) for name, array in model.items()}
        for rows in regions:
            module = TiedAutoencoder(model)
            train(module, rows)
            for name, array in module.arrays().items():
                total[name] += array
        model = {name: array / np.float32(len(regions)) for name, array in total.items()}
        ends.append(time.perf_counter())
    return _taken(started, ends)


def pfl(work: Work, rounds: int) -> Taken:
    """pfl-research's FederatedAveraging on its SimulatedBackend; no privacy, no evaluation."""
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.pytorch import PyTorchTensorDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
    from pfl.model.pytorch import PyTorchModel

    ends: list[float] = []

    class Clock(TrainingProcessCallback):  # type: ignore[misc]
        def after_central_iteration(self, *_: Any, **__: Any) -> tuple[bool, Any]:
            from pfl.metrics import Metrics

            ends.append(time.perf_counter())
            return False, Metrics()

    module = TiedAutoencoder(work.start)
    model = PyTorchModel(
        module,
        local_optimizer_create=torch.optim.SGD,
        # The mean of the changes is added as it is.
        central_optimizer=torch.optim.SGD(module.parameters(), lr=1.0),
    )
    users = {
        n: PyTorchTensorDataset((torch.from_numpy(rows),)) for n, rows in enumerate(work.regions)
    }
    sampler = get_user_sampler("minimize_reuse", list(users))
    backend = SimulatedBackend(
        training_data=FederatedDataset(users.__getitem__, sampler), val_data=None, postprocessors=[]
    )
    started = time.perf_counter()
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=10 * rounds,
            train_cohort_size=len(users),
            val_cohort_size=0,
        ),
        backend,
        model,
        NNTrainHyperParams(
            local_num_epochs=EPOCHS,
            local_learning_rate=LEARNING_RATE,
            local_batch_size=BATCH_SIZE,
        ),
        NNEvalHyperParams(local_batch_size=None),
        callbacks=[Clock()],
        send_metrics_to_platform=False,
    )
    return _taken(started, ends)


def flower_ray(work: Work, rounds: int) -> Taken:
    """Flower's own simulation: its FedAvg, its ClientApps in one Ray actor."""
    from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    def arrays_record(arrays: dict[str, Any]) -> ArrayRecord:
        return ArrayRecord({name: Array(array) for name, array in arrays.items()})

    ends: list[float] = []
    client_app, server_app = ClientApp(), ServerApp()
    regions = [torch.from_numpy(rows) for rows in work.regions]

    @client_app.train()
    def train_app(message: Message, context: Context) -> Message:
        record = message.content["arrays"]
        module = TiedAutoencoder({name: array.numpy() for name, array in record.items()})
        rows = regions[int(str(context.node_config["partition-id"]))]
        train(module, rows)
        content = RecordDict(
            {
                "arrays": arrays_record(module.arrays()),
                "metrics": MetricRecord({"num-examples": 1}),
            }
        )
        return Message(content, reply_to=message)

    class Clocked(FedAvg):
        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
            replies = list(replies)
            failed = [each.error.reason for each in replies if each.has_error()]
            if failed or len(replies) != len(regions):
                found = f"{len(replies)} replies, {failed[:1]}"
                raise RuntimeError(f"Flower's round {server_round} has {found}")
            closed = super().aggregate_train(server_round, replies)
            ends.append(time.perf_counter())
            return closed

    @server_app.main()
    def main_app(grid: Grid, _: Context) -> None:
        strategy = Clocked(
            fraction_train=1.0,
            fraction_evaluate=0.0,
            min_available_nodes=len(regions),
            # It reckons its fraction before the nodes have come.
            min_train_nodes=len(regions),
        )
        strategy.start(grid, arrays_record(work.start), num_rounds=rounds)

    started = time.perf_counter()
    run_simulation(
        server_app,
        client_app,
        num_supernodes=len(regions),
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": 1, "include_dashboard": False, "log_to_driver": False},
        },
    )
    return _taken(started, ends)


def fedpref(path: Path, rounds: int) -> Taken:
    """A simulated run: consents, permits, witnesses, ledgers, seals and logs. It makes the work."""
    from benchmarks.comparison_run import compared_run

    with tempfile.TemporaryDirectory(prefix="fedpref-bench-") as folder:
        work, taken = compared_run(
            Path(folder) / "run",
            n_regions=N_REGIONS,
            customers_each=CUSTOMERS_EACH,
            items=ITEMS,
            rank=RANK,
            rounds=rounds,
        )
    work.save(path)
    return taken


CONTENDERS: dict[str, Callable[[Work, int], Taken]] = {
    "bare": bare,
    "pfl": pfl,
    "flower-ray": flower_ray,
}


def _taken(started: float, ends: list[float]) -> Taken:
    return {"rounds_s": ends[-1] - ends[0], "first_s": ends[0] - started}


def main(name: str, work: Path, rounds: int) -> None:
    """Runs one contender on one core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    taken = (
        fedpref(work, rounds) if name == "fedpref" else CONTENDERS[name](Work.load(work), rounds)
    )
    sys.stdout.write(f"\n{json.dumps(taken)}\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
