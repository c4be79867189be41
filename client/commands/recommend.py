"""``fedpref-region recommend …``: a model installed, served, asked, and scored in a batch."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from client.commands import recommend_ask, recommend_prepare, recommend_uplift
from client.commands.recommend_options import (
    Daypart,
    Exclude,
    HomeArgument,
    InStock,
    JsonOption,
    NewOnly,
    StoreType,
    Weekday,
    open_recommender,
    scene_of,
    stock_of,
)
from common.errors import EXIT_OK, InputError, UsageError

if TYPE_CHECKING:
    from client.recommend.recommender import Recommender

app = typer.Typer(
    help="The recommender: install a published model, serve it, ask it.", no_args_is_help=True
)

app.command()(recommend_ask.ask)
app.command()(recommend_prepare.prepare)
app.command()(recommend_uplift.uplift)


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
    metrics: Annotated[
        str | None, typer.Option(help="A loopback address for Prometheus, such as 127.0.0.1:9466.")
    ] = None,
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
        metrics=None if metrics is None else LoopbackAddress.parse(metrics),
    )


@app.command()
def check(home: HomeArgument, as_json: JsonOption = False) -> int:
    """Verify all that would be served, and say what it is. Exit code 3 if anything is not used."""
    from client.engine.home import RegionHome
    from client.recommend.config import read_service_settings

    read_service_settings(RegionHome.read(home))
    with closing(open_recommender(home)) as recommender:
        facts = _facts(recommender)
        faults = recommender.faults
    if as_json:
        typer.echo(json.dumps({**facts, "faults": list(faults)}, indent=2))
    else:
        console = Console(highlight=False, soft_wrap=True)
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
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

    with closing(open_recommender(home)) as recommender:
        request = BatchRequest(
            k=k,
            scene=scene_of(daypart, weekday, store_type),
            new_only=new_only,
            in_stock=stock_of(in_stock),
            exclude=frozenset(exclude or ()),
        )
        made = write_batch(recommender, out, request)
    Console(highlight=False, soft_wrap=True).print(
        f"{out}: lists of {made.customers:,} customers, {made.size_bytes:,} bytes, by the "
        f"model {made.model[:16]}… and the consents among the first {made.consent_size:,} entries "
        f"of the log. Left out: {made.withdrawn:,} who withdrew meanwhile, {made.not_finite:,} "
        "whose scores are no numbers."
    )
