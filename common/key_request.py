"""Requests to enrol a key (``fedpref-key-request/1``): signed by the very key they ask for.

The signature proves that who asks has the private key: nobody can have another party's public key
enrolled as their own. It does not prove who asks: the officers of the root compare the key id with
its party over another channel before they sign.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.envelope import Envelope, sign_record, verify_envelope
from common.errors import FormatError, VerificationError
from common.key_entry import ROLES, parse_public_key
from common.signatures import Signer
from common.timestamps import format_time
from common.validate import exact_fields, line, party, timestamp

_VERSION = "fedpref-key-request/1"
_FIELDS = frozenset({"v", "federation", "party", "role", "key_id", "public_key", "requested_at"})
MAX_REQUEST_BYTES = 4096


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """A verified request to enrol a key.

    Attributes:
        federation: The federation's name.
        party: Who asks.
        role: What the key is for.
        key_id: The key's id.
        public_key: 32 bytes; sound.
        requested_at_ms: When, in milliseconds since the epoch.
    """

    federation: str
    party: str
    role: str
    key_id: str
    public_key: bytes
    requested_at_ms: int


def make_request(signer: Signer, *, federation: str, party: str, role: str, at_ms: int) -> bytes:
    """Makes the request to enrol a key, signed by the key.

    Raises:
        FormatError: The federation, party or role is malformed.
        VerificationError: The key is not sound.
    """
    data = sign_record(
        {
            "v": _VERSION,
            "federation": federation,
            "party": party,
            "role": role,
            "key_id": signer.key_id,
            "public_key": signer.public_key.hex(),
            "requested_at": format_time(at_ms),
        },
        signer,
        max_bytes=MAX_REQUEST_BYTES,
    )
    open_request(data)
    return data


def open_request(data: bytes) -> KeyRequest:
    """Reads and verifies a request.

    Raises:
        FormatError: It is malformed.
        VerificationError: Its key is not sound, or is not the one that signed it.
    """
    envelope = Envelope.decode(data, max_bytes=MAX_REQUEST_BYTES)
    fields = exact_fields(envelope.record(), _FIELDS, "A key request")
    if fields["v"] != _VERSION:
        raise FormatError(f"The record is not a key request ({_VERSION}).")
    identity, public_key = parse_public_key(fields["key_id"], fields["public_key"])
    role = fields["role"]
    if type(role) is not str or role not in ROLES:
        raise FormatError(f"The key request has none of the roles {', '.join(sorted(ROLES))}.")
    try:
        verify_envelope(envelope, {identity: public_key})
    except VerificationError as error:
        raise VerificationError(f"The key request is not signed by its own key: {error}") from error
    return KeyRequest(
        federation=line(fields["federation"], "federation"),
        party=party(fields["party"], "party"),
        role=role,
        key_id=identity,
        public_key=public_key,
        requested_at_ms=timestamp(fields["requested_at"], "requested_at")[1],
    )
