"""``fedpref-region quality …``: data standards, quality of tables, what treatment changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from client.engine.home import RegionHome
    from client.governance.quality_changes import Treatment
    from client.governance.quality_files import QualityReport
    from client.governance.quality_score import TableQuality

app = typer.Typer(
    help="Hold the region's tables to its data standards; see and undo what treatment changed.",
    no_args_is_help=True,
)

HomeArgument = Annotated[Path, typer.Argument(help="The region's home folder.")]
TableArgument = Annotated[str, typer.Argument(help="The table, such as events.")]
TreatmentArgument = Annotated[
    str,
    typer.Argument(help="completed, looked-up, clipped, set-aside, repeated or replaced."),
]
ColumnOption = Annotated[
    str, typer.Option(help="The column; none for treatments of whole rows (repeated, replaced).")
]
RowsOption = Annotated[
    list[str] | None,
    typer.Option("--row", help="A row, as `changes` names it; may be repeated. Default: all rows."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


@app.command()
def report(
    home: HomeArgument,
    table: Annotated[
        list[str] | None,
        typer.Option(help="A table; may be given more than once. Default: all that there are."),
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="Write it as an HTML page, with its trend, to this file.")
    ] = None,
    accept: Annotated[
        bool,
        typer.Option(
            "--accept", help="What columns hold now is meant, if it is not what they held before."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Examine the region's tables, and keep the report.

    Each table is held to the region's data standards: what its rows are like, what treatment
    changes, and whether enough of them are right. Ends with 4 if a table may not be used. To be run
    as the engine's user; an engine may run meanwhile. Nothing of it is sent anywhere.
    """
    from client.engine.home import RegionHome
    from client.governance.quality_run import make_report

    region = RegionHome.read(home)
    if page is not None:
        _check_page(page)
    made = make_report(region, names=table or [], accept=accept)
    if page is not None:
        _write_page(region, made, page)
    if as_json:
        typer.echo(json.dumps(made.to_record(), indent=2, ensure_ascii=False))
    else:
        _show(made)
    if not made.passed:
        raise typer.Exit(4)


@app.command()
def changes(
    home: HomeArgument,
    table: TableArgument,
    treatment: Annotated[
        str | None, typer.Option(help="Only this treatment. Default: all of them.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="Only this column.")] = None,
    most: Annotated[int, typer.Option(min=1, help="So many lines at most.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List what treatment changed in a table when it was last examined, row by row.

    A row is named by a digest of what it says, as stores have no numbers for rows.
    """
    from client.engine.home import RegionHome
    from client.governance.quality_files import QualityFiles
    from client.governance.quality_run import row_name
    from common.errors import InputError

    kept = QualityFiles(RegionHome.read(home)).changes(table)
    if kept is None:
        raise InputError(
            f"There is no journal of what treatment changed in {table}.",
            remedy="Make one: fedpref-region quality report HOME.",
        )
    found = [
        each | {"row": row_name(each["row"])}
        for each in kept.to_pylist()
        if treatment in (None, each["treatment"]) and column in (None, each["column"])
    ]
    if as_json:
        typer.echo(json.dumps(found[:most], indent=2, ensure_ascii=False))
        return
    shown = Table(box=None, header_style="dim")
    for title in ("row", "treatment", "column", "before", "after"):
        shown.add_column(title)
    for each in found[:most]:
        before, after = (each[name] if each[name] is not None else "–" for name in _VALUES)
        shown.add_row(each["row"], each["treatment"], each["column"], before, after)
    console = Console(highlight=False, soft_wrap=True)
    console.print(shown)
    console.print(f"{min(most, len(found)):,} of {len(found):,} changes.")


@app.command("undo")
def undo_changes(
    home: HomeArgument,
    table: TableArgument,
    treatment: TreatmentArgument,
    column: ColumnOption = "",
    row: RowsOption = None,
) -> None:
    """Undo a treatment: rows are read as the store has them from now on.

    The store itself is never written to, so nothing else has to be put back. A program that follows
    a table learns of it when it is started anew.
    """
    from client.governance.quality_run import undo
    from common.timestamps import now_ms

    region, chosen = _decision(home, treatment)
    count = undo(region, table, chosen, column, row or [], at_ms=now_ms())
    Console(highlight=False).print(f"{count:,} changes of {table} are not made any more.")


@app.command("redo")
def redo_changes(
    home: HomeArgument,
    table: TableArgument,
    treatment: TreatmentArgument,
    column: ColumnOption = "",
    row: RowsOption = None,
) -> None:
    """Take an `undo` back: the treatment is applied again."""
    from client.governance.quality_run import redo

    region, chosen = _decision(home, treatment)
    count = redo(region, table, chosen, column, row or [])
    decisions = "decision is" if count == 1 else "decisions are"
    Console(highlight=False).print(f"{count:,} {decisions} taken back.")


@app.command()
def standards(
    home: Annotated[
        Path | None,
        typer.Argument(help="The region's home folder; default: those of the program."),
    ] = None,
) -> None:
    """Print the data standards in force, to read or to begin your own with."""
    from client.data.standards import DEFAULT_FILE, load_standards, standards_file
    from client.engine.home import RegionHome

    file = DEFAULT_FILE
    if home is not None:
        own = standards_file(RegionHome.read(home))
        file = own if own.exists() else DEFAULT_FILE
    load_standards(file)
    typer.echo(file.read_text(encoding="utf-8"), nl=False)


_PAGE = "report of data quality"
_VALUES = ("before", "after")


def _decision(home: Path, treatment: str) -> tuple[RegionHome, Treatment]:
    from client.engine.home import RegionHome
    from client.governance.quality_changes import UNDOABLE
    from common.errors import UsageError

    for each in UNDOABLE:
        if each == treatment:
            return RegionHome.read(home), each
    raise UsageError(
        f"{treatment!r} is no treatment that can be undone; there are {', '.join(UNDOABLE)}.",
        remedy="How many rows of a customer count is stated in the standards, most_per_customer.",
    )


def _check_page(page: Path) -> None:
    from client.governance.quality_page import GENERATOR
    from common.page_file import check_page_file

    check_page_file(page, GENERATOR, _PAGE)


def _write_page(region: RegionHome, made: QualityReport, page: Path) -> None:
    from client.data.standards import standards_of
    from client.governance.quality_files import QualityFiles
    from client.governance.quality_page import quality_page
    from common.page_file import write_page_file

    filled = quality_page(made, QualityFiles(region).history(), standards_of(region))
    # It has exact counts of customers' data: its owner alone reads it.
    write_page_file(page, filled, _PAGE, mode=0o600)


def _show(made: QualityReport) -> None:
    from client.governance.quality_page import down

    console = Console(highlight=False, soft_wrap=True)
    shown = Table(box=None, header_style="dim")
    for title in ("table", "rows", "used", "score", "guessed", "newest", ""):
        shown.add_column(title, justify="right" if title in _NUMBERS else "left")
    for each in made.tables:
        shown.add_row(
            each.table,
            f"{each.read:,}",
            f"{each.accepted:,}",
            down(each.score),
            down(each.guessed_share),
            each.newest[:10],
            "[green]may be used[/green]" if each.passed else "[bold red]may not be used[/bold red]",
        )
    console.print(f"[bold]{made.region}[/bold], {made.at}")
    console.print(shown)
    for each in made.tables:
        _show_table(console, each)
    for name, count in made.meant.items():
        console.print(f"{name}: {count:,} customers")
    for note in made.notes:
        console.print(f"note: {note}", markup=False)


_NUMBERS = frozenset({"rows", "used", "score", "guessed"})


def _show_table(console: Console, each: TableQuality) -> None:
    for problem in each.problems:
        console.print(f"{each.table}: {problem}", markup=False, style="red")
    if each.reasons:
        shown = ", ".join(f"{reason} {count:,}" for reason, count in each.reasons.items())
        console.print(f"{each.table}: left out: {shown}", markup=False)
    if each.treatments:
        shown = ", ".join(f"{name} {count:,}" for name, count in each.treatments.items())
        console.print(f"{each.table}: treated: {shown}", markup=False)
    if each.beyond_bound:
        console.print(
            f"{each.table}: {each.beyond_bound:,} rows of {each.bounded_customers:,} customers are "
            "beyond what counts of one"
        )
