"""``fedpref-server answers``: what a run of questions published, with its intervals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from common.analytics.answers import ReleasedAnswer, ReleasedAnswers
    from common.canonical_json import JsonValue


def answers(
    folder: Annotated[
        Path,
        typer.Argument(
            help="The folder of a finished run of questions: a bundle's, a simulated run's or a "
            "coordinator's home; or a deployment's."
        ),
    ],
    run: Annotated[
        str | None, typer.Option("--run", help="A deployment's run, by its name.")
    ] = None,
    scope: Annotated[
        str | None, typer.Option(help="global, or a region's name; all of them by default.")
    ] = None,
    cuts: Annotated[
        Path | None,
        typer.Option(
            help="Write the cuts of recency and frequency to this new file, for fedpref-region "
            "profile build --cuts; of all regions together, or of --scope."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show the answers of a run of questions, each with its interval and its ε.

    They are released: reading them costs nothing. Whether they are what regions gave is checked by
    fedpref-audit verify.
    """
    from common.errors import InputError

    found = load_answers(folder, run)
    shown = [each for each in found.answers if scope in (None, each.scope)]
    if not shown:
        raise InputError(
            f"The run {found.run} has no answers for {str(scope)[:64]!r}.",
            remedy=f"Use {', '.join(sorted({each.scope for each in found.answers}))}.",
        )
    if cuts is not None:
        _write_cuts(found, scope, cuts)
    if as_json:
        records = [_record(each) for each in shown]
        typer.echo(json.dumps({"run": found.run, "answers": records}, indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        Text.assemble(
            ("Run ", "bold"),
            (found.run, "bold"),
            f": ε = {found.epsilon} at δ = {found.delta} in all ({found.unit}); "
            f"{found.window[0]} to {found.window[1]}.",
        )
    )
    for each in shown:
        console.print(_title(each))
        console.print(_table(each))


def _write_cuts(found: ReleasedAnswers, scope: str | None, path: Path) -> None:
    from common.analytics.answers import GLOBAL
    from common.errors import InputError, StorageError
    from server.rfm_cuts import cuts_file

    text = cuts_file(found, GLOBAL if scope is None else scope)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise InputError(f"{path} is there already.", remedy="Name a new file.") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.") from error


def load_answers(folder: Path, run: str | None) -> ReleasedAnswers:
    """The answers of a run.

    Args:
        folder: As the command takes it.
        run: The run's name in a deployment, or in a home of many; None for the only one.

    Raises:
        InputError: There are none.
        FormatError: They are malformed.
        VerificationError: The two files do not belong together.
    """
    from common.analytics.answers import FACTS_NAME, ReleasedAnswers
    from server.config import ServerHome
    from server.deployment import CONFIG_NAME, Deployment

    if run is not None and (folder / CONFIG_NAME).is_file():
        return ReleasedAnswers.load(Deployment(folder).home(run).folder)
    if run is None and not (folder / FACTS_NAME).is_file():
        return ReleasedAnswers.load(ServerHome.at(folder).folder)
    return ReleasedAnswers.load(folder if run is None else ServerHome(folder, run).folder)


def _title(answer: ReleasedAnswer) -> Text:
    of = f"{len(answer.regions)} regions" if answer.scope == "global" else answer.scope
    return Text.assemble(
        "\n",
        (answer.question.name, "bold"),
        f", {of}: at least {answer.customers_at_least} customers, ε = {answer.epsilon}",
    )


def _table(answer: ReleasedAnswer) -> Table:
    table = Table(box=None, header_style="dim")
    for title in ("", "value", "95% interval", "unit", ""):
        table.add_column(title)
    for line in answer.lines():
        value = "–" if line.value is None else f"{line.value:.4g}"
        table.add_row(Text(line.label), value, line.interval, line.unit, line.note)
    return table


def _record(answer: ReleasedAnswer) -> dict[str, JsonValue]:
    return {
        "name": answer.question.name,
        "scope": answer.scope,
        "regions": [*answer.regions],
        "customers_at_least": answer.customers_at_least,
        "epsilon": answer.epsilon,
        "noise_stddev": f"{answer.noise_stddev:.6g}",
        "lines": [line.to_record() for line in answer.lines()],
    }
