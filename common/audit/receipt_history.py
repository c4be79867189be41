"""A receipt against a bundle: whether the region's log still holds what it signed for.

This is what shows a withheld withdrawal, or a log that was cut short or rewritten: such a bundle
may verify by itself, but not together with the receipt.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.audit.logged_entry import LoggedEntry
from common.audit.merkle import leaf_hash
from common.audit.participation import EntryStanding, Participation, grants
from common.audit.receipt import CheckedReceipt, check_receipt
from common.audit.verified_bundle import VerifiedBundle
from common.consent_record import FEDERATED_TRAINING
from common.errors import VerificationError

_REMEDY = "Keep both: the proof and the bundle are signed, and together they are the evidence."


@dataclass(frozen=True)
class ReceiptHistory:
    """A receipt that a bundle bears out.

    Attributes:
        checked: The receipt.
        size: How many entries the region's log has in the bundle.
        rounds: The rounds whose consent size is above the entry's index, in the log's order, and
            where the customer stood in each.
        answers: The answers to queries, likewise.
    """

    checked: CheckedReceipt
    size: int
    rounds: tuple[EntryStanding, ...]
    answers: tuple[EntryStanding, ...] = ()


def check_receipt_history(data: bytes, bundle: VerifiedBundle) -> ReceiptHistory:
    """Checks a receipt by itself, then against a bundle.

    Args:
        data: The receipt file.
        bundle: A bundle that holds the region's log whole.

    Raises:
        FormatError: The receipt is malformed.
        InputError: The bundle lacks the region's log.
        VerificationError: The receipt does not hold; or the bundle's log does not hold this entry
            at its index, does not extend the receipt's checkpoint, or used the customer's data
            against it. The message names the entry.
    """
    checked = check_receipt(data, bundle.keys)
    logged = checked.logged
    replay = bundle.replay(logged.party)
    check_held(logged, bundle)
    participation = Participation(bundle, logged.party, str(logged.record["sid"]))
    rounds, answers = (
        tuple(each for each in standings if each.consent_size > logged.index)
        for standings in (participation.rounds(), participation.answers())
    )
    _check_excluded(logged, participation, (*rounds, *answers))
    if checked.ends_consent:
        _check_first(checked, rounds)
    return ReceiptHistory(checked, replay.size, rounds, answers)


def check_held(logged: LoggedEntry, bundle: VerifiedBundle) -> None:
    """Checks that a bundle's log has an entry at its place and goes on from its checkpoint.

    Raises:
        InputError: The bundle lacks that log.
        VerificationError: It has not, or does not; the message names the entry.
    """
    party, seen = logged.party, logged.checkpoint
    size = bundle.replay(party).size
    if logged.index >= size:
        fault = f"the log in the bundle ends before it, with {size} entries"
    elif leaf_hash(bundle.entry(party, logged.index)) != logged.leaf:
        fault = "the log in the bundle holds another entry in its place"
    elif seen.size > size:
        fault = (
            f"the proof's checkpoint has {seen.size} entries, the log in the bundle {size}: it was "
            "cut short, or the bundle is older than the proof"
        )
    elif bundle.root_at(party, seen.size) != seen.root:
        fault = (
            f"among the log's first {seen.size} entries at least one is not what the region signed "
            "when the proof was made"
        )
    else:
        return
    raise VerificationError(
        f"The bundle and the proof contradict each other at {logged.place}: {fault}.",
        remedy=_REMEDY,
    )


def _check_excluded(
    logged: LoggedEntry, participation: Participation, standings: tuple[EntryStanding, ...]
) -> None:
    """What the record does not consent to includes the customer only if a later one does."""
    after = [record for record in participation.records if record.index > logged.index]
    for each in standings:
        consented = grants(logged.record, each.purposes) or any(
            record.index < each.consent_size and grants(record.record, each.purposes)
            for record in after
        )
        if each.member and not consented:
            what = "Part" if each.entry.kind == "answer" else "Round"
            of = "query" if each.entry.kind == "answer" else "run"
            raise VerificationError(
                f"{what} {each.entry.number('round')} of {of} {each.entry.text('run')} "
                f"(log {each.entry.party}, entry {each.entry.index}) includes the customer, whose "
                f"withdrawal at {logged.place} precedes its consent size {each.consent_size}.",
                remedy=_REMEDY,
            )


def _check_first(checked: CheckedReceipt, rounds: tuple[EntryStanding, ...]) -> None:
    """The first excluded round of training that the receipt names, if any, is that of the log."""
    named = checked.receipt.first_excluded
    if named is None:
        return
    first = next((each for each in rounds if each.purposes == (FEDERATED_TRAINING,)), None)
    held = first and (first.entry.text("run"), first.entry.number("round"), first.consent_size)
    if held != (named.run, named.round, named.consent_size):
        raise VerificationError(
            f"The receipt of {checked.logged.place} names round {named.round} of run {named.run} "
            f"with consent size {named.consent_size} as the first that it excludes the customer "
            "from; in the bundle that is another, or none.",
            remedy=_REMEDY,
        )
