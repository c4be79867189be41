"""Victims and attackers as processes that share nothing but the pipes between them.

Every victim is a process: a region's engine with its home, or a Flower node with its state. The
attacker is another, which holds the pipes' other ends and sees what travels on them. Each has a
user of its own where the system lets one choose (`simulations.attack_demos.users`). Processes are
forked, so the forking one must have no threads of its own; see `simulations.faults.children`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any
from unittest.mock import patch

import numpy as np

from client.engine.egress import EgressGuard
from client.engine.home import RegionHome
from client.training.noise import NoiseSource, SeededNoise
from common.canonical_json import JsonValue
from common.errors import FederationError, FedprefError
from common.parameters import load_arrays, save_arrays
from simulations.attack_demos.users import User, attacker, victims_users
from simulations.faults.children import Child, Teller, hear_all
from simulations.faults.federation import Federation
from simulations.provision import open_region

Header = dict[str, JsonValue]
Arrays = Mapping[str, np.ndarray]
Reply = tuple[Header, dict[str, np.ndarray]]
#: What an attacker has found, as JSON has it.
Found = dict[str, Any]
#: What answers in a victim's process.
Answer = Callable[[str, Header, Arrays], Reply]

#: What a victim's process does: it is given a function that serves answers, till its life is over.
Host = Callable[[Callable[[Answer], None]], None]

#: For how long nothing at all may happen, in seconds.
SILENCE_S = 300.0
_LENGTH_BYTES = 8
_PUBLIC_MODE = 0o644
_MAX_BODY_BYTES = 1 << 28


class Line:
    """The way to a victim; an `EngineChannel`.

    Args:
        connection: The pipe's end.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def call(self, method: str, header: Header, arrays: Arrays) -> Reply:
        """Asks one thing and waits for the answer.

        Raises:
            FederationError: The victim failed, or is gone.
        """
        with self._lock:
            try:
                self._connection.send_bytes(_encode({"method": method, "header": header}, arrays))
                answer, received = _decode(self._connection.recv_bytes())
            except (OSError, EOFError) as error:
                raise FederationError(f"A victim's process is gone: {error}") from error
        if "failed" in answer:
            raise FederationError(f"A victim failed: {answer['failed']}")
        return answer["header"], received  # type: ignore[return-value] # as `_serve` sends it


@contextmanager
def victims(
    hosts: Mapping[str, Callable[[Callable[[Answer], None]], None]],
) -> Iterator[dict[str, Line]]:
    """Starts a process for each victim; kills them on exit.

    Args:
        hosts: By name what each does.
    """
    with ExitStack() as stack:
        lines: dict[str, Line] = {}
        users = victims_users(hosts)
        for name, host in hosts.items():
            ours, theirs = Pipe()
            child = Child(name, _life(host, theirs, users[name]))
            stack.callback(ours.close)
            stack.callback(child.kill)
            theirs.close()
            _await_ready(child)
            lines[name] = Line(ours)
        yield lines


@contextmanager
def engines(
    federation: Federation, *, noise: Mapping[str, NoiseSource] | None = None
) -> Iterator[dict[str, Line]]:
    """Starts every region's engine in a process of its own.

    Args:
        federation: Whose regions.
        noise: A hostile region's noise source, by its name: its engine is the attacker's, who has
            taken the guard out that would keep such an update back. Others draw from the seed, anew
            with every draw.
    """
    sources = {
        region: (noise or {}).get(region, SeededNoise(f"{federation.seed}/{region}"))
        for region in federation.plan.regions
    }

    def host(region: str) -> Host:
        home = RegionHome.read(federation.folder.region_home(region))

        def live(serve: Callable[[Answer], None]) -> None:
            with ExitStack() as stack:
                if noise is not None and region in noise:
                    stack.enter_context(patch.object(EgressGuard, "check"))
                set_up = federation.set_up(region)
                serve(
                    stack.enter_context(
                        open_region(home, set_up, noise=sources[region])
                    ).channel.call
                )

        return live

    folder = federation.folder
    for region, user in victims_users(federation.plan.regions).items():
        user.own(folder.region_home(region), folder.data / region)
    folder.catalogue.chmod(_PUBLIC_MODE)
    with victims({region: host(region) for region in federation.plan.regions}) as lines:
        yield lines


def as_attacker(attack: Callable[[], Found]) -> Found:
    """Carries out an attack in a process of the attacker's, and gives what it found.

    Raises:
        FederationError: The attacker's process broke.
    """
    found: Found = {}
    user = attacker()

    def live(teller: Teller) -> None:
        user.become()
        teller.tell(found=attack())

    child = Child("attacker", live)
    try:
        while child.status is None:
            for _, told in hear_all([child], within_s=SILENCE_S):
                if "defect" in told:
                    raise FederationError(f"The attacker broke: {told['defect']}")
                found.update(told.get("found", {}))
    finally:
        child.kill()
    return found


def _life(host: Host, connection: Connection, user: User) -> Callable[[Teller], None]:
    def live(teller: Teller) -> None:
        user.become()

        def serve(answer: Answer) -> None:
            teller.tell(ready=True)
            _serve(connection, answer)

        host(serve)

    return live


def _serve(connection: Connection, answer: Answer) -> None:
    """Answers till the other end is closed."""
    while True:
        try:
            request, arrays = _decode(connection.recv_bytes())
        except EOFError:
            return
        try:
            header, answered = answer(str(request["method"]), _object(request["header"]), arrays)
            reply = _encode({"header": header}, answered)
        # Whatever breaks in a victim must answer, or the attacker waits for ever.
        except FedprefError as error:
            reply = _encode({"failed": error.message}, {})
        except Exception as error:  # noqa: BLE001 - the same, told by its kind
            reply = _encode({"failed": f"{type(error).__name__}: {error}"}, {})
        connection.send_bytes(reply)


def _await_ready(child: Child) -> None:
    while True:
        for _, told in hear_all([child], within_s=SILENCE_S):
            if "ready" in told:
                return
            raise FederationError(f"{child.name} does not start: {told.get('defect', 'it ended')}")


def _object(value: JsonValue) -> Header:
    if not isinstance(value, dict):
        raise FederationError("A request's header is no object.")
    return value


def _encode(header: Header, arrays: Arrays) -> bytes:
    head = json.dumps(header).encode()
    body = save_arrays(arrays) if arrays else b""
    return len(head).to_bytes(_LENGTH_BYTES, "big") + head + body


def _decode(data: bytes) -> Reply:
    start = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "big")
    header: Header = json.loads(data[_LENGTH_BYTES:start])
    body = data[start:]
    return header, load_arrays(body, max_bytes=_MAX_BODY_BYTES) if body else {}
