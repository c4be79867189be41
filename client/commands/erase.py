"""``fedpref-region erase``: destroys what links a person to the log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from client.consent_service.erasure import Erasure
    from client.engine.home import RegionHome

LEFT_TO_DO = """\
What remains: the log keeps {records} under a pseudonym that nobody can link to anyone, \
and all proofs still hold. {rounds} What an identity provider, a web server or the region's store \
of purchases knows of this person is not in this home.

What you must do now:
1. Replace the copy of the storage key that you keep elsewhere by {storage_key}, and destroy the \
older copy{columns_key}. Backups of the subjects' table from before this erasure can then be \
opened by nobody.
2. Make a new backup: the older ones cannot bring the other customers' keys back any more.
3. Erase the person's purchases in the region's store, and any receipt or export kept for them; \
and write the files of fedpref-region recommend batch anew, wherever they were copied.
4. If the region serves recommendations: what an experiment showed this person is in \
{exposures}, under a pseudonym of its own, until the recommender's next refresh or start: start \
it once, fedpref-region recommend check does.
What the engine keeps of the store is unreadable from now on, and is read anew from it. So are \
customers' profiles, if the region has any: build them anew with fedpref-region profile build."""


def erase(
    home: Annotated[Path, typer.Argument(help="The region's home folder.")],
    customer_ref: Annotated[str, typer.Argument(help="The region's reference of the customer.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Show the outcome as JSON.")] = False,
) -> None:
    """Erase a customer: log a withdrawal, then destroy their key and evidence for good.

    Afterwards no pseudonym of theirs can be linked to them, and the log still verifies. The storage
    key changes: replace your copy of it. An erasure that was interrupted is completed by the same
    command.
    """
    from client.consent_service.erasure import erase_customer
    from client.consent_service.region_records import open_records
    from client.engine.home import RegionHome
    from client.governance.column_store import ColumnStore
    from client.governance.kept_references import channel_keys_of
    from common import canonical_json

    region = RegionHome.read(home)
    with open_records(region) as records:
        if not yes:
            typer.confirm("This cannot be undone. Erase this customer?", abort=True)
        # First: it can be repeated, and what follows knows the customer only once.
        keys = channel_keys_of(region, customer_ref)
        rows = ColumnStore(region).erase([customer_ref], keys)
        erasure = erase_customer(
            records.log, records.state, records.subjects, records.registrar(), customer_ref
        )
    if json:
        typer.echo(canonical_json.encode({**erasure.to_record(), "kept_rows": rows}))
    else:
        told = describe(region, erasure, kept_rows=rows)
        Console(highlight=False, soft_wrap=True).print(told, markup=False)


def describe(region: RegionHome, erasure: Erasure, *, kept_rows: int = 0) -> str:
    """What was done, what remains and what the operator must do.

    Args:
        region: The region.
        erasure: What was done in log and subjects' table.
        kept_rows: How many rows went out of the tables that are kept by columns.
    """
    done = "The customer is erased: their key and their evidence are destroyed"
    if erasure.withdrawal is not None:
        done += f", and the log has a last withdrawal, entry {erasure.withdrawal}"
    rounds = "They were in no training round."
    if erasure.resumed:
        done = (
            "An erasure that a crash had interrupted is completed; whether it was of this "
            "reference cannot be known"
        )
        rounds = "What was learnt in training rounds stays in their models."
    if kept_rows:
        done += f"; {kept_rows} row(s) about them are gone from the kept tables"
    if erasure.rounds:
        rounds = (
            f"They were in {erasure.rounds} training round(s) of {', '.join(erasure.runs)}; what "
            "was learnt there stays in those models: erasing is not unlearning."
        )
    from client.recommend.exposure import FILE_NAME
    from client.recommend.settings import recommend_folder

    left = LEFT_TO_DO.format(
        exposures=recommend_folder(region).resolve() / FILE_NAME,
        records="the records" if erasure.resumed else f"{erasure.records} record(s)",
        rounds=rounds,
        storage_key=region.stored_key.resolve(),
        columns_key=(
            f"; likewise that of {region.columns_key.resolve()}"
            if region.columns_key.exists()
            else ""
        ),
    )
    return f"{done}.\n\n{left}"
