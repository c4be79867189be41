"""DSSE v1 envelopes: signed records, in the exact bytes that logs store.

https://github.com/secure-systems-lab/dsse, with fewer liberties: the envelope is canonical JSON,
base64 is the standard alphabet with padding and nothing after it, key ids are required, and every
signature that is present must verify.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass

from common import canonical_json
from common.canonical_json import JsonValue
from common.errors import FormatError, VerificationError
from common.signatures import SIGNATURE_BYTES, Signer, key_id, verify_signature

#: Default limit on an encoded envelope, in bytes: what a log entry may have.
MAX_ENVELOPE_BYTES = canonical_json.MAX_BYTES

_PAYLOAD_TYPE = re.compile(r"application/vnd\.fedpref\.([a-z-]+)\+json")
_VERSION = re.compile(r"fedpref-([a-z-]+)/1")
_KEY_ID = re.compile(r"[0-9a-f]{64}")
_ENVELOPE_FIELDS = {"payload", "payloadType", "signatures"}
_SIGNATURE_FIELDS = {"keyid", "sig"}
# An envelope is an object with a list of objects.
_ENVELOPE_DEPTH = 3


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding, the message that is signed."""
    type_bytes = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(type_bytes), type_bytes, len(payload), payload)


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature of an envelope, not yet verified.

    Attributes:
        key_id: The id of the key that is said to have signed, 64 hex digits.
        signature: 64 bytes.
    """

    key_id: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A well-formed envelope; whether its signatures hold, `verify_envelope` says.

    Attributes:
        payload_type: ``application/vnd.fedpref.<kind>+json``.
        payload: The bytes that are signed.
        signatures: One or more.

    Raises:
        FormatError: The payload type, the number of signatures, a key id or a signature's length
            is not of the form.
    """

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    def __post_init__(self) -> None:
        if _PAYLOAD_TYPE.fullmatch(self.payload_type) is None:
            raise FormatError(
                f"The envelope's payload type {self.payload_type[:80]!r} is none of fedpref's."
            )
        if not self.signatures:
            raise FormatError("The envelope has no signature.")
        for signature in self.signatures:
            if _KEY_ID.fullmatch(signature.key_id) is None:
                raise FormatError("A key id in the envelope is not 64 lower-case hex digits.")
            if len(signature.signature) != SIGNATURE_BYTES:
                raise FormatError(f"A signature in the envelope is not {SIGNATURE_BYTES} bytes.")

    @property
    def kind(self) -> str:
        """The kind of record that the payload type names."""
        return self.payload_type[len("application/vnd.fedpref.") : -len("+json")]

    def record(self) -> dict[str, JsonValue]:
        """Decodes the payload.

        Raises:
            FormatError: It is not the canonical JSON of a record of the payload type's kind.
        """
        value = canonical_json.decode(self.payload, max_bytes=len(self.payload))
        if type(value) is not dict:
            raise FormatError("The envelope's payload is not an object.")
        if value.get("v") != f"fedpref-{self.kind}/1":
            raise FormatError(
                f"The envelope is of a {self.kind} record, its payload is of version"
                f" {str(value.get('v'))[:80]!r}."
            )
        return value

    def encode(self, max_bytes: int = MAX_ENVELOPE_BYTES) -> bytes:
        """Gives the envelope's only bytes.

        Raises:
            FormatError: They would be more than ``max_bytes``.
        """
        # None of these values needs an escape, and the names are in order: this is canonical JSON.
        signatures = ",".join(
            f'{{"keyid":"{item.key_id}","sig":"{_to_base64(item.signature)}"}}'
            for item in self.signatures
        )
        data = (
            f'{{"payload":"{_to_base64(self.payload)}","payloadType":"{self.payload_type}",'
            f'"signatures":[{signatures}]}}'
        ).encode("ascii")
        if len(data) > max_bytes:
            raise FormatError(
                f"The envelope has {len(data)} bytes; it may have at most {max_bytes}."
            )
        return data

    @classmethod
    def decode(cls, data: bytes, max_bytes: int = MAX_ENVELOPE_BYTES) -> Envelope:
        """Reads an envelope.

        Args:
            data: The bytes of a log entry or a file.
            max_bytes: The most bytes that are looked at.

        Raises:
            FormatError: The bytes are not exactly those of a well-formed envelope.
        """
        value = canonical_json.decode(data, max_bytes=max_bytes, max_depth=_ENVELOPE_DEPTH)
        if type(value) is not dict or value.keys() != _ENVELOPE_FIELDS:
            raise FormatError(
                "A DSSE envelope has exactly the fields payload, payloadType and signatures."
            )
        items = value["signatures"]
        if type(items) is not list:
            raise FormatError("The envelope's signatures are not a list.")
        return cls(
            _text(value["payloadType"], "payloadType"),
            _from_base64(value["payload"], "payload"),
            tuple([_read_signature(item) for item in items]),
        )


def sign_record(
    record: dict[str, JsonValue], *signers: Signer, max_bytes: int = MAX_ENVELOPE_BYTES
) -> bytes:
    """Signs a record.

    Args:
        record: The record; its field ``v`` names its kind and version.
        signers: The keys to sign with, each once.
        max_bytes: The most bytes the envelope may have; readers must allow as many.

    Returns:
        The envelope's bytes.

    Raises:
        FormatError: ``v`` names no kind, the record has no canonical form, the envelope would be
            too long, or a key signs twice or not at all.
    """
    version = record.get("v")
    match = _VERSION.fullmatch(version) if isinstance(version, str) else None
    if match is None:
        raise FormatError(f"The record's version {str(version)[:80]!r} names no kind of record.")
    if not signers or len({signer.key_id for signer in signers}) != len(signers):
        raise FormatError("A record is signed by one or more keys, each once.")
    payload = canonical_json.encode(record, max_bytes=max_bytes)
    payload_type = f"application/vnd.fedpref.{match[1]}+json"
    message = pae(payload_type, payload)
    signatures = tuple(Signature(signer.key_id, signer.sign(message)) for signer in signers)
    return Envelope(payload_type, payload, signatures).encode(max_bytes)


def verify_envelope(
    envelope: Envelope, public_keys: Mapping[str, bytes], *, threshold: int = 1
) -> tuple[str, ...]:
    """Verifies every signature of an envelope.

    Args:
        envelope: The envelope.
        public_keys: The keys that may sign it, by key id. Roles, parties and validity are the
            caller's to check (`common.keys.Registry.find`).
        threshold: How many keys must have signed, at least 1.

    Returns:
        The ids of the keys that signed, in the envelope's order.

    Raises:
        VerificationError: A key is unknown, signs twice, or is not what its id says; a signature
            does not verify, even where enough others do; or there are too few.
    """
    if threshold < 1:
        raise ValueError(f"threshold is {threshold}; an envelope needs at least one signature")
    message = pae(envelope.payload_type, envelope.payload)
    verified: list[str] = []
    for item in envelope.signatures:
        name = f"{item.key_id[:16]}…"
        public_key = public_keys.get(item.key_id)
        if public_key is None:
            raise VerificationError(f"The key {name} may not sign this {envelope.kind} record.")
        if item.key_id in verified:
            raise VerificationError(f"The key {name} signs the {envelope.kind} record twice.")
        # Otherwise one key under two ids would count twice towards a threshold.
        if key_id(public_key) != item.key_id:
            raise VerificationError(f"The public key known as {name} has another id.")
        if not verify_signature(public_key, message, item.signature):
            raise VerificationError(
                f"The signature of key {name} on the {envelope.kind} record does not verify."
            )
        verified.append(item.key_id)
    if len(verified) < threshold:
        raise VerificationError(
            f"The {envelope.kind} record has {len(verified)} signatures; {threshold} are required."
        )
    return tuple(verified)


def _text(value: JsonValue, name: str) -> str:
    if type(value) is not str:
        raise FormatError(f"The envelope's {name} is not a string.")
    return value


def _read_signature(value: JsonValue) -> Signature:
    if type(value) is not dict or value.keys() != _SIGNATURE_FIELDS:
        raise FormatError("A signature of an envelope has exactly the fields keyid and sig.")
    return Signature(_text(value["keyid"], "keyid"), _from_base64(value["sig"], "sig"))


def _to_base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def _from_base64(value: JsonValue, name: str) -> bytes:
    text = _text(value, name)
    try:
        data = binascii.a2b_base64(text)
    except ValueError as error:
        raise FormatError(f"The envelope's {name} is not base64: {error}.") from error
    # Decoding skips foreign characters and loose bits before the padding; encoding again shows it.
    if _to_base64(data) != text:
        raise FormatError(f"The envelope's {name} is not base64 in its canonical form.")
    return data
