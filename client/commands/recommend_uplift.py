"""``fedpref-region recommend uplift``: what the arms of the running experiment brought."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from common.errors import InputError

if TYPE_CHECKING:
    from client.engine.home import RegionHome
    from client.recommend.uplift import Difference, ExperimentResult

_TITLES = {
    "purchases": "purchases each",
    "buyers": "share who bought",
    "purchases_of_shown": "purchases of what was shown",
}


def uplift(
    home: Annotated[Path, typer.Argument(help="The region's home folder.")],
    days: Annotated[
        int, typer.Option(min=1, max=366, help="For how many days each customer is followed.")
    ] = 14,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Compare the arms of the experiment in the settings, by what customers bought since.

    A customer counts in the arm she was drawn into, from her first list on, for the same number of
    days. The figures are exact: they are for the region alone, and must not leave it.
    """
    from client.engine.home import RegionHome

    result = _measure(RegionHome.read(home), days)
    if as_json:
        typer.echo(json.dumps(result.to_record(), indent=2))
        return
    console = Console(highlight=False, soft_wrap=True)
    table = Table(box=None, header_style="dim")
    for title in ("arm", "customers", *_TITLES.values()):
        table.add_column(title)
    for place, arm in enumerate(result.arms):
        cells = [_cell(arm.measures[name], is_first=place == 0) for name in _TITLES]
        table.add_row(arm.arm, f"{arm.customers:,}", *cells)
    console.print(
        f"[bold]{result.experiment}[/bold], each customer for {result.days} days from her first "
        f"list; {result.still_followed:,} are still followed. Beside each mean, its difference "
        "from the first arm's with a 95% interval:"
    )
    console.print(table)
    if not result.believable:
        console.print(
            f"[bold]Do not believe it:[/bold] the arms' sizes do not fit their shares "
            f"(p = {result.mismatch_p:.2g})."
        )


def _measure(home: RegionHome, days: int) -> ExperimentResult:
    from client.data.consent_filter import filter_consented
    from client.engine.policy import read_policy
    from client.engine.preparation import RegionData
    from client.recommend.consent_gate import ConsentGate
    from client.recommend.experiment import Assignment, experiment_key
    from client.recommend.exposure import FILE_NAME, ExposureLog
    from client.recommend.settings import RecommendSettings, recommend_folder
    from client.recommend.uplift import measure_uplift
    from common.catalogue import Catalogue
    from common.timestamps import now_ms

    settings = RecommendSettings.read(home)
    if settings.experiment is None:
        raise InputError(
            f"The settings of {home.region} have no experiment.",
            remedy="Describe one in [experiment] of recommend/settings.toml, and serve.",
        )
    assignment = Assignment(settings.experiment, experiment_key(home))
    gate = ConsentGate(home)
    try:
        eligible = gate.eligible()
    finally:
        gate.close()
    checked = RegionData(home, read_policy(home.policy)).checked_transactions()
    consented = filter_consented(checked, eligible)
    kept = {assignment.pseudonym(sid) for sid in eligible.sids}
    log = ExposureLog(recommend_folder(home) / FILE_NAME)
    try:
        exposures = [each for each in log.all(settings.experiment.name) if each.customer in kept]
    finally:
        log.close()
    return measure_uplift(
        assignment,
        exposures,
        consented,
        Catalogue.load(home.catalogue),
        days=days,
        until_ms=now_ms(),
    )


def _cell(measured: Difference, *, is_first: bool) -> str:
    if is_first:
        return f"{measured.mean:.4g}"
    if not math.isfinite(measured.low):
        return f"{measured.mean:.4g} ({measured.difference:+.4g}; too few for an interval)"
    return (
        f"{measured.mean:.4g} ({measured.difference:+.4g}; {measured.low:+.4g} to "
        f"{measured.high:+.4g})"
    )
