"""Kills a region's engine at every place of a round, starts it again, and judges what is left.

Run as ``python -m tests.support.kill_harness --kills 500 --seed 1``; prints what it found as JSON
and ends with 1 if anything was not as it must be. This process has everything imported and forks a
child for each life, so that a kill costs about 0.2 s.

A trial is a copy of one region's home. Its first lives are each killed at a place drawn from the
seed, the last one is not. `simulations.faults.judge` looks whenever something leaves and whenever
a life ends. Some trials end with a real coordinator that finishes the run and has its bundle
verified.
"""

from __future__ import annotations

import argparse
import base64
import importlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from client.data.transactions import CheckedTransactions
from client.engine.policy import read_policy
from client.engine.preparation import RegionData
from common.failpoints import Point
from common.plan import RunPlan
from simulations.faults.judge import Left, RegionJudge
from simulations.provision import RegionSetUp
from simulations.run_folder import RunFolder
from tests.support.kill_life import LEFT, ROUNDS, VARIANTS, Life, Reaper, live, pass_through
from tests.support.small_federation import home_of, make_federation

CAP, DELTA = 8.0, 1e-6
LIFE_TIMEOUT_S = 120.0
MAX_KILLS_A_TRIAL = 3


@dataclass
class Findings:
    """What a number of trials showed.

    Attributes:
        seed: What the places were drawn from.
        trials: How many homes were tried.
        lives: How many processes were started.
        kills: How many of them were killed.
        left: How many payloads left, repeated ones among them.
        bundles: How many runs were finished by a coordinator, and their bundle verified.
        seconds: How long it took.
        places: How often the region was killed at each place.
        refusals: How often the region refused, by reason.
        faults: What should not be.
    """

    seed: int
    trials: int = 0
    lives: int = 0
    kills: int = 0
    left: int = 0
    bundles: int = 0
    seconds: float = 0.0
    places: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Base:
    """A provisioned home to copy, and all the places that a life without a kill passes."""

    folder: RunFolder
    plan: RunPlan
    set_up: RegionSetUp
    places: tuple[str, ...]
    someone_leaves: bool
    checked: CheckedTransactions


class Harness:
    """Tries homes one after another.

    Args:
        work: Where the homes are copied to.
        seed: What places are drawn from.
        variant: Which defence is missing, of `kill_life.VARIANTS`.
    """

    def __init__(self, work: Path, *, seed: int, variant: str = "") -> None:
        self._work = work
        self._variant = variant
        self._random = random.Random(seed)
        self.findings = Findings(seed)

    def make_base(self, *, someone_leaves: bool = False) -> Base:
        """Makes a home, and lives once on a copy of it to learn the places.

        This one life is in this process, which has then imported all that the others need.
        """
        folder, plan, set_ups = make_federation(
            self._work / f"base-{someone_leaves}",
            regions=1,
            quorum=1,
            epsilon_cap=str(int(CAP)),
            withdrawal_in_round="discard" if someone_leaves else "finish",
        )
        home = home_of(folder)
        checked = RegionData(home, read_policy(home.policy)).checked_transactions()
        base = Base(folder, plan, set_ups[0], (), someone_leaves, checked)
        ours, theirs = socket.socketpair()
        with self._home(base) as (life, _), ours, theirs:
            ours.sendall(b"\n" * len(ROUNDS))
            reaper = Reaper(theirs, None)
            pass_through(replace(life, variant=""), reaper)
        return replace(base, places=tuple(reaper.places))

    def run(self, base: Base, kills_at: Sequence[int | str], *, bundle: bool = False) -> None:
        """One trial: a life for each kill, and one that is not killed."""
        began = time.monotonic()
        self.findings.trials += 1
        with self._home(base) as (life, judge):
            for kill_at in [*kills_at, None]:
                attempt = 1 if bundle else self._random.choice((1, 1, 2))
                self._live(replace(life, kill_at=kill_at, attempt=attempt), judge)
                judge.look()
            judge.ends(len(ROUNDS))
            if bundle:
                self._finish(life, judge)
            told = f"trial {self.findings.trials}, killed at {kills_at}: "
            self.findings.faults += [told + fault for fault in dict.fromkeys(judge.faults)]
            self.findings.left += len(judge.left)
        self.findings.seconds = round(self.findings.seconds + time.monotonic() - began, 2)

    def run_random(self, bases: Sequence[Base], kills: int, *, bundle_every: int = 0) -> None:
        """Trials of one to three kills at random places, till there were so many kills."""
        enough = self.findings.kills + kills
        while self.findings.kills < enough:
            number = self.findings.trials
            base = bases[number % len(bases)]
            # A federation of one region cannot go on without it.
            bundle = bundle_every > 0 and number % bundle_every == 0 and not base.someone_leaves
            self.run(base, self._draw_places(base), bundle=bundle)

    def _draw_places(self, base: Base) -> list[int]:
        left, drawn = len(base.places), []
        for _ in range(self._random.randint(1, MAX_KILLS_A_TRIAL)):
            at = self._random.randint(1, left)
            drawn.append(at)
            # The next life has less to do; what opening writes comes again.
            left = max(left - at + len(base.places) // 10, 5)
        return drawn

    def run_each(self, base: Base, places: Collection[str]) -> None:
        """Kills once at each of these places, several in one home, in an order of chance."""
        left = sorted(set(base.places) & set(places) - set(self.findings.places))
        while left:
            self._random.shuffle(left)
            tried, before = left[: 2 * MAX_KILLS_A_TRIAL], set(self.findings.places)
            self.run(base, tried)
            # A place that a later life no longer passes is tried in a home of its own.
            left = [each for each in left if each not in self.findings.places]
            if before == set(self.findings.places):
                raise AssertionError(f"never reached: {left}")

    @contextmanager
    def _home(self, base: Base) -> Iterator[tuple[Life, RegionJudge]]:
        copy = self._work / "trial"
        shutil.copytree(base.folder.root, copy, symlinks=True)
        try:
            judge = RegionJudge(copy / "regions" / base.set_up.region, CAP, DELTA)
            yield (
                Life(
                    copy,
                    base.plan,
                    base.set_up,
                    variant=self._variant,
                    someone_leaves=base.someone_leaves,
                    checked=base.checked,
                ),
                judge,
            )
        finally:
            shutil.rmtree(copy)

    def _live(self, life: Life, judge: RegionJudge) -> tuple[str, ...]:
        """One life; gives the places that it passed, nothing if it was killed."""
        self.findings.lives += 1
        places: tuple[str, ...] = ()
        killed = ""
        with _child(lambda connection: live(life, connection)) as (process, lines, connection):
            for line in lines:
                told = json.loads(line)
                if "left" in told:
                    judge.sees_leaving(_left(*told["left"]))
                    connection.sendall(b"\n")
                elif "killed_at" in told:
                    killed = told["killed_at"]
                elif "refused" in told:
                    self.findings.refusals[told["refused"].split(":")[0]] += 1
                elif "error" in told:
                    judge.faults.append(f"a life ended in an error: {told['error'][-600:]}")
                else:
                    places = tuple(told["places"])
        status = os.waitpid(process, 0)[1]
        if os.WIFSIGNALED(status) != bool(killed):
            judge.faults.append(f"a life ended with status {status}, killed at {killed!r}")
        if killed:
            self.findings.kills += 1
            self.findings.places[killed] += 1
        return places

    def _finish(self, life: Life, judge: RegionJudge) -> None:
        """A real coordinator finishes the run; its bundle must verify."""
        failure = "it told nothing"
        with _child(lambda connection: finish(life, connection)) as (process, lines, _):
            for line in lines:
                failure = json.loads(line)
        os.waitpid(process, 0)
        self.findings.bundles += 1
        if failure:
            judge.faults.append(f"the bundle does not verify: {failure}")
        judge.look()


def finish(life: Life, connection: socket.socket) -> None:
    """Finishes the run in a process made for it; tells why its bundle does not verify, or ""."""
    from simulations.federate import federate
    from simulations.provision import open_regions
    from tests.support.run_bundle import bundled

    failure = ""
    try:
        folder = RunFolder(life.folder)
        with open_regions(folder, [life.set_up]) as regions:
            channels = {name: region.channel for name, region in regions.items()}
            federate("inprocess", folder, life.plan, channels)
        verdict = bundled(folder, life.plan)
        if not verdict.verified:
            failure = str(verdict.first_failure)
    except BaseException:  # noqa: BLE001 - told to the parent, whatever it is
        failure = traceback.format_exc()[-600:]
    finally:
        connection.sendall(json.dumps(failure).encode() + b"\n")
        connection.close()
        os._exit(0)


def _import_coordinator() -> None:
    """Once, before anything is forked."""
    for name in ("client.app", "server.app", "simulations.federate"):
        importlib.import_module(name)


def _left(run: str, number: int, attempt: int, arrays: str, reply: dict[str, Any]) -> Left:
    return Left(run, number, attempt, base64.b64decode(arrays), reply)


@contextmanager
def _child(
    body: Callable[[socket.socket], None],
) -> Iterator[tuple[int, Iterator[str], socket.socket]]:
    """A forked process, the lines that it tells, and the way to answer; killed if it hangs."""
    ours, theirs = socket.socketpair()
    process = os.fork()
    if process == 0:
        ours.close()
        body(theirs)
        os._exit(0)
    theirs.close()
    ours.settimeout(LIFE_TIMEOUT_S)
    with ours, ours.makefile("r") as lines:
        try:
            yield process, lines, ours
        except TimeoutError:
            os.kill(process, signal.SIGKILL)


def main(arguments: list[str]) -> int:
    """Runs trials till there were enough kills; prints what was found, by variant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=0, help="at random places")
    parser.add_argument("--each", choices=("point", "place"), help="and once at each of these")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bundle-every", type=int, default=0, help="trials")
    parser.add_argument("--discard", action="store_true", help="half the trials give a round up")
    parser.add_argument("--undefended-kills", type=int, default=0, help="for each such variant")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if chosen.bundle_every:
        _import_coordinator()
    found = {}
    with tempfile.TemporaryDirectory(prefix="fedpref-kills-") as work:
        harness = Harness(Path(work), seed=chosen.seed)
        bases = [harness.make_base()]
        if chosen.discard:
            bases.append(harness.make_base(someone_leaves=True))
        for base in bases if chosen.each else ():
            harness.run_each(base, base.places if chosen.each == "place" else (*Point, LEFT))
        harness.run_random(bases, chosen.kills, bundle_every=chosen.bundle_every)
        found["defended"] = vars(harness.findings)
        for variant in VARIANTS[1:] if chosen.undefended_kills else ():
            bare = Harness(Path(work), seed=chosen.seed, variant=variant)
            bare.run_random(bases[:1], chosen.undefended_kills)
            found[variant] = vars(bare.findings)
    print(json.dumps(found, indent=1, ensure_ascii=False))  # noqa: T201 - read by the test
    return 1 if harness.findings.faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
