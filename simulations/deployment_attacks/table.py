"""Carries out attacks on both deployments, and shows side by side what each gave away."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from simulations.attack_demos.stock_flower import FLOWER
from simulations.attack_demos.users import let_pass
from simulations.deployment_attacks import on_flower, on_ours
from simulations.deployment_attacks.accounts import require_users
from simulations.deployment_attacks.our_federation import OurFederation, our_federation
from simulations.deployment_attacks.outcome import Outcome, Shown
from simulations.deployment_attacks.stock_federation import StockFederation, stock_federation


@dataclass(frozen=True)
class DeploymentAttack:
    """One attack, on both deployments.

    Attributes:
        name: What it is called on the command line.
        title: What is done, in a few words.
        on_flower: Carries it out on stock Flower.
        on_ours: Carries it out on this system.
    """

    name: str
    title: str
    on_flower: Callable[[StockFederation], Outcome]
    on_ours: Callable[[OurFederation], Outcome]


#: In the order of `simulations.deployment_attacks.names.NAMES`.
ATTACKS: tuple[DeploymentAttack, ...] = (
    DeploymentAttack(
        "stolen-ca",
        "an outsider with the CA's certificate acts as coordinator",
        on_flower.stolen_ca,
        on_ours.stolen_ca,
    ),
    DeploymentAttack(
        "evil-bundle",
        "a hostile coordinator ships a bundle that reads the region's files",
        on_flower.evil_bundle,
        on_ours.evil_bundle,
    ),
    DeploymentAttack(
        "unpermitted-bundle",
        "a hostile coordinator ships another bundle than was agreed",
        on_flower.unpermitted_bundle,
        on_ours.unpermitted_bundle,
    ),
    DeploymentAttack(
        "lowered-noise",
        "a hostile coordinator lowers σ and raises ε",
        on_flower.lowered_noise,
        on_ours.lowered_noise,
    ),
    DeploymentAttack(
        "extra-tensor",
        "a tensor more than was agreed travels in the answer",
        on_flower.extra_tensor,
        on_ours.extra_tensor,
    ),
    DeploymentAttack(
        "replayed-message",
        "a hostile region sends its old update as a new one",
        on_flower.replayed_message,
        on_ours.replayed_message,
    ),
    DeploymentAttack(
        "wrong-node-key",
        "a stranger connects as a node",
        on_flower.wrong_node_key,
        on_ours.wrong_node_key,
    ),
    DeploymentAttack(
        "revoked-region",
        "a region that was removed comes back by itself",
        on_flower.revoked_region,
        on_ours.revoked_region,
    ),
    DeploymentAttack(
        "oversized-message",
        "nobody in particular sends hundreds of megabytes",
        on_flower.oversized_message,
        on_ours.oversized_message,
    ),
    DeploymentAttack(
        "local-user",
        "another user of a region's machine speaks for the region",
        on_flower.local_user,
        on_ours.local_user,
    ),
)


def carry_out(names: Sequence[str], *, seed: int) -> Iterator[Shown]:
    """Carries out attacks, all on stock Flower first; each deployment is set up once.

    Args:
        names: The attacks' names.
        seed: What made-up data and attackers' choices are drawn from.

    Raises:
        UsageError: Whoever runs this is not root.
    """
    require_users()
    attacks = [each for each in ATTACKS if each.name in names]
    with tempfile.TemporaryDirectory(prefix="fedpref-d") as work:
        # Every program's folder lies in it, and they have users of their own.
        let_pass(Path(work))
        flower = on_stock_flower(attacks, Path(work) / "flower", seed=seed)
        with our_federation(Path(work) / "ours", seed=seed) as ours:
            for each in attacks:
                outcome, seconds = _timed(each.on_ours, ours)
                theirs, theirs_s = flower[each.name]
                yield Shown(each.name, each.title, theirs, outcome, theirs_s + seconds)


def on_stock_flower(
    attacks: Sequence[DeploymentAttack], root: Path, *, seed: int, scripts: Path | None = None
) -> Mapping[str, tuple[Outcome, float]]:
    """By attack what came of it on stock Flower, and how long it took in seconds.

    Args:
        attacks: Which attacks.
        root: A folder that is not there yet.
        seed: What made-up data are drawn from.
        scripts: The folder of the Python that all users run; this one's by default.
    """
    root.mkdir(parents=True)
    with stock_federation(root, seed=seed, scripts=scripts) as stock:
        return {each.name: _timed(each.on_flower, stock) for each in attacks}


def show_attacks(names: Sequence[str], *, seed: int, as_json: bool, console: Console) -> bool:
    """Carries out attacks and shows them in one table; its last line is the count.

    Args:
        names: The attacks' names.
        seed: What is drawn from it.
        as_json: Whether to print JSON instead.
        console: Where it is shown.

    Returns:
        Whether every attack succeeds on stock Flower, and is refused and on record here.
    """
    if not as_json:
        console.print("Two deployments are set up and attacked; some minutes …", style="dim")
    shown = list(carry_out(names, seed=seed))
    holds = all(each.holds for each in shown)
    if as_json:
        record = {
            "flower": FLOWER,
            "seed": seed,
            "attacks": [each.to_record() for each in shown],
            "holds": holds,
        }
        typer.echo(json.dumps(record, indent=2, ensure_ascii=False))
    else:
        _show(shown, seed, console)
    return holds


def _timed(attack: Callable[[Any], Outcome], deployment: object) -> tuple[Outcome, float]:
    began = time.monotonic()
    return attack(deployment), time.monotonic() - began


def _show(shown: Sequence[Shown], seed: int, console: Console) -> None:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 1, 0))
    table.add_column("attack", ratio=2, overflow="fold")
    table.add_column(f"in a deployment of {FLOWER}", ratio=4, overflow="fold")
    table.add_column("in a deployment of this system", ratio=4, overflow="fold")
    table.add_column("where it is on record here", ratio=3, overflow="fold")
    for each in shown:
        table.add_row(
            Text.assemble((each.name, "bold"), "\n", (each.title, "dim")),
            _cell(each.flower, good=each.flower.succeeded),
            _cell(each.ours, good=not each.ours.succeeded),
            Text(each.ours.logged or "nowhere", "" if each.ours.logged else "bold red"),
        )
    console.print(table)
    took = sum(each.seconds for each in shown)
    console.print(
        "Every program under a user of its own, TLS and registered node keys in both deployments, "
        f"made-up customers. {took:.0f} s; seed {seed}.",
        style="dim",
    )
    held = sum(each.holds for each in shown)
    console.print(
        f"{held} of {len(shown)} attacks succeed in a deployment of stock Flower, and are refused "
        "and on record in one of this system.",
        style="bold green" if held == len(shown) else "bold red",
    )


def _cell(outcome: Outcome, *, good: bool) -> Text:
    mark = "succeeds" if outcome.succeeded else "fails"
    return Text.assemble((mark, "green" if good else "bold red"), f"\n{outcome.what}")
