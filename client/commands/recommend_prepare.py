"""``fedpref-region recommend prepare``: what a region learns of its own customers for itself."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from common.errors import PolicyError, UsageError

if TYPE_CHECKING:
    from client.engine.home import RegionHome
    from client.engine.policy import RegionPolicy
    from client.engine.service import PrivacyEngine
    from client.recommend.local_preparation import Prepared
    from client.recommend.release import PublishedRelease
    from common.canonical_json import JsonValue

_DAY = "%Y-%m-%d"


def prepare(
    home: Annotated[Path, typer.Argument(help="The region's home folder.")],
    epsilon: Annotated[float, typer.Option(help="ε of everything asked now, together.")],
    ask: Annotated[
        list[str] | None,
        typer.Option(
            help="scenes, store-types, regional-bias or also-bought; may be given more than once. "
            "Default: scenes, and with a model the regional bias."
        ),
    ] = None,
    begin: Annotated[
        datetime | None,
        typer.Option("--from", formats=[_DAY], help="First day of purchases (UTC)."),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=[_DAY], help="The day after the last one (UTC).")
    ] = None,
    time_zone: Annotated[
        str | None,
        typer.Option(help="Zone of the region's local time; default: the one of its store."),
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Spend budget even where noise would swamp an answer.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Learn from the region's own customers for its recommender, within the privacy budget.

    When which categories are bought (scenes), and where (store-types: of the region's further table
    of purchases), what is bought more here than elsewhere (regional bias), what is bought together
    (also-bought): all of it rests on other customers' data, so it is
    noised, charged in the ledger and logged before it is used. Only customers are counted who
    consented to learning and to recommendations. Each call spends anew; one that was interrupted
    goes on where it was, and charges nothing twice. The engine must not be running.
    """
    from client.engine.home import RegionHome
    from client.engine.service import open_engine
    from common.privacy import UNIT_AND_RELATION

    region = RegionHome.read(home)
    with open_engine(region) as engine:
        done = _prepare(engine, epsilon, ask or [], (begin, until), time_zone, anyway=anyway)
        spent = engine.ledger.spending(done[0].query.run, _year(done[0]))
    if as_json:
        typer.echo(json.dumps([_record(each) for each in done], indent=2))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"[bold]{region.region}[/bold]: ε = {_up(spent.run)} was spent on it; {_up(spent.year)} of "
        f"{spent.cap:g} is spent this year (δ = {done[0].query.delta}; {UNIT_AND_RELATION})."
    )
    table = Table(box=None, header_style="dim")
    for title in ("prepared", "log entry", "noise σ/C", "noise ÷ signal"):
        table.add_column(title)
    for each in done:
        table.add_row(
            each.name,
            str(each.answer.index),
            each.query.part(each.name).noise_multiplier,
            f"{each.outlook.noise_share:.2f}",
        )
    console.print(table)


def _prepare(
    engine: PrivacyEngine,
    epsilon: float,
    names: list[str],
    days: tuple[datetime | None, datetime | None],
    time_zone: str | None,
    *,
    anyway: bool,
) -> list[Prepared]:
    from client.recommend.local_preparation import draft_query, prepare, statistics
    from client.recommend.local_statistics import Clock
    from client.recommend.release import installed, load_release
    from client.recommend.settings import RecommendSettings
    from client.settings import declared_source
    from common.catalogue import Catalogue

    home = engine.home
    release = load_release(home) if installed(home) is not None else None
    catalogue = Catalogue.load(home.catalogue)
    zone = declared_source(home).time_zone if time_zone is None else time_zone
    start_ms, end_ms = _window(home, release, *days)
    scenes = RecommendSettings.read(home).scenes
    asked = statistics(
        names or _usual(engine.policy, release),
        catalogue,
        Clock(scenes.dayparts, zone),
        release,
        start_ms=start_ms,
        end_ms=end_ms,
        store_types=scenes.store_types,
    )
    draft = draft_query(
        engine,
        asked,
        epsilon=f"{epsilon:.6f}".rstrip("0").rstrip("."),
        catalogue=catalogue,
        start_ms=start_ms,
        end_ms=end_ms,
    )
    return prepare(engine, draft, anyway=anyway)


def _usual(policy: RegionPolicy, release: PublishedRelease | None) -> list[str]:
    """What is asked unless something is named; pairs the shared model's factors give for free."""
    from client.recommend.local_statistics import REGIONAL_BIAS, SCENES

    usual = [SCENES] if release is None else [SCENES, REGIONAL_BIAS]
    allowed = [name for name in usual if name in policy.queries]
    if not allowed:
        raise PolicyError(
            f"{policy.region}: its policy allows no query of {', '.join(usual)}.",
            remedy="Let the region's controller sign a policy whose table queries names them.",
        )
    return allowed


def _window(
    home: RegionHome,
    release: PublishedRelease | None,
    begin: datetime | None,
    until: datetime | None,
) -> tuple[int, int]:
    """The window of purchases: as named, or the model's public training window, or a permit's."""
    from client.engine.permit_files import permit_files
    from common.timestamps import parse_time

    if begin is not None and until is not None:
        return _ms(begin), _ms(until)
    if begin is not None or until is not None:
        raise UsageError("A window has two ends.", remedy="Name both --from and --until.")
    permits = permit_files(home.permits)
    if release is None and not permits:
        raise UsageError(
            "There is no model and no permit whose window of purchases could be taken.",
            remedy="Name the window with --from and --until.",
        )
    plan = permits[0].plan() if release is None else release.plan
    return parse_time(plan.train_from), parse_time(plan.train_until)


def _ms(day: datetime) -> int:
    return round(day.replace(tzinfo=UTC).timestamp() * 1000)


def _year(prepared: Prepared) -> int:
    from common.envelope import Envelope

    return int(str(Envelope.decode(prepared.answer.sealed.entry).record()["end"])[:4])


def _up(epsilon: float) -> str:
    """Rounded up: never less than was spent."""
    return f"{epsilon + 0.5e-4:.4f}"


def _record(prepared: Prepared) -> dict[str, JsonValue]:
    from common.envelope import Envelope

    entry = Envelope.decode(prepared.answer.sealed.entry).record()
    return {
        "name": prepared.name,
        "query": prepared.query.permit_id,
        "log_entry": prepared.answer.index,
        "noise_share": f"{prepared.outlook.noise_share:.4f}",
        "values": entry["values"],
        "dp": entry["dp"],
    }
