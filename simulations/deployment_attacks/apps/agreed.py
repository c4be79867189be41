"""The app that the parties of the stock federation agreed on: how often each item was bought.

A node ships to it what a Flower app ships: noise is added at the client, with the multiplier of the
run's configuration, and averaged by FedAvg. It runs in nodes' processes, which have Flower and
NumPy and nothing of this project.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

N_ITEMS = 40
ROUNDS = 2

client = ClientApp()
server = ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Counts the items of the store's purchases, one a line, and adds noise."""
    bought = [
        int(line.rpartition(",")[2])
        for line in Path(str(context.node_config["data-path"])).read_text().splitlines()[1:]
    ]
    counts = np.bincount(bought, minlength=N_ITEMS).astype(np.float64)
    noise_multiplier = float(str(context.run_config["noise-multiplier"]))
    counts += np.random.default_rng().normal(0.0, noise_multiplier, N_ITEMS)
    return Message(
        RecordDict(
            {
                "arrays": ArrayRecord({"popularity": Array(counts)}),
                "metrics": MetricRecord({"num-examples": 1}),
            }
        ),
        reply_to=message,
    )


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Averages the nodes' counts, round by round."""
    del context
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=2, min_available_nodes=2)
    start = ArrayRecord({"popularity": Array(np.zeros(N_ITEMS))})
    strategy.start(grid, start, num_rounds=ROUNDS)
