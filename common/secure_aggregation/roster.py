"""Whose updates one sum is of: the signed statements of all its regions, by region in order.

On the way, what the statements have in common is said once, which keeps a roster of 50 regions
below half a percent of a million values. Each statement's signed bytes are put together again from
both parts, so that a region that was told something else than the others shows by its own word.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from common import canonical_json
from common.canonical_json import JsonValue
from common.envelope import Envelope, Signature
from common.errors import FormatError
from common.keys import Registry
from common.secure_aggregation.quantiser import MAX_SUMMED
from common.secure_aggregation.refusal import SecureSumRefusedError
from common.secure_aggregation.statement import (
    KIND,
    MAX_STATEMENT_BYTES,
    OWN_FIELDS,
    SHARED_FIELDS,
    MaskingStatement,
    RoundContext,
    open_statement,
    verify_statement,
)
from common.validate import exact_fields

#: Of two regions' sum either could take its own part away.
LEAST_SUMMED = 3
ROSTER_VERSION = "fedpref-roster/1"

# What the most regions with the longest names come to, and as much again.
_MAX_ROSTER_BYTES = 1 << 17
_PAYLOAD_TYPE = f"application/vnd.fedpref.{KIND}+json"
_FIELDS = {*SHARED_FIELDS, *OWN_FIELDS}


@dataclass(frozen=True)
class Roster:
    """The statements of one sum, by region in order. Nothing of it is checked yet.

    Attributes:
        envelopes: The signed statements.
        statements: The same, read.
    """

    envelopes: tuple[Envelope, ...]
    statements: tuple[MaskingStatement, ...]

    @classmethod
    def of(cls, envelopes: Sequence[Envelope]) -> Roster:
        """Reads statements and puts them in order.

        Raises:
            FormatError: One is no statement.
        """
        read = [(envelope, open_statement(envelope)) for envelope in envelopes]
        read.sort(key=lambda pair: pair[1].region)
        return cls(tuple(each for each, _ in read), tuple(each for _, each in read))

    @property
    def regions(self) -> tuple[str, ...]:
        """Whose updates are summed."""
        return tuple(each.region for each in self.statements)

    def digest(self, context: RoundContext) -> str:
        """SHA-256 that stands for the roster, in hex: of all that the statements say.

        Args:
            context: What they have in common, as `check` has found it.
        """
        record: dict[str, JsonValue] = {
            **context.to_record(),
            "v": ROSTER_VERSION,
            "members": [*self.members()],
        }
        data = canonical_json.encode(record, max_bytes=_MAX_ROSTER_BYTES)
        return hashlib.sha256(data).hexdigest()

    def members(self) -> list[dict[str, JsonValue]]:
        """Each region with its round entry and its public key, for logs."""
        return [
            {
                "region": each.region,
                "round_entry": each.round_entry,
                "public_key": each.public_key.hex(),
            }
            for each in self.statements
        ]

    def check(
        self,
        context: RoundContext,
        *,
        planned: Collection[str],
        least: int,
        registry: Registry,
        at_ms: int,
    ) -> None:
        """Checks that it is a roster of this sum, each statement its region's own word.

        Args:
            context: What the sum is about.
            planned: The plan's regions.
            least: The fewest regions; `LEAST_SUMMED` if it is below that.
            registry: The verified key registry.
            at_ms: Now, in milliseconds since the epoch.

        Raises:
            SecureSumRefusedError: ``too-few``, ``region-twice``, ``unknown-region``,
                ``wrong-signer``, ``key-shared``, or what `RoundContext.require_same` names.
        """
        least = max(LEAST_SUMMED, least)
        if len(self.statements) < least:
            raise SecureSumRefusedError(
                "too-few", f"The roster has {len(self.statements)} regions; {least} are needed."
            )
        if len(set(self.regions)) != len(self.regions):
            raise SecureSumRefusedError("region-twice", "The roster names a region twice.")
        for region in self.regions:
            if region not in planned:
                raise SecureSumRefusedError(
                    "unknown-region", "The roster names a region that the plan does not have."
                )
        for envelope, statement in zip(self.envelopes, self.statements, strict=True):
            verify_statement(envelope, statement, registry, at_ms=at_ms)
            context.require_same(statement.context)
        if len({each.public_key for each in self.statements}) != len(self.statements):
            raise SecureSumRefusedError("key-shared", "Two regions have one masking key.")


def encode_roster(roster: Roster) -> dict[str, JsonValue]:
    """A roster as it travels.

    Raises:
        FormatError: It is empty, or a statement has another number of signatures than one.
    """
    if not roster.envelopes:
        raise FormatError("A roster has at least one region.")
    shared = {name: roster.envelopes[0].record()[name] for name in SHARED_FIELDS}
    members: list[JsonValue] = []
    for envelope in roster.envelopes:
        if len(envelope.signatures) != 1:
            raise FormatError("A masking statement has one signature.")
        (signature,) = envelope.signatures
        record = envelope.record()
        differing = {name: value for name, value in record.items() if shared.get(name) != value}
        members.append(
            {
                "statement": differing,
                "key_id": signature.key_id,
                "signature": base64.b64encode(signature.signature).decode(),
            }
        )
    return {"shared": shared, "members": members}


def decode_roster(value: JsonValue) -> Roster:
    """Reads a roster strictly.

    Raises:
        FormatError: It is not exactly what `encode_roster` makes; says what differs.
    """
    fields = exact_fields(value, {"shared", "members"}, "A roster")
    shared = exact_fields(fields["shared"], set(SHARED_FIELDS), "A roster's shared part")
    members = fields["members"]
    if not isinstance(members, list) or not 1 <= len(members) <= MAX_SUMMED:
        raise FormatError(f"A roster has 1 to {MAX_SUMMED} regions.")
    roster = Roster.of([_envelope(shared, member) for member in members])
    # One form for each roster: in order, and nothing said twice.
    if _bytes(encode_roster(roster)) != _bytes(fields):
        raise FormatError("The roster is not in its canonical form.")
    return roster


def _bytes(roster: dict[str, JsonValue]) -> bytes:
    return canonical_json.encode(roster, max_bytes=_MAX_ROSTER_BYTES)


def _envelope(shared: dict[str, JsonValue], member: JsonValue) -> Envelope:
    fields = exact_fields(member, {"statement", "key_id", "signature"}, "A roster's member")
    own, key_id, signature = fields["statement"], fields["key_id"], fields["signature"]
    if not isinstance(own, dict) or not isinstance(key_id, str) or not isinstance(signature, str):
        raise FormatError("A roster's member is malformed.")
    record = exact_fields({**shared, **own}, _FIELDS, "A masking statement")
    payload = canonical_json.encode(record, max_bytes=MAX_STATEMENT_BYTES)
    try:
        raw = base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError("A roster's signature is not base64.") from error
    return Envelope(_PAYLOAD_TYPE, payload, (Signature(key_id, raw),))
