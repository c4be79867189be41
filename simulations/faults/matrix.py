"""The fault matrix: every case on a copy of one federation, several at a time, and one table.

Each case is carried out by a process of its own, which forks the regions and the coordinator and
judges them; a case that hangs is ended at its bound and has failed.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.text import Text

from common.aggregation_rules import NoiseMode, RuleName
from common.errors import FederationError, UsageError
from simulations.faults import bombs, disks, inputs, kills, replies, waits
from simulations.faults.case import Case, Given
from simulations.faults.children import Child, Teller, Told, hear_all
from simulations.faults.federation import EVERY, Federation, provision_slice
from simulations.faults.recordings import Recordings
from simulations.faults.trial import Trial
from simulations.federate import federate
from simulations.provision import open_regions
from simulations.run_folder import RunFolder
from simulations.scenarios import Scenario

#: After which a case is ended, in seconds; the longest waits for a quorum that hangs.
CASE_TIMEOUT_S = 480.0
_MORE_JOBS_THAN_CORES = 1


@dataclass(frozen=True)
class MatrixRequest:
    """What is to be tried.

    Attributes:
        scenario: On a slice of whose data.
        seed: What all choices and all noise are drawn from.
        only: Cases whose group and name have one of these in them; all if there is none.
        rule: By which rule the regions' updates become one.
        mode: Whose noise protects.
    """

    scenario: Scenario
    seed: int
    only: Sequence[str] = ()
    rule: RuleName = "sum"
    mode: NoiseMode = "local"

    def cases(self) -> list[Case]:
        """The cases, in the table's order.

        Raises:
            UsageError: None has such a name.
        """
        rows = [
            *kills.cases(self.rule),
            *waits.cases(),
            *replies.cases(self.rule),
            *bombs.cases(),
            *disks.cases(self.rule),
            *inputs.cases(),
        ]
        chosen = [
            case
            for case in rows
            if not self.only or any(case.is_called(part) for part in self.only)
        ]
        if not chosen:
            groups = ", ".join(dict.fromkeys(case.group for case in rows))
            raise UsageError(
                f"No fault is called {', '.join(self.only)}.",
                remedy=f"Name one of these, or a part of a case's name: {groups}.",
            )
        return chosen


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Attributes:
        case: The case.
        faults: What should not be; none if it passed.
        seconds: How long it took.
        sprung: How many traps sprang.
    """

    case: Case
    faults: tuple[str, ...]
    seconds: float
    sprung: int


def run_matrix(request: MatrixRequest, console: Console) -> bool:
    """Carries out the matrix and shows it; whether every case passed.

    Args:
        request: What is to be tried.
        console: Where the table is shown.
    """
    # Forked processes that share two cores do best with one thread each; and sums of floating-point
    # numbers by as many threads each time are the same bits.
    torch.set_num_threads(1)
    cases = request.cases()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fedpref-f") as work:
        federation = provision_slice(
            request.scenario,
            Path(work) / "base",
            seed=request.seed,
            rule=request.rule,
            mode=request.mode,
        )
        _show_beginning(request, federation, len(cases), console)
        given = _prepare(federation, Path(work))
        outcomes = []
        for outcome in _carry_out(federation, cases, given, Path(work), request.seed):
            outcomes.append(outcome)
            _show(outcome, console)
    passed = sum(not each.faults for each in outcomes)
    kills_done = sum(each.sprung for each in outcomes if each.case.group.startswith("kill"))
    console.print(
        f"\n{kills_done} kills; {time.monotonic() - began:.0f} s; seed {request.seed}.",
        style="dim",
    )
    style = "bold green" if passed == len(cases) else "bold red"
    console.print(f"{passed} of {len(cases)} faults withstood.", style=style)
    return passed == len(cases)


@dataclass(frozen=True)
class _Prepared:
    model_sha256: str
    other_run: Recordings


def _prepare(federation: Federation, work: Path) -> _Prepared:
    """Runs without any fault: the model to compare with, and another run's replies.

    Raises:
        FederationError: It does not even work without a fault.
    """
    _warm_up(federation, work / "warm")
    found = []
    for name, other in (("plain", False), ("other", True)):
        with Trial(federation, work / name, other_run=other) as trial:
            trial.start()
            ending = trial.coordinate()
            trial.ask_again()
            trial.finish(published=not ending.failed)
        if ending.failed or trial.faults:
            raise FederationError(
                f"Without any fault the run does not hold: {ending.message} "
                f"{'; '.join(trial.faults)}"
            )
        found.append(trial)
    return _Prepared(found[0].model_sha256, found[1].recordings)


def _warm_up(federation: Federation, copy: Path) -> None:
    """One run in this process: what it imports and works out, every forked life has then."""
    shutil.copytree(federation.folder.root, copy, symlinks=True)
    folder = RunFolder(copy)
    with open_regions(folder, federation.set_ups) as regions:
        for region in regions.values():
            region.engine.preflight(federation.plan)
        channels = {name: region.channel for name, region in regions.items()}
        federate("inprocess", folder, federation.plan, channels)
    shutil.rmtree(copy)


def _carry_out(
    federation: Federation, cases: Sequence[Case], given: _Prepared, work: Path, seed: int
) -> Iterator[Outcome]:
    """Outcomes in the order of the cases, several being carried out at a time.

    Those that mostly wait begin first, and take no turn from the others.
    """
    waiting = sorted(enumerate(cases), key=lambda each: not each[1].waits)
    turns = (os.cpu_count() or 1) + _MORE_JOBS_THAN_CORES
    done: dict[int, Outcome] = {}
    shown = 0
    with _workers() as workers:
        while shown < len(cases):
            while waiting and (
                waiting[0][1].waits or sum(not each.case.waits for each in workers) < turns
            ):
                number, case = waiting.pop(0)
                workers.append(_Worker(number, case, federation, given, work / str(number), seed))
            for worker in _hear(workers):
                workers.remove(worker)
                done[worker.number] = worker.outcome()
            while shown in done:
                yield done.pop(shown)
                shown += 1


class _Worker:
    """One case in a process of its own."""

    def __init__(
        self,
        number: int,
        case: Case,
        federation: Federation,
        given: _Prepared,
        folder: Path,
        seed: int,
    ) -> None:
        self.number = number
        self.case = case
        self.told: Told = {}
        self._folder = folder
        self.began = time.monotonic()
        draw = random.Random(f"{seed}/{case.group}/{case.name}")  # noqa: S311 - repeatable faults
        full = Given(given.model_sha256, given.other_run, draw)
        self.child = Child(case.name, lambda teller: _try(case, federation, full, folder, teller))

    @property
    def overdue(self) -> bool:
        """Whether its time is up."""
        return time.monotonic() - self.began > CASE_TIMEOUT_S

    def outcome(self) -> Outcome:
        """What came of it, once it has ended."""
        self.child.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
        seconds = time.monotonic() - self.began
        lost = [f"ended with nothing told, after {seconds:.0f} s: {self.told}"]
        faults = self.told.get("faults", lost)
        return Outcome(self.case, tuple(faults), seconds, int(self.told.get("sprung", 0)))


def _try(case: Case, federation: Federation, given: Given, folder: Path, teller: Teller) -> None:
    """A worker's life: one trial."""
    with Trial(federation, folder) as trial:
        try:
            case.act(trial, given)
        # Whatever breaks in a trial is a failed trial, with its words.
        except Exception:  # noqa: BLE001
            trial.faults.append(traceback.format_exc()[-1500:])
        teller.tell(faults=trial.faults, sprung=len(trial.sprung))


def _hear(workers: Sequence[_Worker]) -> list[_Worker]:
    """Hears the workers for a moment; gives those that have ended, or whose time is up."""
    by_child = {id(worker.child): worker for worker in workers}
    try:
        for child, told in hear_all([worker.child for worker in workers], within_s=1.0):
            by_child[id(child)].told.update(told)
    except FederationError:
        # Nobody had anything to say.
        return [worker for worker in workers if worker.overdue]
    return [worker for worker in workers if worker.child.status is not None or worker.overdue]


@contextmanager
def _workers() -> Iterator[list[_Worker]]:
    workers: list[_Worker] = []
    try:
        yield workers
    finally:
        for worker in workers:
            worker.child.kill()


def _show_beginning(
    request: MatrixRequest, federation: Federation, n_cases: int, console: Console
) -> None:
    plan = federation.plan
    by_region = ", ".join(str(number) for number in federation.households)
    console.print(
        f"{n_cases} faults on {request.scenario.name}: real engines and coordinator, a process "
        f"each; seed {request.seed}.\n"
        f"Slice: one household in {EVERY} with all its purchases, {by_region} by region; "
        f"{plan.total_rounds} rounds, quorum {plan.quorum} of {len(plan.regions)}, {plan.mode} "
        f"noise, rule {plan.aggregation.rule}.\n"
        "Held in every case: nothing leaves uncharged, one payload a charge, ε within its cap, no "
        "log entry lost or twice, each region and round aggregated once, nothing published below "
        "the quorum, the bundle verifies.\n"
    )


def _show(outcome: Outcome, console: Console) -> None:
    mark, style = ("pass", "green") if not outcome.faults else ("FAIL", "bold red")
    case = outcome.case
    line = Text.assemble(
        (f"{mark}  ", style),
        (f"{case.group:<17}", "bold"),
        f"{case.name:<52} ",
        (f"{case.invariant}  ", "dim"),
        (f"{outcome.seconds:.1f} s", "dim"),
    )
    console.print(line, soft_wrap=True)
    for fault in outcome.faults:
        console.print(Text(f"      {fault}", style="red"), soft_wrap=True)
