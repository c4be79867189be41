"""One life of a region's engine, in a forked process that may be killed at any place of it.

The places are the failpoints, every write, sync, truncation and deletion of SQLite, and the moment
after a payload has left. The parent hears of each payload, and lets the region go on.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from client.consent_service.registrar import Choice
from client.data.transactions import CheckedTransactions
from client.engine.egress import EgressGuard
from client.engine.preparation import RegionData
from client.engine.round_release import release_maker  # noqa: F401 - once, before any life is forked
from client.engine.seal import SealStore
from client.engine.service import PrivacyEngine
from common import failpoints
from common.parameters import save_arrays
from common.plan import RunPlan
from server.aggregation import first_model
from simulations.faults.disk import fault_vfs
from simulations.provision import OpenRegion, RegionSetUp, open_region
from simulations.run_folder import RunFolder
from tests.support.cosigning import witnessed
from tests.support.small_federation import home_of

ROUNDS = (1, 2)
LEFT = "left"
CHARGE_AFTER = "charge after sending"
NO_SEAL = "fresh noise for a retry"
VARIANTS = ("", CHARGE_AFTER, NO_SEAL)
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Life:
    """What a region is to do before it ends.

    Attributes:
        folder: The run's folder.
        plan: The plan.
        set_up: What the region was provisioned with.
        attempt: The attempt that its requests name.
        kill_at: Where it is killed: at which place, counted from 1 at opening, or at the first of
            this name; None for nowhere.
        variant: Which defence is missing: "" for none.
        someone_leaves: Whether a customer withdraws in the middle of the second round.
        checked: The region's purchases, read once for all lives: reading them writes nothing.
    """

    folder: Path
    plan: RunPlan
    set_up: RegionSetUp
    attempt: int = 1
    kill_at: int | str | None = None
    variant: str = ""
    someone_leaves: bool = False
    checked: CheckedTransactions | None = None


class Reaper:
    """Tells the parent what happens, counts places, and kills the process at one of them."""

    def __init__(self, connection: socket.socket, kill_at: int | str | None) -> None:
        self.places: list[str] = []
        self._connection = connection
        self._kill_at = kill_at

    def tell(self, **what: Any) -> None:
        self._connection.sendall(json.dumps(what).encode() + b"\n")

    def wait(self) -> None:
        """Waits till the parent has looked; ends with it."""
        if self._connection.recv(1) != b"\n":
            os._exit(1)

    def at(self, place: str) -> None:
        self.places.append(place)
        if self._kill_at in (len(self.places), place):
            self.tell(killed_at=place)
            os.kill(os.getpid(), signal.SIGKILL)


def live(life: Life, connection: socket.socket) -> None:
    """Lives it, in a process made for it, and ends that process."""
    reaper = Reaper(connection, life.kill_at)
    try:
        pass_through(life, reaper)
        reaper.tell(places=reaper.places)
    except BaseException:  # noqa: BLE001 - told to the parent, whatever it is
        reaper.tell(error=traceback.format_exc())
    finally:
        connection.close()
        os._exit(0)


def pass_through(life: Life, reaper: Reaper) -> None:
    """Opens the region, has it asked for each round, and closes it."""
    with fault_vfs() as disk, patch.object(failpoints, "hook", reaper.at):
        disk.fault = lambda _: reaper.at(disk.operation)
        with undefended(life.variant), _read_before(life.checked):
            with open_region(home_of(RunFolder(life.folder)), life.set_up) as region:
                _answer(life, region, reaper)


def _answer(life: Life, region: OpenRegion, reaper: Reaper) -> None:
    """The coordinator's requests for each round, and what leaves in answer."""
    model: Arrays = {}
    for number in ROUNDS:
        header = {
            "run": life.plan.run_id,
            "round": number,
            "attempt": life.attempt,
            "mechanism": life.plan.mechanism_of(number).name,
            "plan": life.plan.digest,
            "cosignatures": [],
        }
        late = life.variant == CHARGE_AFTER
        with _uncommitted(region.engine) if late else nullcontext():
            request = witnessed(region.engine, header)
            if life.someone_leaves and number == 2:
                leaving = next(c for c in region.customers if region.registrar.consents(c))
                region.registrar.record([Choice.withdraw(leaving)])
            reply, arrays = region.engine.call("train", request, model)
            if reply["status"] != "ok":
                reaper.tell(refused=f"{reply['reason']}: {region.engine.last_refusal}")
                continue
            encoded = base64.b64encode(save_arrays(arrays)).decode()
            reaper.tell(left=[life.plan.run_id, number, life.attempt, encoded, reply])
            reaper.wait()
            reaper.at(LEFT)
        if number == 1:
            model = first_model(arrays["popularity"].astype(np.float64), life.plan)


@contextmanager
def _read_before(checked: CheckedTransactions | None) -> Iterator[None]:
    if checked is None:
        yield
        return
    with patch.object(RegionData, "checked_transactions", lambda _: checked):
        yield


@contextmanager
def undefended(variant: str) -> Iterator[None]:
    """Takes the seal away, and the log's word of what was released and which rounds are over.

    Of every variant, also the egress guard: it reads seal and ledger back, and would let nothing
    out that is not sealed and charged there.
    """
    if not variant:
        yield
        return
    with (
        patch.object(EgressGuard, "check"),
        _without_seal() if variant == NO_SEAL else nullcontext(),
    ):
        yield


@contextmanager
def _without_seal() -> Iterator[None]:
    with (
        patch.object(SealStore, "read", lambda *_: None),
        patch.object(SealStore, "write", lambda *_: None),
        patch("client.engine.log_state.LogState.released", Forgetful(set), create=True),
        patch("client.engine.log_state.LogState.newest_round", Forgetful(dict), create=True),
    ):
        yield


class Forgetful:
    """In the place of a set or dict attribute: one that never holds anything."""

    def __init__(self, kind: type[set[str]] | type[dict[str, int]]) -> None:
        self._kind = kind

    def __get__(self, *_: object) -> set[str] | dict[str, int]:
        return self._kind()

    def __set__(self, *_: object) -> None:
        pass


@contextmanager
def _uncommitted(engine: PrivacyEngine) -> Iterator[None]:
    """Commits the ledger's charge only when the body is over."""
    connection = engine.ledger._connection
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("COMMIT")
