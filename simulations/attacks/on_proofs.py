"""A8, A18 and A24: attacks on receipts, on proofs and on pseudonyms."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from client.engine.subjects import open_subject_keys
from common import canonical_json
from common.audit.checkpoint import NoteKey
from common.audit.log import AuditLog
from common.audit.proof_file import LogProof, verify_log_proof
from common.audit.receipt import make_receipt
from common.audit.receipt_history import check_receipt_history
from common.audit.verified_bundle import open_verified
from common.consent import GIVEN, WITHDRAWN, new_ulid
from common.errors import FedprefError, VerificationError
from common.timestamps import format_time, now_ms
from simulations.attacks.attack import Outcome, Trial
from simulations.attacks.forgery import Forgery


def withhold_withdrawal(forgery: Forgery, folder: Path) -> Outcome:
    """A8: a customer withdraws and gets a receipt; the log that others see never has the record.

    Everything in the bundle is genuine, and it verifies: only the customer's receipt tells.
    """
    region, entries = forgery.region, forgery.entries[forgery.region]
    index = forgery.find(region, "consent", state=GIVEN)[-1]
    record = forgery.record(region, index) | {
        "record_id": new_ulid(),
        "state": WITHDRAWN,
        "purposes": {},
        "seq": forgery.record(region, index)["seq"] + 1,
        "prev": hashlib.sha256(entries[index]).hexdigest(),
        "event_time": format_time(now_ms()),
        "expires": None,
    }
    bundle = open_verified(forgery.write(folder))
    origin, signer = forgery.region_home(region).origin, forgery.signer(region, "log")
    shown_until = forgery.find(region, "round")[-1]
    with AuditLog.open(folder / "shown.sqlite", origin=origin, signer=signer, create=True) as log:
        log.append([*entries[:shown_until], forgery.sign(region, record)])
        receipt = make_receipt(
            log,
            shown_until,
            log.checkpoint(),
            federation=forgery.federation,
            region=region,
            issued_at=format_time(now_ms()),
            lang="en",
        )
    try:
        check_receipt_history(canonical_json.encode(receipt), bundle)
    except VerificationError as error:
        place = f"receipt of entry {shown_until}"
        return Outcome(caught=str(shown_until) in error.message, place=place, message=error.message)
    return Outcome(caught=False, place="receipt", message="the receipt and the bundle agree")


Forge = Callable[[LogProof], LogProof]


def _shorter(proof: LogProof) -> LogProof:
    return replace(proof, hashes=proof.hashes[:-1])


def _longer(proof: LogProof) -> LogProof:
    return replace(proof, hashes=(*proof.hashes, bytes(32)))


def _beyond(proof: LogProof) -> LogProof:
    return replace(proof, index=1 << 40)


def _elsewhere(proof: LogProof) -> LogProof:
    return replace(proof, index=proof.index ^ 1)


def _short_hash(proof: LogProof) -> LogProof:
    return replace(proof, hashes=(proof.hashes[0][:-1], *proof.hashes[1:]))


def _altered(proof: LogProof) -> LogProof:
    return replace(proof, hashes=(bytes(32), *proof.hashes[1:]))


_FORGERIES: tuple[Forge, ...] = (_shorter, _longer, _beyond, _elsewhere, _short_hash, _altered)


def forge_proofs(forgery: Forgery, folder: Path) -> Outcome:
    """A18: inclusion proofs too short, too long, with bad hashes, of other places."""
    del folder
    home = forgery.region_home(forgery.region)
    index = forgery.find(forgery.region, "consent")[0]
    key = NoteKey(home.origin, forgery.signer(forgery.region, "log").public_key)
    with AuditLog.open_read_only(home.log) as log:
        size = log.size
        proof = LogProof(index, tuple(log.inclusion_proof(index, size)), log.checkpoint())
        leaf = log.leaf_hash(index)
    verify_log_proof(proof, leaf, log_keys=[key])
    message = ""
    for forge in _FORGERIES:
        try:
            verify_log_proof(forge(proof), leaf, log_keys=[key])
        except FedprefError as error:
            message = error.message
        else:
            name = forge.__name__.strip("_")
            return Outcome(caught=False, place=f"proof {name}", message="it was accepted")
    return Outcome(
        caught=True, place=f"{len(_FORGERIES)} forged proofs of entry {index}", message=message
    )


def guess_pseudonyms(forgery: Forgery, folder: Path) -> Outcome:
    """A24: someone with a list of all customers tries every name on the log's pseudonyms."""
    del folder
    home = forgery.region_home(forgery.region)
    with open_subject_keys(home.subjects, home.stored_key) as subjects:
        customers = subjects.pseudonyms()
    logged = {
        forgery.record(forgery.region, index)["sid"]
        for index in forgery.find(forgery.region, "consent")
    }
    if not logged & set(customers.values()):
        return Outcome(caught=False, place="", message="the log has none of the region's customers")
    guessed = {
        hashlib.sha256(b"fedpref-sid/1" + secret + name.encode()).hexdigest()
        for name in customers
        for secret in (b"", bytes(32))
    }
    hits = len(guessed & logged)
    place = f"{len(logged):,} pseudonyms, {len(customers):,} names tried"
    # The control: the same names without a secret key, as a plain hash would have stored them.
    plain = {hashlib.sha256(name.encode()).hexdigest() for name in customers}
    control = len(plain & {hashlib.sha256(name.encode()).hexdigest() for name in customers})
    return Outcome(
        caught=hits == 0 and control == len(customers),
        place=place,
        message=f"{hits} found; of plain hashes of the same names it finds {control:,}",
    )


#: Each attack of this module by its id, with a few words on it.
ATTACKS: tuple[tuple[str, str, Trial], ...] = (
    ("A8", "withdrawal withheld from the log, against the receipt", withhold_withdrawal),
    ("A18", "forged inclusion proofs", forge_proofs),
    ("A24", "dictionary attack on pseudonyms", guess_pseudonyms),
)
