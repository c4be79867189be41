"""A deployment of this system, made by the documented commands, and what is on record in it.

Three regions and a coordinator on one machine: every process under a user of its own, TLS and node
keys between them, permits, and nothing weakened. The attacker has a user too, and a hostile
coordinator one that holds whatever the coordinator's own processes hold.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tomli_w

from client.settings import RegionSettings
from common.errors import FederationError
from common.node_environment import process_environment
from common.plan import RunPlan
from common.supervision import Supervised
from server.deployment import Deployment
from server.programs import supervisor
from server.provisioning.federation_config import FederationConfig, read_federation
from simulations.attack_demos.users import let_pass
from simulations.deployment_attacks.accounts import Account, make_accounts
from simulations.deployment_attacks.attackers import Attacker
from simulations.deployment_attacks.outcome import Found
from simulations.deployment_attacks.tls import free_port
from simulations.faults.evidence import Record, read_files

#: The run that every region permits, and one that none has permitted yet.
RUN, OTHER_RUN = "first", "second"
#: What takes tasks at the coordinator: stopped while somebody else is to take them.
TASK_TAKERS = ("dispatcher", "superexec")
_COMMAND_TIMEOUT_S = 600.0
_POLL_S = 0.2


@dataclass(frozen=True)
class OurFederation:
    """The deployment, on the folder that its commands ran in.

    Attributes:
        root: The folder: ``shops``, ``deployment`` and ``regions`` are in it.
        attacker: A user of this machine who owns nothing.
        coordinator: A user who holds what the coordinator's processes hold.
        evil: By region, the evil bundle that it was made to permit.
    """

    root: Path
    attacker: Account
    coordinator: Account
    evil: dict[str, Path] = field(default_factory=dict)

    @property
    def deployment(self) -> Deployment:
        """The coordinator's folder."""
        return Deployment(self.root / "deployment")

    @property
    def config(self) -> FederationConfig:
        """The federation as it is declared now."""
        return read_federation(self.deployment.config)

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions' names."""
        return tuple(each.name for each in self.config.regions)

    def folder(self, region: str) -> Path:
        """A region's folder."""
        return self.root / "regions" / region

    def settings(self, region: str) -> RegionSettings:
        """A region's settings."""
        return RegionSettings.read(self.folder(region))

    def plan(self, run: str) -> RunPlan:
        """A run's plan."""
        return self.deployment.home(run).read_plan()

    @property
    def address(self) -> str:
        """The regions' port."""
        return self.config.server.address

    @property
    def admin_address(self) -> str:
        """The coordinator's own port, on the loopback interface."""
        return f"127.0.0.1:{self.config.server.admin_port}"

    def command(self, program: str, *arguments: str | Path) -> str:
        """Runs one of this system's commands in the federation's folder; gives what it printed.

        Raises:
            FederationError: It failed.
        """
        return run_command(self.attacker.scripts, self.root, program, *arguments)

    def server(self) -> Supervised:
        """The supervisor of the coordinator's processes."""
        return supervisor(self.deployment)

    def region(self, name: str) -> Supervised:
        """The supervisor of a region's processes."""
        folder = self.folder(name)
        return Supervised(folder / "supervisor", logs=folder / "logs")

    def process(self, party: Supervised, program: str) -> int:
        """The process of a program.

        Raises:
            FederationError: It does not run.
        """
        for state in party.status():
            if state.name == program and state.pid is not None:
                return state.pid
        raise FederationError(f"{program} does not run.")

    @contextmanager
    def without(self, party: Supervised, *programs: str) -> Iterator[None]:
        """Stops programs while the body runs."""
        _tell(party, "stop", programs)
        try:
            yield
        finally:
            _tell(party, "start", programs)

    def permit_also(self, region: str, bundle: str) -> None:
        """Has a region's officers permit another bundle, for the other run, as if deceived.

        Args:
            region: The region, whose processes are stopped meanwhile.
            bundle: The bundle's SHA-256.
        """
        settings, folder = self.settings(region), self.folder(region)
        agreed = list(settings.policy.app_bundles or ())
        text = settings.path.read_text(encoding="utf-8")
        line = re.compile(r"^app_bundles *=.*?\]$", re.MULTILINE | re.DOTALL)
        changed, lines = line.subn(f"app_bundles = {json.dumps([*agreed, bundle])}", text)
        if lines != 1 or len(agreed) != 1:
            raise FederationError(f"{settings.path} does not name the one bundle that was agreed.")
        self.command("fedpref-region", "stop", folder)
        settings.path.write_text(changed, encoding="utf-8")
        officer = replace(self.attacker, name=region, user=settings.home.root.stat().st_uid)
        self._command_as(officer, "policy", "sign", folder, "--yes")
        for run, app in ((RUN, agreed[0]), (OTHER_RUN, bundle)):
            # The coordinator's folder is closed to the region's officers: plans are sent to them.
            plan = self.root / f"{run}.plan.json"
            plan.write_bytes(self.deployment.home(run).plan.read_bytes())
            plan.chmod(0o644)
            self._command_as(officer, "permit", folder, plan, "--app", app)
        self.command("fedpref-region", "start", folder)

    def _command_as(self, officer: Account, *arguments: str | Path) -> None:
        prefix = officer.command([str(officer.scripts / "fedpref-region")])
        _run([*prefix, *arguments], self.root, officer.scripts)

    # What is on record.

    def incidents(self, region: str) -> list[Record]:
        """The incidents in a region's log, in their order."""
        return read_files(self.settings(region).home.root).records("incident")

    def new_incidents(self, region: str, before: Sequence[Record], reason: str) -> list[Record]:
        """The incidents of a reason that a region has logged since."""
        return [each for each in self.incidents(region)[len(before) :] if each["reason"] == reason]

    def server_records(self, kind: str) -> list[Record]:
        """The records of a kind in the coordinator's log, in their order."""
        return read_files(self.deployment.server).records(kind)

    def said(self, party: Supervised, program: str) -> list[Record]:
        """What a program has said of itself, its JSON lines in their order."""
        lines = []
        for line in party.log_path(program).read_text(errors="replace").splitlines():
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                lines.append(value)
        return lines

    # Attacks.

    def attack(self, action: str, *, account: Account | None = None, **given: Any) -> Found:
        """Carries out an action, as the attacker by default; gives what it found."""
        return self.start(action, account=account, **given).found()

    def start(self, action: str, *, account: Account | None = None, **given: Any) -> Attacker:
        """Starts an action with what everybody has: the address and the authority's certificate."""
        owner = account or self.attacker
        ca = owner.give("ca.crt", self.deployment.ca_certificate.read_bytes())
        bundle = owner.give("agreed.fab", self.deployment.bundle.read_bytes())
        everybodys = {"address": self.address, "ca": str(ca), "bundle": str(bundle)}
        return Attacker.start(owner, action, everybodys | given)

    def coordinate(self, **given: Any) -> Found:
        """Acts as a hostile coordinator, with all that the coordinator has."""
        at, account = self.deployment, self.coordinator
        secret = account.give("superexec.secret", at.secret(at.coordinator).read_bytes())
        token = account.give("control.token", at.token(at.coordinator).read_bytes())
        held: dict[str, Any] = {"address": self.admin_address, "ca": None}
        held |= {"secret": str(secret), "token": str(token), "nodes": len(self.regions)}
        with self.without(self.server(), *TASK_TAKERS):
            return self.attack("coordinate", account=account, **(held | given))


@contextmanager
def our_federation(
    root: Path,
    *,
    seed: int = 1,
    runs: Sequence[str] = (RUN,),
    decide: Callable[[Path], None] = lambda _: None,
    scripts: Path | None = None,
) -> Iterator[OurFederation]:
    """Makes the deployment by the documented commands, and runs it while the body runs.

    Args:
        root: A folder that is not there yet; its path is short, for sockets.
        seed: What the made-up stores are drawn from.
        runs: The runs that every region permits.
        decide: Changes what founders and operators have decided, in the folder of the shops.
        scripts: The folder of the Python that all users run; this one's by default.

    Raises:
        UsageError: Whoever runs this is not root.
        FederationError: A command failed.
    """
    root.mkdir()
    federation = open_federation(root, scripts)
    try:
        _set_up(federation, seed, runs, decide)
        yield federation
    finally:
        shut_down(root)


def open_federation(root: Path, scripts: Path | None = None) -> OurFederation:
    """The federation that is, or is going to be, in a folder; its attackers get their users."""
    people = root / "people"
    people.mkdir()
    accounts = make_accounts(people, ("attacker", "hostile-coordinator"), scripts)
    let_pass(root)
    return OurFederation(root, accounts["attacker"], accounts["hostile-coordinator"])


def _set_up(
    ours: OurFederation, seed: int, runs: Sequence[str], decide: Callable[[Path], None]
) -> None:
    """Carries out the documented commands, at ports that are free, but for submitting a run."""
    shops, deployment, regions = ours.root / "shops", ours.deployment, ours.root / "regions"
    ours.command("fedpref-sim", "shops", "shops", "--seed", str(seed))
    use_free_ports(shops)
    decide(shops)
    ours.command("fedpref-server", "provision", shops / "federation.toml", "deployment")
    kits, into = sorted(deployment.kits.iterdir()), ("--into", "regions", "--answers", "shops")
    ours.command("fedpref-region", "install", *kits, *into)
    folders = sorted(regions.iterdir())
    enrolments = [each / "enrolment.json" for each in folders]
    ours.command("fedpref-server", "start", "deployment", "--enrol", *enrolments)
    permits = [part for run in runs for part in ("--permit", deployment.home(run).plan)]
    registry = ("--registry", deployment.home().registry)
    ours.command("fedpref-region", "start", *folders, *registry, *permits)


def use_free_ports(shops: Path) -> None:
    """Has founders and operators decide on ports that nobody on this machine listens on.

    Args:
        shops: What `fedpref-sim shops` made.
    """
    declaration = shops / "federation.toml"
    tables = tomllib.loads(declaration.read_text(encoding="utf-8"))
    tables["server"] |= {"port": free_port(), "admin_port": free_port()}
    declaration.write_text(tomli_w.dumps(tables), encoding="utf-8")
    for answers in shops.glob("*/region.toml"):
        tables = tomllib.loads(answers.read_text(encoding="utf-8"))
        tables.setdefault("node", {})["runtime_port"] = free_port()
        answers.write_text(tomli_w.dumps(tables), encoding="utf-8")


def shut_down(root: Path) -> None:
    """Stops whatever of the federation runs."""
    regions = [each for each in (root / "regions").glob("*") if each.is_dir()]
    for each in regions:
        Supervised(each / "supervisor", logs=each / "logs").stop()
    supervisor(Deployment(root / "deployment")).stop()


def run_command(scripts: Path, folder: Path, program: str, *arguments: str | Path) -> str:
    """Runs one of this system's commands, of ``scripts``, in a folder; gives what it printed.

    Raises:
        FederationError: It failed; says what it said.
    """
    return _run([scripts / program, *arguments], folder, scripts)


def _run(command: Sequence[str | Path], folder: Path, scripts: Path) -> str:
    ended = subprocess.run(  # noqa: S603  # our own program, no shell
        list(command),
        cwd=folder,
        env={
            **process_environment(folder),
            "PATH": f"{scripts}:/usr/sbin:/usr/bin:/sbin:/bin",
            "COLUMNS": "200",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_COMMAND_TIMEOUT_S,
        check=False,
    )
    if ended.returncode != 0:
        said = (ended.stdout + ended.stderr)[-2000:]
        raise FederationError(
            f"{' '.join(map(str, command))[-300:]} ended with {ended.returncode}: {said}"
        )
    return ended.stdout


def wait_until(holds: Callable[[], bool], *, within_s: float, what: str) -> None:
    """Waits till something holds.

    Raises:
        FederationError: It does not, within that time.
    """
    until = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > until:
            raise FederationError(f"Not within {within_s:g} s: {what}.")
        time.sleep(_POLL_S)


def _tell(party: Supervised, what: str, programs: Sequence[str]) -> None:
    """Has a supervisor stop or start single programs."""
    ended = subprocess.run(  # noqa: S603  # our own program, no shell
        [
            *(sys.executable, "-I", "-m", "supervisor.supervisorctl"),
            *("-s", f"unix://{party.socket}", what, *programs),
        ],
        env={"LANG": "C.UTF-8", "PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=_COMMAND_TIMEOUT_S,
        check=False,
    )
    if "ERROR" in ended.stdout:
        raise FederationError(f"{' '.join(programs)} did not {what}: {ended.stdout[-500:]}")
