"""``fedpref-region backup`` and ``restore``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

HomeArgument = Annotated[Path, typer.Argument(help="The region's home folder.")]


def backup(
    home: HomeArgument,
    destination: Annotated[Path, typer.Argument(help="A new folder for the backup.")],
) -> None:
    """Copy a region's home, consistently, while its engine runs.

    Log, ledger, subjects' table, witness's memory, seals, permits, policy and registry. No private
    key and not the storage key: keep copies of those apart, and check them with keys backup-check.
    """
    from client.engine.backup import make_backup
    from client.engine.home import RegionHome

    made = make_backup(RegionHome.read(home), destination)
    Console(highlight=False, soft_wrap=True).print(
        f"{destination}: {made.log_size} log entries, {made.charges} charges, {len(made.files)} "
        "files. It holds personal data, and no key.",
        markup=False,
    )


def restore(
    backup: Annotated[Path, typer.Argument(help="A folder that backup made.")],
    home: Annotated[Path, typer.Argument(help="The region's home; its keys must be there.")],
    at_least: Annotated[
        list[Path] | None,
        typer.Option(
            "--at-least",
            help="A checkpoint that another party holds: nothing older is restored. Of this "
            "region's log, and of each log that it witnesses; may be repeated.",
        ),
    ] = None,
    without_checkpoint: Annotated[
        bool,
        typer.Option(
            "--without-checkpoint",
            help="Restore a lost log although nobody holds a checkpoint of it.",
        ),
    ] = False,
    without_subjects: Annotated[
        bool,
        typer.Option(
            "--without-subjects",
            help="Begin a new subjects' table if none can be opened: nobody can be linked to their "
            "earlier records any more.",
        ),
    ] = False,
    witness_key_retires: Annotated[
        bool,
        typer.Option(
            "--witness-key-retires",
            help="Restore a lost witness's memory; you replace its key before it cosigns again.",
        ),
    ] = False,
) -> None:
    """Restore what a region's home has lost, and roll nothing back.

    What is there, sound and at least as new is kept. What is missing, damaged or older is replaced;
    the replaced file keeps a name ending in .replaced-1. Charges that only the log has go back into
    the ledger. Whoever the log says was erased stays erased. The engine must not run meanwhile.
    """
    from client.engine.restore import RestoreOptions
    from client.engine.restore import restore as restore_home
    from common.errors import InputError

    notes = []
    for path in at_least or ():
        try:
            notes.append(path.read_bytes())
        except OSError as error:
            raise InputError(f"The checkpoint {path} cannot be read: {error.strerror}.") from error
    outcomes = restore_home(
        backup,
        home,
        RestoreOptions(
            at_least=tuple(notes),
            without_checkpoint=without_checkpoint,
            without_subjects=without_subjects,
            witness_key_retires=witness_key_retires,
        ),
    )
    table = Table(box=None, header_style="dim")
    for title in ("part", "", "what"):
        table.add_column(title, overflow="fold")
    for each in outcomes:
        table.add_row(each.part, each.what, each.note)
    Console().print(table)
