"""``fedpref-audit forecast``: the privacy budget that is left, region by region and cap by cap."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from common.errors import EXIT_OK
from common.privacy import UNIT_AND_RELATION
from common.terminal import EXIT_CODES

if TYPE_CHECKING:
    from common.audit.forecast import CapForecast

forecast_app = typer.Typer()


@forecast_app.command(epilog=EXIT_CODES)
def forecast(
    bundle: Annotated[Path, typer.Argument(help="The run's folder, or its bundle folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    root_key: Annotated[
        list[str] | None,
        typer.Option(help="Id of a root key you trust (64 hex digits); may be repeated."),
    ] = None,
) -> int:
    """Shows, per region and cap, the ε spent and left, and for how many more rounds it lasts."""
    from common.audit import forecast as forecasts
    from common.audit.verified_bundle import open_verified

    evidence = open_verified(bundle, root_key_ids=root_key or ()).evidence
    found = forecasts.forecast(evidence)
    if as_json:
        record = forecasts.to_record(found, evidence.run)
        typer.echo(json.dumps(record, indent=2, ensure_ascii=False))
        return EXIT_OK
    console = Console(highlight=False)
    for region in found:
        console.print(Text(region.region, style="bold"))
        for cap in region.caps:
            console.print(Padding(_words(cap), (0, 0, 0, 2)))
            console.print(Padding(_table(cap), (0, 0, 1, 4)))
        if not region.caps:
            console.print("  It has charged nothing.")
    console.print(forecasts.NOTE_LEDGER, markup=False)
    return EXIT_OK


def _words(cap: CapForecast) -> Text:
    what = f"Year {cap.name}" if cap.scope == "year" else f"Run {cap.name}"
    text = (
        f"{what}: ε {cap.spent:.4f} of {cap.cap} spent, {cap.left:.4f} left "
        f"(δ = {cap.delta}; {UNIT_AND_RELATION})."
    )
    if cap.more_runs is not None:
        text += f" {cap.more_runs:,} more runs like this one fit."
    if cap.resets is not None:
        text += (
            f" On {cap.resets[:10]} the year's count begins anew: such runs that then fit into a "
            f"year: {cap.runs_in_all or 0:,}. What was spent before still adds up for whoever took "
            "part in both years."
        )
    return Text(text)


def _table(cap: CapForecast) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for title in ("mechanism", "noise multiplier", "more rounds fit", "with nothing spent"):
        table.add_column(title)
    for each in cap.mechanisms:
        table.add_row(
            each.name, each.noise_multiplier, f"{each.more_rounds:,}", f"{each.rounds_in_all:,}"
        )
    return table
