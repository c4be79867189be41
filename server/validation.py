"""What a region's reply must be before it is added to anything.

A reply is judged against what was asked, the plan and the key registry. Nothing in it is taken on
trust, not even its own account of its arrays: dtypes and shapes are read from the bodies. What
passes is a `ValidatedUpdate`, the only thing that aggregation accepts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Message

from common.audit.merkle import leaf_hash
from common.canonical_json import JsonValue
from common.errors import FormatError
from common.keys import Registry
from common.parameters import arrays_digest, measure_floats
from common.plan import Mechanism, RunPlan
from common.planned_keys import check_release, keys_of
from common.release_bounds import release_norm_bound
from common.secure_aggregation import RoundContext
from common.validate import DECIMAL, is_power_of_two_interval
from server.audit_trail import UsedRound
from server.mask_replies import MAX_CLAIMED_ATTEMPT, MaskOffer, read_offer
from server.reply_checks import (
    ReplyRefusedError,
    check_context,
    check_logged,
    check_record,
    check_specs,
    decode_base64,
    open_entry,
    open_reply,
)

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
#: What a reply has in the update's place where only the sum is to be seen.
_OFFER_FIELDS = {"masking_key", "masked"}
#: The same where each region's noise is only a share.
_SHARED_FIELDS = {"attempted"}
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
#: Nobody answered: asking once more may help.
MISSING_REASONS = frozenset({"message-unavailable", "no-node", "no-reply", "node-unavailable"})
#: The region's relay answers, and its engine is down: it may be just starting. Or it is at another
#: run's work, and will have time.
ENGINE_UNREACHABLE, ENGINE_BUSY = "engine-unreachable", "engine-busy"
#: The region lacks a fresh, cosigned checkpoint, as it does when its engine was restarted.
NOT_WITNESSED = "not-witnessed"
#: The carrier is not the region, whatever it says.
IMPOSTOR_REASONS = frozenset({"other-node", "other-region", "wrong-signer"})


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
        arrays: What the region released; nothing where only the sum is to be seen.
        offer: What a secure sum has in their place.
        attempted: With distributed noise, how many executions of the round the region has begun.
        customers: How many customers it says it is of, as a power-of-two interval; for display.
        epsilon_total: What it says its customers have spent this year, a decimal; for display.
    """

    used: UsedRound
    arrays: Mapping[str, np.ndarray]
    offer: MaskOffer | None = None
    attempted: int = 0
    customers: str | None = None
    epsilon_total: str | None = None


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
        confidential = self._plan.aggregation.name == "confidential"
        shared = self._plan.mode == "distributed"
        # Where only the sum is to be seen, an update must not come along.
        specs = () if confidential else self._plan.released_arrays(question.mechanism.name)
        offered = _SHARED_FIELDS if shared else _OFFER_FIELDS
        fields = _REPLY_FIELDS | (offered if confidential else set())
        header, received = open_reply(reply, question.node, specs, fields)
        check_context(header, self._expected_context(question))
        arrays = check_specs(received, specs)
        if not confidential:
            self._check_values(arrays, question.mechanism)
        # Of an update that is not to be seen the region's signature vouches for the digest.
        update = header["update"] if confidential else arrays_digest(arrays)
        if header["update"] != update or not isinstance(update, str):
            raise ReplyRefusedError("wrong-digest", "The update is not what its digest states.")
        entry = decode_base64(header["round_entry"])
        record = open_entry(
            entry,
            question.region,
            self._registry,
            kind="round",
            fields=_ROUND_FIELDS,
            now_ms=now_ms,
        )
        check_record(record, self._expected_round(question, update))
        self._check_noise(record["dp"], question.mechanism)
        origin = f"{self._plan.federation}/{question.region}"
        check_logged(header, entry, question.region, origin, self._registry)
        used = UsedRound(
            region=question.region,
            round_entry=leaf_hash(entry).hex(),
            update=update,
        )
        return ValidatedUpdate(
            used=used,
            arrays=arrays,
            offer=self._read_offer(header, question, used, now_ms)
            if confidential and not shared
            else None,
            attempted=_attempted(header["attempted"]) if shared else 0,
            customers=_customers(record["train"]),
            epsilon_total=_epsilon_total(record["dp"]),
        )

    def _expected_context(self, question: Question) -> dict[str, JsonValue]:
        return {
            "run": self._plan.run_id,
            "round": question.server_round,
            "attempt": question.attempt,
            "region": question.region,
            "mechanism": question.mechanism.name,
        }

    def _read_offer(
        self, header: dict[str, JsonValue], question: Question, used: UsedRound, now_ms: int
    ) -> MaskOffer:
        context = RoundContext.of(self._plan, question.server_round, question.model_in)
        return read_offer(
            header, context, used.region, used.round_entry, self._registry, now_ms=now_ms
        )

    def _expected_round(self, question: Question, update: str) -> dict[str, JsonValue]:
        expected = {
            **self._expected_context(question),
            "plan": self._plan.digest,
            "model_in": question.model_in,
            "update": update,
        }
        if self._plan.mode == "distributed":
            # Which attempt it made the update in is the region's to say: it has charged each.
            del expected["attempt"]
        return expected

    def _check_values(self, arrays: Mapping[str, np.ndarray], mechanism: Mechanism) -> None:
        bound, square = release_norm_bound(self._plan, mechanism), 0.0
        for name, array in arrays.items():
            if array.dtype.kind != "f":
                continue  # Keys' texts have no norm: they are held to their own form below.
            found = measure_floats(array, mechanism.grid_exponent)
            if not found.finite:
                raise ReplyRefusedError("not-finite", f"{name} has values that are not finite.")
            square += found.norm**2
            if not found.on_grid:
                raise ReplyRefusedError("off-grid", f"{name} has values off the public grid.")
        # The bound is on all of them together. Written so that what is no number does not pass.
        if not square <= bound**2:
            raise ReplyRefusedError("norm-too-large", "The update is over the public norm bound.")
        try:
            check_release(arrays, self._plan, mechanism, max_norm=bound)
        except FormatError as error:
            keys = keys_of(self._plan, mechanism) is not None
            reason = "wrong-arrays" if keys else "without-noise"
            raise ReplyRefusedError(reason, error.message) from error

    def _check_noise(self, dp: JsonValue, mechanism: Mechanism) -> None:
        stated: dict[str, JsonValue] = {
            "noise_multiplier": mechanism.noise_multiplier,
            "clipping_norm": mechanism.clipping_norm,
            "sampling_probability": mechanism.sampling_probability,
            "mode": self._plan.mode,
            "honest_survivors_min": self._plan.aggregation.honest_survivors_min,
            "key_delta": mechanism.stated_key_delta.get("key_delta"),
        }
        if self._plan.mode == "distributed":
            stated["share_stddev"] = self._plan.shared_noise(mechanism).share.text
        if not isinstance(dp, dict) or any(dp.get(name) != stated[name] for name in stated):
            raise ReplyRefusedError("other-noise", "The round entry states another noise.")


def _customers(train: JsonValue) -> str | None:
    """The stated interval; whatever else a region says there is not repeated."""
    stated = train.get("n_bucket") if isinstance(train, dict) else None
    return stated if isinstance(stated, str) and is_power_of_two_interval(stated) else None


def _epsilon_total(dp: JsonValue) -> str | None:
    stated = dp.get("epsilon_total") if isinstance(dp, dict) else None
    return stated if isinstance(stated, str) and DECIMAL.fullmatch(stated) else None


def _attempted(value: JsonValue) -> int:
    if type(value) is not int or not 0 <= value <= MAX_CLAIMED_ATTEMPT:
        raise ReplyRefusedError("malformed-reply", "It says it has begun more than is possible.")
    return value
