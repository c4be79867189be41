"""Random schedules of faults on a small federation, in one process and one thread, by seed.

Run as ``python -m tests.support.schedule_fuzzer --schedules 1000 --seed 1``; with ``--replay N`` it
carries out one schedule, with ``--shrink`` only those of its faults without which it passes. Real
engines, the real coordinator, real files. A kill is what ``kill -9`` leaves: the files are copied
at a failpoint or a write of SQLite, everything unwinds, and the copy takes their place.

The invariants are those of `simulations.faults.judge`: the ledger never decreases, one payload a
charge, each region and round aggregated once, no entry without permit and charge, logs append-only.
Once nothing goes wrong any more, the run must end.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import apsw
from flwr.app import Message

from client.consent_service.registrar import Choice
from client.data.transactions import CheckedTransactions
from client.engine.policy import read_policy
from client.engine.preparation import RegionData
from common import failpoints
from common.engine_channel import register_channel
from common.errors import FederationError, FedprefError, InputError, StorageError
from common.failpoints import Point
from common.parameters import save_arrays
from common.plan import RunPlan
from server.app import run_server
from server.config import ServerConfig, ServerHome
from simulations.faults.disk import FaultVFS, fault_vfs
from simulations.faults.judge import CoordinatorJudge, Left, RegionJudge
from simulations.outside_witness import witness_in_process
from simulations.provision import OpenRegion, RegionSetUp, open_region
from simulations.run_folder import RunFolder
from tests.support.flower_messages import as_server
from tests.support.schedule_grid import ScheduledGrid, Script, VirtualTime
from tests.support.small_federation import home_of, make_federation

CAP, DELTA = 8.0, 1e-6
REGIONS, QUORUM, CUSTOMERS = 3, 2, 8
#: After so many lives of the coordinator nothing goes wrong any more.
FAULTY_LIVES, MOST_LIVES = 6, 12
FILES = (Point.FOLDER_MADE, Point.FILE_OPENED, Point.FILE_WRITTEN, Point.FILE_RENAMED)


class KilledError(BaseException):
    """The process that is being simulated was killed here."""


@dataclass(frozen=True)
class Base:
    """A provisioned federation to copy, and its purchases, read once."""

    folder: RunFolder
    plan: RunPlan
    set_ups: Mapping[str, RegionSetUp]
    checked: Mapping[str, CheckedTransactions]


@dataclass
class Result:
    """What came of one schedule.

    Attributes:
        seed: Its seed.
        faults: What went wrong, by number.
        wrong: What should not be.
        lives: How many lives the coordinator had.
        kills: How many processes were killed.
        left: How many payloads left, repeated ones among them.
        given_up: Whether too many regions gave a round up for a withdrawal.
    """

    seed: int
    faults: dict[int, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    lives: int = 0
    kills: int = 0
    left: int = 0
    given_up: bool = False


class Mortal:
    """A party whose files may be put back to what they were at the moment of a kill.

    Args:
        name: Its name.
        homes: Its folders.
        script: What goes wrong.
    """

    def __init__(self, name: str, homes: tuple[Path, ...], script: Script) -> None:
        self.name = name
        self.kills = 0
        self._homes = homes
        self._script = script
        self._countdown: int | None = None
        self._full_in: int | None = None

    def begin(self, kill: float, full: float, *, within: int) -> None:
        """Draws whether, and after how many places, it is killed or its disk is full from now."""
        draw = self._script
        self._countdown = self._full_in = None
        if draw.happens(kill, f"{self.name} killed"):
            self._countdown = draw.random.randint(1, within)
        if draw.happens(full, f"{self.name}'s disk full"):
            self._full_in = draw.random.randint(1, within)

    def spared(self) -> None:
        """Whatever it was doing is over."""
        self._countdown = self._full_in = None

    def passes(self, place: str) -> None:
        if self._countdown is not None:
            self._countdown -= 1
            if self._countdown == 0:
                self._die()
        if self._full_in is not None:
            self._full_in -= 1
            if self._full_in <= 0:
                if ".sqlite" in place:
                    raise apsw.FullError("the disk is full")
                if place in FILES:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _die(self) -> None:
        self._countdown = self._full_in = None
        self.kills += 1
        for home in self._homes:
            shutil.copytree(home, home.with_name(f"{home.name}.left"), symlinks=True)
        raise KilledError(self.name)

    def rise(self) -> None:
        """Its files are what the kill left."""
        for home in self._homes:
            shutil.rmtree(home)
            home.with_name(f"{home.name}.left").rename(home)


class Region:
    """A region at the relay's channel: open, or down and opened at the next request."""

    def __init__(self, schedule: Schedule, name: str, set_up: RegionSetUp) -> None:
        self.name = name
        self.home = schedule.folder.region_home(name)
        self.mortal = Mortal(name, (self.home,), schedule.script)
        self.judge = RegionJudge(self.home, CAP, DELTA)
        self._schedule = schedule
        self._set_up = set_up
        self._stack: ExitStack | None = None
        self._region: OpenRegion | None = None
        self._down_till_s = 0.0

    def call(self, method: str, header: dict[str, Any], arrays: Any) -> tuple[Any, Any]:
        if self._schedule.time.now_s < self._down_till_s and not self._schedule.script.quiet:
            raise InputError("its engine is down")
        actor, self._schedule.actor = self._schedule.actor, self.mortal
        self.mortal.begin(0.05, 0.03, within=90)
        try:
            answer = self._ask(self._region_open(), method, header, arrays)
        except KilledError:
            self._bury()
            raise InputError("its engine was killed") from None
        except StorageError as error:
            # Its disk was full as it opened.
            self._close()
            raise InputError("its engine does not open") from error
        else:
            return answer
        finally:
            self.mortal.spared()
            self._schedule.actor = actor

    def _ask(
        self, region: OpenRegion, method: str, header: dict[str, Any], arrays: Any
    ) -> tuple[Any, Any]:
        """The region answers, and its answer leaves."""
        answer = region.channel.call(method, header, arrays)
        self._sees(method, header, *answer)
        return answer

    def withdraw(self) -> None:
        """One customer withdraws, if anyone is left who may."""
        region = self._region
        if region is None:
            return
        able = [each for each in region.customers if region.registrar.consents(each)]
        if len(able) > 2:
            region.registrar.record([Choice.withdraw(able[0])])

    def close(self) -> None:
        self._close()

    def _sees(self, method: str, header: dict[str, Any], reply: Any, arrays: Any) -> None:
        if method == "train" and reply["status"] == "ok":
            payload = hashlib.sha256(save_arrays(arrays)).digest() if arrays else b""
            left = Left(header["run"], header["round"], header["attempt"], payload, reply)
            self.judge.sees_leaving(left)

    def _region_open(self) -> OpenRegion:
        if self._region is None:
            self._stack = ExitStack()
            self._region = self._stack.enter_context(
                open_region(home_of(self._schedule.folder, self.name), self._set_up)
            )
            # Reading the store writes nothing, and takes longer than all the rest.
            self._region.engine._data._checked = self._schedule.base.checked[self.name]
        return self._region

    def _close(self) -> None:
        stack, self._stack, self._region = self._stack, None, None
        if stack is not None:
            with suppress(FedprefError, apsw.Error):
                stack.close()

    def _bury(self) -> None:
        self._close()
        self.mortal.rise()
        self.judge.look()
        away_s = self._schedule.script.random.choice((0.0, 0.0, 1.0, 100.0, 2000.0))
        self._down_till_s = self._schedule.time.now_s + away_s


class Schedule:
    """One schedule from its first round to its last.

    Args:
        base: What is copied.
        work: Where to.
        seed: What everything is drawn from.
        keep: The faults that happen; None for all.
    """

    def __init__(
        self, base: Base, work: Path, seed: int, keep: frozenset[int] | None = None
    ) -> None:
        self.base = base
        self.script, self.time = Script(seed, keep), VirtualTime()
        shutil.copytree(base.folder.root, work, symlinks=True)
        self.folder = RunFolder(work)
        self.server = Mortal("coordinator", (self.folder.server, self.folder.witness), self.script)
        self.actor = self.server
        self.regions = {name: Region(self, name, base.set_ups[name]) for name in base.plan.regions}
        self.judge = CoordinatorJudge(self.folder.server, base.plan.run_id, base.plan.quorum)
        self.result = Result(seed)

    def run(self) -> Result:
        """Carries it out."""
        try:
            with self._watched():
                self._live()
                self._end()
        except Exception as error:  # noqa: BLE001 - whatever breaks is a finding
            self.result.wrong.append(f"{type(error).__name__}: {error}")
        finally:
            for region in self.regions.values():
                region.close()
        self.result.faults = self.script.faults
        self.result.kills = self.server.kills + sum(r.mortal.kills for r in self.regions.values())
        return self.result

    @contextmanager
    def _watched(self) -> Iterator[None]:
        with ExitStack() as stack:
            disk = stack.enter_context(fault_vfs())
            disk.fault = lambda _: self._passes(disk)
            stack.enter_context(patch.object(failpoints, "hook", lambda p: self.actor.passes(p)))
            stack.enter_context(self.time.installed())
            stack.enter_context(as_server())
            for index, region in enumerate(self.regions.values()):
                stack.enter_context(register_channel(index, region))
            self.grid = ScheduledGrid(REGIONS, self.time, self.script, self._before)
            yield

    def _passes(self, disk: FaultVFS) -> None:
        self.actor.passes(disk.operation)

    def _before(self, index: int, message: Message) -> None:
        region = list(self.regions.values())[index]
        if message.metadata.message_type == "train" and self.script.happens(
            0.04, f"a customer of {region.name} withdraws"
        ):
            # A customer's own doing: the disk is well meanwhile.
            region.withdraw()

    def _live(self) -> None:
        config = ServerConfig.read({"server-home": str(self.folder.server), "nodes-wait-s": 30.0})
        for life in range(1, MOST_LIVES + 1):
            self.result.lives = life
            self.script.quiet = life > FAULTY_LIVES
            self.server.begin(0.7, 0.2, within=260)
            try:
                with witness_in_process(self.folder):
                    run_server(self.grid, config)
            except KilledError:
                self.server.rise()
            except FederationError as error:
                # A round that too many regions gave up for a withdrawal can never be closed.
                if str(error).count("discarded-for-withdrawal") > REGIONS - QUORUM:
                    self.result.given_up = True
                    return
                if life == MOST_LIVES:
                    raise
            except StorageError:
                if self.script.quiet:
                    raise
            else:
                return
            finally:
                self.server.spared()
                self.actor = self.server
                self.judge.look()
        self.result.wrong.append("the run does not end, though nothing goes wrong any more")

    def _end(self) -> None:
        for region in self.regions.values():
            region.close()
        for region in self.regions.values():
            # What a crash left unlogged is logged when it opens.
            region._region_open()
            region.close()
            region.judge.ends()
        self.judge.ends({name: region.judge.look() for name, region in self.regions.items()})
        if not (ServerHome(self.folder.server).model.exists() or self.result.given_up):
            self.judge.faults.append("no model is published")
        for name, judge in (
            *((name, region.judge) for name, region in self.regions.items()),
            ("coordinator", self.judge),
        ):
            self.result.wrong += [f"{name}: {fault}" for fault in dict.fromkeys(judge.faults)]
        self.result.left = sum(len(region.judge.left) for region in self.regions.values())


class Fuzzer:
    """Carries out schedules on copies of one federation.

    Args:
        work: A folder of its own.
    """

    def __init__(self, work: Path) -> None:
        self._work = work
        folder, plan, set_ups = make_federation(
            work / "base",
            regions=REGIONS,
            customers=CUSTOMERS,
            quorum=QUORUM,
            withdrawal_in_round="discard",
        )
        homes = {name: home_of(folder, name) for name in plan.regions}
        self.base = Base(
            folder,
            plan,
            {each.region: each for each in set_ups},
            {
                name: RegionData(home, read_policy(home.policy)).checked_transactions()
                for name, home in homes.items()
            },
        )

    def run(self, seed: int, keep: frozenset[int] | None = None) -> Result:
        """One schedule."""
        copy = self._work / "schedule"
        try:
            return Schedule(self.base, copy, seed, keep).run()
        finally:
            shutil.rmtree(copy)

    def shrink(self, seed: int) -> Result:
        """A failing schedule without the faults that it fails without."""
        result = self.run(seed)
        kept = frozenset(result.faults)
        for number in sorted(kept):
            fewer = self.run(seed, kept - {number})
            if fewer.wrong:
                result, kept = fewer, frozenset(fewer.faults)
        return result


def main(arguments: list[str]) -> int:
    """Carries out schedules and prints what was found as JSON; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1, help="of the first; the others follow")
    parser.add_argument("--replay", type=int, help="one schedule by its seed")
    parser.add_argument("--shrink", action="store_true", help="leave out what it fails without")
    chosen = parser.parse_args(arguments)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fedpref-schedules-") as work:
        fuzzer = Fuzzer(Path(work))
        seeds = range(chosen.seed, chosen.seed + chosen.schedules)
        if chosen.replay is not None:
            seeds = range(chosen.replay, chosen.replay + 1)
        results = [fuzzer.run(seed) for seed in seeds]
        failed = [result for result in results if result.wrong]
        if chosen.shrink:
            failed = [fuzzer.shrink(result.seed) for result in failed]
    kinds = Counter(what.split(": ")[-1] for each in results for what in each.faults.values())
    found = {
        "seeds": [seeds[0], seeds[-1]],
        "schedules": len(results),
        "kills": sum(each.kills for each in results),
        "lives": sum(each.lives for each in results),
        "left": sum(each.left for each in results),
        "given_up": sum(each.given_up for each in results),
        "faults": dict(kinds.most_common()),
        "seconds": round(time.monotonic() - began, 1),
        "failed": [vars(each) for each in failed],
    }
    print(json.dumps(found, indent=1, ensure_ascii=False))  # noqa: T201 - read by the test
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
