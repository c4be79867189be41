"""``fedpref-region recommend …``: a model installed, served, asked, and scored in a batch."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from client.commands import recommend_prepare
from client.commands.recommend_prepare import prepare
from common.errors import EXIT_OK, InputError, UsageError

if TYPE_CHECKING:
    from client.recommend.recommender import Recommender
    from client.recommend.types import Answer, Event, Reason, Recommended, Scene

app = typer.Typer(
    help="The recommender: install a published model, serve it, ask it.", no_args_is_help=True
)

app.command()(recommend_prepare.prepare)

app.command()(prepare)

HomeArgument = Annotated[Path, typer.Argument(help="The region's home folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
Daypart = Annotated[str | None, typer.Option(help="The scene's time of day, as settings name it.")]
Weekday = Annotated[
    int | None, typer.Option(min=0, max=6, help="The scene's day: 0 for Monday to 6 for Sunday.")
]
StoreType = Annotated[str | None, typer.Option(help="The scene's kind of store.")]
InStock = Annotated[
    Path | None, typer.Option(help="A file of the items that can be had, one a line.")
]
Exclude = Annotated[
    list[str] | None, typer.Option(help="An item not to show; may be given more than once.")
]
NewOnly = Annotated[
    bool, typer.Option("--new-only", help="Leave out what the customer has bought before.")
]

#: The longest file of items in stock.
MAX_STOCK_BYTES = 1 << 28


@app.command()
def install(
    home: HomeArgument,
    bundle: Annotated[
        Path, typer.Argument(help="The finished run's folder, with its model and its bundle.")
    ],
    older: Annotated[
        bool, typer.Option("--older", help="Even if it is older than the model installed now.")
    ] = False,
) -> None:
    """Take the model of a run, to be served from now on.

    The run's bundle is verified whole; a model whose entry in the coordinator's log does not verify
    is not taken, and whenever a model is loaded its entry is verified again.
    """
    from client.engine.home import RegionHome
    from client.recommend.release import install_release

    region = RegionHome.read(home)
    release = install_release(region, bundle, allow_older=older)
    Console(highlight=False, soft_wrap=True).print(
        f"{region.region} serves the model {release.digest} of the run {release.plan.run_id}: its "
        "log entry verifies."
    )


@app.command()
def serve(
    home: HomeArgument,
    address: Annotated[
        str, typer.Option(help="Where to listen; on this machine only, behind a proxy with TLS.")
    ] = "127.0.0.1:8430",
    socket: Annotated[
        Path | None, typer.Option(help="A Unix socket to listen on, in place of an address.")
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(help="The group whose members may open the socket beside its owner."),
    ] = None,
    try_page: Annotated[
        bool,
        typer.Option("--try-page", help="Serve a page too on which the operator can try it."),
    ] = False,
) -> None:
    """Serve recommendations to the shop's own programs, until interrupted.

    Callers send the token of the home's recommend/token, which is made at the first start. Only
    customers whose consent for recommendations stands when they ask get personal lists.
    """
    from client.engine.home import RegionHome
    from client.recommend.recommender import Recommender
    from client.recommend.serving import Place, serve_recommender
    from common.loopback import LoopbackAddress
    from common.peers import group_id
    from common.process_control import end_with_supervisor, hide_memory

    if socket is None and group is not None:
        raise UsageError("An address has no group.", remedy="Name a socket with --socket.")
    if socket is not None and try_page:
        raise UsageError(
            "A browser cannot open a Unix socket.", remedy="Serve the page on an --address."
        )
    place = (
        Place(address=LoopbackAddress.parse(address))
        if socket is None
        else Place(unix_socket=socket, group=None if group is None else group_id(group))
    )
    end_with_supervisor()
    # Customers' histories are in it: no core dump, no tracing by another process of its user.
    hide_memory()
    serve_recommender(
        RegionHome.read(home),
        Recommender.open,
        place=place,
        try_page=try_page,
        say=lambda text: typer.echo(text),
    )


@app.command()
def ask(
    home: HomeArgument,
    customer: Annotated[
        str | None, typer.Option(help="The customer, as the store refers to her.")
    ] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, max=1000, help="How many items.")] = 10,
    similar: Annotated[
        str | None, typer.Option(help="Ask for the items most like this one instead.")
    ] = None,
    also_bought: Annotated[
        str | None, typer.Option(help="Ask for the items bought with this one instead.")
    ] = None,
    event: Annotated[
        list[str] | None,
        typer.Option(
            help="Something the customer does just before, such as view=ITEM, search=CATEGORY or "
            "abandon; may be given more than once."
        ),
    ] = None,
    daypart: Daypart = None,
    weekday: Weekday = None,
    store_type: StoreType = None,
    exclude: Exclude = None,
    in_stock: InStock = None,
    new_only: NewOnly = False,
    diversity: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="0 for the best scores, 1 for the widest spread."),
    ] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Ask the recommender once, without a service: for a customer, or about an item."""
    from client.recommend.records import answer_record, item_records
    from client.recommend.types import Query

    if similar is not None and also_bought is not None:
        raise UsageError("--similar and --also-bought are two questions.", remedy="Ask one.")
    if event and customer is None:
        raise UsageError("An event is somebody's.", remedy="Name her with --customer.")
    with closing(_open(home)) as recommender:
        about = similar or also_bought
        if about is not None:
            items = (recommender.similar if similar else recommender.also_bought)(about, k)
            if as_json:
                typer.echo(json.dumps({"items": item_records(items)}, indent=2))
            else:
                _print_items(items)
            return
        for text in event or ():
            _observe(recommender, _event(str(customer), text))
        answer = recommender.recommend(
            Query(
                customer=customer,
                k=k,
                scene=_scene(daypart, weekday, store_type),
                exclude=frozenset(exclude or ()),
                in_stock=_stock(in_stock),
                new_only=new_only,
                diversity=diversity,
            )
        )
    if as_json:
        typer.echo(json.dumps(answer_record(answer), indent=2))
    else:
        _print_answer(answer)


@app.command()
def check(home: HomeArgument, as_json: JsonOption = False) -> int:
    """Verify all that would be served, and say what it is. Exit code 3 if anything is not used."""
    from client.engine.home import RegionHome
    from client.recommend.config import read_service_settings

    read_service_settings(RegionHome.read(home))
    with closing(_open(home)) as recommender:
        facts = _facts(recommender)
        faults = recommender.faults
    if as_json:
        typer.echo(json.dumps({**facts, "faults": list(faults)}, indent=2))
    else:
        console = Console(highlight=False, soft_wrap=True)
        table = Table(box=None, show_header=False)
        for name, value in facts.items():
            table.add_row(name.replace("_", " "), str(value))
        console.print(table)
        for fault in faults:
            console.print(f"[bold red]Not used:[/bold red] {fault}")
        if not faults:
            console.print("[bold green]Everything verifies; it can be served.[/bold green]")
    return InputError.exit_code if faults else EXIT_OK


def _facts(recommender: Recommender) -> dict[str, str | int]:
    """What would be served. Counts are exact: for the region's own eyes."""
    served = recommender.served
    logged, plan = served.release.logged, served.release.plan
    return {
        "model": served.release.digest,
        "run": plan.run_id,
        "strategy": plan.strategy,
        "log_entry": logged.index,
        "cosigned_by": ", ".join(sorted(logged.witnesses)),
        "items": served.catalogue.n_items,
        "consenting_customers": len(recommender.consenting().sids),
        "customers_with_purchases": served.histories.n_customers,
        "own_releases": ", ".join(sorted(served.regional.answers)) or "none",
    }


@app.command()
def batch(
    home: HomeArgument,
    out: Annotated[Path, typer.Option(help="The Parquet file to write, or to replace.")],
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="How many items a customer.")] = 10,
    daypart: Daypart = None,
    weekday: Weekday = None,
    store_type: StoreType = None,
    exclude: Exclude = None,
    in_stock: InStock = None,
    new_only: NewOnly = False,
) -> None:
    """Write a list for every customer whose consent for recommendations stands, as Parquet.

    Whoever withdraws meanwhile is not in the file. One row, without a customer, has what everybody
    else is shown.
    """
    from client.recommend.batch import BatchRequest, write_batch

    with closing(_open(home)) as recommender:
        request = BatchRequest(
            k=k,
            scene=_scene(daypart, weekday, store_type),
            new_only=new_only,
            in_stock=_stock(in_stock),
            exclude=frozenset(exclude or ()),
        )
        made = write_batch(recommender, out, request)
    Console(highlight=False, soft_wrap=True).print(
        f"{out}: lists of {made.customers:,} customers, {made.size_bytes / 1e6:,.1f} MB, by the "
        f"model {made.model[:16]}… and the consents among the first {made.consent_size:,} entries "
        f"of the log. Left out: {made.withdrawn:,} who withdrew meanwhile, {made.not_finite:,} "
        "whose scores are no numbers."
    )


def _open(home: Path) -> Recommender:
    from client.engine.home import RegionHome
    from client.recommend.recommender import Recommender
    from client.recommend.settings import RecommendSettings

    region = RegionHome.read(home)
    return Recommender.open(region, RecommendSettings.read(region))


def _event(customer: str, text: str) -> Event:
    """The event that ``KIND=WHAT`` stands for; of a search WHAT is a category."""
    from client.recommend.types import Event

    kind, _, what = text.partition("=")
    about = what or None
    item, category = (None, about) if kind == "search" else (about, None)
    now_ms = time.time_ns() // 1_000_000
    # An unknown kind is refused there, by the names that there are.
    return Event(customer, kind, item, category, now_ms)  # type: ignore[arg-type]


def _observe(recommender: Recommender, event: Event) -> None:
    if not recommender.observe(event):
        typer.echo(f"The {event.kind} is not kept: no consent of the customer stands.", err=True)


def _scene(daypart: str | None, weekday: int | None, store_type: str | None) -> Scene | None:
    from client.recommend.types import Scene

    if daypart is None and weekday is None and store_type is None:
        return None
    return Scene(daypart, weekday, store_type)


def _stock(path: Path | None) -> frozenset[str] | None:
    """The items that a file lists, one a line."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            data = file.read(MAX_STOCK_BYTES + 1)
        lines = data.decode("utf-8").splitlines()
    except OSError as error:
        raise InputError(f"The stock list {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"The stock list {path} is not text (UTF-8).") from error
    if len(data) > MAX_STOCK_BYTES:
        raise InputError(f"The stock list {path} is over {MAX_STOCK_BYTES} bytes.")
    return frozenset(line.strip() for line in lines if line.strip())


def _print_answer(answer: Answer) -> None:
    console = Console(highlight=False, soft_wrap=True)
    ground = "Personal" if answer.personal else f"Not personal ({answer.why_not_personal})"
    console.print(
        f"[bold]{ground}[/bold], by the model {answer.model[:16]}… and the consents among the "
        f"first {answer.consent_size} entries of the log."
    )
    _print_items(answer.items)


def _print_items(items: tuple[Recommended, ...]) -> None:
    console = Console(highlight=False)
    table = Table(box=None, header_style="dim")
    table.add_column("", justify="right")
    table.add_column("item")
    table.add_column("score", justify="right")
    table.add_column("because")
    for place, each in enumerate(items, start=1):
        reasons = ", ".join(map(_reason, each.reasons))
        table.add_row(str(place), each.item, f"{each.score:.4f}", reasons)
    console.print(table if items else "Nothing can be recommended under these conditions.")


def _reason(reason: Reason) -> str:
    return reason.code if reason.about is None else f"{reason.code} {reason.about}"
