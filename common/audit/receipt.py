"""A customer's receipt (``fedpref-receipt/1``): a consent record, its proof, and what it means.

A receipt stands alone: with the federation's key registry anyone can check, offline, that the
region signed this record and that it is in the region's log at this index. Against a bundle
(``common/audit/receipt_history.py``) it shows whether that log still holds it.

Nobody signs the receipt itself, hence nothing is believed of it but what its entry and proof show:
the rule must be the one that follows from the entry, and the first excluded round must fit it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from common import canonical_json
from common.audit.checkpoint import Checkpoint, parse_note
from common.audit.entry import MAX_ENTRY_BYTES
from common.audit.federation_keys import FederationKeys
from common.audit.logged_entry import LoggedEntry, verify_logged_entry
from common.audit.proof_file import MAX_PROOF_BYTES, LogProof, read_base64
from common.audit.receipt_text import LANGUAGES, receipt_language, rule_text, strength
from common.canonical_json import JsonValue
from common.consent_record import FEDERATED_TRAINING
from common.envelope import Envelope
from common.errors import FormatError, InputError, VerificationError
from common.validate import exact_fields, line, party, timestamp, whole_number

MAX_RECEIPT_BYTES = 4 * (MAX_ENTRY_BYTES + MAX_PROOF_BYTES)

_VERSION = "fedpref-receipt/1"
_FIELDS = frozenset(
    {"v", "federation", "region", "entry", "proof", "rule", "first_excluded", "issued_at", "lang"}
)
_EXCLUDED_FIELDS = frozenset({"run", "round", "consent_size"})
_ROUND_TYPE = b"application/vnd.fedpref.round+json"
_PERMIT_TYPE = b"application/vnd.fedpref.permit+json"


class ProvingLog(Protocol):
    """What a receipt needs of a log (`common.audit.log.AuditLog`)."""

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
        """The entries of a range, with their indices."""

    def inclusion_proof(self, index: int, size: int) -> list[bytes]:
        """The audit path of an entry in the tree of a size."""


@dataclass(frozen=True)
class FirstExcluded:
    """The first round that a withdrawal kept its customer out of, as the region says."""

    run: str
    round: int
    consent_size: int

    def to_record(self) -> dict[str, JsonValue]:
        """As the receipt has it."""
        return {"run": self.run, "round": self.round, "consent_size": self.consent_size}


@dataclass(frozen=True)
class Receipt:
    """A receipt that has the right form; `check_receipt` says whether it holds.

    Attributes:
        federation: The federation's name.
        region: The region that issued it.
        entry: The consent record's envelope, the bytes of its log entry.
        proof: Its proof of inclusion, with the checkpoint.
        rule: What the record means for rounds, in words.
        first_excluded: For a withdrawal, the first round it excluded the customer from, if there
            was one by then.
        issued_at: When the receipt was made, as a UTC timestamp.
        lang: The language of its words.
    """

    federation: str
    region: str
    entry: bytes
    proof: LogProof
    rule: str
    first_excluded: FirstExcluded | None
    issued_at: str
    lang: str

    def to_record(self) -> dict[str, JsonValue]:
        """The receipt as canonical JSON values."""
        excluded = self.first_excluded
        return {
            "v": _VERSION,
            "federation": self.federation,
            "region": self.region,
            "entry": base64.b64encode(self.entry).decode("ascii"),
            "proof": self.proof.encode().decode("utf-8"),
            "rule": self.rule,
            "first_excluded": None if excluded is None else excluded.to_record(),
            "issued_at": self.issued_at,
            "lang": self.lang,
        }

    def encode(self) -> bytes:
        """The receipt file's only bytes."""
        return canonical_json.encode(self.to_record(), max_bytes=MAX_RECEIPT_BYTES)

    @classmethod
    def parse(cls, data: bytes) -> Receipt:
        """Reads a receipt file.

        Raises:
            FormatError: It is not of the exact form.
        """
        value = canonical_json.decode(data, max_bytes=MAX_RECEIPT_BYTES)
        fields = exact_fields(value, _FIELDS, "The receipt")
        if fields["v"] != _VERSION:
            raise FormatError(f"It is not a receipt ({_VERSION}).")
        lang, rule, proof = fields["lang"], fields["rule"], fields["proof"]
        if type(lang) is not str or lang not in LANGUAGES:
            raise FormatError(f"The receipt's lang is none of {', '.join(LANGUAGES)}.")
        if type(rule) is not str or type(proof) is not str:
            raise FormatError("The receipt's rule and proof are not texts.")
        return cls(
            federation=line(fields["federation"], "federation"),
            region=party(fields["region"], "region"),
            entry=read_base64(fields["entry"], "entry", max_bytes=MAX_ENTRY_BYTES),
            proof=LogProof.parse(proof.encode("utf-8")),
            rule=rule,
            first_excluded=_read_excluded(fields["first_excluded"]),
            issued_at=timestamp(fields["issued_at"], "issued_at")[0],
            lang=lang,
        )


@dataclass(frozen=True)
class CheckedReceipt:
    """A receipt that holds.

    Attributes:
        receipt: The receipt.
        logged: Its entry, proved to be in the region's log.
    """

    receipt: Receipt
    logged: LoggedEntry

    @property
    def ends_consent(self) -> bool:
        """Whether the record withdraws or refuses consent to training."""
        return not grants_training(self.logged.record)

    @property
    def strength(self) -> str:
        """What it proves, and what not, by the witnesses that cosigned; in its language."""
        # Where none need cosign, none having done so still shows nothing of what others see.
        witnessed = self.logged.witnessed and bool(self.logged.witnesses)
        return strength(witnessed, self.receipt.lang)


def make_receipt(
    log: ProvingLog,
    index: int,
    note: bytes,
    *,
    federation: str,
    region: str,
    issued_at: str,
    lang: str,
    first_excluded: FirstExcluded | None = None,
) -> dict[str, JsonValue]:
    """Makes the receipt of one consent record.

    Args:
        log: The region's log.
        index: The record's index.
        note: A signed checkpoint above the index: best the first that enough others cosigned, else
            the newest. What the receipt is worth then, `strength` says.
        federation: The federation's name.
        region: The region.
        issued_at: Now, as a UTC timestamp.
        lang: The customer's language, a BCP 47 tag; other languages than `LANGUAGES` get English.
        first_excluded: The first round with a consent size above the index, if it is a withdrawal
            and there is one (see `first_round_above`).

    Returns:
        The receipt's record; `common.canonical_json.encode` gives the file, within
        `MAX_RECEIPT_BYTES`.

    Raises:
        InputError: The entry is no consent record, the note does not cover it, or it is no
            withdrawal and yet names an excluded round.
    """
    size = Checkpoint.parse(parse_note(note).text).size
    if not 0 <= index < size:
        raise InputError(f"The checkpoint of size {size} does not cover entry {index}.")
    ((_, entry),) = log.entries(index, index + 1)
    envelope = Envelope.decode(entry)
    if envelope.kind != "consent":
        raise InputError(f"Log entry {index} is a {envelope.kind} record, not a consent.")
    grants = grants_training(envelope.record())
    if first_excluded is not None and (grants or first_excluded.consent_size <= index):
        raise InputError(f"Log entry {index} does not exclude the customer from that round.")
    spoken = receipt_language(lang)
    return Receipt(
        federation=federation,
        region=region,
        entry=entry,
        proof=LogProof(index, tuple(log.inclusion_proof(index, size)), note),
        rule=rule_text(index, grants=grants, lang=spoken),
        first_excluded=first_excluded,
        issued_at=issued_at,
        lang=spoken,
    ).to_record()


def first_round_above(log: ProvingLog, index: int) -> FirstExcluded | None:
    """The first round of training whose consent size is above an index, if the log has one.

    Rounds in which questions are answered are on another consent: a permit says which.
    """
    trains: dict[str, bool] = {}
    for _, data in log.entries(index + 1):
        # The type stands in plain text in the envelope: a million consents need no decoding.
        if _ROUND_TYPE not in data:
            continue
        envelope = Envelope.decode(data)
        if envelope.kind != "round":
            continue
        record = envelope.record()
        consent = record["consent"]
        size = consent["size"] if isinstance(consent, dict) else None
        number, permit_id = record["round"], str(record["permit_id"])
        if isinstance(size, int) and isinstance(number, int) and size > index:
            if permit_id not in trains:
                trains[permit_id] = _is_for_training(log, permit_id)
            if not trains[permit_id]:
                continue
            return FirstExcluded(str(record["run"]), number, size)
    return None


def _is_for_training(log: ProvingLog, permit_id: str) -> bool:
    """Whether a round's permit is for training; without its permit a round is taken for that."""
    for _, data in log.entries(0):
        if _PERMIT_TYPE in data:
            record = Envelope.decode(data).record()
            if record.get("permit_id") == permit_id:
                return record.get("purpose") == FEDERATED_TRAINING
    return True


def check_receipt(data: bytes, keys: FederationKeys) -> CheckedReceipt:
    """Checks a receipt by itself, against the federation's keys.

    Args:
        data: The receipt file.
        keys: The federation's keys, verified from root keys that the reader trusts.

    Raises:
        FormatError: The receipt is malformed.
        VerificationError: It is of another federation, a signature or proof does not hold, or it
            says more than its entry.
    """
    receipt = Receipt.parse(data)
    if receipt.federation != keys.federation:
        raise VerificationError(
            f"The receipt is of the federation {receipt.federation}; the keys are those of "
            f"{keys.federation}."
        )
    try:
        logged = verify_logged_entry(
            receipt.entry, receipt.proof, keys, party=receipt.region, kind="consent"
        )
    except VerificationError as error:
        place = f"log {receipt.region}, entry {receipt.proof.index}"
        raise VerificationError(
            f"The receipt of {place}: {error.message}", remedy=error.remedy
        ) from error
    grants = grants_training(logged.record)
    if receipt.rule != rule_text(logged.index, grants=grants, lang=receipt.lang):
        raise VerificationError(
            f"The receipt of {logged.place} states another rule than its record gives."
        )
    excluded = receipt.first_excluded
    if excluded is not None and (grants or excluded.consent_size <= logged.index):
        raise VerificationError(
            f"The receipt of {logged.place} names a round that its record does not exclude the "
            "customer from."
        )
    return CheckedReceipt(receipt, logged)


def grants_training(record: dict[str, JsonValue]) -> bool:
    """Whether a consent record grants federated training."""
    purposes = record["purposes"]
    return (
        record["state"] == "dpv:ConsentGiven"
        and isinstance(purposes, dict)
        and purposes.get(FEDERATED_TRAINING) is True
    )


def _read_excluded(value: JsonValue) -> FirstExcluded | None:
    if value is None:
        return None
    fields = exact_fields(value, _EXCLUDED_FIELDS, "first_excluded")
    return FirstExcluded(
        run=line(fields["run"], "first_excluded.run"),
        round=whole_number(fields["round"], "first_excluded.round", least=1),
        consent_size=whole_number(fields["consent_size"], "first_excluded.consent_size", least=1),
    )
