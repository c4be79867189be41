"""Flower as it comes: its averaging, and its nodes in processes of their own.

Touches Flower's internals where a node is hosted without its runtime: message identities, and the
legacy records of SecAgg+, which works in no other way (pinned to flwr 1.41, see the tests).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from flwr.serverapp.strategy import FedAvg

from common.canonical_json import JsonValue
from common.engine_channel import EngineChannel
from common.errors import FederationError
from simulations.attack_demos.processes import Answer, Arrays, Header, Host, Reply
from simulations.in_process_grid import task_identity

#: Which Flower it is.
FLOWER = f"flwr {version('flwr')}"
ARRAYS = "arrays"
_METRICS = "metrics"
_RUN = 1


def reply_content(arrays: Arrays, *, num_examples: int = 1) -> RecordDict:
    """What a Flower client sends after training.

    Args:
        arrays: Its arrays.
        num_examples: On how many examples it says it has trained.
    """
    return RecordDict(
        {
            ARRAYS: ArrayRecord({name: Array(np.asarray(each)) for name, each in arrays.items()}),
            _METRICS: MetricRecord({"num-examples": num_examples}),
        }
    )


def fedavg(contents: Sequence[RecordDict], *, server_round: int) -> dict[str, np.ndarray]:
    """What Flower's FedAvg makes of replies.

    Args:
        contents: The replies' content, one a node.
        server_round: The round that it takes them for.

    Raises:
        FederationError: It gives no arrays.
    """
    with task_identity():
        replies = [
            Message(content, reply_to=Message(RecordDict(), node, "train"))
            for node, content in enumerate(contents, start=1)
        ]
        averaged, _ = FedAvg().aggregate_train(server_round, replies)
    if averaged is None:
        raise FederationError("Flower's FedAvg gave no arrays.")
    return {name: array.numpy() for name, array in averaged.items()}


def node(app: ClientApp, node_id: int, *, seed: int) -> Host:
    """What the process of a Flower node does: it answers messages by an app, and keeps its state.

    Args:
        app: The app, with Flower's modifiers in it.
        node_id: The node.
        seed: What Flower's noise and rounding are drawn from: NumPy's global generator.
    """

    def live(serve: Callable[[Answer], None]) -> None:
        context = Context(
            run_id=_RUN, node_id=node_id, node_config={}, state=RecordDict(), run_config={}
        )

        def answer(method: str, header: Header, arrays: Arrays) -> Reply:
            del arrays
            message = Message(_unpacked(header), node_id, method)
            return _packed(app(message, context).content), {}

        np.random.seed((seed, node_id))
        with task_identity():
            serve(answer)

    return live


def ask(line: EngineChannel, content: RecordDict, *, kind: str = "train") -> RecordDict:
    """Sends a node a message; gives the content of its reply.

    Raises:
        FederationError: The node raised.
    """
    answer, _ = line.call(kind, _packed(content), {})
    return _unpacked(answer)


def ask_all(
    lines: Mapping[str, EngineChannel], contents: Mapping[str, RecordDict]
) -> Iterator[tuple[str, RecordDict]]:
    """Sends each node its message; gives their replies."""
    for name, content in contents.items():
        yield name, ask(lines[name], content)


def _packed(content: RecordDict) -> Header:
    data: JsonValue = base64.b64encode(recorddict_to_proto(content).SerializeToString()).decode()
    return {"content": data}


def _unpacked(header: Header) -> RecordDict:
    return recorddict_from_proto(
        RecordDictProto.FromString(base64.b64decode(str(header["content"])))
    )
