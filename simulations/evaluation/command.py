"""``fedpref-sim evaluate``: its options, and what it prints."""

from __future__ import annotations

import json
import sys
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from common.errors import UsageError

_FILE_WIDTH = 140


class ProtocolOption(StrEnum):
    """How purchases are split; see `simulations.evaluation.protocols`."""

    temporal = "temporal"
    strong = "strong"


def evaluate(
    scenario: Annotated[
        str | None, typer.Option(help="On a scenario's data; see `fedpref-sim scenarios`.")
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="MAPPING.toml",
            help="On other data, by a mapping file like a region's source.toml; repeated for one "
            "file a region.",
        ),
    ] = None,
    catalogue: Annotated[
        Path | None,
        typer.Option(help="The public catalogue.parquet, where the mapping files name none."),
    ] = None,
    epsilon: Annotated[str, typer.Option(metavar="LIST", help="Which ε.")] = "8,3,1",
    delta: Annotated[float, typer.Option(help="δ, a public constant.")] = 1e-6,
    seeds: Annotated[int, typer.Option(min=1, max=50, help="Over how many seeds of noise.")] = 5,
    strategies: Annotated[
        str, typer.Option(metavar="LIST", help="Which strategies; `all` for all.")
    ] = "factors,gram",
    modes: Annotated[
        str, typer.Option(metavar="LIST", help="Whose noise protects: local, distributed.")
    ] = "local,distributed",
    protocol: Annotated[
        ProtocolOption | None,
        typer.Option(
            help="temporal: learnt before a moment, asked after it; strong: of customers who are "
            "not in training. By default what the data are made for."
        ),
    ] = None,
    k: Annotated[
        str, typer.Option(metavar="LIST", help="At which places metrics are measured.")
    ] = "10,20",
    refusal_share: Annotated[
        float | None,
        typer.Option(min=0.0, max=0.9, help="Share who refuse training; 0 measures no refusals."),
    ] = None,
    libraries: Annotated[
        bool, typer.Option(help="Measure the baselines of the library `implicit` too.")
    ] = True,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of evaluation.json and privacy-utility.svg [runs/evaluation-NAME]."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure every strategy and mode beside baselines, with intervals, on any mapped data.

    The whole catalogue is ranked. Prints accuracy and what else a shop sees, for new items and for
    all, by region and by activity, and what refusing training changes; writes the privacy–utility
    picture. After an interruption the same command goes on with what is not measured yet. Ends with
    exit code 3 where an answer leaks into what is learnt from.
    """
    # Progress and where the files are go beside the result, which may be piped.
    console = Console(stderr=True, highlight=False)
    with console.status("Starting …"):
        from simulations.evaluation.plans import require_strategies
        from simulations.evaluation.run import EvaluationRequest, evaluate_into
        from simulations.evaluation.table import show
    request = EvaluationRequest(
        scenario=scenario,
        data=tuple(data or ()),
        epsilons=_epsilons(epsilon),
        delta=format(Decimal(repr(delta)), "f"),
        seeds=seeds,
        strategies=require_strategies(strategies.split(",")),
        modes=tuple(modes.split(",")),
        protocol=None if protocol is None else protocol.value,
        places=_places(k),
        refusal_share=refusal_share,
        libraries=libraries,
        catalogue=catalogue,
    )
    result, (written, drawn) = evaluate_into(request, out, console)
    if as_json:
        sys.stdout.write(json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    else:
        # A file or a pipe has no width of its own.
        shown = Console(highlight=False)
        show(result, shown if shown.is_terminal else Console(highlight=False, width=_FILE_WIDTH))
    console.print(f"Result: [bold]{written}[/bold]\nPicture: [bold]{drawn}[/bold]", soft_wrap=True)


def _epsilons(text: str) -> tuple[str, ...]:
    """A list such as 8,3,1, each once, as decimal strings."""
    try:
        values = [Decimal(part) for part in text.split(",")]
    except InvalidOperation:
        values = []
    if not values or not all(value.is_finite() and value > 0 for value in values):
        raise UsageError(f"{text!r} is no list of ε.", remedy="Use --epsilon 8,3,1, say.")
    return tuple(dict.fromkeys(format(value.normalize(), "f") for value in values))


def _places(text: str) -> tuple[int, ...]:
    """A list such as 10,20."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and len(part) < 4 for part in parts):
        raise UsageError(f"{text!r} is no list of places.", remedy="Use --k 10,20, say.")
    return tuple(int(part) for part in parts)
