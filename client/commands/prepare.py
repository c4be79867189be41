"""``fedpref-region prepare``: takes up what is new in the region's store, ahead of a round."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def prepare(
    home: Annotated[Path, typer.Argument(help="The region's home folder.")],
    anew: Annotated[
        bool,
        typer.Option("--anew", help="Read the whole store, also what was taken up before."),
    ] = False,
) -> None:
    """Take up what is new in the region's store, so that no round has to wait for it.

    An engine may run meanwhile; it does the same before each round. The first reading of a large
    store takes minutes. What is read is kept in the home, encrypted, and is in no backup. To be run
    as the engine's user.
    """
    from client.engine.home import RegionHome
    from client.engine.policy import read_policy
    from client.engine.preparation import RegionData

    region = RegionHome.read(home)
    data = RegionData(region, read_policy(region.policy))
    refreshed, report = data.refresh(anew=anew), data.quality_report()
    Console(highlight=False, soft_wrap=True).print(
        f"[bold]{region.region}[/bold]: {refreshed.rows_read:,} rows of {refreshed.units_read:,} "
        f"new or changed parts of the store read, {refreshed.units_gone:,} parts given up. Of "
        f"{report.rows_in_scope:,} rows in scope {report.score:.4%} pass (threshold "
        f"{report.threshold:.0%}); {report.rows_accepted:,} are used."
    )
