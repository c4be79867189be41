"""Runs every attack on copies of a run, and shows what became of each."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from common.audit.verify import verify_bundle
from common.errors import VerificationError
from server.config import ServerHome
from simulations.attacks import on_logs, on_proofs, on_records, on_rounds
from simulations.attacks.attack import Attack, Outcome, on_bundle
from simulations.attacks.forgery import Forgery
from simulations.run_folder import RunFolder

ATTACKS: tuple[Attack, ...] = tuple(
    sorted(
        [
            Attack(name, title, on_bundle(forge))
            for module in (on_logs, on_records, on_rounds)
            for name, title, forge in module.ATTACKS
        ]
        + [Attack(name, title, trial) for name, title, trial in on_proofs.ATTACKS],
        key=lambda attack: int(attack.id[1:]),
    )
)


@dataclass(frozen=True)
class Result:
    """An attack and what became of it."""

    attack: Attack
    outcome: Outcome


def attack_log(run: RunFolder) -> Iterator[Result]:
    """Carries out every attack, each on a copy of its own; the run itself is only read.

    Raises:
        VerificationError: The run does not verify to begin with: nothing could be learnt.
    """
    verdict = verify_bundle(run.root)
    if not verdict.verified:
        raise VerificationError(
            f"{run.root} does not verify as it is: {verdict.first_failure}",
            remedy="Attacks are shown on the evidence of a run that verifies.",
        )
    region = ServerHome(run.server).read_plan().regions[0]
    with tempfile.TemporaryDirectory(prefix="fedpref-attacks-") as folder:
        for attack in ATTACKS:
            outcome = attack.trial(Forgery(run, region), Path(folder) / attack.id)
            yield Result(attack, outcome)


def show_attacks(run: RunFolder, console: Console) -> bool:
    """Prints the table of all attacks; its last line is the count.

    Returns:
        Whether every attack was caught.
    """
    table = Table(box=None, header_style="dim", pad_edge=False)
    for title in ("id", "attack", "", "found at", "what the reader is told"):
        table.add_column(title, overflow="fold")
    results = []
    for result in attack_log(run):
        results.append(result)
        mark = "[green]caught[/green]" if result.outcome.caught else "[bold red]MISSED[/bold red]"
        table.add_row(
            result.attack.id,
            result.attack.title,
            mark,
            result.outcome.place,
            result.outcome.message,
        )
    console.print(table)
    caught = sum(result.outcome.caught for result in results)
    console.print(f"{caught} of {len(results)} attacks caught")
    return caught == len(results)
