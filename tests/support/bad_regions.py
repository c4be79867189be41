"""Regions that are bad in one way each, and what their inspection must say."""

from __future__ import annotations

import datetime
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from client.consent_service.region_records import open_records
from client.consent_service.registrar import Choice
from client.data.standards import DEFAULT_FILE
from client.engine import permit_shelf
from client.engine.home import RegionHome
from client.engine.policy import RegionPolicy, read_policy
from client.engine.policy_desk import sign_policy
from client.inspection.findings import Kind
from client.inspection.inspect_region import Inspection, inspect_region
from client.inspection.machine import Disk, ThisMachine
from common.audit.log import AuditLog
from common.plan import RunPlan
from common.timestamps import now_ms
from tests.support.region_folder import RegionFolder, make_region_folder, write_node_key
from tests.support.small_federation import make_federation
from tests.support.tls_server import DAY, Authority, serve_dates

HOUR_MS = 3_600_000


class SimulatedMachine(ThisMachine):
    """This machine, with another clock or another disk; whose user is no root unless it is said."""

    def __init__(
        self, *, ahead_ms: int = 0, disk: Disk | None = None, is_root: bool = False
    ) -> None:
        self._ahead_ms = ahead_ms
        self._disk = disk
        self._is_root = is_root

    def is_root(self) -> bool:
        return self._is_root

    def now_ms(self) -> int:
        return now_ms() + self._ahead_ms

    def disk(self, path: Path) -> Disk:
        return super().disk(path) if self._disk is None else self._disk


@dataclass(frozen=True)
class Surroundings:
    """What regions are made of: a provisioned home, an authority, and servers that answer.

    Attributes:
        home: The home that is copied.
        plan: The plan that it permits.
        authority: The federation's certificate authority.
        ports: By what is wrong with it, the port of each TLS server; ``good`` is right.
        witness: The port of a witness.
        late_witness: The port of one whose clock is an hour behind.
    """

    home: RegionHome
    plan: RunPlan
    authority: Authority
    ports: Mapping[str, int]
    witness: int
    late_witness: int


@contextmanager
def made_surroundings(root: Path) -> Iterator[Surroundings]:
    """Provisions a home, and starts every server that a test may name."""
    folder, plan, _ = make_federation(root / "run", regions=1, quorum=1)
    authority = Authority.make(root / "ca")
    stranger = Authority.make(root / "stranger", name="another ca")
    certificates = {
        "good": authority.certify("good"),
        "expired": authority.certify("expired", begins=-9 * DAY, ends=-DAY),
        "early": authority.certify("early", begins=DAY),
        "named": authority.certify("named", hosts=("elsewhere.example",)),
        "everything": stranger.certify("everything", hosts=("x.example",), ends=-DAY / 2),
        "foreign": stranger.certify("foreign"),
        "soon": authority.certify("soon", ends=9 * DAY + datetime.timedelta(hours=1)),
    }
    with ExitStack() as stack:
        ports = {
            name: stack.enter_context(serve_dates(certificate=path))
            for name, path in certificates.items()
        }
        ports["late"] = stack.enter_context(
            serve_dates(certificate=certificates["good"], ahead_s=-600)
        )
        ports["plain"] = stack.enter_context(serve_dates())
        yield Surroundings(
            RegionHome.read(folder.region_home("region-1")),
            plan,
            authority,
            ports,
            stack.enter_context(serve_dates()),
            stack.enter_context(serve_dates(ahead_s=-3600)),
        )


def region_in(surroundings: Surroundings, root: Path) -> RegionFolder:
    """A good region in a new folder."""
    return make_region_folder(
        root,
        surroundings.home,
        address=f"localhost:{surroundings.ports['good']}",
        authority=surroundings.authority.path,
        witnesses=(f"http://127.0.0.1:{surroundings.witness}",),
    )


@dataclass
class Case:
    """A region that is about to be spoilt, and what is held while it is inspected.

    Attributes:
        region: The region.
        at: Its surroundings.
        patch: Undone after the test.
        machine: The machine that it is inspected on.
        held: What must stay open meanwhile.
    """

    region: RegionFolder
    at: Surroundings
    patch: pytest.MonkeyPatch
    machine: SimulatedMachine = field(default_factory=SimulatedMachine)
    held: list[Any] = field(default_factory=list)

    def address(self, name: str) -> None:
        self.region.write(coordinator={"address": f"localhost:{self.at.ports[name]}"})

    def put_in_force(self, **changes: Any) -> None:
        """Signs another policy, which the settings then say too."""
        home = self.region.home
        policy = RegionPolicy.model_validate({**read_policy(home.policy).to_record(), **changes})
        with AuditLog.open(home.log, origin=home.origin, signer=home.signer("log")) as log:
            sign_policy(home, log, policy)
        self.region.write(policy=changes)


Spoil = Callable[[Case], object]


def withdraw_all(case: Case) -> None:
    with open_records(case.region.home) as records:
        registrar = records.registrar()
        given = [ref for ref in records.subjects.pseudonyms() if registrar.consents(ref)]
        latest = registrar.latest(given[0])
        if latest is None:
            raise LookupError("the customer who consents has no record")
        registrar.record([Choice.withdraw(ref, form=latest.form) for ref in given])


def occupy(case: Case) -> None:
    case.region.write(node={"runtime_port": taken_port(case)})


def occupy_metrics(case: Case) -> None:
    case.region.write(recommender={"metrics": f"127.0.0.1:{taken_port(case)}"})


def occupy_profiles(case: Case) -> None:
    case.region.write(profiles={"metrics": f"127.0.0.1:{taken_port(case)}"})


def taken_port(case: Case) -> int:
    taken = socket.create_server(("127.0.0.1", 0))
    case.held.append(taken)
    port: int = taken.getsockname()[1]
    return port


def other_engine(case: Case) -> None:
    case.patch.setattr(permit_shelf, "engine_digest", lambda: "0" * 64)


def lose_column(case: Case) -> None:
    path = case.region.root / "home" / "data" / "transactions.csv"
    path.write_text(path.read_text().replace("what", "article", 1))


def spoil_standards(case: Case) -> None:
    text = DEFAULT_FILE.read_text("utf-8").replace("threshold =", "treshold =", 1)
    (case.region.root / "home" / "data" / "standards.toml").write_text(text, "utf-8")


def older_library(case: Case) -> None:
    version = metadata.version
    case.patch.setattr(
        metadata, "version", lambda name: "1.40.0" if name == "flwr" else version(name)
    )


def with_text(old: str, new: str) -> Spoil:
    def spoil(case: Case) -> None:
        text = case.region.settings.read_text()
        assert old in text
        case.region.settings.write_text(text.replace(old, new, 1))

    return spoil


def chmod(name: str, mode: int) -> Spoil:
    return lambda case: (case.region.root / name).chmod(mode)


def remove(name: str) -> Spoil:
    return lambda case: (case.region.root / name).unlink()


def on(machine: SimulatedMachine) -> Spoil:
    return lambda case: setattr(case, "machine", machine)


def inline_source(case: Case) -> None:
    case.region.tables["source"] = {
        "kind": "sql",
        "url": "postgresql://reader:hush@127.0.0.1:1/shop",
        "table": "sales",
        "columns": {"customer": "c", "item": "i", "time": "t"},
    }
    case.region.write()


@dataclass(frozen=True)
class Bad:
    """What is spoilt, and the problem that must be found.

    Attributes:
        name: What it is called.
        spoil: Does it.
        kind: The problem's kind.
        place: A part of its place.
        message: A part of its message.
        remedy: A part of its remedy.
    """

    name: str
    spoil: Spoil
    kind: Kind
    place: str
    message: str
    remedy: str


BAD = (
    Bad(
        "unknown field",
        with_text("[node]\n", '[node]\nprot = "x"\n'),
        Kind.SETTINGS,
        "region.toml, [node] prot",
        "not known",
        "Correct the field",
    ),
    Bad(
        "malformed settings",
        with_text("[node]", "[node"),
        Kind.SETTINGS,
        "region.toml",
        "not valid TOML",
        "Correct the line",
    ),
    Bad(
        "missing settings",
        remove("region.toml"),
        Kind.SETTINGS,
        "region.toml",
        "cannot be read",
        "docs/examples/region.toml",
    ),
    Bad(
        "another region's settings",
        lambda case: case.region.write(region={"name": "region-2"}),
        Kind.SETTINGS,
        "[region] name",
        "the home beside it is of region-1",
        "Write region-1",
    ),
    Bad(
        "expired certificate",
        lambda case: case.address("expired"),
        Kind.CERTIFICATES,
        "[coordinator] address",
        "The certificate of localhost",
        "a new one",
    ),
    Bad(
        "certificate not yet valid",
        lambda case: case.address("early"),
        Kind.CERTIFICATES,
        "[coordinator] address",
        "is not valid before",
        "clock",
    ),
    Bad(
        "certificate of another name",
        lambda case: case.address("named"),
        Kind.CERTIFICATES,
        "[coordinator] address",
        "for elsewhere.example, not for localhost",
        "server_name",
    ),
    Bad(
        "certificate of another authority",
        lambda case: case.address("foreign"),
        Kind.CERTIFICATES,
        "[coordinator] ca",
        "not by the authority",
        "somebody else answers",
    ),
    Bad(
        "no authority",
        lambda case: (case.region.root / "node" / "ca.crt").write_text("nothing"),
        Kind.CERTIFICATES,
        "[coordinator] ca",
        "ca.crt is not a certificate in PEM form",
        "kit",
    ),
    Bad(
        "no TLS",
        lambda case: case.address("plain"),
        Kind.CERTIFICATES,
        "[coordinator] address",
        "there is no TLS with it",
        "TLS only",
    ),
    Bad(
        "SuperLink that is not there",
        lambda case: case.region.write(coordinator={"address": "localhost:1"}),
        Kind.REACHABILITY,
        "[coordinator] address",
        "cannot be reached",
        "firewall",
    ),
    Bad(
        "witness that is not there",
        lambda case: case.region.write(witnesses={"addresses": ["http://127.0.0.1:1"]}),
        Kind.REACHABILITY,
        "[witnesses] addresses",
        "does not answer",
        "witness's operator",
    ),
    Bad(
        "SuperLink of another time",
        lambda case: case.address("late"),
        Kind.CLOCK,
        "[coordinator] address",
        "s ahead of that of the SuperLink",
        "NTP",
    ),
    Bad(
        "witness of another time",
        lambda case: case.region.write(
            witnesses={"addresses": [f"http://127.0.0.1:{case.at.late_witness}"]}
        ),
        Kind.CLOCK,
        "[witnesses] addresses",
        "ahead of that of the witness",
        "NTP",
    ),
    Bad(
        "clock behind the log",
        on(SimulatedMachine(ahead_ms=-HOUR_MS)),
        Kind.CLOCK,
        "log.sqlite",
        "before the log's newest entry",
        "NTP",
    ),
    Bad(
        "full disk",
        on(SimulatedMachine(disk=Disk(free_bytes=1 << 20, read_only=False))),
        Kind.DISK,
        "home",
        "1,048,576 bytes left",
        "Free disk space",
    ),
    Bad(
        "read-only disk",
        on(SimulatedMachine(disk=Disk(free_bytes=1 << 40, read_only=True))),
        Kind.DISK,
        "home",
        "mounted read-only",
        "Mount it for writing",
    ),
    Bad(
        "key file that others can read",
        chmod("home/keys/trainer.pem", 0o644),
        Kind.FILES,
        "trainer.pem",
        "has mode 0644",
        "chmod 0600",
    ),
    Bad(
        "home that others can enter",
        chmod("home", 0o755),
        Kind.FILES,
        "home",
        "has mode 0755",
        "chmod 0700",
    ),
    Bad(
        "settings that others can change",
        chmod("region.toml", 0o666),
        Kind.FILES,
        "region.toml",
        "others could change",
        "chmod go-w",
    ),
    Bad(
        "password that everyone can read",
        inline_source,
        Kind.FILES,
        "[source] url",
        "has the store's password",
        "url_env",
    ),
    Bad(
        "region's folder in a folder of everyone's",
        lambda case: case.region.root.chmod(0o777),
        Kind.FILES,
        "eu",
        "others could put another region's folder",
        "chmod go-w",
    ),
    Bad(
        "missing ledger",
        remove("home/ledger.sqlite"),
        Kind.FILES,
        "ledger.sqlite",
        "It is missing",
        "fedpref-region restore",
    ),
    Bad(
        "key that does not open",
        lambda case: (case.region.home.keys / "permit.pem").write_bytes(
            (case.region.home.keys / "log.pem").read_bytes()
        ),
        Kind.KEYS,
        "permit.pem",
        "enrolled for region-1 as log",
        "keys check",
    ),
    Bad(
        "registry that is not there",
        remove("home/registry/1.json"),
        Kind.REGISTRY,
        "registry",
        "no key registry",
        "registry",
    ),
    Bad(
        "settings whose policy is not signed",
        lambda case: case.region.write(policy={"rounds_max": 5}),
        Kind.POLICY,
        "[policy] rounds_max",
        "It is 5, and the policy in force has 64",
        "policy sign",
    ),
    Bad(
        "policy that was changed by hand",
        lambda case: case.region.home.policy.write_bytes(
            case.region.home.policy.read_bytes().replace(b'"rounds_max":64', b'"rounds_max":99')
        ),
        Kind.POLICY,
        "policy.json",
        "not the one that the region's controller signed",
        "Restore the signed policy",
    ),
    Bad(
        "permit of a bundle that the policy does not name",
        lambda case: case.put_in_force(app_bundles=["b" * 64]),
        Kind.PERMITS,
        "run-1.json",
        "does not allow app",
        "policy",
    ),
    Bad(
        "permit of another engine",
        other_engine,
        Kind.PERMITS,
        "run-1.json",
        "the permit's engine",
        "Sign a new permit",
    ),
    Bad(
        "run that is not paid for",
        lambda case: case.put_in_force(epsilon_cap_per_year="1"),
        Kind.BUDGET,
        "ledger.sqlite",
        "above the cap of 1",
        "smaller ε",
    ),
    Bad(
        "no consent",
        withdraw_all,
        Kind.CONSENTS,
        "log.sqlite",
        "No customer's consent",
        "consents import",
    ),
    Bad(
        "consents file that is not there",
        lambda case: case.region.write(consents={"file": "given.csv"}),
        Kind.CONSENTS,
        "[consents] file",
        "There is no file",
        "left out",
    ),
    Bad(
        "store that is not there",
        remove("home/data/transactions.csv"),
        Kind.STORE,
        "[source]",
        "no data files",
        "path",
    ),
    Bad(
        "standards that say what is not known",
        spoil_standards,
        Kind.STORE,
        "standards.toml",
        "treshold",
        "Correct the field",
    ),
    Bad(
        "store of another shape",
        lose_column,
        Kind.STORE,
        "[source]",
        "no column 'what'",
        "columns",
    ),
    Bad(
        "catalogue that is not there",
        remove("home/catalogue.parquet"),
        Kind.STORE,
        "catalogue.parquet",
        "is missing",
        "catalogue.parquet of the federation",
    ),
    Bad(
        "node key of another region",
        lambda case: (
            write_node_key(case.region.root / "node" / "other")
            or (case.region.root / "node" / "other").replace(case.region.root / "node" / "node_key")
        ),
        Kind.NODE_KEY,
        "node_key.pub",
        "public half",
        "enrolled",
    ),
    Bad(
        "node key that others can read",
        chmod("node/node_key", 0o640),
        Kind.NODE_KEY,
        "[node] key",
        "has mode 0640",
        "chmod 600",
    ),
    Bad(
        "node key that is none",
        lambda case: (case.region.root / "node" / "node_key").write_text("nothing"),
        Kind.NODE_KEY,
        "[node] key",
        "no private key",
        "Restore the key",
    ),
    Bad(
        "port in use",
        occupy,
        Kind.PORTS,
        "[node] runtime_port",
        "is in use",
        "name another port",
    ),
    Bad(
        "port in use for the recommender's metrics",
        occupy_metrics,
        Kind.PORTS,
        "[recommender] metrics",
        "is in use",
        "name another port",
    ),
    Bad(
        "port in use for the metrics of profiles",
        occupy_profiles,
        Kind.PORTS,
        "[profiles] metrics",
        "is in use",
        "name another port",
    ),
    Bad(
        "recommender for a group that is not there",
        lambda case: case.region.write(recommender={"group": "no-group-of-this-name"}),
        Kind.USERS,
        "[recommender] group",
        "no group",
        "Make the group",
    ),
    Bad(
        "file in a socket's place",
        lambda case: case.region.write(engine={"socket": "region.toml"}),
        Kind.PORTS,
        "[engine] socket",
        "is no socket",
        "Remove it",
    ),
    Bad(
        "user that is not there",
        lambda case: case.region.write(engine={"user": "nobody-of-this-name"}),
        Kind.USERS,
        "[engine] user",
        "no user",
        "Make the user",
    ),
    Bad(
        "engine and relay as one user",
        lambda case: (
            case.region.write(engine={"user": 1}, relay={"user": 1}, node={"user": 2})
            or on(SimulatedMachine(is_root=True))(case)
        ),
        Kind.USERS,
        "[engine] user",
        "do not have three different users",
        "a user of its own",
    ),
    Bad(
        "home that the engine's user cannot enter",
        lambda case: (
            case.region.write(engine={"user": 1}, relay={"user": 3}, node={"user": 2})
            or on(SimulatedMachine(is_root=True))(case)
        ),
        Kind.FILES,
        "home",
        "cannot enter it",
        "chown -R 1",
    ),
    Bad(
        "another version of a library",
        older_library,
        Kind.VERSIONS,
        "flwr",
        "1.40.0 is installed",
        "hash-locked",
    ),
)


@contextmanager
def spoilt(bad: Bad, case: Case) -> Iterator[Inspection]:
    bad.spoil(case)
    try:
        yield inspect_region(case.region.root, machine=case.machine)
    finally:
        for each in case.held:
            each.close()
