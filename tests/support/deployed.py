"""What a test does to a deployment, and how it finds out whether anything came of it.

Judges read copies of the parties' files, by code of their own (`simulations.faults.judge`).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from common.supervision import Supervised
from server.queue import Queued, read_queue
from simulations.deployment_attacks.our_federation import OurFederation, wait_until
from simulations.faults.judge import CoordinatorJudge, RegionJudge

SERVER = "server"
REGION_PROGRAMS = ("engine", "node", "relay")
SERVER_PROGRAMS = ("superlink", "superexec", "dispatcher")
#: How long a run may take to go on after whatever was done to it, in seconds.
RECOVERS_WITHIN_S = 300.0
# What a party wants to see free before it starts, and some more.
_ROOM_BYTES = 512 << 20


@dataclass
class Deployed:
    """A deployment under test.

    Attributes:
        ours: The deployment.
        judges: Who watches each region.
        killed: What was killed, in order.
    """

    ours: OurFederation
    judges: dict[str, RegionJudge] = field(default_factory=dict)
    killed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for region in self.ours.regions:
            policy = self.ours.settings(region).policy
            self.judges[region] = RegionJudge(
                self.ours.settings(region).home.root,
                float(policy.epsilon_cap_per_year),
                float(policy.delta_max),
            )

    # Runs.

    def submit(self, run: str) -> None:
        self.ours.command("fedpref-server", "submit", "deployment", run)

    def entry(self, run: str) -> Queued:
        """The newest submission of a run."""
        return [each for each in read_queue(self.ours.deployment) if each.run == run][-1]

    def rounds_done(self, run: str) -> int:
        """How many rounds of a run the coordinator has logged."""
        run_id = self.ours.plan(run).run_id
        return sum(each["run"] == run_id for each in self.ours.server_records("aggregate"))

    def wait_for_round(self, run: str, number: int) -> None:
        self._wait(
            lambda: self.rounds_done(run) >= number or not self.entry(run).active,
            f"round {number} of {run}",
        )
        assert self.rounds_done(run) >= number, self.entry(run)

    def wait_for_event(self, run: str, event: str, number: int) -> None:
        """Waits till the coordinator has said something of a round, or of a later one."""
        self._wait(
            lambda: self._said(run, event) >= number or not self.entry(run).active,
            f"{event} of round {number} of {run}",
        )
        assert self._said(run, event) >= number, self.entry(run)

    def _said(self, run: str, event: str) -> int:
        """The last round of which the coordinator has said a thing; 0 for none."""
        path = self.ours.deployment.home(run).events
        lines = path.read_text().splitlines() if path.exists() else []
        told = [json.loads(line) for line in lines if line.endswith("}")]
        return max((each["round"] for each in told if each["event"] == event), default=0)

    def lives_for(self, seconds: float) -> None:
        """Lets the deployment live for a while."""
        time.sleep(seconds)

    def wait_for_end(self, run: str) -> Queued:
        self._wait(lambda: not self.entry(run).active, f"the end of {run}")
        return self.entry(run)

    def _wait(self, holds: Callable[[], bool], what: str) -> None:
        wait_until(holds, within_s=RECOVERS_WITHIN_S, what=what)

    # Kills.

    def party(self, name: str) -> Supervised:
        return self.ours.server() if name == SERVER else self.ours.region(name)

    def kill(self, party: str, program: str) -> None:
        """Kills a program as `kill -9` does; it is found again by whoever supervises it."""
        os.kill(self.ours.process(self.party(party), program), signal.SIGKILL)
        self.killed.append(f"{party}: {program}")

    def kill_any(self, draw: random.Random) -> None:
        """Kills one program of the deployment that runs, whichever comes."""
        programs = [(SERVER, each) for each in (*SERVER_PROGRAMS, "coordinator")]
        programs += [(region, each) for region in self.ours.regions for each in REGION_PROGRAMS]
        draw.shuffle(programs)
        for party, program in programs:
            if program == "coordinator":
                if self.kill_coordinator():
                    return
                continue
            if any(each.name == program and each.pid for each in self.party(party).status()):
                self.kill(party, program)
                return

    def kill_coordinator(self) -> bool:
        """Kills the ServerApp's process, if one runs."""
        user = self.ours.deployment.server.stat().st_uid
        for process in processes_like("flwr-serverapp", user):
            os.kill(process, signal.SIGKILL)
            self.killed.append("server: coordinator")
            return True
        return False

    def kill_supervisor(self, party: str) -> None:
        """Kills a party's supervisor, as if the machine had gone: all its programs go with it."""
        name = str(self.party(party).socket.parent.parent / "supervisord.conf")
        for process in processes_like(name, os.geteuid()):
            os.kill(process, signal.SIGKILL)
            self.killed.append(f"{party}: supervisor")

    # Evidence.

    def look(self) -> list[str]:
        """Looks at every region's files; what should not be, in words."""
        for judge in self.judges.values():
            judge.look()
        return [fault for judge in self.judges.values() for fault in judge.faults]

    def faults(self, run: str) -> list[str]:
        """All that should not be, now that a run is over."""
        faults = self.look()
        plan = self.ours.plan(run)
        coordinator = CoordinatorJudge(self.ours.deployment.server, plan.run_id, plan.quorum)
        coordinator.ends({region: judge.look() for region, judge in self.judges.items()})
        return faults + coordinator.faults

    def verify(self, run: str, name: str) -> str:
        """Has all parties' evidence of a run bundled and verified offline; gives the verdict."""
        regions = sorted((self.ours.root / "regions").iterdir())
        self.ours.command(
            *("fedpref-server", "bundle", "deployment", run),
            *("--region", *regions, "--out", name),
        )
        return self.ours.command("fedpref-audit", "verify", name)


def processes_like(program: str, user: int) -> list[int]:
    """The processes of a user whose command line names a program."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (
                    entry.stat().st_uid == user
                    and program.encode() in (entry / "cmdline").read_bytes()
                ):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@contextmanager
def own_disk(folder: Path) -> Iterator[None]:
    """Puts a folder on a small file system of its own while the body runs.

    What is in the folder is copied there and back; nothing may have it open meanwhile.
    """
    size = sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
    kept = folder.with_name(f"{folder.name}-kept")
    folder.rename(kept)
    folder.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={2 * size + _ROOM_BYTES}", "tmpfs", folder],
            check=True,
        )
        _move_contents(kept, folder)
        yield
    finally:
        _move_contents(folder, kept)
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()
        kept.rename(folder)


def _move_contents(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", f"{source}/.", str(target)], check=True)


def fill(folder: Path) -> Path:
    """Fills the file system that a folder is on; gives the file to remove."""
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        piece = b"\0" * (1 << 16)
        try:
            while True:
                file.write(piece)
                file.flush()
        except OSError:
            return ballast
