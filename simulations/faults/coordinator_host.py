"""The coordinator in a process of its own, with the relays, as a trial wants it to live."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flwr.app import Message

from client.app import app as client_app
from common.engine_channel import SOCKET_DIR_VARIABLE, SOCKET_VARIABLE, TIMEOUT_VARIABLE
from common.errors import FedprefError
from common.messages import decode_message
from server.app import app as server_app
from server.config import ServerHome
from simulations.faults.children import Teller
from simulations.faults.memory import PeakMemory
from simulations.faults.places import Trap, watched_places
from simulations.faults.recordings import Recordings
from simulations.in_process_grid import run_in_process
from simulations.outside_witness import witness_in_process
from simulations.run_folder import RunFolder

#: Given a request and the reply to it, says what arrives in its place.
Forge = Callable[[Message, Message], Sequence[Message]]


@dataclass(frozen=True)
class Forgery:
    """What the network, or a hostile region, makes of one train reply.

    Attributes:
        region: Whose reply.
        server_round: In which round.
        forge: What arrives in its place.
    """

    region: str
    server_round: int
    forge: Forge


@dataclass(frozen=True)
class CoordinatorLife:
    """How the coordinator is to live.

    Attributes:
        folder: The run's folder.
        sockets: The folder of the regions' sockets.
        regions: The plan's regions, in its order.
        recordings: Where requests and replies are kept.
        run_config: Flower's run configuration, beside the home.
        engine_timeout_s: For how long a relay waits for its engine, in seconds.
        traps: What happens where.
        forgeries: What becomes of replies.
        clock_offset_s: By how much its clock is wrong, in seconds.
        memory: What a forgery begins to measure its memory with.
    """

    folder: Path
    sockets: Path
    regions: Sequence[str]
    recordings: Recordings
    run_config: Mapping[str, bool | float | int | str]
    engine_timeout_s: float
    traps: Sequence[Trap] = ()
    forgeries: Sequence[Forgery] = ()
    clock_offset_s: float = 0.0
    memory: PeakMemory = field(default_factory=PeakMemory)


def host_coordinator(life: CoordinatorLife, teller: Teller) -> None:
    """Lives it, in a process forked for it, and tells how it ended."""
    os.environ.pop(SOCKET_VARIABLE, None)
    os.environ[SOCKET_DIR_VARIABLE] = str(life.sockets)
    os.environ[TIMEOUT_VARIABLE] = repr(life.engine_timeout_s)
    if life.clock_offset_s:
        right = time.time
        time.time = lambda: right() + life.clock_offset_s
    folder = RunFolder(life.folder)
    home = ServerHome(folder.server.resolve())
    with watched_places(teller, life.traps, read_round=lambda: _started_round(home)):
        try:
            with witness_in_process(folder):
                run_in_process(
                    server_app,
                    client_app,
                    n_nodes=len(life.regions),
                    run_config={"server-home": str(home.root), **life.run_config},
                    parallel=len(life.regions),
                    reply_hook=_Network(life),
                    close_wait_s=0.0,
                )
        except FedprefError as error:
            teller.tell(failed=type(error).__name__, message=error.message, code=error.exit_code)
        else:
            teller.tell(finished=True, peak_bytes=life.memory.grown_bytes())


class _Network:
    """Keeps what goes by, and forges what is to be forged."""

    def __init__(self, life: CoordinatorLife) -> None:
        self._life = life

    def __call__(self, partition: int, request: Message, reply: Message) -> Sequence[Message]:
        """See `simulations.in_process_grid.ReplyHook`."""
        if request.metadata.message_type != "train":
            return [reply]
        region = self._life.regions[partition]
        header, model = decode_message(request.content)
        number = header["round"]
        if not isinstance(number, int):
            raise TypeError("a round is a number")
        self._life.recordings.keep("request", region, number, header, model)
        if reply.has_content():
            answer, released = decode_message(reply.content)
            if answer["status"] == "ok":
                self._life.recordings.keep("reply", region, number, answer, released)
        for forgery in self._life.forgeries:
            if (forgery.region, forgery.server_round) == (region, number):
                return list(forgery.forge(request, reply))
        return [reply]


def _started_round(home: ServerHome) -> int:
    """The round that the newest event is about."""
    lines = home.events.read_bytes().splitlines()
    return int(json.loads(lines[-1])["round"])
