"""Whether a region's ledger may come from a backup, and what the log has that it lacks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from client.engine.charges import NO_KEYS, Charge, ChargeRequest
from client.engine.ledger_store import read_charges
from common.audit.log import AuditLog
from common.canonical_json import JsonValue
from common.envelope import Envelope, verify_envelope
from common.errors import StorageError, VerificationError
from common.keys import Registry

_CHARGE_TYPE = b'"payloadType":"application/vnd.fedpref.charge+json"'


def judge_ledger(own: Path, copy: Path) -> tuple[list[Charge], bool, str]:
    """Whether the home's own ledger is kept; the backup's takes its place otherwise.

    Returns:
        The charges of the one that stays, whether it is the home's own, and why.

    Raises:
        VerificationError: Neither continues the other.
        StorageError: The backup's is damaged.
    """
    theirs = read_charges(copy)
    try:
        ours = read_charges(own)
    except StorageError:
        return theirs, False, f"{len(theirs)} charges"
    common = min(len(ours), len(theirs))
    if [charge.head for charge in ours[:common]] != [charge.head for charge in theirs[:common]]:
        raise VerificationError(
            "The home's ledger and the backup's are two histories: neither continues the other.",
            remedy="Compare both with the charges in the log.",
        )
    if len(ours) >= len(theirs):
        return ours, True, f"{len(ours)} charges; the backup has {len(theirs)}"
    return theirs, False, f"{len(theirs)} charges; it had {len(ours)}"


def unledgered(
    log_path: Path, registry: Registry, region: str, charges: Sequence[Charge]
) -> list[tuple[ChargeRequest, str]]:
    """The log's charges that a ledger lacks, each with the ledger's head after it.

    Raises:
        VerificationError: The log has a charge that does not continue the ledger.
    """
    keys = {key.key_id: key.public_key for key in registry.keys_of(region, "trainer")}
    known = {charge.request.charge_id: charge for charge in charges}
    missing: list[tuple[ChargeRequest, str]] = []
    with AuditLog.open_read_only(log_path) as log:
        for index, data in log.entries():
            if _CHARGE_TYPE not in data:
                continue
            envelope = Envelope.decode(data)
            verify_envelope(envelope, keys)
            record = envelope.record()
            head, seq = str(record["ledger_head"]), record["ledger_seq"]
            request = _request(record)
            charge = known.get(request.charge_id)
            if charge is None and seq != len(charges) + len(missing) + 1:
                raise VerificationError(
                    f"Log entry {index}: its charge does not continue the ledger.",
                    remedy="The ledger is of another history: look for a newer backup of it.",
                )
            if charge is not None and charge.head != head:
                raise VerificationError(f"Log entry {index}: the ledger has another charge there.")
            if charge is None:
                missing.append((request, head))
    return missing


def _request(record: dict[str, JsonValue]) -> ChargeRequest:
    names = ("mechanism", "noise_multiplier", "clipping_norm", "sampling_probability")
    mechanism, noise, clipping, sampling = (str(record[name]) for name in names)
    return ChargeRequest(
        charge_id=str(record["charge_id"]),
        run=str(record["run"]),
        model=str(record["model"]),
        purpose=str(record["purpose"]),
        server_round=int(str(record["round"])),
        attempt=int(str(record["attempt"])),
        mechanism=mechanism,
        noise_multiplier=noise,
        clipping_norm=clipping,
        sampling_probability=sampling,
        steps=int(str(record["steps"])),
        permit_id=str(record["permit_id"]),
        time=str(record["time"]),
        key_delta=str(record.get("key_delta", NO_KEYS)),
    )
