"""``fedpref-region profile …``: customers' profiles, of those who consented to them."""

from __future__ import annotations

import json
import logging
import math
from contextlib import ExitStack
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from common.errors import FedprefError, UsageError

if TYPE_CHECKING:
    from client.engine.home import RegionHome
    from client.profiles.making import Outcome
    from client.profiles.metrics import ProfileMetrics
    from client.profiles.reading import Overview, SegmentLine
    from common.canonical_json import JsonValue

app = typer.Typer(help="Customers' profiles, of those who consented to them.", no_args_is_help=True)

HomeArgument = Annotated[Path, typer.Argument(help="The region's home folder.")]
CustomerArgument = Annotated[str, typer.Argument(help="The region's reference of the customer.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


class Language(StrEnum):
    """In which language a profile is explained."""

    EN = "en"
    ZH = "zh"


@app.command()
def build(
    home: HomeArgument,
    as_of: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"],
            help="The day that profiles are about, for data that end in the past (UTC).",
        ),
    ] = None,
    cuts: Annotated[
        Path | None,
        typer.Option(help="Cuts of recency, frequency and monetary value from outside (TOML)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Build all profiles anew: read everything, fit models, judge everybody.

    Profiles stay in the region, encrypted; nothing of it is sent or learnt from. The engine may run
    meanwhile.
    """
    from client.engine.home import RegionHome
    from client.profiles.region import open_profiles
    from client.profiles.rfm import read_cuts

    given = None if cuts is None else read_cuts(cuts)
    as_of_ms = None if as_of is None else round(as_of.replace(tzinfo=UTC).timestamp() * 1000)
    with open_profiles(RegionHome.read(home)) as profiles:
        _show(profiles.build(as_of_ms=as_of_ms, cuts=given), as_json)


@app.command()
def refresh(
    home: HomeArgument,
    follow: Annotated[
        float | None,
        typer.Option(min=0.1, help="Go on, and look for what is new every so many seconds."),
    ] = None,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", help="With --follow: print no outcomes, and log failures as JSON lines."
        ),
    ] = False,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="With --follow: a loopback address for Prometheus, such as 127.0.0.1:9467."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Take in what is new of purchases and events, and take out whoever withdrew.

    With --follow it goes on until it is stopped, and builds anew when that is due: an event is in
    its customer's profile within seconds. What cannot be read then is tried again. With a table
    `profiles` in region.toml it is among the processes of `fedpref-region start`.
    """
    from client.engine.home import RegionHome
    from client.profiles.region import open_profiles

    region = RegionHome.read(home)
    if follow is not None:
        _follow(region, follow, metrics=metrics, quiet=quiet, as_json=as_json)
        return
    if quiet or metrics is not None:
        raise UsageError(
            "--quiet and --metrics are for a refresh that goes on.", remedy="Give --follow, too."
        )
    with open_profiles(region) as profiles:
        _show(profiles.refresh(), as_json)


@app.command()
def show(home: HomeArgument, customer: CustomerArgument, as_json: JsonOption = False) -> None:
    """Show one customer's profile to the operator: every tag, every rule, every number."""
    _explain(home, customer, Language.EN, "operator", as_json)


@app.command()
def explain(
    home: HomeArgument,
    customer: CustomerArgument,
    language: Annotated[
        Language, typer.Option("--language", help="In which language.")
    ] = Language.EN,
    as_json: JsonOption = False,
) -> None:
    """Explain a profile as its customer may read it: nothing in it tells of other customers."""
    _explain(home, customer, language, "customer", as_json)


@app.command()
def segments(home: HomeArgument, as_json: JsonOption = False) -> None:
    """Show the segments and groups with their numbers, medians and strategies.

    They are exact numbers about customers: they stay in the region.
    """
    from client.engine.home import RegionHome
    from client.profiles.region import open_profiles

    with open_profiles(RegionHome.read(home)) as profiles:
        overview = profiles.overview()
    if as_json:
        typer.echo(json.dumps(_overview_record(overview), indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False, soft_wrap=True)
    for heading, lines in (("Segments", overview.segments), ("Groups", overview.groups)):
        console.print(f"[bold]{heading}[/bold]")
        console.print(_table(lines))
    tags = Table("tag", "customers", box=None, header_style="dim")
    for name, count in overview.tags.items():
        tags.add_row(name, str(count))
    console.print(tags)


def _follow(
    home: RegionHome, every_s: float, *, metrics: str | None, quiet: bool, as_json: bool
) -> None:
    """Keeps profiles current until told to end; tells of it as is asked for."""
    from client.commands.engine_process import told_to_end
    from client.profiles.following import keep_current
    from client.profiles.metrics import LoggedMetrics, ProfileMetrics
    from client.profiles.region import open_profiles
    from common.loopback import LoopbackAddress
    from common.metrics_http import Observed, serve_metrics
    from common.process_control import end_with_supervisor, hide_memory
    from common.structured_log import log_as_json

    seen = (LoggedMetrics if quiet else ProfileMetrics)(home.region, every_s=every_s)
    observer = seen if quiet else _Told(seen, as_json)
    with ExitStack() as stack:
        if quiet:
            end_with_supervisor()
            log_as_json("profiles", level=logging.WARNING)
        # Customers' histories are in it: no core dump, no tracing by another process of its user.
        hide_memory()
        told = stack.enter_context(told_to_end())
        ready = f"{home.region}: profiles are kept current, every {every_s:g} s"
        if metrics is not None:
            observed = Observed(seen.registry, seen.checks())
            place = stack.enter_context(serve_metrics(observed, LoopbackAddress.parse(metrics)))
            ready += f", metrics on http://{place}/metrics"
        typer.echo(f"{ready}. Ctrl-C stops it.", err=as_json)
        keep_current(lambda: open_profiles(home), told, observer, every_s=every_s)
        typer.echo(f"{home.region}: profiles are no longer kept current.", err=as_json)


class _Told:
    """Shows what comes of each look to whoever sits in front of it.

    Args:
        seen: Is told too.
        as_json: Whether outcomes are shown as JSON.
    """

    def __init__(self, seen: ProfileMetrics, as_json: bool) -> None:
        self._seen = seen
        self._as_json = as_json

    def refreshed(self, outcome: Outcome) -> None:
        self._seen.refreshed(outcome)
        _show(outcome, self._as_json)

    def failed(self, error: FedprefError) -> None:
        self._seen.failed(error)
        typer.echo(f"{error} It is tried again.", err=True)


def _explain(home: Path, customer: str, language: Language, reader: str, as_json: bool) -> None:
    from client.engine.home import RegionHome
    from client.profiles.region import open_profiles

    with open_profiles(RegionHome.read(home)) as profiles:
        found = profiles.explained(customer)
        record = found.record(language, "operator" if reader == "operator" else "customer")
    if as_json:
        typer.echo(json.dumps(record, indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False, soft_wrap=True)
    segment = record["segment"]
    if isinstance(segment, dict):
        console.print(f"[bold]{segment['title']}[/bold] ({segment['since']})", markup=True)
        console.print(f"  {segment['strategy']}", markup=False)
        _print_reasons(console, segment)
    for part in ("tags", "triggers"):
        for each in _records(record[part]):
            level = f"{each['level_title']}: " if "level_title" in each else ""
            console.print(f"\n{level}{each['title']} ({each['since']})", markup=False)
            _print_reasons(console, each)
    console.print()
    for each in _records(record["facts"]):
        console.print(f"{each['title']}: {each['value']}", markup=False)


def _print_reasons(console: Console, each: dict[str, JsonValue]) -> None:
    because = each["because"]
    for reason in because if isinstance(because, list) else ():
        console.print(f"  {reason}", markup=False)


def _records(value: JsonValue) -> list[dict[str, JsonValue]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _show(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(outcome.to_record(), ensure_ascii=False))
        return
    console = Console(highlight=False, soft_wrap=True)
    what = "built" if outcome.built else "refreshed"
    console.print(
        f"Profiles {what}: {outcome.customers} customers, {outcome.judged} judged now; "
        f"{outcome.purchases.read} rows of purchases and {outcome.events.read} events read, "
        f"{outcome.purchases.accepted + outcome.events.accepted} of them right."
    )
    for name, count in outcome.triggers.items():
        if count:
            console.print(f"  {name}: {count}")
    if outcome.latency.median_s is not None:
        console.print(f"  from event to profile: {outcome.latency.median_s:.1f} s (median)")
    if outcome.taken_out:
        console.print(f"  {outcome.taken_out} profiles are gone: their consent ended.")
    if outcome.build_due:
        console.print(f"  A build is due: {outcome.build_due}. fedpref-region profile build HOME")


def _table(lines: tuple[SegmentLine, ...]) -> Table:
    from client.profiles.judging import KEPT_NUMBERS

    table = Table(box=None, header_style="dim")
    shown = [name for name in KEPT_NUMBERS if name != "group"]
    for title in ("", "customers", "share", *(name.replace("_", " ") for name in shown), ""):
        table.add_column(title)
    for line in lines:
        medians = [line.medians[name] for name in shown]
        numbers = ["–" if math.isnan(value) else f"{value:.4g}" for value in medians]
        table.add_row(line.title, str(line.customers), f"{line.share:.1%}", *numbers, line.strategy)
    return table


def _overview_record(overview: Overview) -> dict[str, JsonValue]:
    from common.timestamps import format_time

    return {
        "as_of": format_time(overview.manifest.as_of_ms or overview.manifest.refreshed_ms),
        "cuts": overview.manifest.models.cuts.to_record(),
        "segments": [line.to_record() for line in overview.segments],
        "groups": [line.to_record() for line in overview.groups],
        "tags": dict(overview.tags),
    }
