"""``fedpref-region recommend ask``: one question, without a service."""

from __future__ import annotations

import json
import time
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

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
from common.errors import UsageError

if TYPE_CHECKING:
    from client.recommend.recommender import Recommender
    from client.recommend.types import Answer, Event, Reason, Recommended


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
    # All that can be refused is refused before anything is loaded.
    events = [_event(str(customer), text) for text in event or ()]
    query = Query(
        customer=customer,
        k=k,
        scene=scene_of(daypart, weekday, store_type),
        exclude=frozenset(exclude or ()),
        in_stock=stock_of(in_stock),
        new_only=new_only,
        diversity=diversity,
        dry=True,
    )
    about = similar or also_bought
    with closing(open_recommender(home)) as recommender:
        if about is not None:
            items = (recommender.similar if similar else recommender.also_bought)(about, k)
            if as_json:
                typer.echo(json.dumps({"items": item_records(items)}, indent=2))
            else:
                _print_items(items)
            return
        for each in events:
            _observe(recommender, each)
        answer = recommender.recommend(query)
    if as_json:
        typer.echo(json.dumps(answer_record(answer), indent=2))
    else:
        _print_answer(answer)


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
