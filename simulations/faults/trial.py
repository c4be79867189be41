"""One trial: a federation of processes, what is done to it, and what must hold all the while.

Each region's engine is a process with its socket, the coordinator with the relays another; this
process starts them, starts them again when a trap has killed them, and judges. It has no threads of
its own, so that it may fork at any time.
"""

from __future__ import annotations

import hashlib
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.engine_channel import socket_name
from common.engine_socket import SocketChannel
from common.errors import FederationError, FedprefError
from server.config import ServerHome
from simulations.faults.children import Child, Teller, Told, hear_all
from simulations.faults.coordinator_host import CoordinatorLife, Forgery, host_coordinator
from simulations.faults.federation import (
    DELTA,
    EPSILON_CAP,
    ROUND_TIMEOUT_S,
    Federation,
    plan_for_server,
)
from simulations.faults.judge import CoordinatorJudge, Left, RegionJudge
from simulations.faults.memory import PeakMemory
from simulations.faults.places import Trap
from simulations.faults.recordings import Arrays, Header, Recordings
from simulations.faults.region_host import RegionLife, host_region
from simulations.outcome import bundle_run
from simulations.run_folder import RunFolder

#: For how long nothing at all may happen in a trial, in seconds: twice a round's every wait.
SILENCE_S = 6.0 * ROUND_TIMEOUT_S
#: What the coordinator's configuration bounds its waits by, in seconds.
RUN_CONFIG: Mapping[str, bool | float | int | str] = {
    "nodes-wait-s": float(ROUND_TIMEOUT_S),
    "describe-timeout-s": float(ROUND_TIMEOUT_S),
    "witness-timeout-s": float(ROUND_TIMEOUT_S),
}
_ENGINE_TIMEOUT_S = 10.0 * ROUND_TIMEOUT_S
_END_WITHIN_S = 10.0
_MOST_LIVES = 80


@dataclass
class Ending:
    """How the coordinator's last life of a run ended.

    Attributes:
        failed: The error's name, or "" if the run finished.
        message: Its message.
        code: The exit code that a command would end with.
        lives: How many lives the coordinator had.
        resumed_s: The longest time from a restart till a round went on, in seconds.
        rounds_s: How long each round took, from its start to the next one's, in seconds.
        peak_bytes: The growth of its memory, if that was measured.
    """

    failed: str = ""
    message: str = ""
    code: int = 0
    lives: int = 0
    resumed_s: float = 0.0
    rounds_s: dict[int, float] | None = None
    peak_bytes: int | None = None


class Trial:
    """A copy of a federation, alive. Use it as a context manager.

    Args:
        federation: What is copied.
        work: A folder of this trial's own, not there yet, with a short path: sockets lie in it.
        other_run: Whether the coordinator carries out the other plan.
    """

    def __init__(self, federation: Federation, work: Path, *, other_run: bool = False) -> None:
        self.federation = federation
        self.plan = federation.other_plan if other_run else federation.plan
        self.folder = RunFolder(work / "run")
        shutil.copytree(federation.folder.root, self.folder.root, symlinks=True)
        if other_run:
            plan_for_server(self.folder, self.plan)
        self.recordings = Recordings(work / "wire")
        self._sockets = work / "s"
        self._sockets.mkdir()
        self.home = ServerHome(self.folder.server)
        #: What should not be, in words.
        self.faults: list[str] = []
        self.judges = {
            region: RegionJudge(self.folder.region_home(region), EPSILON_CAP, DELTA)
            for region in self.plan.regions
        }
        self.judge = CoordinatorJudge(self.folder.server, self.plan.run_id, self.plan.quorum)
        #: The traps that sprang: whose, where, in which round.
        self.sprung: list[tuple[str, str, int]] = []
        #: The refusals that regions gave: region, round, reason.
        self.refusals: list[tuple[str, int, str]] = []
        #: How a region's engine failed to open.
        self.unopened: dict[str, str] = {}
        #: The rounds in which each region took a step of training.
        self.trained: list[tuple[str, int]] = []
        #: In which round a stopped region is let go on.
        self.continues_in: dict[str, int] = {}
        #: By how many bytes a region's memory grew, where that is measured.
        self.grown_bytes: dict[str, int] = {}
        self._answers: list[Header] = []
        self._spoilt: set[str] = set()
        self._lives: dict[str, RegionLife] = {}
        self._regions: dict[str, Child] = {}

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._regions.values():
            child.kill()

    @property
    def regions(self) -> tuple[str, ...]:
        """The plan's regions."""
        return self.plan.regions

    def hold(self, holds: bool, otherwise: str) -> None:
        """Notes a fault unless something holds."""
        if not holds:
            self.faults.append(otherwise)

    def spoil(self, region: str, damage: Callable[[Path], None]) -> None:
        """Damages a region's home on purpose, before its engine is started.

        Args:
            region: The region.
            damage: What is done to its home's folder.
        """
        damage(self.folder.region_home(region))
        self._spoilt.add(region)

    def start(self, **lives: Mapping[str, Any]) -> None:
        """Starts every region's engine; by region, what of its life is not as usual.

        A region's name has a hyphen, an option's an underscore: ``region_1`` is ``region-1``.
        """
        changes = {name.replace("_", "-"): change for name, change in lives.items()}
        for number, region in enumerate(self.regions):
            life = RegionLife(
                folder=self.folder.root,
                set_up=self.federation.set_up(region),
                socket=self._sockets / socket_name(number),
                seed=str(self.federation.seed),
                data=self.federation.data.get(region),
            )
            self._start(region, replace(life, **changes.get(region, {})))

    def coordinate(
        self,
        *,
        traps: Sequence[Trap] = (),
        forgeries: Sequence[Forgery] = (),
        run_config: Mapping[str, bool | float | int | str] | None = None,
        clock_offset_s: float = 0.0,
        memory: PeakMemory | None = None,
        judged: bool = True,
    ) -> Ending:
        """Runs the coordinator till it ends by itself; killed by a trap, it is started again.

        Args:
            traps: What happens where in the coordinator's process.
            forgeries: What becomes of replies.
            run_config: More of Flower's run configuration.
            clock_offset_s: By how much its clock is wrong, in seconds.
            memory: What a forgery begins to measure its memory with.
            judged: Whether its log is held to what it was before; False for one damaged on purpose.
        """
        life = CoordinatorLife(
            folder=self.folder.root,
            sockets=self._sockets,
            regions=self.regions,
            recordings=self.recordings,
            run_config={**RUN_CONFIG, **(run_config or {})},
            engine_timeout_s=_ENGINE_TIMEOUT_S,
            traps=tuple(traps),
            forgeries=tuple(forgeries),
            clock_offset_s=clock_offset_s,
            memory=memory or PeakMemory(),
        )
        ending = Ending(rounds_s={})
        while ending.lives < _MOST_LIVES:
            ending.lives += 1
            before = len(self.sprung)
            ended = self._live(life, ending)
            if judged:
                self.judge.look()
            if ended:
                return ending
            left = [trap for trap in life.traps if not self._has_sprung(trap, before)]
            life = replace(life, traps=tuple(left))
        raise FederationError(f"The coordinator was killed {_MOST_LIVES} times.")

    def coordinate_and_repeat(self, *, traps: Sequence[Trap] = ()) -> Ending:
        """Runs the coordinator, which asks for every round once more before it begins the last.

        Args:
            traps: What happens where in the coordinator's process.
        """
        paused = self.coordinate(traps=traps, run_config={"last-round": self.plan.total_rounds - 1})
        if paused.failed:
            return paused
        self.ask_again()
        left = [trap for trap in traps if not self._has_sprung(trap, 0)]
        return self.coordinate(traps=left)

    def ask_again(self) -> None:
        """Asks every region for every round once more, as a coordinator would that lost a reply.

        What leaves now must be what left before; a round that was never sealed is refused.
        """
        sockets = {region: life.socket for region, life in self._lives.items()}

        def ask(_: Teller) -> None:
            for region, path in sockets.items():
                for number in range(1, self.plan.total_rounds + 1):
                    recorded = self.recordings.read("request", region, number)
                    if recorded is not None and path.exists():
                        header, model = recorded
                        SocketChannel(path, timeout_s=_ENGINE_TIMEOUT_S).call(
                            "train", header, model
                        )

        self._hear_out(Child("asker", ask))

    def ask_region(self, region: str, header: Header, arrays: Arrays) -> Header:
        """Sends a region one train request, past the coordinator; gives its answer's header."""
        path = self._lives[region].socket
        self._answers.clear()

        def ask(teller: Teller) -> None:
            channel = SocketChannel(path, timeout_s=_ENGINE_TIMEOUT_S)
            teller.tell(answer=channel.call("train", header, arrays)[0])

        self._hear_out(Child("asker", ask))
        return self._answers[0] if self._answers else {}

    def request(self, server_round: int) -> Header:
        """The header of a train request, without cosignatures."""
        return {
            "run": self.plan.run_id,
            "round": server_round,
            "attempt": 1,
            "mechanism": self.plan.mechanism_of(server_round).name,
            "plan": self.plan.digest,
            "cosignatures": [],
        }

    def finish(self, *, published: bool = True) -> None:
        """Ends all regions, judges what they leave, and has the run's bundle verified.

        Args:
            published: Whether the run is to have ended with a published model.
        """
        self.let_all_continue()
        for child in self._regions.values():
            child.end(within_s=_END_WITHIN_S)
        sound = {name: each for name, each in self.judges.items() if name not in self._spoilt}
        for judge in sound.values():
            judge.ends()
        self.judge.ends({name: judge.look() for name, judge in sound.items()})
        self.hold(
            self.home.model.exists() == published,
            "a model is published" if self.home.model.exists() else "no model is published",
        )
        # Of a home that was damaged on purpose there is no evidence to bundle.
        if published and self.home.model.exists() and not self._spoilt:
            covered = [self.folder.model.name]
            verdict = bundle_run(self.folder, self.federation.scenario, self.plan, covered)
            self.hold(verdict.verified, f"the bundle does not verify: {verdict.first_failure}")
        found = {name: judge.faults for name, judge in self.judges.items()}
        for name, faults in {**found, "server": self.judge.faults}.items():
            self.faults += [f"{name}: {fault}" for fault in dict.fromkeys(faults)]

    def let_all_continue(self) -> None:
        """Lets every stopped region go on."""
        for child in self._regions.values():
            child.signal(signal.SIGCONT)

    @property
    def model_sha256(self) -> str:
        """SHA-256 of the published model's file, in hex."""
        return hashlib.sha256(self.home.model.read_bytes()).hexdigest()

    def _start(self, region: str, life: RegionLife) -> None:
        self._lives[region] = life
        child = Child(region, lambda teller: host_region(life, teller))
        self._regions[region] = child
        opened = False
        while not opened and child.status is None:
            for _, told in hear_all([child], within_s=SILENCE_S):
                opened = opened or "ready" in told
                self._hear(child, told)

    def _live(self, life: CoordinatorLife, ending: Ending) -> bool:
        """One life of the coordinator; whether it ended by itself."""
        child = Child("coordinator", lambda teller: host_coordinator(life, teller))
        began = time.monotonic()
        resumed, ended, last = False, False, (0, began)
        while child.status is None:
            for who, told in hear_all([child, *self._regions.values()], within_s=SILENCE_S):
                if who is child and "started" in told:
                    now, number = time.monotonic(), int(told["started"])
                    if not resumed and ending.lives > 1:
                        ending.resumed_s = max(ending.resumed_s, now - began)
                    resumed = True
                    _close(ending, last, now)
                    last = (number, now)
                    self._let_continue(number)
                elif who is child and ("finished" in told or "failed" in told):
                    _close(ending, last, time.monotonic())
                    ended = True
                    ending.failed = str(told.get("failed", ""))
                    ending.message = str(told.get("message", ""))
                    ending.code = int(told.get("code", 0))
                    ending.peak_bytes = told.get("peak_bytes")
                self._hear(who, told)
        return ended or not self._was_killed(child)

    def _was_killed(self, child: Child) -> bool:
        killed = child.killed_at is not None
        self.hold(killed, f"the coordinator ended with status {child.status}, untold")
        return killed

    def _hear_out(self, asker: Child) -> None:
        """Hears everyone till a process that asks them has ended."""
        while asker.status is None:
            for child, told in hear_all([asker, *self._regions.values()], within_s=SILENCE_S):
                self._hear(child, told)

    def _hear(self, child: Child, told: Told) -> None:
        if not told:
            self._bury(child)
        elif "left" in told:
            run, number, attempt, payload, reply = told["left"]
            left = Left(run, number, attempt, payload.encode(), reply)
            self.judges[child.name].sees_leaving(left)
            child.let_go_on()
        elif "sprung" in told:
            self.sprung.append((child.name, told["place"], told["round"]))
            if told["sprung"] == "kill":
                child.killed_at = told["place"]
        elif "refused" in told:
            self.refusals.append((child.name, told["refused"], told["reason"]))
        elif "failed" in told and child.name in self.judges:
            self.unopened[child.name] = told["failed"]
        elif "grown_bytes" in told:
            self.grown_bytes[child.name] = told["grown_bytes"]
        elif "answer" in told:
            self._answers.append(told["answer"])
        elif "trained" in told:
            self.trained.append((child.name, told["trained"]))
        elif "defect" in told:
            self.faults.append(f"a defect in {child.name}: {told['defect']}")

    def _bury(self, child: Child) -> None:
        """Looks at what a region leaves that has ended, and starts it again if it was killed."""
        region = child.name
        if region not in self.judges or child.killed_at is None:
            return
        self.judges[region].look()
        life = self._lives[region]
        left = [trap for trap in life.traps if not self._has_sprung(trap, 0, region)]
        self._start(region, replace(life, traps=tuple(left)))

    def _has_sprung(self, trap: Trap, since: int, who: str = "coordinator") -> bool:
        """Whether a trap has done what it was set for; one for every passing stays."""
        return trap.passing != 0 and any(
            name == who and place == trap.place and trap.server_round in (None, number)
            for name, place, number in self.sprung[since:]
        )

    def _let_continue(self, number: int) -> None:
        for region, when in self.continues_in.items():
            if when == number:
                self._regions[region].signal(signal.SIGCONT)


def _close(ending: Ending, last: tuple[int, float], now: float) -> None:
    number, since = last
    if number and ending.rounds_s is not None:
        ending.rounds_s[number] = round(ending.rounds_s.get(number, 0.0) + now - since, 2)


def carry_out(what: Callable[[Trial], None], trial: Trial) -> list[str]:
    """Does something to a federation, and gives what should not be."""
    with trial:
        try:
            what(trial)
        except FedprefError as error:
            trial.faults.append(f"{type(error).__name__}: {error}")
    return trial.faults
