"""What every reply with arrays is held to, whatever was asked: carrier, size, form, signature, log.

Nothing in a reply is taken on trust, not even its own account of its arrays: their dtypes and
shapes are read from the bodies, and their sizes before anything is made of them.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

import numpy as np
from flwr.app import Array, ArrayRecord, Message

from common import timestamps
from common.audit.checkpoint import NoteKey, open_checkpoint
from common.audit.merkle import leaf_hash, verify_inclusion
from common.bounded_inflation import OVERSIZE_STYPE
from common.canonical_json import JsonValue
from common.envelope import Envelope, verify_envelope
from common.errors import FedprefError, FormatError, VerificationError
from common.keys import Registry
from common.messages import ReceivedArray, parse_message
from common.parameters import ArraySpec
from common.plan import RunPlan
from server.grid_exchange import UNDECODABLE_REPLY

#: A body's bytes beyond its content, and what a message may have of them.
_BODY_HEAD_BYTES = 512
_REASON = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_MAX_REASON_CHARACTERS = 48
_MAX_ENVELOPE_BYTES = 65_535
_MAX_PROOF_NODES = 64
_FLOWER_ERRORS = {
    3: "message-unavailable",
    4: "no-reply",
    5: "node-unavailable",
    UNDECODABLE_REPLY: "undecodable-reply",
}

_MOST_VALUE_BYTES = 8

Record = dict[str, JsonValue]


class ReplyRefusedError(FedprefError):
    """A reply that is not added to anything.

    Args:
        reason: A kebab-case code.
        message: One sentence of our own; never a stranger's text.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def largest_body_bytes(plan: RunPlan) -> int:
    """The most bytes that an array's body may have in any reply of a run.

    A value is released in at most eight bytes, masked or not.

    Args:
        plan: The run plan.
    """
    specs = [spec for each in plan.mechanisms for spec in plan.released_arrays(each.name)]
    return max(math.prod(spec.shape) for spec in specs) * _MOST_VALUE_BYTES + _BODY_HEAD_BYTES


def open_reply(
    reply: Message, node: int, specs: Sequence[ArraySpec], fields: AbstractSet[str]
) -> tuple[Record, dict[str, ReceivedArray]]:
    """Reads a reply that may have no more than certain arrays.

    Args:
        reply: What came back.
        node: The node that was asked.
        specs: The arrays that it may have at most.
        fields: The fields that its header must have.

    Raises:
        ReplyRefusedError: Names the reason; the region's own if it refused.
    """
    if reply.has_error():
        raise ReplyRefusedError(
            flower_reason(reply.error.code), f"Flower reports error {int(reply.error.code)}."
        )
    if reply.metadata.src_node_id != node:
        raise ReplyRefusedError("other-node", "The reply is another node's than was asked.")
    limit = sum(
        math.prod(spec.shape) * np.dtype(spec.dtype).itemsize + _BODY_HEAD_BYTES for spec in specs
    )
    if any(array.stype == OVERSIZE_STYPE for array in _array_records(reply)):
        raise ReplyRefusedError("oversize", "An array inflates to more than any may have.")
    if sum(len(array.data) for array in _array_records(reply)) > limit:
        raise ReplyRefusedError("oversize", f"The arrays have more than {limit} bytes.")
    try:
        header, received = parse_message(reply.content, max_array_bytes=limit)
    except FormatError as error:
        raise ReplyRefusedError("malformed-reply", error.message) from error
    if header.get("status") == "refused":
        raise ReplyRefusedError(region_reason(header), "The region refused the request.")
    if header.get("status") != "ok" or set(header) != fields:
        raise ReplyRefusedError("malformed-reply", "The reply's fields are not a reply's.")
    return header, received


def check_context(header: Mapping[str, JsonValue], expected: Mapping[str, JsonValue]) -> None:
    """Requires that a reply's header states what it is expected to.

    Raises:
        ReplyRefusedError: ``other-`` and the first field that differs.
    """
    for name, value in expected.items():
        # True == 1 in Python; a round is a number.
        if type(header[name]) is not type(value) or header[name] != value:
            raise ReplyRefusedError(f"other-{name}", f"The reply is of another {name}.")


def check_record(record: Mapping[str, JsonValue], expected: Mapping[str, JsonValue]) -> None:
    """Requires that a signed entry states what it is expected to.

    Raises:
        ReplyRefusedError: ``other-`` and the first field that differs.
    """
    for name, value in expected.items():
        if type(record[name]) is not type(value) or record[name] != value:
            code = f"other-{name}".replace("_", "-")
            raise ReplyRefusedError(code, f"The signed entry is of another {name}.")


def check_specs(
    received: Mapping[str, ReceivedArray], specs: Sequence[ArraySpec]
) -> dict[str, np.ndarray]:
    """Requires exactly these arrays, and gives them; their values are not looked at.

    Raises:
        ReplyRefusedError: ``wrong-arrays``, ``wrong-dtype`` or ``wrong-shape``.
    """
    expected = {spec.name: spec for spec in specs}
    if set(received) != set(expected):
        raise ReplyRefusedError("wrong-arrays", "The update has missing or unknown arrays.")
    for name, spec in expected.items():
        if received[name].dtype != spec.dtype:
            raise ReplyRefusedError("wrong-dtype", f"{name} is not of dtype {spec.dtype}.")
        if received[name].shape != tuple(spec.shape):
            raise ReplyRefusedError("wrong-shape", f"{name} is not of shape {spec.shape}.")
    return {name: received[name].to_numpy() for name in sorted(expected)}


def open_entry(
    entry: bytes,
    region: str,
    registry: Registry,
    *,
    kind: str,
    fields: AbstractSet[str],
    now_ms: int,
) -> Record:
    """Reads a signed log entry of a region's.

    Args:
        entry: The envelope.
        region: Whose ``trainer`` key must have signed it, valid now.
        registry: The verified key registry.
        kind: The record's kind.
        fields: The fields that it must have.
        now_ms: Now, in milliseconds since the epoch.

    Raises:
        ReplyRefusedError: ``wrong-signer`` or ``malformed-entry``.
    """
    keys = {key.key_id: key.public_key for key in registry.keys_of(region, "trainer")}
    try:
        envelope = Envelope.decode(entry, max_bytes=_MAX_ENVELOPE_BYTES)
        for key_id in verify_envelope(envelope, keys):
            registry.find(key_id, party=region, role="trainer", at_ms=now_ms)
        record = envelope.record()
    except VerificationError as error:
        raise ReplyRefusedError(
            "wrong-signer", f"{region} did not sign the {kind} entry."
        ) from error
    except FormatError as error:
        raise ReplyRefusedError("malformed-entry", f"The {kind} entry cannot be read.") from error
    if envelope.kind != kind or set(record) != fields:
        raise ReplyRefusedError("malformed-entry", f"The signed entry is no {kind} entry.")
    return record


def check_logged(
    header: Mapping[str, JsonValue], entry: bytes, region: str, origin: str, registry: Registry
) -> None:
    """Requires a proof that an entry is in its region's log.

    Args:
        header: The reply's header: ``leaf_index``, ``checkpoint``, ``inclusion_proof``.
        entry: The entry.
        region: The region.
        origin: Its log's origin.
        registry: The verified key registry.

    Raises:
        ReplyRefusedError: ``not-logged`` or ``malformed-reply``.
    """
    index, note, proof = header["leaf_index"], header["checkpoint"], header["inclusion_proof"]
    if type(index) is not int or not isinstance(note, str) or not isinstance(proof, list):
        raise ReplyRefusedError("malformed-reply", "The proof of logging is malformed.")
    if len(proof) > _MAX_PROOF_NODES:
        raise ReplyRefusedError("malformed-reply", "The proof of logging is too long.")
    failure: FedprefError | None = None
    now = timestamps.now_ms()
    for key in registry.keys_of(region, "log"):
        try:
            registry.find(key.key_id, party=region, role="log", at_ms=now)
            signed = open_checkpoint(note.encode(), NoteKey(origin, key.public_key))
            nodes = [bytes.fromhex(str(node)) for node in proof]
            head = signed.checkpoint
            verify_inclusion(leaf_hash(entry), index, head.size, nodes, head.root)
        except (FedprefError, ValueError) as error:
            failure = error if isinstance(error, FedprefError) else FormatError(str(error))
        else:
            return
    raise ReplyRefusedError(
        "not-logged", f"No checkpoint of {origin} proves that the entry is in its log."
    ) from failure


def decode_base64(value: JsonValue) -> bytes:
    """The bytes of a field.

    Raises:
        ReplyRefusedError: It is not base64.
    """
    try:
        return base64.b64decode(str(value), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ReplyRefusedError("malformed-entry", "A signed entry cannot be read.") from error


def flower_reason(code: int) -> str:
    """The reason code for an error that Flower reports in a node's place."""
    return _FLOWER_ERRORS.get(code, "node-error")


def region_reason(header: Mapping[str, JsonValue]) -> str:
    """The region's own reason if it has the form of one; it is printed and logged."""
    reason = header.get("reason")
    if not isinstance(reason, str) or len(reason) > _MAX_REASON_CHARACTERS:
        return "refused"
    return reason if _REASON.fullmatch(reason) else "refused"


def _array_records(reply: Message) -> list[Array]:
    # Not by `array_records`: Flower's view of them is a cycle, which keeps a reply as large as the
    # model till Python looks for cycles.
    return [
        array
        for record in reply.content.values()
        if isinstance(record, ArrayRecord)
        for array in record.values()
    ]
