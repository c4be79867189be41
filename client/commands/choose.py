"""``fedpref-region choose``: for an operator who has the customer before them, or their letter.

It goes through the same desk as the customers' page, and its rules hold here too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from client.commands import receipt as receipt_command
from client.commands.receipt import (
    CustomerArgument,
    HomeArgument,
    LanguageOption,
    require_new,
    state_words,
    write_receipt,
)
from common.errors import ConsentError, InputError, UsageError
from common.terminal import EXIT_CODES

if TYPE_CHECKING:
    from client.consent_service.desk import Actor, ConsentDesk, LoggedChoice
    from client.engine.home import RegionHome

_MAX_DOCUMENT_BYTES = 64 << 20

SocketOption = Annotated[
    Path | None,
    typer.Option(
        help="The consent socket of the region's running engine (its --consent-socket). Without "
        "it the log is opened here."
    ),
]


class Way(StrEnum):
    """How a choice reached the operator; the record's method."""

    IN_PERSON = "in-person"
    PHONE = "phone"
    LETTER = "letter"


def choose(
    home: HomeArgument,
    customer_ref: CustomerArgument,
    give: Annotated[
        list[str] | None,
        typer.Option(
            help="A purpose of the notice that the customer agrees to; repeat it for each. What is "
            "not named is not agreed to, and withdrawn if it was.",
            metavar="PURPOSE",
        ),
    ] = None,
    refuse: Annotated[
        bool, typer.Option("--refuse", help="The customer refuses; nothing was given before.")
    ] = False,
    withdraw: Annotated[
        bool, typer.Option("--withdraw", help="The customer withdraws everything.")
    ] = False,
    new: Annotated[
        bool, typer.Option("--new", help="The customer chooses for the first time.")
    ] = False,
    way: Annotated[Way, typer.Option(help="How the choice reached you.")] = Way.IN_PERSON,
    minor: Annotated[bool, typer.Option("--minor", help="The customer is a minor.")] = False,
    guardian: Annotated[
        bool, typer.Option("--guardian", help="The minor's guardian decides.")
    ] = False,
    document: Annotated[
        Path | None,
        typer.Option(
            help="The signed form, or your note of the call. Its SHA-256 becomes the evidence: "
            "keep the file."
        ),
    ] = None,
    lang: LanguageOption = "en",
    receipt: Annotated[
        Path | None, typer.Option(help="Where to write the receipt: a new file.")
    ] = None,
    engine_socket: SocketOption = None,
) -> None:
    """Log what a customer chose on paper, by phone or at the counter.

    Show or read them the notice first (fedpref-region notice list). Name exactly one of --give,
    --refuse and --withdraw. A withdrawal counts from the next round's consent snapshot on.
    """
    from client.consent_service.desk import Actor
    from client.engine.home import RegionHome

    if (bool(give), refuse, withdraw).count(True) != 1:
        raise UsageError("Exactly one of --give, --refuse and --withdraw is needed.")
    if guardian and not minor:
        raise UsageError("Only a minor has a guardian.", remedy="Add --minor.")
    region = RegionHome.read(home)
    if receipt is not None:
        require_new(receipt)
    evidence = "" if document is None else _evidence(document, way)
    actor = Actor(customer_ref, minor, guardian, evidence, way.value)
    with _desk(region, engine_socket) as desk:
        choice = _chosen(desk, actor, frozenset(give or ()), withdraw=withdraw, new=new, lang=lang)
        console = Console(highlight=False, soft_wrap=True)
        console.print(_described(region.region, choice), markup=False)
        if receipt is not None:
            write_receipt(desk, customer_ref, choice, lang, receipt)
            console.print(
                f"Receipt: {receipt}. Once others have cosigned this entry, fedpref-region receipt "
                "gives a stronger one.",
                markup=False,
            )


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(epilog=EXIT_CODES)(choose)
    app.command(epilog=EXIT_CODES)(receipt_command.receipt)


@contextmanager
def _desk(region: RegionHome, engine_socket: Path | None) -> Iterator[ConsentDesk]:
    from client.consent_service.desk_opening import open_desk
    from client.consent_service.desk_socket import SocketDesk

    if engine_socket is not None:
        yield SocketDesk(engine_socket)
    else:
        with open_desk(region) as desk:
            yield desk


def _chosen(
    desk: ConsentDesk,
    actor: Actor,
    agreed: frozenset[str],
    *,
    withdraw: bool,
    new: bool,
    lang: str,
) -> LoggedChoice:
    from client.consent_service.desk import Decision, DecisionRefusedError

    position = desk.position(actor.customer_ref, lang)
    if position.record_id is None and not (new and not withdraw):
        raise ConsentError(
            "The region has no consent record of a customer with this reference.",
            remedy="There is nothing to withdraw: check the reference's spelling."
            if withdraw
            else "Check its spelling. If they choose for the first time, add --new.",
        )
    if position.record_id is not None and new:
        raise ConsentError(
            "This customer has chosen before: they are not new.",
            remedy="Check the reference's spelling, or leave out --new.",
        )
    try:
        if withdraw:
            return desk.withdraw(actor)
        if not agreed and position.granted:
            raise ConsentError(
                "This customer has given consent: there is no refusing it.",
                remedy="Use --withdraw.",
            )
        shown = desk.notice(lang)
        if not agreed <= set(shown.purposes):
            unknown = ", ".join(sorted(agreed - set(shown.purposes)))
            raise UsageError(
                f"The notice {shown.notice_id} does not ask about {unknown}.",
                remedy=f"Its purposes: {', '.join(shown.purposes)}.",
            )
        return desk.choose(actor, Decision(agreed, shown.sha256, position.record_id))
    except DecisionRefusedError as refusal:
        raise ConsentError(refusal.message, remedy=_REMEDIES.get(refusal.code, "")) from refusal


_REMEDIES = {
    "choice-changed": "They have just chosen elsewhere: ask them, then give the command again.",
    "guardian-needed": "Let the guardian decide, and add --guardian.",
    "notice-changed": "The notice has just changed: show them the new one, then try again.",
    "nothing-to-withdraw": "Nothing is in force, and nothing needs to be logged.",
}


def _evidence(document: Path, way: Way) -> str:
    """What is kept as evidence of a choice on paper: the digest of what was signed or noted."""
    from common import canonical_json

    try:
        with document.open("rb") as file:
            data = file.read(_MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise InputError(f"The document {document} cannot be read: {error.strerror}.") from error
    if len(data) > _MAX_DOCUMENT_BYTES:
        raise InputError(f"The document {document} is larger than 64 MiB.")
    digest = hashlib.sha256(data).hexdigest()
    return canonical_json.encode({"document_sha256": digest, "method": way.value}).decode()


def _described(region: str, choice: LoggedChoice) -> str:
    place = f"entry {choice.index}, record {choice.record_id}"
    text = f"{region}: {state_words(choice)} is logged, {place}."
    if choice.agreed:
        text += f"\nAgreed to: {', '.join(choice.agreed)}."
    if choice.expires is not None:
        text += f"\nIt expires on {choice.expires}."
    if choice.ends_training:
        text += "\nNo training round that takes its consents from now on includes them."
    return text
