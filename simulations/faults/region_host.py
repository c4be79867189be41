"""A region's engine in a process of its own, on a socket, as a trial wants it to live."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from client.consent_service.registrar import Choice
from client.engine.home import RegionHome
from client.engine.preparation import RegionData
from client.training.noise import SeededNoise
from common.canonical_json import JsonValue
from common.engine_channel import serve_channel
from common.errors import FedprefError
from common.parameters import save_arrays
from simulations.faults.children import Teller
from simulations.faults.memory import PeakMemory
from simulations.faults.places import LEFT, Places, Trap, watched_places
from simulations.provision import OpenRegion, RegionSetUp, open_region
from simulations.run_folder import RunFolder

Header = dict[str, JsonValue]
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class RegionLife:
    """How a region's engine is to live.

    Attributes:
        folder: The run's folder.
        set_up: What the region was provisioned with.
        socket: Where it is reached.
        seed: What the noise of each of its rounds is drawn from, so that a run can be held to
            another bit by bit.
        traps: What happens where.
        clock_offset_s: By how much its clock is wrong, in seconds.
        clock_from_round: From which round on it is wrong.
        leaves_in_round: The round in whose middle one of its customers withdraws; None for none.
        measures_memory: Whether the growth of its memory is told after each train request.
        data: The region's store, read before anything was forked: reading it writes nothing.
    """

    folder: Path
    set_up: RegionSetUp
    socket: Path
    seed: str
    traps: Sequence[Trap] = ()
    clock_offset_s: float = 0.0
    clock_from_round: int = 1
    leaves_in_round: int | None = None
    measures_memory: bool = False
    data: RegionData | None = None


class RoundNoise:
    """A `NoiseSource` that begins anew with each round: a repeated round draws the same.

    Args:
        seed: What all rounds are drawn from.
    """

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._source = SeededNoise(seed)

    def begin(self, server_round: int) -> None:
        """Begins a round's noise from its start."""
        self._source = SeededNoise(f"{self._seed}/{server_round}")

    def gaussian(self, shape: tuple[int, ...], stddev: float) -> npt.NDArray[np.float64]:
        """See `NoiseSource`."""
        return self._source.gaussian(shape, stddev)

    def fill(self, out: npt.NDArray[np.float32], stddev: float) -> None:
        """See `NoiseSource`."""
        self._source.fill(out, stddev)

    def mask(self, n: int, probability: float) -> npt.NDArray[np.bool_]:
        """See `NoiseSource`."""
        return self._source.mask(n, probability)


def host_region(life: RegionLife, teller: Teller) -> None:
    """Lives it, in a process forked for it, till the parent says that it is over.

    A region that cannot open tells why, and ends.
    """
    noise = RoundNoise(f"{life.seed}/{life.set_up.region}")
    root = RunFolder(life.folder).region_home(life.set_up.region)
    with watched_places(teller, life.traps) as places, wrong_clock(life) as clock:
        try:
            with open_region(
                RegionHome.read(root), life.set_up, noise=noise, data=life.data
            ) as region:
                channel = _Watched(region, life, places, teller, noise, clock)
                with serve_channel(channel, life.socket):
                    if life.measures_memory:
                        channel.memory.begin()
                    teller.tell(ready=True)
                    teller.serve()
        except FedprefError as error:
            teller.tell(failed=type(error).__name__, message=error.message, code=error.exit_code)


class Clock:
    """This process's clock, which can be set wrong."""

    def __init__(self) -> None:
        self.offset_s = 0.0
        self._right = time.time

    def __call__(self) -> float:
        """Seconds since the epoch, as this process sees them."""
        return self._right() + self.offset_s


@contextmanager
def wrong_clock(life: RegionLife) -> Any:
    """Puts a clock in this process's place of `time.time` while the body runs."""
    clock, right = Clock(), time.time
    if life.clock_offset_s:
        time.time = clock
    try:
        yield clock
    finally:
        time.time = right


class _Watched:
    """An engine channel whose parent looks at every payload the moment that it leaves."""

    def __init__(
        self,
        region: OpenRegion,
        life: RegionLife,
        places: Places,
        teller: Teller,
        noise: RoundNoise,
        clock: Clock,
    ) -> None:
        self._region = region
        self._life = life
        self._places = places
        self._teller = teller
        self._noise = noise
        self._clock = clock
        self.memory = PeakMemory()

    def call(self, method: str, header: Header, arrays: Arrays) -> tuple[Header, dict[str, Any]]:
        """Passes a request on, in its round."""
        number = header.get("round")
        if isinstance(number, int):
            self._places.server_round = number
            if number >= self._life.clock_from_round:
                self._clock.offset_s = self._life.clock_offset_s
        if method != "train" or not isinstance(number, int):
            return self._region.channel.call(method, header, arrays)
        self._noise.begin(number)
        if number == self._life.leaves_in_round:
            self._let_one_leave()
        reply, released = self._region.channel.call(method, header, arrays)
        if self._life.measures_memory:
            self._teller.tell(grown_bytes=self.memory.grown_bytes())
        if reply["status"] == "ok":
            payload = hashlib.sha256(save_arrays(released)).hexdigest() if released else ""
            self._teller.ask(left=[header["run"], number, header["attempt"], payload, reply])
            self._places.at(LEFT)
        else:
            told = str(self._region.engine.last_refusal)
            self._teller.tell(refused=number, reason=reply["reason"], message=told)
        return reply, released

    def _let_one_leave(self) -> None:
        registrar = self._region.registrar
        leaving = next(each for each in self._region.customers if registrar.consents(each))
        registrar.record([Choice.withdraw(leaving)])
