"""``fedpref-region consents``: consents in bulk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from common.errors import UsageError

if TYPE_CHECKING:
    from client.consent_service.forms import FormSettings
    from client.consent_service.import_rows import RowReader
    from client.consent_service.importing import ImportSummary, RowFile
    from client.consent_service.region_records import RegionRecords

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
    from client.consent_service.forms import FormSettings
    from client.consent_service.importing import Importer, RowFile
    from client.consent_service.region_records import open_records
    from client.consent_service.registrar import ConsentRegistrar
    from client.engine.home import RegionHome
    from common import canonical_json

    region = RegionHome.read(home)
    rows = RowFile(file, _pairs(mapping or []))
    settings = FormSettings.read(region.root)
    with open_records(region) as records:
        registrar = ConsentRegistrar(
            log=records.log,
            state=records.state,
            subjects=records.subjects,
            signer=region.signer("consent"),
            lasts_s=settings.lasts_s,
        )
        reader = _reader(records, settings, rows, grant or [], notice, lang, time_zone)
        importer = Importer(
            records,
            registrar,
            rows,
            reader,
            {"grant": list(grant or []), "lang": lang, "time_zone": time_zone, "notice": notice},
        )
        summary = importer.run(skip_bad=skip_bad, dry_run=dry_run)
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


def _reader(
    records: RegionRecords,
    settings: FormSettings,
    rows: RowFile,
    grant: list[str],
    notice: str,
    lang: str,
    time_zone: str,
) -> RowReader:
    from zoneinfo import ZoneInfo

    from client.consent_service.import_rows import PURPOSES, RowReader
    from client.consent_service.notices import offered
    from common.consent import IMPORTED
    from common.timestamps import now_ms

    if bool(rows.purposes) == bool(grant):
        raise UsageError(
            "Either purposes have columns, or --grant names what every row grants.",
            remedy="Map a purpose's column (--map training=…), or name one with --grant training.",
        )
    notices, now = records.state.notices, now_ms()
    if notice:
        named = [each for each in notices if each.sha256 == notice]
        if not named:
            raise UsageError(
                f"There is no notice {notice[:12]}… in the log.",
                remedy="fedpref-region notice list shows them; publish it first if it is missing.",
            )
        forms = {"": settings.form(named[0], IMPORTED)}
    else:
        forms = {
            language: settings.form(each, IMPORTED)
            for language, each in offered(notices, now).items()
        }
    try:
        zone = ZoneInfo(time_zone) if time_zone else None
    except (ValueError, OSError, LookupError) as error:
        raise UsageError(f"There is no time zone {time_zone}.") from error
    return RowReader(
        purposes=rows.purposes,
        granted=tuple(PURPOSES.get(each, each) for each in grant),
        forms=forms,
        lang=lang,
        zone=zone,
        now_ms=now,
    )


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
