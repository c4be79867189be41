"""The three signed records of one execution, and what all of them must be about.

``fedpref-execution-keys/1`` pins a region's two fresh public keys; ``fedpref-execution-shares/1``
commits it to the shares that it gave out; ``fedpref-execution-survivors/1`` says whose masked
values it was told arrived. Each names its execution: the sum's context
(`common.secure_aggregation.RoundContext`) and the attempt.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from common.canonical_json import JsonValue
from common.envelope import Envelope, sign_record, verify_envelope
from common.errors import FedprefError, FormatError
from common.keys import Registry, Signer
from common.secure_aggregation import RoundContext, SecureSumRefusedError
from common.validate import exact_fields, party, sha256_hex

MAX_RECORD_BYTES = 1 << 16

KEYS = "execution-keys"
SHARES = "execution-shares"
SURVIVORS = "execution-survivors"

_SHARED = ("run", "plan", "round", "mechanism", "model_in", "quantiser", "attempt")
_OWN = {
    KEYS: ("round_entry", "masking_key", "sharing_key"),
    SHARES: ("key_roster", "root", "seed_commitment"),
    SURVIVORS: ("share_roster", "survivors"),
}
# What differs, in the words that a refusal has for it.
_REASONS = {
    "run": "other-run",
    "plan": "other-plan",
    "round": "other-round",
    "mechanism": "other-mechanism",
    "model_in": "other-model",
    "quantiser": "other-quantiser",
    "attempt": "other-attempt",
}


@dataclass(frozen=True)
class Execution:
    """One execution of the protocol: a sum's context, and which attempt at it.

    Attributes:
        context: What the sum is about.
        attempt: From 1. Keys, masks and shares of one attempt are worth nothing in another.
        planned: The plan's regions.
        least: The fewest regions whose sum may become known: the quorum, and with distributed noise
            the number of honest survivors that its shares are calibrated to.
    """

    context: RoundContext
    attempt: int
    planned: frozenset[str]
    least: int

    @property
    def name(self) -> str:
        """What an execution happens once under: run, round and attempt."""
        return f"{self.context.run}/{self.context.server_round}/{self.attempt}"

    def to_record(self) -> dict[str, JsonValue]:
        """The fields with which each of its records begins, without the version."""
        record = self.context.to_record()
        del record["v"]
        return {**record, "attempt": self.attempt}


@dataclass(frozen=True)
class Statement:
    """A record of a region, signed by it.

    Attributes:
        region: Who signed.
        record: What.
        envelope: The signed bytes.
    """

    region: str
    record: dict[str, JsonValue]
    envelope: bytes


def sign(
    kind: str, execution: Execution, region: str, own: dict[str, JsonValue], signer: Signer
) -> Statement:
    """Makes a region's record of a kind and signs it with its ``trainer`` key."""
    record = {"v": f"fedpref-{kind}/1", **execution.to_record(), "region": region, **own}
    envelope = sign_record(record, signer, max_bytes=MAX_RECORD_BYTES)
    return Statement(region, record, envelope)


def open_statement(
    data: bytes, kind: str, execution: Execution, registry: Registry, *, at_ms: int
) -> Statement:
    """Reads a record strictly and checks whose word it is, and about what.

    Args:
        data: The envelope.
        kind: The kind it must be of.
        execution: What it must be about.
        registry: The verified key registry.
        at_ms: Now, in milliseconds since the epoch.

    Raises:
        FormatError: It is no record of that kind.
        SecureSumRefusedError: ``unknown-region``; ``wrong-signer`` if no ``trainer`` key that the
            registry pins for the region and that is valid now signed exactly this; or which part of
            the context differs: ``other-round``, ``other-attempt``, ``other-model`` …
    """
    envelope = Envelope.decode(data, max_bytes=MAX_RECORD_BYTES)
    record = exact_fields(envelope.record(), {"v", "region", *_SHARED, *_OWN[kind]}, "The record")
    if record["v"] != f"fedpref-{kind}/1":
        raise FormatError(f"The record is no fedpref-{kind}/1.")
    region = party(record["region"], "region")
    if region not in execution.planned:
        raise SecureSumRefusedError("unknown-region", "A record is of no region of the plan.")
    _verify(envelope, region, registry, at_ms)
    ours = execution.to_record()
    for field in _SHARED:
        if record[field] != ours[field] or type(record[field]) is not type(ours[field]):
            raise SecureSumRefusedError(
                _REASONS[field], f"The record of {region} is about another {field}."
            )
    return Statement(region, record, data)


def _verify(envelope: Envelope, region: str, registry: Registry, at_ms: int) -> None:
    keys = {key.key_id: key.public_key for key in registry.keys_of(region, "trainer")}
    try:
        for key_id in verify_envelope(envelope, keys):
            registry.find(key_id, party=region, role="trainer", at_ms=at_ms)
    except FedprefError as error:
        raise SecureSumRefusedError(
            "wrong-signer", f"{region} has not signed the record that is given as its own."
        ) from error


def bytes32(statement: Statement, field: str) -> bytes:
    """A field of 32 bytes.

    Raises:
        FormatError: It is none.
    """
    return bytes.fromhex(sha256_hex(statement.record[field], field))


def names(value: JsonValue, where: str) -> tuple[str, ...]:
    """Regions' names in order, each once.

    Raises:
        FormatError: They are not.
    """
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise FormatError(f"{where} is no list of names.")
    found = tuple(str(each) for each in value)
    if list(found) != sorted(set(found)):
        raise FormatError(f"{where} is not in order, or names a region twice.")
    return found


def threshold_of(n_regions: int) -> int:
    """⌊2n/3⌋ + 1, of how many regions' shares a secret is made.

    Any two such sets have more than a third of the regions in common: unless a third of all regions
    collude, no two different sets of survivors can both be opened.
    """
    return 2 * n_regions // 3 + 1


def require_survivors(survivors: Collection[str], execution: Execution, n_regions: int) -> None:
    """Requires enough regions in a set whose sum is to become known.

    Raises:
        SecureSumRefusedError: ``too-few-survivors``.
    """
    least = max(3, execution.least, threshold_of(n_regions))
    if len(survivors) < least:
        raise SecureSumRefusedError(
            "too-few-survivors",
            f"{len(survivors)} regions are left of {n_regions}; {least} must be.",
        )
