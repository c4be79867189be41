"""``fedpref-region tables …``: the region's further tables, read and followed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from client.data.tables.following import Fresh
    from client.data.tables.rows import TableCounts
    from common.canonical_json import JsonValue

app = typer.Typer(
    help="The region's further tables: events, members, feedback, experiments, receipts.",
    no_args_is_help=True,
)

HomeArgument = Annotated[Path, typer.Argument(help="The region's home folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


@app.command()
def check(home: HomeArgument, as_json: JsonOption = False) -> None:
    """Read every table through its mapping, and count what is left out and why.

    The counts are exact: they are for the region alone. An engine may run meanwhile.
    """
    from client.data.tables.reading import read_tables
    from client.engine.home import RegionHome

    region = RegionHome.read(home)
    tables = read_tables(region)
    tables.check()
    found = {name: tables.read(name).counts for name in tables.names}
    keys = tables.keys()
    conflicts = 0 if keys is None else keys.conflicts
    if as_json:
        record: dict[str, JsonValue] = {
            "tables": {name: counts.to_record() for name, counts in found.items()},
            "keys_of_several_customers": conflicts,
        }
        typer.echo(json.dumps(record, indent=2))
        return
    console = Console(highlight=False, soft_wrap=True)
    table = Table(box=None, header_style="dim")
    for title in ("table", "rows", "of nobody known", "used", "right", "left out because"):
        table.add_column(title)
    for name, counts in found.items():
        table.add_row(
            name,
            f"{counts.read:,}",
            f"{counts.unmatched:,}",
            f"{counts.accepted:,}",
            f"{counts.score:.2%}",
            _reasons(counts),
        )
    console.print(table)
    if conflicts:
        console.print(
            f"{conflicts:,} keys are given to several customers: their rows are nobody's."
        )


@app.command()
def follow(
    home: HomeArgument,
    name: Annotated[str, typer.Argument(help="The table, such as events.")] = "events",
    every_s: Annotated[
        float, typer.Option("--every", min=0.1, max=600.0, help="Seconds between two looks.")
    ] = 10.0,
    for_s: Annotated[
        float | None,
        typer.Option("--for", min=0.0, help="Stop after so many seconds; default: when told to."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Look for new rows again and again, and say how long they took to come.

    The first look takes up what is there; of each later row the time from its own moment to being
    taken up is measured. Nothing is kept: profiles follow the table by themselves.
    """
    from client.data.tables.following import TableFollower
    from client.data.tables.reading import read_tables
    from client.engine.home import RegionHome

    follower = TableFollower(read_tables(RegionHome.read(home)), name)
    console = Console(highlight=False, soft_wrap=True)
    ends_s = None if for_s is None else time.monotonic() + for_s
    while True:
        fresh = follower.poll()
        if as_json:
            typer.echo(json.dumps(_record(fresh)))
        elif fresh.units:
            console.print(_told(name, fresh))
        if ends_s is not None and time.monotonic() + every_s > ends_s:
            return
        time.sleep(every_s)


def _reasons(counts: TableCounts) -> str:
    frequent = sorted(counts.reasons.items(), key=lambda each: (-each[1], each[0]))
    return ", ".join(f"{reason} {count:,}" for reason, count in frequent)


def _told(name: str, fresh: Fresh) -> str:
    latency = fresh.latency
    told = f"{name}: {fresh.rows.num_rows:,} new rows of {fresh.units:,} files or ranges"
    if latency.median_s is not None:
        told += (
            f", taken up {latency.median_s:.1f} s after they happened (95 of 100 within "
            f"{latency.p95_s:.1f} s, the slowest {latency.max_s:.1f} s; {latency.late:,} later "
            "than ten minutes)"
        )
    if fresh.withdrawn:
        told += f"; {fresh.withdrawn:,} rows of before are gone"
    reasons = _reasons(fresh.counts)
    return f"{told}. Left out: {reasons or 'none'}."


def _record(fresh: Fresh) -> dict[str, JsonValue]:
    return {
        "rows": fresh.rows.num_rows,
        "units": fresh.units,
        "withdrawn": fresh.withdrawn,
        "latency": fresh.latency.to_record(),
        "counts": fresh.counts.to_record(),
    }
