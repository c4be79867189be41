"""``fedpref-audit diff``: whether a later bundle only adds to an earlier one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from common.errors import EXIT_OK, VerificationError
from common.privacy import UNIT_AND_RELATION
from common.terminal import EXIT_CODES

if TYPE_CHECKING:
    from common.audit.diff import BundleDiff, LogDiff, RegionDiff

diff_app = typer.Typer()


@diff_app.command(epilog=EXIT_CODES)
def diff(
    before: Annotated[Path, typer.Argument(help="The earlier run's folder, or its bundle folder.")],
    after: Annotated[Path, typer.Argument(help="The later run's folder, or its bundle folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> int:
    """Compares two bundles: exit code 0 if the later one only adds to the earlier, 8 if not."""
    from common.audit.diff import diff_bundles

    found = diff_bundles(before, after)
    if as_json:
        typer.echo(json.dumps(found.to_record(), indent=2, ensure_ascii=False))
    else:
        _print(Console(highlight=False), found)
    return EXIT_OK if found.only_extends else VerificationError.exit_code


def _print(console: Console, found: BundleDiff) -> None:
    if found.only_extends:
        console.print(Text("The later bundle only adds to the earlier one.", style="bold green"))
    else:
        console.print(
            Text("The later bundle does not only add to the earlier one.", style="bold red")
        )
    for which, holds in zip(("earlier", "later"), found.integrity, strict=True):
        if not holds:
            console.print(
                Text(f"The {which} bundle itself does not hold: see fedpref-audit verify.", "red")
            )
    logs = Table.grid(padding=(0, 2))
    for log in found.logs:
        logs.add_row(f"log {log.party}", log.state, _sizes(log), _gained(log))
    console.print(Padding(logs, (1, 0)))
    regions = Table.grid(padding=(0, 2))
    for region in found.regions:
        regions.add_row(region.region, _rounds(region), _epsilon(region))
    console.print(regions)
    _print_registry(console, found)


def _sizes(log: LogDiff) -> str:
    before = "not there" if log.size_before is None else f"{log.size_before:,}"
    after = "not there" if log.size_after is None else f"{log.size_after:,}"
    at = "" if log.forked_at is None else f"; they differ from entry {log.forked_at} on"
    return f"{before} → {after} entries{at}"


def _gained(log: LogDiff) -> str:
    return ", ".join(f"+{number:,} {kind}" for kind, number in log.gained.items())


def _rounds(region: RegionDiff) -> str:
    return f"rounds {len(region.rounds_before)} → {len(region.rounds_after)}"


def _epsilon(region: RegionDiff) -> str:
    before, after = region.epsilon_before or "none", region.epsilon_after or "none"
    return f"ε {before} → {after} ({UNIT_AND_RELATION})"


def _print_registry(console: Console, found: BundleDiff) -> None:
    before, after = found.versions
    console.print(f"\nKey registry: {found.registry} ({before} → {after} versions)", markup=False)
    for party, role, key in found.keys_added:
        console.print(f"  added    {role} key of {party}  {key}", markup=False)
    for party, role, key, when in found.keys_revoked:
        console.print(f"  revoked  {role} key of {party}  {key}  from {when}", markup=False)
