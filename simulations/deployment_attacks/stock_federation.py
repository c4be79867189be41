"""A deployment of Flower as its documentation has it: TLS, registered node keys, and no more.

The SuperLink, each SuperNode with its store, the operator and the attacker are users of their own.
Nothing is weakened: it is what ``flower-superlink --enable-supernode-auth`` and
``flower-supernode --auth-supernode-private-key`` do with their other options left alone.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, UnregisterNodeRequest

from common.errors import FederationError
from simulations.deployment_attacks.accounts import Account, Programs, make_accounts, processes_of
from simulations.deployment_attacks.apps import agreed
from simulations.deployment_attacks.attackers import Attacker
from simulations.deployment_attacks.bundles import bundle_of
from simulations.deployment_attacks.doors import Door
from simulations.deployment_attacks.fleet import NodeKey
from simulations.deployment_attacks.outcome import Found
from simulations.deployment_attacks.tls import Authority, free_port, make_authority

REGIONS = ("north", "south")
#: The noise that the parties agreed on, as the agreed app's run configuration has it.
NOISE_MULTIPLIER = 2.0
_SUPERLINK, _OPERATOR, _ATTACKER = "superlink", "operator", "attacker"
_HOST = "127.0.0.1"
_N_PURCHASES = 300
_START_TIMEOUT_S = 90.0
_POLL_S = 0.25


@dataclass(frozen=True)
class StockNode:
    """A region's node, as Flower runs it.

    Attributes:
        name: As which it is registered.
        account: Whose programs it consists of.
        store: The file of its customers' purchases, which the agreed app reads.
        key: The file of its node key.
        runtime: The address at which its tasks are handed out.
    """

    name: str
    account: Account
    store: Path
    key: Path
    runtime: str

    def start(self, programs: Programs, superlink: str, ca: Path) -> None:
        """Starts the SuperNode."""
        host, _, port = self.runtime.rpartition(":")
        programs.start(
            self.name,
            self.account,
            [
                *("flower-supernode", "--superlink", superlink, "--root-certificates", str(ca)),
                *("--auth-supernode-private-key", str(self.key)),
                *("--node-config", f'data-path="{self.store}"'),
                *("--host", host, "--port", port),
            ],
        )

    def counts(self) -> list[int]:
        """How often each item was bought in truth."""
        counted = [0] * agreed.N_ITEMS
        for line in self.store.read_text(encoding="utf-8").splitlines()[1:]:
            counted[int(line.rpartition(",")[2])] += 1
        return counted


@dataclass(frozen=True)
class StockFederation:
    """The deployment, running.

    Attributes:
        address: Where the SuperLink listens, for all that it serves.
        ca: The certificate of the authority that signed the SuperLink's.
        nodes: The regions' nodes, by name.
        operator: Whoever may start runs.
        attacker: Whoever may nothing.
        agreed: The file of the agreed bundle, which every account may read.
        superlink: The process of the SuperLink.
        programs: What runs.
    """

    address: str
    ca: Path
    nodes: Mapping[str, StockNode]
    operator: Account
    attacker: Account
    agreed: Path
    superlink: int
    programs: Programs

    def attack(self, action: str, *, account: Account | None = None, **given: Any) -> Found:
        """Carries out an action, as the attacker by default; gives what it found.

        Args:
            action: One of `simulations.deployment_attacks.actions`.
            account: Whose process it is.
            given: What it is given besides the address, the authority's certificate and the agreed
                bundle, which everybody has.
        """
        return self.start(action, account=account, **given).found()

    def start(self, action: str, *, account: Account | None = None, **given: Any) -> Attacker:
        """Starts an action, as `attack` does, and leaves it running."""
        owner = account or self.attacker
        ca = str(owner.give("ca.crt", self.ca.read_bytes()))
        everybodys = {"address": self.address, "ca": ca, "bundle": str(self.agreed)}
        return Attacker.start(owner, action, everybodys | given)

    def operate(self, **given: Any) -> Found:
        """Carries out a run as the federation's own operator does."""
        return self.attack("coordinate", account=self.operator, **given)

    @contextmanager
    def in_place_of(self, name: str) -> Iterator[StockNode]:
        """Stops a region's node while the body runs, so that something else can be that node."""
        self.programs.stop(name)
        try:
            yield self.nodes[name]
        finally:
            self.nodes[name].start(self.programs, self.address, self.ca)

    def unregister(self, name: str) -> None:
        """Takes a node off the list, as its operator does with ``flwr supernode unregister``.

        Raises:
            FederationError: It is not on the list.
        """
        with Door(self.address, self.ca.read_bytes()).control() as control:
            for node in control.ListNodes(ListNodesRequest()).nodes_info:
                if node.name == name:
                    control.UnregisterNode(UnregisterNodeRequest(node_id=node.node_id))
                    return
        raise FederationError(f"No node {name} is registered.")

    def superlink_peak_bytes(self) -> int:
        """The most memory that the SuperLink has had."""
        for line in Path(f"/proc/{self.superlink}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise FederationError("The SuperLink is gone.")


@contextmanager
def stock_federation(
    root: Path, *, seed: int, scripts: Path | None = None
) -> Iterator[StockFederation]:
    """Runs the deployment while the body runs.

    Args:
        root: An empty folder, which is made passable to other users.
        seed: What the made-up purchases are drawn from.
        scripts: The folder of the Python that all users run; this one's by default.

    Raises:
        UsageError: Whoever runs this is not root.
        FederationError: Flower did not start.
    """
    accounts = make_accounts(root, (_SUPERLINK, _OPERATOR, _ATTACKER, *REGIONS), scripts)
    authority = make_authority(_HOST)
    address = f"{_HOST}:{free_port()}"
    ca = root / "ca.crt"
    ca.write_bytes(authority.ca)
    bundle = root / "agreed.fab"
    bundle.write_bytes(bundle_of(agreed, config={"noise-multiplier": NOISE_MULTIPLIER}))
    for public in (ca, bundle):
        public.chmod(0o644)
    with Programs() as programs:
        command = _superlink_command(accounts[_SUPERLINK], address, authority, ca)
        log = programs.start(_SUPERLINK, accounts[_SUPERLINK], command)
        _await_superlink(programs, Door(address, authority.ca), log)
        nodes = {
            name: _start_node(programs, accounts[name], Door(address, authority.ca), ca, seed)
            for name in REGIONS
        }
        yield StockFederation(
            address,
            ca,
            nodes,
            accounts[_OPERATOR],
            accounts[_ATTACKER],
            bundle,
            processes_of(accounts[_SUPERLINK].user)[0],
            programs,
        )


def _superlink_command(account: Account, address: str, authority: Authority, ca: Path) -> list[str]:
    host, _, port = address.rpartition(":")
    return [
        *("flower-superlink", "--host", host, "--port", port, "--enable-supernode-auth"),
        *("--ssl-ca-certfile", str(ca)),
        *("--ssl-certfile", str(account.give("server.pem", authority.certificate))),
        *("--ssl-keyfile", str(account.give("server.key", authority.key))),
        *("--database", str(account.folder / "superlink.db")),
    ]


def _start_node(programs: Programs, account: Account, door: Door, ca: Path, seed: int) -> StockNode:
    key = NodeKey.new()
    with door.control() as control:
        control.RegisterNode(RegisterNodeRequest(public_key=key.public, name=account.name))
    node = StockNode(
        account.name,
        account,
        account.give("purchases.csv", _purchases(account.name, seed)),
        account.give("node_key", key.private_file()),
        f"{_HOST}:{free_port()}",
    )
    node.start(programs, door.address, ca)
    return node


def _purchases(name: str, seed: int) -> bytes:
    draw = random.Random(f"{seed}/{name}")  # noqa: S311 - made-up data
    lines = ["customer,item"]
    for _ in range(_N_PURCHASES):
        item = min(int(draw.expovariate(0.15)), agreed.N_ITEMS - 1)
        lines.append(f"{name}-{draw.randrange(10**9):09d},{item}")
    return ("\n".join(lines) + "\n").encode()


def _await_superlink(programs: Programs, door: Door, log: Path) -> None:
    until = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < until and programs.is_running(_SUPERLINK):
        try:
            with door.control() as control:
                control.ListNodes(ListNodesRequest())
        except httpx.TransportError:
            time.sleep(_POLL_S)
            continue
        return
    tail = log.read_text(errors="replace")[-500:]
    raise FederationError(f"Flower's SuperLink did not start: {tail}")
