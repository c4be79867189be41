"""What a region's reply must be before it is added to anything.

A reply is judged against what was asked, the plan and the key registry. Nothing in it is taken on
trust, not even its own account of its arrays: dtypes and shapes are read from the bodies. What
passes is a `ValidatedUpdate`, the only thing that aggregation accepts.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, Message

from common.audit.checkpoint import NoteKey, open_checkpoint
from common.audit.merkle import leaf_hash, verify_inclusion
from common.canonical_json import JsonValue
from common.envelope import Envelope, verify_envelope
from common.errors import FedprefError, FormatError, VerificationError
from common.keys import Registry
from common.messages import ReceivedArray, parse_message
from common.parameters import arrays_digest, check_arrays, measure_floats
from common.plan import Mechanism, RunPlan
from common.release_bounds import release_norm_bound
from common.timestamps import now_ms
from server.audit_trail import UsedRound
from server.grid_exchange import OVERSIZE_STYPE, UNDECODABLE_REPLY

#: A body's bytes beyond its content, and what a message may have of them.
_BODY_HEAD_BYTES = 512
_REASON = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_MAX_REASON_CHARACTERS = 48
_MAX_ENVELOPE_BYTES = 65_535
_MAX_PROOF_NODES = 64

_REPLY_FIELDS = {
    "status",
    "run",
    "round",
    "attempt",
    "region",
    "mechanism",
    "update",
    "round_entry",
    "leaf_index",
    "checkpoint",
    "inclusion_proof",
}
_ROUND_FIELDS = {
    "v",
    "run",
    "round",
    "attempt",
    "region",
    "mechanism",
    "prev_round",
    "consent",
    "train",
    "model_in",
    "update",
    "app",
    "engine",
    "deps",
    "plan",
    "permit_id",
    "charge_id",
    "dp",
    "start",
    "end",
    "attestation",
}
_FLOWER_ERRORS = {
    3: "message-unavailable",
    4: "no-reply",
    5: "node-unavailable",
    UNDECODABLE_REPLY: "undecodable-reply",
}
#: Nobody answered: asking once more may help.
MISSING_REASONS = frozenset({"message-unavailable", "no-node", "no-reply", "node-unavailable"})
#: The region lacks a fresh, cosigned checkpoint, as it does when its engine was restarted.
NOT_WITNESSED = "not-witnessed"
#: The carrier is not the region, whatever it says.
IMPOSTOR_REASONS = frozenset({"other-node", "other-region", "wrong-signer"})


class ReplyRefusedError(FedprefError):
    """A reply that is not added to anything.

    Args:
        reason: A kebab-case code.
        message: One sentence of our own; never a stranger's text.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Question:
    """What a region was asked, and the plan says about it.

    Attributes:
        region: The region.
        node: The node that was asked.
        server_round: The round.
        attempt: The attempt.
        mechanism: The round's mechanism.
        model_in: Digest of the model that was sent.
    """

    region: str
    node: int
    server_round: int
    attempt: int
    mechanism: Mechanism
    model_in: str


@dataclass(frozen=True)
class ValidatedUpdate:
    """A region's update that passed every check.

    Attributes:
        used: How the aggregate entry names it.
        arrays: What the region released.
    """

    used: UsedRound
    arrays: Mapping[str, np.ndarray]


class ReplyValidator:
    """Judges replies for one run.

    Args:
        plan: The run plan.
        registry: The verified key registry.
    """

    def __init__(self, plan: RunPlan, registry: Registry) -> None:
        self._plan = plan
        self._registry = registry

    def validate(self, reply: Message, question: Question, *, now_ms: int) -> ValidatedUpdate:
        """Judges one reply.

        Args:
            reply: What came back.
            question: What was asked.
            now_ms: Now, in milliseconds since the epoch: the region's key must be valid now.

        Raises:
            ReplyRefusedError: Names the reason.
        """
        header, received = self._open(reply, question)
        _check_context(header, self._expected_context(question))
        arrays = self._check_arrays(received, question.mechanism)
        update = arrays_digest(arrays)
        if header["update"] != update:
            raise ReplyRefusedError("wrong-digest", "The update is not what its digest states.")
        entry = _decode_base64(header["round_entry"])
        record = self._open_round_entry(entry, question, now_ms)
        _check_round(record, self._expected_round(question, update))
        self._check_noise(record["dp"], question.mechanism)
        self._check_logged(header, entry, question.region)
        used = UsedRound(
            region=question.region,
            origin=self._origin(question.region),
            round_entry=leaf_hash(entry).hex(),
            update=update,
        )
        return ValidatedUpdate(used=used, arrays=arrays)

    def _open(
        self, reply: Message, question: Question
    ) -> tuple[dict[str, JsonValue], dict[str, ReceivedArray]]:
        if reply.has_error():
            raise ReplyRefusedError(
                flower_reason(reply.error.code), f"Flower reports error {int(reply.error.code)}."
            )
        if reply.metadata.src_node_id != question.node:
            raise ReplyRefusedError("other-node", "The reply is another node's than was asked.")
        specs = self._plan.released_arrays(question.mechanism.name)
        limit = sum(
            math.prod(spec.shape) * np.dtype(spec.dtype).itemsize + _BODY_HEAD_BYTES
            for spec in specs
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
        if header.get("status") != "ok" or set(header) != _REPLY_FIELDS:
            raise ReplyRefusedError("malformed-reply", "The reply's fields are not a reply's.")
        return header, received

    def _expected_context(self, question: Question) -> dict[str, JsonValue]:
        return {
            "run": self._plan.run_id,
            "round": question.server_round,
            "attempt": question.attempt,
            "region": question.region,
            "mechanism": question.mechanism.name,
        }

    def _expected_round(self, question: Question, update: str) -> dict[str, JsonValue]:
        return {
            **self._expected_context(question),
            "plan": self._plan.digest,
            "model_in": question.model_in,
            "update": update,
        }

    def _check_arrays(
        self, received: Mapping[str, ReceivedArray], mechanism: Mechanism
    ) -> dict[str, np.ndarray]:
        specs = {spec.name: spec for spec in self._plan.released_arrays(mechanism.name)}
        if set(received) != set(specs):
            raise ReplyRefusedError("wrong-arrays", "The update has missing or unknown arrays.")
        for name, spec in specs.items():
            if received[name].dtype != spec.dtype:
                raise ReplyRefusedError("wrong-dtype", f"{name} is not of dtype {spec.dtype}.")
            if received[name].shape != tuple(spec.shape):
                raise ReplyRefusedError("wrong-shape", f"{name} is not of shape {spec.shape}.")
        arrays = {name: received[name].to_numpy() for name in sorted(specs)}
        self._check_values(arrays, mechanism)
        return arrays

    def _check_values(self, arrays: Mapping[str, np.ndarray], mechanism: Mechanism) -> None:
        bound = release_norm_bound(self._plan, mechanism)
        for name, array in arrays.items():
            found = measure_floats(array, mechanism.grid_exponent)
            if not found.finite:
                raise ReplyRefusedError("not-finite", f"{name} has values that are not finite.")
            # Written so that a norm that is no number does not pass.
            if not found.norm <= bound:
                raise ReplyRefusedError("norm-too-large", f"{name} is over the public norm bound.")
            if not found.on_grid:
                raise ReplyRefusedError("off-grid", f"{name} has values off the public grid.")
        try:
            check_arrays(
                arrays,
                self._plan.released_arrays(mechanism.name),
                grid_exponent=mechanism.grid_exponent,
                max_norm=bound,
            )
        except FormatError as error:
            raise ReplyRefusedError("without-noise", error.message) from error

    def _open_round_entry(
        self, entry: bytes, question: Question, now_ms: int
    ) -> dict[str, JsonValue]:
        keys = {
            key.key_id: key.public_key for key in self._registry.keys_of(question.region, "trainer")
        }
        try:
            envelope = Envelope.decode(entry, max_bytes=_MAX_ENVELOPE_BYTES)
            for key_id in verify_envelope(envelope, keys):
                self._registry.find(key_id, party=question.region, role="trainer", at_ms=now_ms)
            record = envelope.record()
        except VerificationError as error:
            raise ReplyRefusedError(
                "wrong-signer", f"{question.region} did not sign the round entry."
            ) from error
        except FormatError as error:
            raise ReplyRefusedError("malformed-entry", "The round entry cannot be read.") from error
        if envelope.kind != "round" or set(record) != _ROUND_FIELDS:
            raise ReplyRefusedError("malformed-entry", "The signed entry is no round entry.")
        return record

    def _check_noise(self, dp: JsonValue, mechanism: Mechanism) -> None:
        stated = {
            "noise_multiplier": mechanism.noise_multiplier,
            "clipping_norm": mechanism.clipping_norm,
            "sampling_probability": mechanism.sampling_probability,
            "mode": self._plan.mode,
        }
        if not isinstance(dp, dict) or any(dp.get(name) != stated[name] for name in stated):
            raise ReplyRefusedError("other-noise", "The round entry states another noise.")

    def _check_logged(self, header: dict[str, JsonValue], entry: bytes, region: str) -> None:
        index, note, proof = header["leaf_index"], header["checkpoint"], header["inclusion_proof"]
        if type(index) is not int or not isinstance(note, str) or not isinstance(proof, list):
            raise ReplyRefusedError("malformed-reply", "The proof of logging is malformed.")
        if len(proof) > _MAX_PROOF_NODES:
            raise ReplyRefusedError("malformed-reply", "The proof of logging is too long.")
        origin = self._origin(region)
        failure: FedprefError | None = None
        now = now_ms()
        for key in self._registry.keys_of(region, "log"):
            try:
                self._registry.find(key.key_id, party=region, role="log", at_ms=now)
                signed = open_checkpoint(note.encode(), NoteKey(origin, key.public_key))
                nodes = [bytes.fromhex(str(node)) for node in proof]
                head = signed.checkpoint
                verify_inclusion(leaf_hash(entry), index, head.size, nodes, head.root)
            except (FedprefError, ValueError) as error:
                failure = error if isinstance(error, FedprefError) else FormatError(str(error))
            else:
                return
        raise ReplyRefusedError(
            "not-logged", f"No checkpoint of {origin} proves that the round is in its log."
        ) from failure

    def _origin(self, region: str) -> str:
        return f"{self._plan.federation}/{region}"


def _check_context(header: dict[str, JsonValue], expected: dict[str, JsonValue]) -> None:
    for name, value in expected.items():
        # True == 1 in Python; a round is a number.
        if type(header[name]) is not type(value) or header[name] != value:
            raise ReplyRefusedError(f"other-{name}", f"The reply is of another {name}.")


def _check_round(record: dict[str, JsonValue], expected: dict[str, JsonValue]) -> None:
    for name, value in expected.items():
        if type(record[name]) is not type(value) or record[name] != value:
            code = f"other-{name}".replace("_", "-")
            raise ReplyRefusedError(code, f"The signed round entry is of another {name}.")


def _decode_base64(value: JsonValue) -> bytes:
    try:
        return base64.b64decode(str(value), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ReplyRefusedError("malformed-entry", "The round entry cannot be read.") from error


def _array_records(reply: Message) -> list[Array]:
    return [array for record in reply.content.array_records.values() for array in record.values()]


def flower_reason(code: int) -> str:
    """The reason code for an error that Flower reports in a node's place."""
    return _FLOWER_ERRORS.get(code, "node-error")


def region_reason(header: Mapping[str, JsonValue]) -> str:
    """The region's own reason if it has the form of one; it is printed and logged."""
    reason = header.get("reason")
    if not isinstance(reason, str) or len(reason) > _MAX_REASON_CHARACTERS:
        return "refused"
    return reason if _REASON.fullmatch(reason) else "refused"
