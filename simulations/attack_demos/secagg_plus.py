"""Flower's SecAgg+ as the attacker meets it: nodes that run Flower's own client-side code.

Each node is a process with Flower's `secaggplus_mod` around an ordinary client. What a coordinator
of Flower's own workflow would send, the attacker sends (flwr.server.workflow, SecAgg+), with the
workflow's default constants; where it cheats, the attacks themselves say so. SecAgg+ is in Flower's
legacy workflow only, so this touches what flwr does not document (pinned to flwr 1.41).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ConfigRecord, Context, RecordDict
from flwr.client import Client, NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import FitIns, bytes_to_ndarray, ndarrays_to_parameters
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    factor_extract,
    get_parameters_shape,
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import dequantize
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.compat.common.recorddict_compat import fitins_to_recorddict

from common.engine_channel import EngineChannel
from simulations.attack_demos.processes import Host, Line, victims
from simulations.attack_demos.stock_flower import ask, node

N_NODES = 4
THRESHOLD = 3
N_VALUES = 1000
VICTIM = 2

# The defaults of Flower's workflow.
_CLIPPING_RANGE = 8.0
_TARGET_RANGE = 4194304
_MOD_RANGE = 4294967296
_MAX_WEIGHT = 1000.0
_NUM_EXAMPLES = 500

#: A value that was recovered differs from the client's by this rounding at most.
ROUNDING = 2 * (2 * _CLIPPING_RANGE / _TARGET_RANGE) * (_MAX_WEIGHT / _NUM_EXAMPLES)

FloatArray = npt.NDArray[np.float64]


def updates(seed: int) -> dict[int, FloatArray]:
    """What each node's client has trained, by node."""
    generator = np.random.default_rng(seed)
    return {number: generator.normal(size=N_VALUES) for number in range(1, N_NODES + 1)}


@contextmanager
def nodes(trained: Mapping[int, FloatArray], *, seed: int) -> Iterator[dict[int, Line]]:
    """Starts every node in a process of its own.

    Args:
        trained: What each node's client has trained.
        seed: What Flower rounds by.
    """
    hosts = {str(number): _host(number, update, seed) for number, update in trained.items()}
    with victims(hosts) as lines:
        yield {int(name): line for name, line in lines.items()}


def _host(number: int, update: FloatArray, seed: int) -> Host:
    class Trained(NumPyClient):
        def fit(self, parameters: Any, config: Any) -> tuple[list[Any], int, dict[str, Any]]:
            del parameters, config
            return [update], _NUM_EXAMPLES, {}

    def client(context: Context) -> Client:
        del context
        return Trained().to_client()

    return node(ClientApp(client_fn=client, mods=[secaggplus_mod]), number, seed=seed)


@dataclass(frozen=True)
class SharesSent:
    """What a node gives in the second stage: by the node that it is for, encrypted shares."""

    ciphertexts: Mapping[int, bytes]


class Workflow:
    """The questions of Flower's workflow, to be asked one by one.

    Args:
        lines: The ways to the nodes.
    """

    def __init__(self, lines: Mapping[int, EngineChannel]) -> None:
        self._lines = lines

    def set_up(self, number: int) -> tuple[bytes, bytes]:
        """Stage 0: a node's two public keys."""
        answer = self._ask(
            number,
            {
                Key.STAGE: Stage.SETUP,
                Key.SAMPLE_NUMBER: N_NODES,
                Key.SHARE_NUMBER: N_NODES,
                Key.THRESHOLD: THRESHOLD,
                Key.CLIPPING_RANGE: _CLIPPING_RANGE,
                Key.TARGET_RANGE: _TARGET_RANGE,
                Key.MOD_RANGE: _MOD_RANGE,
                Key.MAX_WEIGHT: _MAX_WEIGHT,
            },
        )
        return answer[Key.PUBLIC_KEY_1], answer[Key.PUBLIC_KEY_2]

    def share_keys(self, number: int, keys: Mapping[int, tuple[bytes, bytes]]) -> SharesSent:
        """Stage 1: what a node shares with those whose public keys it is given."""
        answer = self._ask(
            number,
            {Key.STAGE: Stage.SHARE_KEYS, **{str(each): [*pair] for each, pair in keys.items()}},
        )
        return SharesSent(
            dict(zip(answer[Key.DESTINATION_LIST], answer[Key.CIPHERTEXT_LIST], strict=True))
        )

    def masked_vector(self, number: int, ciphertexts: Mapping[int, bytes]) -> list[Any]:
        """Stage 2: a node's masked update, given the others' shares for it, by who sent them."""
        instructions = FitIns(ndarrays_to_parameters([np.zeros(N_VALUES)]), {})
        answer = self._ask(
            number,
            {
                Key.STAGE: Stage.COLLECT_MASKED_VECTORS,
                Key.CIPHERTEXT_LIST: [*ciphertexts.values()],
                Key.SOURCE_LIST: [*ciphertexts],
            },
            fitins_to_recorddict(instructions, keep_input=True),
        )
        return [bytes_to_ndarray(data) for data in answer[Key.MASKED_PARAMETERS]]

    def unmask(
        self, number: int, *, active: Sequence[int], dead: Sequence[int]
    ) -> list[tuple[int, bytes]]:
        """Stage 3: the shares that a node gives up, each with its owner, in the order asked."""
        answer = self._ask(
            number,
            {
                Key.STAGE: Stage.UNMASK,
                Key.ACTIVE_NODE_ID_LIST: [*active],
                Key.DEAD_NODE_ID_LIST: [*dead],
            },
        )
        return list(zip(answer[Key.NODE_ID_LIST], answer[Key.SHARE_LIST], strict=True))

    def _ask(
        self, number: int, config: Mapping[str, Any], content: RecordDict | None = None
    ) -> Mapping[str, Any]:
        record = content if content is not None else RecordDict()
        record[RECORD_KEY_CONFIGS] = ConfigRecord(dict(config))
        return dict(ask(self._lines[number], record).config_records[RECORD_KEY_CONFIGS])


def unmasked(
    masked: list[Any], victim: int, *, seed: bytes, secrets: Mapping[int, bytes]
) -> FloatArray:
    """A node's update without its masks.

    Args:
        masked: What it sent.
        victim: The node.
        seed: The seed of its own mask.
        secrets: By each other node the secret that the pair's mask is made from.
    """
    shapes = get_parameters_shape(masked)
    values = parameters_subtraction(masked, pseudo_rand_gen(seed, _MOD_RANGE, shapes))
    for peer, secret in secrets.items():
        mask = pseudo_rand_gen(secret, _MOD_RANGE, shapes)
        take_off = parameters_subtraction if victim > peer else parameters_addition
        values = take_off(values, mask)
    weight, quantized = factor_extract(parameters_mod(values, _MOD_RANGE))
    (update,) = dequantize(quantized, _CLIPPING_RANGE, _TARGET_RANGE)
    recovered: FloatArray = update * (_TARGET_RANGE / weight)
    return recovered


def recovered_share(recovered: Sequence[float], update: FloatArray) -> float:
    """Share of an update's values that were recovered, up to Flower's rounding."""
    return float((np.abs(np.asarray(recovered) - update) <= ROUNDING).mean())
