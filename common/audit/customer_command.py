"""``fedpref-audit`` for one customer: proofs of presence and absence, receipts, lineage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.errors import EXIT_OK, InputError, StorageError, UsageError, VerificationError
from common.terminal import EXIT_CODES

if TYPE_CHECKING:
    from common.audit.federation_keys import FederationKeys
    from common.audit.lineage import Lineage
    from common.audit.membership import CheckedMembership
    from common.audit.participation import EntryStanding, Participation
    from common.audit.receipt_history import ReceiptHistory

customer_app = typer.Typer()

Bundle = Annotated[Path, typer.Argument(help="The run's folder, or its bundle folder.")]
KeyFile = Annotated[Path, typer.Argument(help="The customer's key file.")]
RootKeys = Annotated[
    list[str] | None,
    typer.Option("--root-key", help="Id of a root key you trust (64 hex digits); may be repeated."),
]
RegistryFolder = Annotated[
    Path | None, typer.Option("--registry", help="The folder with the key registry's versions.")
]


@customer_app.command(epilog=EXIT_CODES)
def prove_consent(
    bundle: Bundle,
    customer_key: KeyFile,
    out: Annotated[Path, typer.Option(help="The folder to write the proofs to; new or empty.")],
    root_key: RootKeys = None,
) -> int:
    """Writes proofs that one customer was, or was not, in each round and each answer.

    The rounds are the run's, the answers those of the region's log to queries of its own.
    """
    from common.audit.lineage import REASONS

    part = _open(bundle, customer_key, root_key)
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise InputError(f"The folder {out} is not empty.", remedy="Name a new folder.")
    except OSError as error:
        raise StorageError(f"{out} cannot be made: {error.strerror}.") from error
    rounds = _table("round", "log entry", "in it", "why", "proof")
    answers = _table("answer", "log entry", "in it", "why", "proof")
    for standing in (*part.rounds(part.bundle.evidence.run), *part.answers()):
        entry = standing.entry
        is_answer = entry.kind == "answer"
        begins = "answer" if is_answer else f"round-{entry.number('round'):04d}"
        name = f"{begins}-entry-{entry.index}.json"
        _write(out / name, part.prove(standing).proof.encode())
        (answers if is_answer else rounds).add_row(
            _plain(entry.text("mechanism")) if is_answer else str(entry.number("round")),
            str(entry.index),
            _yes_no(standing.member),
            REASONS[standing.standing],
            name,
        )
    console = _console()
    console.print(f"Customer {part.sid[:16]}… of {part.region}")
    for table in (rounds, answers):
        if table.row_count:
            console.print(table)
    proofs = rounds.row_count + answers.row_count
    console.print(f"{proofs} proofs in {out}, each checkable alone.")
    return EXIT_OK


@customer_app.command(epilog=EXIT_CODES)
def prove_absence(
    bundle: Bundle,
    customer_key: KeyFile,
    out: Annotated[Path, typer.Option(help="The file to write the proof to.")],
    server_round: Annotated[
        int | None, typer.Argument(metavar="[ROUND]", help="The round.", min=1)
    ] = None,
    answer: Annotated[
        int | None,
        typer.Option(
            metavar="ENTRY", min=0, help="In place of a round: an answer, by its log entry."
        ),
    ] = None,
    root_key: RootKeys = None,
) -> int:
    """Writes a proof that one customer was not in one round, or in one answer of the region's.

    Exit code 8 if they were.
    """
    from common.audit.lineage import REASONS

    if (server_round is None) == (answer is None):
        raise UsageError("Absence is proved of one thing.", remedy="Name a round, or --answer.")
    part = _open(bundle, customer_key, root_key)
    run = part.bundle.evidence.run
    if server_round is not None:
        what = f"round {server_round} of run {run}"
        found = (e for e in part.rounds(run) if e.entry.number("round") == server_round)
    else:
        what = f"the answer in entry {answer}"
        found = (e for e in part.answers() if e.entry.index == answer)
    standings: list[EntryStanding] = list(found)
    if not standings:
        raise InputError(
            f"The log of {part.region} does not have {what}: nothing of that region was in it.",
            remedy="`fedpref-audit lineage` lists the rounds and answers there are.",
        )
    present = next((each for each in standings if each.member), None)
    if present is not None:
        raise VerificationError(
            f"The customer was in {what} (log {part.region}, entry {present.entry.index}): their "
            "absence cannot be proved.",
            remedy="`fedpref-audit prove-consent` gives the proof that they were.",
        )
    standing = standings[-1]
    _write(out, part.prove(standing).proof.encode())
    _console().print(f"Not in {what}: {REASONS[standing.standing]}. Proof: {out}")
    return EXIT_OK


@customer_app.command(epilog=EXIT_CODES)
def check_proof(
    proof: Annotated[Path, typer.Argument(help="The proof file.")],
    registry: RegistryFolder = None,
    bundle: Annotated[
        Path | None, typer.Option(help="A bundle to take the keys from, and to compare with.")
    ] = None,
    customer_key: Annotated[
        Path | None, typer.Option(help="The customer's key file: is the proof about them?")
    ] = None,
    root_key: RootKeys = None,
) -> int:
    """Checks a proof of presence or absence by itself: exit code 0 if it holds, 8 if not."""
    from common.audit.membership import MAX_MEMBERSHIP_BYTES, MembershipProof, check_membership
    from common.audit.receipt_history import check_held
    from common.audit.verified_bundle import open_verified

    data = _read(proof, MAX_MEMBERSHIP_BYTES)
    if (registry is None) == (bundle is None):
        raise UsageError("The federation's keys are needed.", remedy="Give --registry or --bundle.")
    if bundle is not None:
        opened = open_verified(bundle, root_key_ids=root_key or ())
        checked = check_membership(MembershipProof.parse(data), opened.keys)
        check_held(checked.logged, opened)
    else:
        checked = check_membership(MembershipProof.parse(data), _keys(registry, root_key))
    if customer_key is not None:
        _check_about(checked, customer_key)
    _print_membership(checked, about=customer_key is not None)
    return EXIT_OK


@customer_app.command(epilog=EXIT_CODES)
def check_receipt(
    receipt: Annotated[Path, typer.Argument(help="The receipt file.")],
    bundle: Annotated[
        Path | None, typer.Argument(help="A bundle that must hold the record still.")
    ] = None,
    registry: RegistryFolder = None,
    root_key: RootKeys = None,
) -> int:
    """Checks a customer's receipt, alone or against a bundle: exit code 0 if it holds, 8 if not."""
    from common.audit import receipt as receipts
    from common.audit.receipt_history import check_receipt_history
    from common.audit.verified_bundle import open_verified

    data = _read(receipt, receipts.MAX_RECEIPT_BYTES)
    if (registry is None) == (bundle is None):
        raise UsageError("The federation's keys are needed.", remedy="Give a bundle or --registry.")
    history: ReceiptHistory | None = None
    if bundle is not None:
        opened = open_verified(bundle, root_key_ids=root_key or ())
        history = check_receipt_history(data, opened)
        checked = history.checked
    else:
        checked = receipts.check_receipt(data, _keys(registry, root_key))
    logged, console = checked.logged, _console()
    console.print(
        Text.assemble(
            ("The receipt holds. ", "bold green"),
            f"Its record is {logged.place}, of {logged.checkpoint.size} entries then; cosigned by "
            f"{', '.join(sorted(logged.witnesses)) or 'nobody else'}.",
        )
    )
    console.print(f"Record     {logged.record['state']} of {logged.record['event_time']}")
    console.print(f"Rule       {checked.receipt.rule}")
    console.print(f"Strength   {checked.strength}")
    if history is not None:
        _print_history(console, history)
    return EXIT_OK


@customer_app.command(epilog=EXIT_CODES)
def lineage(
    bundle: Bundle,
    customer_key: KeyFile,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    root_key: RootKeys = None,
) -> int:
    """Shows the rounds and models one customer was part of, and what withdrawing means there."""
    from common.audit.lineage import trace_lineage

    traced = trace_lineage(_open(bundle, customer_key, root_key))
    if as_json:
        typer.echo(json.dumps(traced.to_record(), indent=2, ensure_ascii=False))
    else:
        _print_lineage(_console(), traced)
    return EXIT_OK


def _open(bundle: Path, customer_key: Path, root_key: list[str] | None) -> Participation:
    """The customer's part in a bundle, which is verified first."""
    from common.audit.customer_key import read_customer_key
    from common.audit.participation import participation_of
    from common.audit.verified_bundle import open_verified

    key = read_customer_key(customer_key)
    return participation_of(open_verified(bundle, root_key_ids=root_key or ()), key)


def _keys(registry: Path | None, root_key: list[str] | None) -> FederationKeys:
    from common.audit.federation_keys import read_federation_keys

    if registry is None:
        raise UsageError("The federation's keys are needed.", remedy="Give --registry.")
    return read_federation_keys(registry, root_key_ids=root_key)


def _check_about(checked: CheckedMembership, customer_key: Path) -> None:
    from common.audit.customer_key import read_customer_key

    key = read_customer_key(customer_key)
    if (key.sid, key.region) != (checked.proof.sid, checked.logged.party):
        raise VerificationError("The proof holds, but it is about another customer.")


def _print_membership(checked: CheckedMembership, *, about: bool) -> None:
    record, logged = checked.logged.record, checked.logged
    run = _plain(str(record["run"]))
    what = f"round {record['round']} of run {run}"
    if checked.proof.what == "answer":
        what = f"the answer to {_plain(str(record['mechanism']))} of query {run}"
    who = "this customer" if about else f"the customer {checked.proof.sid[:16]}…"
    verb = "was in" if checked.member else "was not in"
    console = _console()
    console.print(
        Text.assemble(
            ("The proof holds. ", "bold green"),
            f"In {logged.party}, {who} {verb} {what}.",
        )
    )
    console.print(
        f"It is {logged.place}, under a checkpoint of {logged.checkpoint.size} entries, cosigned "
        f"by {', '.join(sorted(logged.witnesses)) or 'nobody else (none is asked for)'}.",
    )


def _print_history(console: Console, history: ReceiptHistory) -> None:
    from common.audit.lineage import REASONS

    console.print(
        f"Bundle     holds the record at this place, in a log of {history.size} entries that goes "
        "on from the receipt's checkpoint.",
    )
    if not history.rounds:
        console.print("Rounds     none yet took its consents after this record.")
    tables = (
        (history.rounds, _table("run", "round", "consent size", "in it", "why")),
        (history.answers, _table("query", "part", "consent size", "in it", "why")),
    )
    for standings, table in tables:
        for each in standings:
            table.add_row(
                _plain(each.entry.text("run")),
                str(each.entry.number("round")),
                str(each.consent_size),
                _yes_no(each.member),
                REASONS[each.standing],
            )
        if standings:
            console.print(table)


def _print_lineage(console: Console, traced: Lineage) -> None:
    from common.audit.receipt import grants_training

    console.print(Text(f"Customer {traced.sid[:16]}… of {traced.region}", style="bold"))
    records = _table("log entry", "time", "state", "training", "method")
    for each in traced.records:
        state = str(each.record["state"]).removeprefix("dpv:Consent")
        when, method = str(each.record["event_time"]), _plain(str(each.record["method"]))
        training = _yes_no(grants_training(each.record))
        records.add_row(str(each.index), when, state, training, method)
    console.print(records if traced.records else "No consent record of theirs is in the log.")
    rounds = _table("run", "round", "log entry", "in it", "why")
    for part in traced.rounds:
        place = "" if part.index is None else str(part.index)
        why = part.reason + ("" if part.used or part.index is None else " (update not used)")
        rounds.add_row(_plain(part.run), str(part.number), place, _yes_no(part.member), why)
    console.print(rounds)
    if traced.answers:
        console.print(Text("The region's own queries, whose answers stay there", style="bold"))
        answers = _table("asked", "log entry", "in it", "why")
        for answer in traced.answers:
            asked, place = _plain(answer.mechanism), str(answer.index)
            answers.add_row(asked, place, _yes_no(answer.member), answer.reason)
        console.print(answers)
    console.print(Text("Published models that descend from rounds with their data", style="bold"))
    for model in traced.models:
        numbers = ", ".join(map(str, model.rounds))
        console.print(f"· {model.model} of run {_plain(model.run)}, from rounds {numbers}.")
        console.print(f"  {_plain(model.bound)}")
    for sentence in traced.meaning:
        console.print(f"· {sentence}")


def _console() -> Console:
    return Console(highlight=False, markup=False)


def _table(*titles: str) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _plain(text: str) -> str:
    """Foreign text, safe for a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _yes_no(holds: bool) -> Text:
    return Text("yes" if holds else "no", style="green" if holds else "")


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(max_bytes + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error


def _write(path: Path, data: bytes) -> None:
    from common.durable_file import write_durably

    try:
        # It names a pseudonym: personal data for whoever can link it.
        write_durably(path, data, mode=0o600)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.") from error
