"""``fedpref-audit report``: the compliance report on a bundle, as one HTML page."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from common.errors import EXIT_OK, VerificationError
from common.terminal import EXIT_CODES
from common.timestamps import parse_time

report_app = typer.Typer()


class ReportLanguage(StrEnum):
    """The report's languages."""

    en = "en"
    zh = "zh"


@report_app.command(epilog=EXIT_CODES)
def report(
    path: Annotated[Path, typer.Argument(help="The run's folder, or its bundle folder.")],
    html: Annotated[Path, typer.Option(help="The HTML file to write, outside the bundle folder.")],
    lang: Annotated[
        ReportLanguage, typer.Option(help="The report's language: English or Chinese.")
    ] = ReportLanguage.en,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all that the report says as JSON, too.")
    ] = False,
    made_at: Annotated[
        str | None,
        typer.Option(
            help="When the report was made, as 2026-01-31T23:59:59.999Z. Without it the page "
            "states no time, and is the same whoever makes it."
        ),
    ] = None,
    root_key: Annotated[
        list[str] | None,
        typer.Option(help="Id of a root key you trust (64 hex digits); may be repeated."),
    ] = None,
) -> int:
    """Writes the compliance report: exit code 0 if the bundle is verified, 8 if not."""
    from common.audit.report.facts import read_facts
    from common.audit.report.output import KIND, check_output
    from common.audit.report.page import render_report
    from common.page_file import write_page_file

    if made_at is not None:
        parse_time(made_at)
    check_output(html, path)
    facts = read_facts(path, root_key_ids=root_key or ())
    write_page_file(html, render_report(facts, lang=lang.value, made_at=made_at), KIND)
    if as_json:
        typer.echo(json.dumps(facts.to_record(), indent=2, ensure_ascii=False))
    else:
        _print_outcome(facts.verdict.verified, html)
    return EXIT_OK if facts.verdict.verified else VerificationError.exit_code


def _print_outcome(verified: bool, html: Path) -> None:
    console = Console(highlight=False, soft_wrap=True)
    if verified:
        console.print("[bold green]Verified.[/bold green]", end=" ")
    else:
        console.print("[bold red]Not verified.[/bold red]", end=" ")
    console.print(f"The report is in {html}.", markup=False)
