"""``fedpref-audit``: compliance's door. Verifies a run's evidence offline and shows its entries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from common.audit.customer_command import customer_app
from common.audit.diff_command import diff_app
from common.audit.export_command import export_app
from common.audit.forecast_command import forecast_app
from common.audit.report_command import report_app
from common.audit.witness_command import witness_app
from common.errors import EXIT_OK, VerificationError
from common.terminal import EXIT_CODES, run_command

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Verifies, offline and without trusting the operator, who had consented, what left each "
    "region and what privacy budget it spent.",
    epilog=EXIT_CODES,
)
app.add_typer(witness_app, name="witness")
app.add_typer(customer_app)
app.add_typer(forecast_app)
app.add_typer(export_app)
app.add_typer(diff_app)
app.add_typer(report_app)


@app.callback()
def _commands() -> None:
    # A callback keeps `verify` a sub-command whatever the number of commands.
    pass


@app.command(epilog=EXIT_CODES)
def verify(
    path: Annotated[Path, typer.Argument(help="The run's folder, or its bundle folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
    root_key: Annotated[
        list[str] | None,
        typer.Option(help="Id of a root key you trust (64 hex digits); may be repeated."),
    ] = None,
) -> int:
    """Checks a run's evidence: exit code 0 if it is whole and unaltered, 8 if not."""
    from common.audit.verdict_text import print_verdict
    from common.audit.verify import verify_bundle

    verdict = verify_bundle(path, root_key_ids=root_key or ())
    console = Console(highlight=False)
    if as_json:
        typer.echo(json.dumps(verdict.to_record(), indent=2, ensure_ascii=False))
    else:
        print_verdict(console, verdict, str(path))
    return EXIT_OK if verdict.verified else VerificationError.exit_code


@app.command("verify-checkpoints", epilog=EXIT_CODES)
def verify_checkpoints(
    path: Annotated[Path, typer.Argument(help="The run's folder, or its bundle folder.")],
    root_key: Annotated[
        list[str] | None,
        typer.Option(help="Id of a root key you trust (64 hex digits); may be repeated."),
    ] = None,
) -> int:
    """Checks only files, registry, trees and checkpoints; not what the entries say.

    For a bundle that was verified whole before. Exit code 0 if they hold, 8 if not.
    """
    from common.audit.verify.only_checkpoints import STEPS, checkpoints_hold
    from common.audit.verify.only_checkpoints import verify_checkpoints as check

    verdict = check(path, root_key_ids=root_key or ())
    holds = checkpoints_hold(verdict)
    console = Console(highlight=False, soft_wrap=True)
    console.print("Checkpoints hold." if holds else "[bold red]Checkpoints DO NOT hold.[/bold red]")
    for step in verdict.steps[: len(STEPS)]:
        counts = ", ".join(f"{number:,} {what}" for what, number in step.counts.items())
        console.print(f"  {step.number} {step.title}: {step.status} ({counts})", markup=False)
    for failure in verdict.failures:
        console.print(f"  {failure.place}: {failure.message}", markup=False)
    console.print("Signatures of entries, consents, rounds and budgets were not checked.")
    return EXIT_OK if holds else VerificationError.exit_code


@app.command(epilog=EXIT_CODES)
def show(
    path: Annotated[Path, typer.Argument(help="The run's folder, or its bundle folder.")],
    party: Annotated[str, typer.Argument(help="Whose log: 'server' or a region's name.")],
    index: Annotated[int, typer.Argument(help="The entry's index in that log, from 0.", min=0)],
) -> int:
    """Prints one log entry: its leaf hash, who signed it, and its record. It verifies nothing."""
    from common.audit.verify.show import read_entry

    shown = read_entry(path, party, index)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"Entry {index} of {shown.size} in the log of {party}", markup=False)
    console.print(f"leaf hash  {shown.leaf}", markup=False)
    for key_id in shown.key_ids:
        console.print(f"signed by  {key_id}", markup=False)
    typer.echo(json.dumps(shown.record, indent=2, ensure_ascii=False))
    return EXIT_OK


def main() -> NoReturn:
    """The command line's entry point."""
    run_command(app, on_interrupt="Nothing was changed.")
