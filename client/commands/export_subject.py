"""``fedpref-region export-subject``: a person's own data, in one portable file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def export_subject(
    home: Annotated[Path, typer.Argument(help="The region's home folder.")],
    customer_ref: Annotated[str, typer.Argument(help="The region's reference of the customer.")],
    out: Annotated[Path, typer.Option("--out", help="The ZIP file to write.")],
    without_tables: Annotated[
        bool,
        typer.Option(
            "--without-tables", help="Leave out the rows of tables: what a store that is down has."
        ),
    ] = False,
) -> None:
    """Write everything the region holds about a customer, for that customer.

    Records with receipts, their key, the evidence, the notices, each training round they were in or
    not, their profile, and their rows of purchases and all other tables; with a README in English
    and Chinese. The engine may run meanwhile; a large store takes as long as reading it. Hand the
    file to that customer alone: who has it can find their records in the log.
    """
    from client.consent_service.region_records import read_records
    from client.consent_service.subject_export import export_subject as export
    from client.engine.home import RegionHome
    from common.errors import InputError

    if out.exists():
        raise InputError(
            f"There is a file at {out} already.", remedy="Name another: none is overwritten."
        )
    with read_records(RegionHome.read(home)) as records:
        exported = export(records, customer_ref, with_tables=not without_tables)
    exported.write(out)
    Console(highlight=False, soft_wrap=True).print(
        f"{out}: {exported.records} consent record(s), {exported.rounds} training round(s), "
        f"{'no' if exported.rows is None else exported.rows} row(s) of tables. It is that "
        "customer's alone.",
        markup=False,
    )
