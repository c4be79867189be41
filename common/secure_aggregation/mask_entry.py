"""A mask entry on its way: what only its region knows of it, and the signature.

The coordinator knows the rest, the roster above all, which is most of it. It puts the entry's bytes
together again; the signature and the place in the log hold for these bytes or for none.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

from common import canonical_json
from common.audit.entry import MAX_ENTRY_BYTES
from common.canonical_json import JsonValue
from common.envelope import Envelope, Signature
from common.errors import FormatError
from common.validate import DECIMAL, exact_fields, matching, timestamp

KIND = "mask"
_PAYLOAD_TYPE = f"application/vnd.fedpref.{KIND}+json"
_OWN_FIELDS = ("norm_bound", "time")


def entry_parts(entry: bytes) -> dict[str, JsonValue]:
    """What travels of a signed mask entry.

    Args:
        entry: The entry, with one signature.
    """
    envelope = Envelope.decode(entry)
    (signature,) = envelope.signatures
    record = envelope.record()
    return {
        **{name: record[name] for name in _OWN_FIELDS},
        "key_id": signature.key_id,
        "signature": base64.b64encode(signature.signature).decode(),
    }


def whole_entry(known: Mapping[str, JsonValue], parts: JsonValue) -> bytes:
    """The entry that its parts are of, if the region has logged what the reader expects.

    Args:
        known: All of its fields but those that only the region knows.
        parts: What travelled.

    Raises:
        FormatError: They are not what `entry_parts` makes.
    """
    fields = exact_fields(parts, {*_OWN_FIELDS, "key_id", "signature"}, "A mask entry's part")
    record = {
        **known,
        "norm_bound": matching(fields["norm_bound"], DECIMAL, "norm_bound", "a decimal number"),
        "time": timestamp(fields["time"], "time")[0],
    }
    key_id, signature = fields["key_id"], fields["signature"]
    if not isinstance(key_id, str) or not isinstance(signature, str):
        raise FormatError("A mask entry's signature is malformed.")
    try:
        raw = base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError("A mask entry's signature is not base64.") from error
    payload = canonical_json.encode(record, max_bytes=MAX_ENTRY_BYTES)
    return Envelope(_PAYLOAD_TYPE, payload, (Signature(key_id, raw),)).encode(MAX_ENTRY_BYTES)
