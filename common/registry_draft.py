"""The draft of a key registry's next version: a file that travels between offline machines.

A draft (``fedpref-registry-draft/1``) has all that an officer needs to judge it alone: the versions
so far, the record of the next one, the request of every key it adds, and the signatures made until
then. `common.registry_changes` makes, checks, signs and finishes drafts.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from common import canonical_json
from common.canonical_json import JsonValue
from common.envelope import Envelope, Signature, pae
from common.errors import FormatError
from common.validate import array, exact_fields, sha256_hex

_VERSION = "fedpref-registry-draft/1"
_PAYLOAD_TYPE = "application/vnd.fedpref.keys+json"
_FIELDS = frozenset({"v", "chain", "record", "requests", "signatures"})
_SIGNATURE_FIELDS = frozenset({"keyid", "sig"})
#: A chain of some hundred versions.
MAX_DRAFT_BYTES = 32 << 20


@dataclass(frozen=True)
class Draft:
    """The next version of a registry, before enough officers have signed it.

    Attributes:
        chain: The envelopes of the versions so far, oldest first; empty for version 1.
        record: What is to be signed.
        requests: The requests of the keys that it adds.
        signatures: Those made so far.
    """

    chain: tuple[bytes, ...]
    record: dict[str, JsonValue]
    requests: tuple[bytes, ...]
    signatures: tuple[Signature, ...] = ()

    def encode(self) -> bytes:
        """The draft's file."""
        return canonical_json.encode(
            {
                "v": _VERSION,
                "chain": [_base64(data) for data in self.chain],
                "record": self.record,
                "requests": [_base64(data) for data in self.requests],
                "signatures": [
                    {"keyid": item.key_id, "sig": _base64(item.signature)}
                    for item in self.signatures
                ],
            },
            max_bytes=MAX_DRAFT_BYTES,
        )

    @classmethod
    def decode(cls, data: bytes) -> Draft:
        """Reads a draft's file; `check_draft` judges what it says.

        Raises:
            FormatError: It is malformed.
        """
        value = canonical_json.decode(data, max_bytes=MAX_DRAFT_BYTES)
        fields = exact_fields(value, _FIELDS, "A registry draft")
        record = fields["record"]
        if fields["v"] != _VERSION or not isinstance(record, dict):
            raise FormatError(f"The file is not a registry draft ({_VERSION}).")
        return cls(
            chain=tuple(_unbase64(item, "chain") for item in array(fields["chain"], "chain")),
            record=record,
            requests=tuple(
                _unbase64(item, "requests") for item in array(fields["requests"], "requests")
            ),
            signatures=tuple(
                _signature(item) for item in array(fields["signatures"], "signatures")
            ),
        )

    @property
    def message(self) -> bytes:
        """What officers sign."""
        return pae(_PAYLOAD_TYPE, canonical_json.encode(self.record))

    def envelope(self, signatures: tuple[Signature, ...]) -> Envelope:
        """The version's envelope with some signatures."""
        return Envelope(_PAYLOAD_TYPE, canonical_json.encode(self.record), signatures)


def _signature(value: JsonValue) -> Signature:
    fields = exact_fields(value, _SIGNATURE_FIELDS, "A signature of a draft")
    return Signature(sha256_hex(fields["keyid"], "keyid"), _unbase64(fields["sig"], "sig"))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _unbase64(value: JsonValue, where: str) -> bytes:
    if not isinstance(value, str):
        raise FormatError(f"{where} of the draft is no text.")
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError(f"{where} of the draft is not base64.") from error
    if _base64(data) != value:
        raise FormatError(f"The base64 of {where} of the draft is not in its one canonical form.")
    return data
