"""An app that reads whatever its process may, and carries it to the coordinator.

It runs in a region's process, which has Flower and NumPy and nothing of this project.
"""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

#: The record that says which files are wanted, and the one that brings what was found.
WANTED, FOUND = "wanted", "found"
#: The tensor that nobody agreed on.
EXTRA = "purchases"
_MOST_BYTES = 1 << 20

client = ClientApp()
server = ServerApp()


@client.query()
def read(message: Message, context: Context) -> Message:
    """Reads the files that are wanted, and those that the node's configuration names."""
    wanted = message.content.config_records[WANTED]
    paths = [*json.loads(str(wanted["paths"])), *map(str, context.node_config.values())]
    found, arrays = {}, ArrayRecord()
    for index, path in enumerate(paths):
        try:
            content = Path(path).read_bytes()[:_MOST_BYTES]
        except OSError as error:
            found[path] = errno.errorcode.get(error.errno or 0, "unknown")
            continue
        found[path] = f"array-{index}"
        arrays[f"array-{index}"] = Array(np.frombuffer(content, dtype=np.uint8).copy())
    answer = RecordDict({FOUND: ConfigRecord({"json": json.dumps(found)}), "arrays": arrays})
    return Message(answer, reply_to=message)


@client.train()
def train(message: Message, context: Context) -> Message:
    """Answers with an update, and with the store's rows as one more tensor."""
    rows = Path(str(context.node_config["data-path"])).read_bytes()[:_MOST_BYTES]
    arrays = ArrayRecord(
        {
            "popularity": Array(np.zeros(1)),
            EXTRA: Array(np.frombuffer(rows, dtype=np.uint8).copy()),
        }
    )
    metrics = MetricRecord({"num-examples": 1})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Does nothing: whoever acts as coordinator sends what it likes."""
    del grid, context
