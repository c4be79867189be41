"""``fedpref-region analytics …``: what a region asks of its own customers."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from client.analytics.asking import Answered
    from client.engine.query_desk import QueryDraft
    from client.engine.service import PrivacyEngine
    from common.analytics.outlook import Outlook
    from common.canonical_json import JsonValue

app = typer.Typer(
    help="Ask of the region's own customers, within the privacy budget.", no_args_is_help=True
)
_DAY = "%Y-%m-%d"

HomeArgument = Annotated[Path, typer.Argument(help="The region's home folder.")]
EpsilonOption = Annotated[float, typer.Option(help="ε of everything asked now, together.")]
BeginOption = Annotated[
    datetime, typer.Option("--from", formats=[_DAY], help="First day asked about (UTC).")
]
UntilOption = Annotated[
    datetime, typer.Option(formats=[_DAY], help="The day after the last one (UTC).")
]
AskOption = Annotated[
    list[str] | None,
    typer.Option(
        help="A question by its name, such as category-customers or journey-funnel; may be given "
        "more than once. Default: all that the policy allows and the region's tables can say "
        "something to."
    ),
]
ExperimentOption = Annotated[
    str, typer.Option(help="The experiment that questions of uplift are about.")
]
FollowOption = Annotated[
    int, typer.Option(min=1, max=366, help="Days that an experiment's customers are followed for.")
]
ZoneOption = Annotated[
    str | None, typer.Option(help="Zone of the region's local time; default: the one of its store.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


@app.command()
def outlook(
    home: HomeArgument,
    epsilon: EpsilonOption,
    begin: BeginOption,
    until: UntilOption,
    question: AskOption = None,
    time_zone: ZoneOption = None,
    experiment: ExperimentOption = "",
    follow_days: FollowOption = 28,
    as_json: JsonOption = False,
) -> None:
    """Say what noise would do to answers, before anything is signed or spent.

    It rests on the region's number of customers in powers of two, which rounds log anyway. The
    engine must not be running.
    """
    from client.analytics.asking import expect
    from client.engine.home import RegionHome
    from client.engine.service import open_engine

    with open_engine(RegionHome.read(home)) as engine:
        asking = _Asking(begin, until, time_zone, experiment, follow_days)
        draft = _draft(engine, epsilon, question or [], asking)
        found = expect(engine, draft)
    if as_json:
        typer.echo(json.dumps([_outlook_record(each) for each in found], indent=2))
        return
    table = Table(box=None, header_style="dim")
    for title in ("question", "95% interval", "of use up to", "customers needed", ""):
        table.add_column(title)
    for each in found:
        table.add_row(
            each.name,
            f"± {each.half_width:.3g} {each.unit}",
            f"± {each.wanted:g}",
            str(each.customers_needed),
            "noise would swamp it" if each.swamped else "",
        )
    Console(highlight=False, soft_wrap=True).print(table)


@app.command()
def ask(
    home: HomeArgument,
    epsilon: EpsilonOption,
    begin: BeginOption,
    until: UntilOption,
    question: AskOption = None,
    time_zone: ZoneOption = None,
    experiment: ExperimentOption = "",
    follow_days: FollowOption = 28,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Spend budget even where noise would swamp an answer.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask of customers who consented to statistics, and show the answers with their intervals.

    Every answer is noised, charged in the ledger and logged before it is shown, and stays in the
    region. Each call spends anew; one that was interrupted goes on where it was, and charges
    nothing twice. The engine must not be running.
    """
    from client.analytics.asking import ask as ask_engine
    from client.engine.home import RegionHome
    from client.engine.service import open_engine

    with open_engine(RegionHome.read(home)) as engine:
        asking = _Asking(begin, until, time_zone, experiment, follow_days)
        draft = _draft(engine, epsilon, question or [], asking)
        done = ask_engine(engine, draft, anyway=anyway)
        spent = engine.ledger.spending(done[0].query.run, _year(done[0]))
    if as_json:
        typer.echo(json.dumps([_record(each) for each in done], indent=2, ensure_ascii=False))
        return
    _show(done, f"ε = {_up(spent.run)} was spent; {_up(spent.year)} of {spent.cap:g} this year")


class _Asking(NamedTuple):
    """What every question of a call has in common."""

    begin: datetime
    until: datetime
    time_zone: str | None
    experiment: str
    follow_days: int


def _draft(engine: PrivacyEngine, epsilon: float, names: list[str], asking: _Asking) -> QueryDraft:
    from client.analytics.answerability import require_answerable
    from client.analytics.askable import ASKABLE, answerable, statistics
    from client.analytics.asking import draft_query
    from client.analytics.further import named_in
    from client.data.tables.declaration import declared_tables
    from client.recommend.local_statistics import Clock
    from client.recommend.settings import RecommendSettings, running_experiment
    from client.settings import declared_source
    from common.catalogue import Catalogue
    from common.errors import PolicyError

    home = engine.home
    allowed = [name for name in ASKABLE if name in engine.policy.queries]
    if not names and not allowed:
        raise PolicyError(
            f"{home.region}: its policy allows no query of analytics.",
            remedy="Let the region's controller sign a policy whose table queries names them.",
        )
    catalogue = Catalogue.load(home.catalogue)
    zone = asking.time_zone or declared_source(home).time_zone
    start_ms, end_ms = _ms(asking.begin), _ms(asking.until)
    declared = declared_tables(home)
    named = named_in(declared, experiment=asking.experiment, follow_days=asking.follow_days)
    running = running_experiment(home)
    asked = statistics(
        names or answerable(allowed, named, declared, experiment=running),
        catalogue,
        Clock(RecommendSettings.read(home).scenes.dayparts, zone),
        start_ms=start_ms,
        end_ms=end_ms,
        named=named,
    )
    for each in asked:
        require_answerable(home.region, each.name, named, declared, experiment=running)
    return draft_query(
        asked,
        epsilon=f"{epsilon:.6f}".rstrip("0").rstrip("."),
        catalogue=catalogue,
        start_ms=start_ms,
        end_ms=end_ms,
    )


def _show(done: list[Answered], spent: str) -> None:
    from common.privacy import UNIT_AND_RELATION

    console, first = Console(highlight=False, soft_wrap=True), done[0].query
    console.print(f"[bold]{first.region}[/bold]: {spent} (δ = {first.delta}; {UNIT_AND_RELATION}).")
    for each in done:
        console.print(f"\n[bold]{each.statistic.name}[/bold] (log entry {each.answer.index})")
        table = Table(box=None, header_style="dim")
        for title in ("", "value", "95% interval", "unit", ""):
            table.add_column(title)
        for line in each.lines:
            value = "–" if line.value is None else f"{line.value:.4g}"
            table.add_row(Text(line.label), value, line.interval, line.unit, line.note)
        console.print(table)


def _ms(day: datetime) -> int:
    return round(day.replace(tzinfo=UTC).timestamp() * 1000)


def _year(answered: Answered) -> int:
    from common.envelope import Envelope

    return int(str(Envelope.decode(answered.answer.sealed.entry).record()["end"])[:4])


def _up(epsilon: float) -> str:
    """Rounded up: never less than was spent."""
    return f"{epsilon + 0.5e-4:.4f}"


def _outlook_record(each: Outlook) -> dict[str, JsonValue]:
    return {
        "name": each.name,
        "half_width": f"{each.half_width:.6g}",
        "wanted": f"{each.wanted:g}",
        "unit": each.unit,
        "customers_at_least": each.customers,
        "customers_needed": each.customers_needed,
        "swamped": each.swamped,
    }


def _record(each: Answered) -> dict[str, JsonValue]:
    from common.envelope import Envelope

    entry = Envelope.decode(each.answer.sealed.entry).record()
    return {
        "name": each.statistic.name,
        "query": each.query.permit_id,
        "log_entry": each.answer.index,
        "values": entry["values"],
        "dp": entry["dp"],
        "outlook": _outlook_record(each.outlook),
        "lines": [line.to_record() for line in each.lines],
    }
