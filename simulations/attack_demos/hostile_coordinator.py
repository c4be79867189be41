"""A coordinator that carries out a run as ours does, but with its hand on every message.

It runs the real coordinator's code, for what an attacker wants is mostly what an honest coordinator
gets, and a little more; its hand changes, repeats, keeps or invents messages on the way.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.audit.log import AuditLog
from common.canonical_json import JsonValue
from common.engine_channel import EngineChannel
from common.envelope import Envelope
from common.errors import FederationError
from server.config import ServerHome
from simulations.attack_demos.processes import Arrays, Found, Header, Line, Reply, as_attacker
from simulations.attack_demos.users import attacker
from simulations.faults.federation import Federation
from simulations.federate import federate
from simulations.run_folder import RunFolder


@dataclass(frozen=True)
class Call:
    """A request on its way to a region.

    Attributes:
        region: The region.
        method: What is asked.
        header: The request's header.
        arrays: Its arrays.
        line: The way to the region, to ask what one likes.
    """

    region: str
    method: str
    header: Header
    arrays: Arrays
    line: EngineChannel

    def forward(self) -> Reply:
        """Asks what the coordinator asks."""
        return self.line.call(self.method, self.header, self.arrays)

    def ask(self, **changes: JsonValue) -> Reply:
        """Asks the same with some fields of its header changed."""
        return self.line.call(self.method, {**self.header, **changes}, self.arrays)

    def is_(self, method: str, server_round: int, step: str | None = None) -> bool:
        """Whether it is this method's, of this round, and this step of an execution."""
        return (self.method, self.header.get("round"), self.header.get("step")) == (
            method,
            server_round,
            step,
        )


class Hand:
    """An attacker's hand on the wire; one that only looks on."""

    def __init__(self) -> None:
        #: What it found, to be told.
        self.found: Found = {}
        self.lock = threading.Lock()

    def meddle(self, call: Call) -> Reply:
        """Says what the coordinator gets to hear in answer to a request."""
        return call.forward()

    def after(self, lines: Mapping[str, EngineChannel]) -> None:
        """What it does when the coordinator's part is over."""


def coordinate(
    federation: Federation, lines: Mapping[str, Line], hand: Hand, *, last_round: int
) -> Found:
    """Carries out a run's rounds in a process of their own, with a hand on every message.

    Args:
        federation: The federation, provisioned.
        lines: The ways to the regions' engines.
        hand: The attacker's.
        last_round: After which round to stop.

    Returns:
        What the hand found; ``ended`` says how the run did, if it failed.
    """

    def attack() -> Found:
        channels = {region: _Held(region, line, hand) for region, line in lines.items()}
        try:
            federate(
                "inprocess", federation.folder, federation.plan, channels, last_round=last_round
            )
        except FederationError as error:
            hand.found["ended"] = error.message
        hand.after(lines)
        return hand.found

    attacker().own(federation.folder.server, federation.folder.witness)
    return as_attacker(attack)


class _Held:
    def __init__(self, region: str, line: Line, hand: Hand) -> None:
        self._region = region
        self._line = line
        self._hand = hand

    def call(
        self, method: str, header: Header, arrays: Mapping[str, np.ndarray]
    ) -> tuple[Header, dict[str, np.ndarray]]:
        """See `EngineChannel`."""
        return self._hand.meddle(Call(self._region, method, header, arrays, self._line))


def entries(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    """The records of a kind in the coordinator's log."""
    with AuditLog.open_read_only(ServerHome(folder.server).log) as log:
        envelopes = [Envelope.decode(data) for _, data in log.entries()]
    return [each.record() for each in envelopes if each.kind == kind]


def refused(folder: RunFolder, server_round: int) -> dict[str, str]:
    """By region the reason why it is not in a round's aggregate."""
    return {
        who["region"]: who["reason"]
        for each in entries(folder, "aggregate")
        if each["round"] == server_round
        for who in each["refused"]
    }


def used(folder: RunFolder, server_round: int) -> list[str]:
    """The regions whose updates are in a round's aggregate."""
    return [
        str(who["region"])
        for each in entries(folder, "aggregate")
        if each["round"] == server_round
        for who in each["regions"]
    ]
