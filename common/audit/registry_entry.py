"""What a log has of the key registry: a version's own bytes, or the digest of a longer one.

A log entry is at most 65,535 bytes (C2SP tiles), which a registry of some 25 regions' keys exceeds.
Such a version is logged by its digest; the version itself, root-signed, is in every home and in
every bundle's folder ``registry``, where the digest tells it from any other.
"""

from __future__ import annotations

import hashlib

from common.audit.entry import MAX_ENTRY_BYTES, make_entry
from common.envelope import Envelope
from common.errors import FormatError
from common.keys import MAX_REGISTRY_BYTES, Signer

KIND = "keys-digest"
VERSION = f"fedpref-{KIND}/1"
# Stands in plain in every envelope of the kind, whatever else does.
_PAYLOAD_TYPE = f"vnd.fedpref.{KIND}".encode()


def registry_entry(version: bytes, signer: Signer) -> bytes:
    """The entry that a log has of a registry version.

    Args:
        version: The version's envelope.
        signer: The log's party's key of the role ``trainer``, for the coordinator ``aggregator``.

    Raises:
        FormatError: It is no version of a key registry.
    """
    if len(version) <= MAX_ENTRY_BYTES:
        return version
    record = Envelope.decode(version, max_bytes=MAX_REGISTRY_BYTES).record()
    number = record.get("registry_version")
    if type(number) is not int:
        raise FormatError("The registry has no version number.")
    stated: dict[str, str | int] = {
        "v": VERSION,
        "registry_version": number,
        "sha256": hashlib.sha256(version).hexdigest(),
    }
    return make_entry({**stated}, signer)


def named_registry(entry: bytes) -> str | None:
    """The SHA-256, in hex, of the version that an entry states by digest; None for other entries.

    Its signature is not verified.

    Raises:
        FormatError: The entry is malformed.
    """
    if _PAYLOAD_TYPE not in entry:
        return None
    envelope = Envelope.decode(entry, max_bytes=MAX_ENTRY_BYTES)
    return str(envelope.record().get("sha256")) if envelope.kind == KIND else None
