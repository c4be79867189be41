"""``fedpref-region receipt``: what a customer takes home, with the best proof that there is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from common.errors import ConsentError, InputError, StorageError

if TYPE_CHECKING:
    from client.consent_service.desk import ConsentDesk, LoggedChoice

HomeArgument = Annotated[Path, typer.Argument(help="The region's home folder.")]
CustomerArgument = Annotated[
    str, typer.Argument(help="The region's reference of the customer.", metavar="CUSTOMER_REF")
]
LanguageOption = Annotated[str, typer.Option(help="Of the notice and the receipt, such as zh.")]


def receipt(
    home: HomeArgument,
    customer_ref: CustomerArgument,
    out: Annotated[Path, typer.Option(help="Where to write it: a new file.")],
    record_id: Annotated[
        str | None, typer.Option(help="Of which record; by default the customer's newest.")
    ] = None,
    lang: LanguageOption = "en",
) -> None:
    """Write the receipt of a customer's choice, with the best proof that there is by now.

    It names the first round that a withdrawal kept them out of, once there is one. The engine may
    run meanwhile. Anyone can check it: fedpref-audit check-receipt.
    """
    from client.consent_service.desk_opening import desk_on
    from client.consent_service.region_records import read_records
    from client.engine.home import RegionHome

    region = RegionHome.read(home)
    require_new(out)
    with (
        read_records(region) as records,
        desk_on(region, records.log, records.state, records.subjects) as desk,
    ):
        history = desk.history(customer_ref)
        if not history:
            raise _unknown(region.region)
        wanted = [each for each in history if record_id in (None, each.record_id)]
        if not wanted:
            raise ConsentError(
                "The customer has no record of this id.",
                remedy=f"Theirs are: {', '.join(each.record_id for each in history)}.",
            )
        write_receipt(desk, customer_ref, wanted[0], lang, out)
    excluded, text = wanted[0].first_excluded, ""
    if excluded is not None:
        text = f" First round without them: {excluded.round} of run {excluded.run}."
    elif wanted[0].ends_training:
        text = " No round has been without them because of it yet."
    Console(highlight=False, soft_wrap=True).print(
        f"{out}: receipt of log entry {wanted[0].index}, {state_words(wanted[0])}.{text}",
        markup=False,
    )


def write_receipt(
    desk: ConsentDesk, customer_ref: str, choice: LoggedChoice, lang: str, path: Path
) -> None:
    """Writes the receipt of a choice, readable by its owner alone."""
    from common import canonical_json
    from common.audit.receipt import MAX_RECEIPT_BYTES
    from common.durable_file import write_durably

    made = desk.receipt(customer_ref, choice.record_id, lang)
    try:
        # It names a pseudonym: personal data for whoever can link it.
        write_durably(path, canonical_json.encode(made, max_bytes=MAX_RECEIPT_BYTES))
    except OSError as error:
        raise StorageError(
            f"The receipt {path} cannot be written: {error.strerror}.",
            remedy="The choice is logged all the same; fedpref-region receipt writes another.",
        ) from error


def require_new(path: Path) -> None:
    """Refuses to overwrite a file: it may be the only receipt of another choice."""
    if path.exists():
        raise InputError(
            f"There is a file at {path} already.", remedy="Name another: none is overwritten."
        )


def state_words(choice: LoggedChoice) -> str:
    """What a record is, in words."""
    from common.consent import GIVEN, REFUSED

    if choice.state == GIVEN:
        return "the consent"
    return "the refusal" if choice.state == REFUSED else "the withdrawal"


def _unknown(region: str) -> ConsentError:
    return ConsentError(
        f"{region} has no consent record of a customer with this reference.",
        remedy="Check the reference's spelling; who was erased cannot be found any more.",
    )
