"""What a test does to a deployment, and how it finds out whether anything came of it.

It reads copies of the parties' files: a database that root has opened would be root's from then on.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from common.audit.bundle import write_bundle
from common.audit.log import AuditLog
from common.audit.verify import verify_bundle
from common.audit.verify.verdict import Verdict
from common.audit.witness.store import CosignatureStore, WitnessStore
from common.supervision import Supervised
from common.timestamps import now_ms
from server.queue import Queued, read_queue
from simulations.deployment_attacks.our_federation import OurFederation, wait_until
from simulations.faults.judge import CoordinatorJudge, RegionJudge

SERVER = "server"
REGION_PROGRAMS = ("engine", "node", "relay")
SERVER_PROGRAMS = ("superlink", "superexec", "dispatcher")
#: How long a run may take to go on after whatever was done to it, in seconds.
RECOVERS_WITHIN_S = 300.0


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

    def verify(self, run: str, folder: Path) -> Verdict:
        """Bundles all logs for a run, and has the offline verifier judge them."""
        folder.mkdir()
        ours, plan = self.ours, self.ours.plan(run)
        home = ours.deployment.home(run)
        shutil.copyfile(home.model, folder / "model.safetensors")
        with ExitStack() as stack:
            copies = {
                party: _copied(root, folder / "copies" / party)
                for party, root in {
                    SERVER: ours.deployment.server,
                    **{region: ours.settings(region).home.root for region in plan.regions},
                }.items()
            }
            logs = {
                party: stack.enter_context(AuditLog.open_read_only(copy / "log.sqlite"))
                for party, copy in copies.items()
            }
            federation = ours.config.federation.name
            cosigned, witnessed, evidence = {}, {}, {}
            for party, copy in copies.items():
                store = stack.enter_context(WitnessStore.open(copy / "witness.sqlite"))
                kept = CosignatureStore(store, f"{federation}/{party}")
                cosigned[party] = {
                    size: kept.note(size, logs[party].checkpoint_at(size)) for size in kept.sizes()
                }
                witnessed[party] = {_party(each): note for each, note in store.notes().items()}
                evidence[party] = [
                    (_party(each.origin), each.known, each.other) for each in store.evidence()
                ]
            write_bundle(
                folder,
                federation=federation,
                run=plan.run_id,
                registry=home.registry_envelopes(),
                plan=home.plan.read_bytes(),
                logs=logs,
                artifacts=["model.safetensors"],
                signer=home.signer("aggregator"),
                created_at_ms=now_ms(),
                cosigned=cosigned,
                witnessed=witnessed,
                evidence=evidence,
            )
        return verify_bundle(folder)


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
def full_disk(folder: Path) -> Iterator[None]:
    """Puts a folder on a file system of its own that is full while the body runs.

    What is in the folder is copied there and back; nothing may have it open meanwhile.
    """
    import subprocess

    size = sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
    kept = folder.with_name(f"{folder.name}-kept")
    folder.rename(kept)
    folder.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={2 * size + (8 << 20)}", "tmpfs", folder],
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
    import subprocess

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


def _copied(home: Path, copy: Path) -> Path:
    copy.mkdir(parents=True)
    for name in ("log.sqlite", "witness.sqlite"):
        for suffix in ("", "-wal"):
            if (source := home / f"{name}{suffix}").exists():
                shutil.copyfile(source, copy / source.name)
    return copy


def _party(origin: str) -> str:
    return origin.rpartition("/")[2]


def paused(seconds: float) -> None:
    """Lets a deployment live for a while."""
    time.sleep(seconds)


def names(found: Sequence[str]) -> str:
    return ", ".join(found)
