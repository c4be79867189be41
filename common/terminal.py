"""How every command line of this project ends: one clear message and a documented exit code."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer
from rich.console import Console
from rich.text import Text

from common.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_OK, FedprefError

EXIT_CODES = """Exit codes: 0 done · 1 internal error · 2 unknown option or scenario · 3 bad input ·
4 data below the quality threshold · 5 no consent in force · 6 privacy budget exhausted ·
7 not permitted by policy · 8 not verified · 9 round not completed · 10 storage failure ·
130 interrupted."""


def run_command(app: typer.Typer, *, on_interrupt: str = "") -> NoReturn:
    """Runs a command line and exits the process.

    Errors of ours become one message on standard error, without a traceback. An unexpected error
    keeps its traceback: it is a defect, and whoever mends it needs to see where.

    Args:
        app: The typer application.
        on_interrupt: What a user can do after Ctrl-C, as one sentence.
    """
    sys.exit(_outcome(app, on_interrupt))


def _outcome(app: typer.Typer, on_interrupt: str) -> int:
    console = Console(stderr=True, highlight=False)
    try:
        result: object = app(standalone_mode=False)
    except FedprefError as error:
        report_error(console, error)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        result = EXIT_INTERRUPTED
    except typer.Exit as stop:
        result = stop.exit_code
    except Exception as error:  # noqa: BLE001 - the last frame of a command: report, then exit 1
        if hasattr(error, "show") and hasattr(error, "exit_code"):
            # click's usage errors, which typer does not re-export.
            error.show()
            return int(error.exit_code)
        console.print_exception()
        return EXIT_INTERNAL
    # Typer turns Ctrl-C into an exit code of its own, without a word.
    if result == EXIT_INTERRUPTED:
        console.print(f"[bold]Interrupted.[/bold] {on_interrupt}")
    return result if isinstance(result, int) else EXIT_OK


def report_error(console: Console, error: FedprefError) -> None:
    """Prints an error of ours: what and where, then what to do."""
    console.print(Text.assemble(("Error: ", "bold red"), error.message))
    if error.remedy:
        console.print(Text(error.remedy, style="dim"))
