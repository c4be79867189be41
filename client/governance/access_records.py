"""What people and the region sign about access: request, approval, use, revocation, expiry.

Each is an entry of the region's log, signed by a key of the role that its kind asks for. The person
is who the region's policy says the key belongs to; no record names one. An approval names the
request that it is about by the hash of its entry, and a use the approval: what was approved is what
was asked, and what is used is what was approved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from common.audit.entry import make_entry
from common.audit.merkle import leaf_hash
from common.canonical_json import JsonValue
from common.envelope import Envelope, verify_envelope
from common.errors import FormatError, VerificationError
from common.identifiers import ULID
from common.keys import Registry, Signer
from common.timestamps import format_time
from common.validate import (
    array,
    exact_fields,
    line,
    matching,
    party,
    sha256_hex,
    timestamp,
    whole_number,
)

#: A request that nobody has approved lapses after this long, in seconds.
REQUEST_OPEN_S = 7 * 86_400
_MAX_COLUMNS = 256


@dataclass(frozen=True)
class AccessRequest:
    """A person asks for columns.

    Attributes:
        request_id: Its id, a ULID; the grant is known by it, too.
        region: The region.
        table: The table.
        columns: The columns, in order, none twice.
        because: What for, in one line; it is logged, so without anyone's data.
        grant_s: For how long the grant is to hold, in seconds.
        time_ms: When, in milliseconds since the epoch.
    """

    request_id: str
    region: str
    table: str
    columns: tuple[str, ...]
    because: str
    grant_s: int
    time_ms: int

    def to_record(self) -> dict[str, JsonValue]:
        """The ``fedpref-access-request/1`` record."""
        return {
            "v": "fedpref-access-request/1",
            "request_id": self.request_id,
            "region": self.region,
            "table": self.table,
            "columns": [*self.columns],
            "because": self.because,
            "grant_s": self.grant_s,
            "time": format_time(self.time_ms),
        }


@dataclass(frozen=True)
class AccessApproval:
    """Another person approves a request.

    Attributes:
        request_id: The request.
        region: The region.
        request: The hash of the request's log entry, in hex.
        expires_ms: Until just before when columns may be read, in milliseconds since the epoch.
        time_ms: When it was approved: columns may be read from then on.
    """

    request_id: str
    region: str
    request: str
    expires_ms: int
    time_ms: int

    def to_record(self) -> dict[str, JsonValue]:
        """The ``fedpref-access-approval/1`` record."""
        return {
            "v": "fedpref-access-approval/1",
            "request_id": self.request_id,
            "region": self.region,
            "request": self.request,
            "expires": format_time(self.expires_ms),
            "time": format_time(self.time_ms),
        }


@dataclass(frozen=True)
class AccessUse:
    """Who asked reads columns under the grant.

    Attributes:
        request_id: The grant.
        region: The region.
        approval: The hash of the approval's log entry, in hex.
        number: 1 for the first use, and so on: none can be shown twice.
        columns: The columns that are read, in order, none twice.
        time_ms: When, in milliseconds since the epoch.
    """

    request_id: str
    region: str
    approval: str
    number: int
    columns: tuple[str, ...]
    time_ms: int

    def to_record(self) -> dict[str, JsonValue]:
        """The ``fedpref-access-use/1`` record."""
        return {
            "v": "fedpref-access-use/1",
            "request_id": self.request_id,
            "region": self.region,
            "approval": self.approval,
            "number": self.number,
            "columns": [*self.columns],
            "time": format_time(self.time_ms),
        }


@dataclass(frozen=True)
class AccessRevocation:
    """An approver ends a request or a grant.

    Attributes:
        request_id: The request.
        region: The region.
        because: Why, in one line.
        time_ms: When, in milliseconds since the epoch.
    """

    request_id: str
    region: str
    because: str
    time_ms: int

    def to_record(self) -> dict[str, JsonValue]:
        """The ``fedpref-access-revocation/1`` record."""
        return {
            "v": "fedpref-access-revocation/1",
            "request_id": self.request_id,
            "region": self.region,
            "because": self.because,
            "time": format_time(self.time_ms),
        }


@dataclass(frozen=True)
class AccessExpiry:
    """The region notes that a grant has run out.

    Attributes:
        request_id: The grant.
        region: The region.
        uses: How often it was used.
        time_ms: When it was noted, in milliseconds since the epoch.
    """

    request_id: str
    region: str
    uses: int
    time_ms: int

    def to_record(self) -> dict[str, JsonValue]:
        """The ``fedpref-access-expiry/1`` record."""
        return {
            "v": "fedpref-access-expiry/1",
            "request_id": self.request_id,
            "region": self.region,
            "uses": self.uses,
            "time": format_time(self.time_ms),
        }


AccessRecord = AccessRequest | AccessApproval | AccessUse | AccessRevocation | AccessExpiry
#: The role of the key that signs each kind.
ROLES: Mapping[str, str] = {
    "access-request": "requester",
    "access-approval": "approver",
    "access-use": "requester",
    "access-revocation": "approver",
    "access-expiry": "trainer",
}


@dataclass(frozen=True)
class SignedAccess:
    """A record whose signature holds.

    Attributes:
        record: The record.
        key_id: The key that signed it.
        leaf: The hash of its log entry, in hex.
    """

    record: AccessRecord
    key_id: str
    leaf: str


def sign_access(record: AccessRecord, signer: Signer) -> bytes:
    """Signs a record: the bytes of its log entry."""
    return make_entry(record.to_record(), signer)


def open_access(
    data: bytes, registry: Registry, region: str, *, at_ms: int | None = None
) -> SignedAccess:
    """Reads a signed record and verifies it.

    Args:
        data: The bytes of its log entry.
        registry: The verified key registry.
        region: The region whose it must be.
        at_ms: When its key must be valid, in milliseconds since the epoch; when the record says
            that it was made if None.

    Raises:
        FormatError: It is no such record.
        VerificationError: One key, of the region and of the kind's role, must have signed it.
    """
    envelope = Envelope.decode(data)
    record = parse_access(envelope)
    if record.region != region:
        raise VerificationError(f"It is a record of {record.region}, not of {region}.")
    role = ROLES[envelope.kind]
    keys = {key.key_id: key.public_key for key in registry.keys_of(region, role)}
    signers = tuple(verify_envelope(envelope, keys))
    if len(signers) != 1:
        raise VerificationError("Several keys have signed it; each record is one person's.")
    registry.find(
        signers[0], party=region, role=role, at_ms=record.time_ms if at_ms is None else at_ms
    )
    return SignedAccess(record, signers[0], leaf_hash(data).hex())


def parse_access(envelope: Envelope) -> AccessRecord:
    """Reads the record of an envelope; whether its signature holds is not looked at.

    Raises:
        FormatError: It is no record about access.
    """
    fields = envelope.record()
    parsers: dict[str, Callable[[dict[str, JsonValue]], AccessRecord]] = {
        "access-request": _request,
        "access-approval": _approval,
        "access-use": _use,
        "access-revocation": _revocation,
        "access-expiry": _expiry,
    }
    parser = parsers.get(envelope.kind)
    if parser is None:
        raise FormatError(f"A {envelope.kind} is no record about access.")
    return parser(fields)


_COMMON = frozenset({"v", "request_id", "region", "time"})


def _request(fields: dict[str, JsonValue]) -> AccessRequest:
    exact_fields(fields, _COMMON | {"table", "columns", "because", "grant_s"}, "An access request")
    return AccessRequest(
        *_of(fields),
        _shown(fields["table"], "table"),
        _columns(fields["columns"]),
        _shown(fields["because"], "because"),
        whole_number(fields["grant_s"], "grant_s", least=1),
        _time_ms(fields, "time"),
    )


def _approval(fields: dict[str, JsonValue]) -> AccessApproval:
    exact_fields(fields, _COMMON | {"request", "expires"}, "An access approval")
    return AccessApproval(
        *_of(fields),
        sha256_hex(fields["request"], "request"),
        _time_ms(fields, "expires"),
        _time_ms(fields, "time"),
    )


def _use(fields: dict[str, JsonValue]) -> AccessUse:
    exact_fields(fields, _COMMON | {"approval", "number", "columns"}, "A use of a grant")
    return AccessUse(
        *_of(fields),
        sha256_hex(fields["approval"], "approval"),
        whole_number(fields["number"], "number", least=1),
        _columns(fields["columns"]),
        _time_ms(fields, "time"),
    )


def _revocation(fields: dict[str, JsonValue]) -> AccessRevocation:
    exact_fields(fields, _COMMON | {"because"}, "A revocation")
    return AccessRevocation(
        *_of(fields), _shown(fields["because"], "because"), _time_ms(fields, "time")
    )


def _expiry(fields: dict[str, JsonValue]) -> AccessExpiry:
    exact_fields(fields, _COMMON | {"uses"}, "An expiry")
    return AccessExpiry(
        *_of(fields), whole_number(fields["uses"], "uses", least=0), _time_ms(fields, "time")
    )


def _of(fields: dict[str, JsonValue]) -> tuple[str, str]:
    return (
        matching(fields["request_id"], ULID, "request_id", "a ULID"),
        party(fields["region"], "region"),
    )


def _columns(value: JsonValue) -> tuple[str, ...]:
    names = tuple(_shown(name, "columns") for name in array(value, "columns"))
    if not 0 < len(names) <= _MAX_COLUMNS or list(names) != sorted(set(names)):
        raise FormatError(f"columns are not 1 to {_MAX_COLUMNS} names in order, none twice.")
    return names


def _shown(value: JsonValue, where: str) -> str:
    """A line that looks like what it is: whoever approves must see what they sign."""
    text = line(value, where)
    if not text.isprintable():
        raise FormatError(f"{where} has characters that are not seen.")
    return text


def _time_ms(fields: dict[str, JsonValue], name: str) -> int:
    return timestamp(fields[name], name)[1]
