"""Carries out attacks on Flower and on this system, and shows side by side what each gave away."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from simulations.attack_demos import (
    basket_recovery,
    key_substitution,
    norm_scaling,
    replay,
    shilling,
    unmask_twice,
)
from simulations.attack_demos.demo import Demo, Setting, Spoils, slice_of
from simulations.attack_demos.stock_flower import FLOWER
from simulations.attack_demos.users import are_distinct
from simulations.scenarios import Scenario

#: In the order of `simulations.attack_demos.names.NAMES`.
DEMOS: tuple[Demo, ...] = (
    basket_recovery.DEMO,
    shilling.DEMO,
    key_substitution.DEMO,
    unmask_twice.DEMO,
    norm_scaling.DEMO,
    replay.DEMO,
)


@dataclass(frozen=True)
class Shown:
    """An attack and what came of it.

    Attributes:
        demo: The attack.
        flower: What it got from Flower.
        ours: What it got from this system.
        seconds: How long both took.
    """

    demo: Demo
    flower: Spoils
    ours: Spoils
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether the attack is real, and fails here."""
        return self.flower.won and not self.ours.won

    def to_record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "attack": self.demo.name,
            "title": self.demo.title,
            "holds": self.holds,
            "seconds": round(self.seconds, 2),
            "flower": {"baseline": self.demo.baseline, **_record(self.flower)},
            "ours": {"defence": self.demo.defence, **_record(self.ours)},
        }


def carry_out(demos: Sequence[Demo], setting: Setting) -> Iterator[Shown]:
    """Carries out attacks, each on Flower first.

    Args:
        demos: The attacks.
        setting: What they are carried out on.
    """
    # Processes are forked, and what they have to say of every message is not what is shown.
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    for demo in demos:
        began = time.monotonic()
        flower = demo.on_flower(setting)
        ours = demo.on_ours(setting)
        yield Shown(demo, flower, ours, time.monotonic() - began)


def show_demos(
    names: Sequence[str], scenario: Scenario, *, seed: int, as_json: bool, console: Console
) -> bool:
    """Carries out attacks and shows them in one table; its last line is the count.

    Args:
        names: The attacks' names.
        scenario: On a slice of whose data.
        seed: What is drawn from it.
        as_json: Whether to print JSON instead.
        console: Where it is shown.

    Returns:
        Whether every attack succeeds against Flower and fails here.

    Raises:
        UsageError: The scenario has too few regions.
    """
    demos, provision = [each for each in DEMOS if each.name in names], slice_of(scenario, seed)
    shown: list[Shown] = []
    with tempfile.TemporaryDirectory(prefix="fedpref-a") as work:
        setting = Setting(Path(work), seed, provision)
        for demo in demos:
            # A status has a thread, and processes are forked here: a line is all.
            if not as_json:
                console.print(f"{demo.name}: {demo.title} …", style="dim")
            shown.extend(carry_out([demo], setting))
    if as_json:
        typer.echo(json.dumps(_summary(shown, scenario, seed), indent=2, ensure_ascii=False))
    else:
        _show(shown, scenario, seed, console)
    return all(each.holds for each in shown)


def _summary(shown: Sequence[Shown], scenario: Scenario, seed: int) -> dict[str, Any]:
    return {
        "flower": FLOWER,
        "scenario": scenario.name,
        "seed": seed,
        "distinct_users": are_distinct(),
        "attacks": [each.to_record() for each in shown],
        "holds": all(each.holds for each in shown),
    }


def _show(shown: Sequence[Shown], scenario: Scenario, seed: int, console: Console) -> None:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 1, 0))
    table.add_column("attack", ratio=2, overflow="fold")
    table.add_column(f"what it gets from {FLOWER}", ratio=4, overflow="fold")
    table.add_column("what it gets here", ratio=5, overflow="fold")
    for each in shown:
        table.add_row(
            Text.assemble((each.demo.name, "bold"), "\n", (each.demo.title, "dim")),
            _cell(each.flower, each.demo.baseline, good=each.flower.won),
            _cell(each.ours, each.demo.defence, good=not each.ours.won),
        )
    console.print(table)
    took = sum(each.seconds for each in shown)
    console.print(
        f"Every region's engine, every Flower node and the attacker in a process each, {_users()}, "
        f"on a slice of {scenario.name}; shilling and norm scaling against Flower on made-up "
        f"customers. {took:.0f} s; seed {seed}.",
        style="dim",
    )
    held = sum(each.holds for each in shown)
    console.print(
        f"{held} of {len(shown)} attacks succeed against Flower and fail here.",
        style="bold green" if held == len(shown) else "bold red",
    )


def _users() -> str:
    return (
        "under a user each" if are_distinct() else "under one user (root could give each its own)"
    )


def _cell(spoils: Spoils, where: str, *, good: bool) -> Text:
    mark = "succeeds" if spoils.won else "fails"
    return Text.assemble(
        (f"{mark}", "green" if good else "bold red"), (f" ({where})", "dim"), f"\n{spoils.what}"
    )


def _record(spoils: Spoils) -> dict[str, Any]:
    return {"succeeds": spoils.won, "what": spoils.what, "figures": {**spoils.figures}}
