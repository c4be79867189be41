"""``fedpref-region consents``: consents in bulk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from common.errors import UsageError

if TYPE_CHECKING:
    from client.consent_service.importing import ImportSummary

app = typer.Typer(help="Consents in bulk: import those given before.", no_args_is_help=True)


@app.callback()
def consents() -> None:
    """Keeps the sub-command's name, though it is the only one yet."""


@app.command("import")
def import_consents(
    home: Annotated[Path, typer.Argument(help="The region's home folder.")],
    file: Annotated[Path, typer.Argument(help="A Parquet or CSV file, one customer a row.")],
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            help="field=column; may be repeated. Fields: customer, event_time, evidence (the "
            "document's reference), state (given, refused, withdrawn; default: given), expires, "
            "lang, minor, guardian_state, guardian_evidence, and a purpose: training, "
            "recommendations, analytics or its own term. A column of the field's name needs none.",
        ),
    ] = None,
    grant: Annotated[
        list[str] | None,
        typer.Option(help="If no purpose has a column: a purpose that every row grants."),
    ] = None,
    notice: Annotated[
        str,
        typer.Option(
            help="The digest of the logged notice that they were given to; default: the one in "
            "force in each row's language."
        ),
    ] = "",
    lang: Annotated[str, typer.Option(help="The language of rows that name none.")] = "en",
    time_zone: Annotated[
        str, typer.Option(help="The zone of times that state none, such as Europe/Berlin.")
    ] = "",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad rows out instead of importing nothing.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every row, log none.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Show the summary as JSON.")] = False,
) -> None:
    """Import existing consents, each signed as imported with its evidence's salted digest.

    Every row is checked first; if one is bad, nothing is imported. A row never takes the place of a
    choice that its customer has made since. Repeating an import changes nothing.
    """
    from client.consent_service.bulk_import import ImportRequest
    from client.consent_service.bulk_import import import_consents as import_file
    from client.engine.home import RegionHome
    from common import canonical_json

    request = ImportRequest(
        file, _pairs(mapping or []), tuple(grant or ()), notice, lang, time_zone
    )
    summary = import_file(RegionHome.read(home), request, skip_bad=skip_bad, dry_run=dry_run)
    if json:
        typer.echo(canonical_json.encode(summary.to_record()))
    else:
        _print(summary, dry_run=dry_run)


def _pairs(mapping: list[str]) -> dict[str, str]:
    pairs = {}
    for each in mapping:
        name, separator, column = each.partition("=")
        if not separator or not name or not column or name in pairs:
            raise UsageError(f"--map {each}: it is not field=column, or names a field twice.")
        pairs[name] = column
    return pairs


def _print(summary: ImportSummary, *, dry_run: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    if summary.done_before:
        console.print("This file was imported before, in the same way: nothing was done.")
        return
    verb = "could be imported" if dry_run else "imported"
    count = summary.rows - summary.already - summary.bad if dry_run else summary.imported
    console.print(
        f"{count} of {summary.rows} rows {verb}; {summary.already} were on record already; "
        f"{summary.bad} are bad."
    )
    for each in summary.shown:
        console.print(f"  row {each.row}: {each.why}", markup=False)
    for state, number in sorted(summary.states.items()):
        console.print(f"  {number} × {state}", markup=False)
