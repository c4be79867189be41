"""What an attacker can do, each with what it is given and nothing else.

An action runs in a process of the attacker's user (`simulations.deployment_attacks.intruder`): what
it reaches, it reaches by the network, or because the system lets that user.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
from flwr.app import Message, RecordDict
from flwr.proto.control_pb2 import RegisterNodeRequest
from flwr.serverapp import Grid
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE

from common.engine_socket import SocketChannel
from common.errors import FederationError, FedprefError
from common.messages import decode_message, encode_message
from simulations.attack_demos.stock_flower import fedavg
from simulations.deployment_attacks.doors import coordinator, read_door, refusal
from simulations.deployment_attacks.fleet import NodeKey, activate, live_as_node
from simulations.deployment_attacks.local import seize_client_task, take_server_task
from simulations.deployment_attacks.outcome import Found
from simulations.deployment_attacks.wire import answer_of, content_of, packed

Given = Mapping[str, Any]

_ENGINE_TIMEOUT_S = 20.0
_FLOOD_TIMEOUT_S = 60.0
_NODES_WITHIN_S = 60.0
_POLL_S = 0.5
# A node that goes at once after its answer is one that has not answered.
_LINGER_S = 10.0


def coordinate(given: Given) -> Found:
    """Acts as the coordinator of a run: asks all nodes what the script says, one after another.

    Args:
        given: what `read_door` takes; ``bundle``, a file; ``config``; ``nodes``, how many to wait
            for; ``asks``, each with ``type``, ``timeout_s`` and its content, ``of`` for some nodes
            only, and ``averages``, whether FedAvg is to make a model of the answers.
    """
    door = read_door(given)
    bundle = Path(given["bundle"]).read_bytes()
    try:
        with coordinator(door, bundle, given.get("config", {})) as grid:
            names = _wait_for_nodes(grid, int(given["nodes"]))
            rounds = [_ask(grid, names, ask, number) for number, ask in enumerate(given["asks"], 1)]
    except httpx.HTTPError as error:
        return {"refused": refusal(error)}
    except FederationError as error:
        return {"refused": error.message}
    return {"nodes": sorted(names.values()), "rounds": rounds}


def _wait_for_nodes(grid: Grid, number: int) -> dict[int, str]:
    until = time.monotonic() + _NODES_WITHIN_S
    while time.monotonic() < until:
        names = {node.node_id: node.name for node in grid.get_nodes()}
        if len(names) >= number:
            return names
        time.sleep(_POLL_S)
    raise FederationError(f"Fewer than {number} nodes came within {_NODES_WITHIN_S:g} s.")


def _ask(grid: Grid, names: Mapping[int, str], ask: Given, number: int) -> Found:
    wanted = set(ask.get("of", names.values()))
    messages = [
        Message(content_of(ask), dst_node_id=node, message_type=ask["type"], group_id=str(number))
        for node, name in names.items()
        if name in wanted
    ]
    replies = list(grid.send_and_receive(messages, timeout=float(ask["timeout_s"])))
    # What the SuperLink itself answers, for a node that is gone, has the SuperLink's number.
    found: Found = {
        "answers": [
            answer_of(each, names.get(each.metadata.src_node_id, "superlink")) for each in replies
        ]
    }
    if ask.get("averages"):
        contents = [each.content for each in replies if each.has_content()]
        averaged = fedavg(contents, server_round=number)
        found["average"] = {name: packed(array) for name, array in averaged.items()}
    return found


def register_key(given: Given) -> Found:
    """Registers a node key of the attacker's own, and says hello as that node.

    Args:
        given: ``address``, ``ca``; ``key``, the file of a key; a new key without it.
    """
    door = read_door(given)
    key = NodeKey.read(Path(given["key"])) if given.get("key") else NodeKey.new()
    found: Found = {"hello": _hello(given, key)}
    try:
        with door.control() as control:
            request = RegisterNodeRequest(public_key=key.public, name=given["name"])
            control.RegisterNode(request)
        found["registered"] = "accepted"
    except httpx.HTTPError as error:
        found["registered"] = refusal(error)
    found["hello_after"] = _hello(given, key)
    return found


def _hello(given: Given, key: NodeKey) -> str:
    try:
        activate(given["address"], Path(given["ca"]).read_bytes(), key)
    except httpx.HTTPError as error:
        return refusal(error)
    return "accepted"


def replay(given: Given) -> Found:
    """Lives as a region's node, and sends its first answer of a kind again to all that follow.

    Args:
        given: ``address``, ``ca``, ``key``; ``kind``, which messages are answered with the first
            answer; ``times``, after how many of them to leave; ``seconds``, when at the latest;
            either ``engine`` and ``engine_user``, the socket of the region's engine and whose it
            is, or ``update``, what a node without an engine sends.
    """
    first: list[RecordDict] = []
    honest = _by_engine(given) if "engine" in given else _by_itself(given)
    until = time.monotonic() + float(given["seconds"])
    sent, last_at = {"first": 0, "again": 0}, time.monotonic()

    def answer(message: Message) -> RecordDict:
        nonlocal last_at
        last_at = time.monotonic()
        if message.metadata.message_type != given["kind"]:
            return honest(message)
        sent["again" if first else "first"] += 1
        if not first:
            first.append(honest(message))
        return first[0]

    def ended() -> bool:
        now = time.monotonic()
        done = sum(sent.values()) >= int(given["times"])
        return now > until or (done and now > last_at + _LINGER_S)

    key, ca = NodeKey.read(Path(given["key"])), Path(given["ca"]).read_bytes()
    live_as_node(given["address"], ca, key, answer, ended=ended)
    return dict(sent)


def _by_engine(given: Given) -> Callable[[Message], RecordDict]:
    channel = _engine(given)

    def answer(message: Message) -> RecordDict:
        header, arrays = decode_message(message.content)
        method = message.metadata.message_type.rpartition(".")[2]
        return encode_message(*channel.call(method, header, arrays))

    return answer


def _engine(given: Given) -> SocketChannel:
    user = int(given["engine_user"])
    return SocketChannel(Path(given["engine"]), timeout_s=_ENGINE_TIMEOUT_S, engine_user=user)


def _by_itself(given: Given) -> Callable[[Message], RecordDict]:
    return lambda _: content_of(given["update"])


def flood(given: Given) -> Found:
    """Sends one request that is far too large, with nothing that says who is asking.

    Args:
        given: ``address``, ``ca``, ``path``, ``bytes``.
    """
    size, piece = int(given["bytes"]), b"\0" * (1 << 20)
    sent = 0

    def body() -> Any:
        nonlocal sent
        while sent < size:
            sent += len(piece)
            yield piece

    headers = {"content-type": PROTOBUF_MEDIA_TYPE}
    try:
        with httpx.Client(verify=given["ca"], timeout=_FLOOD_TIMEOUT_S) as client:
            response = client.post(
                f"https://{given['address']}{given['path']}", content=body(), headers=headers
            )
        ended = f"HTTP {response.status_code}"
    except httpx.HTTPError as error:
        ended = type(error).__name__
    return {"sent_bytes": sent, "ended": ended}


def knock(given: Given) -> Found:
    """Asks an engine things over its socket.

    Args:
        given: ``engine``, the socket; ``engine_user``, whose it is; ``asks``, each with ``method``
            and ``header``.
    """
    channel = _engine(given)
    answers: list[Found] = []
    for ask in given["asks"]:
        try:
            header, arrays = channel.call(ask["method"], ask["header"], {})
        except FedprefError as error:
            answers.append({"refused": error.message})
            continue
        answers.append({"header": header, "arrays": sorted(arrays)})
    return {"answers": answers}


#: By the name that a request gives.
ACTIONS: dict[str, Callable[[Given], Found]] = {
    "coordinate": coordinate,
    "flood": flood,
    "knock": knock,
    "register-key": register_key,
    "replay": replay,
    "seize-client-task": seize_client_task,
    "take-server-task": take_server_task,
}
