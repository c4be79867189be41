"""The log entries of one round, as records: charge, round and release; and of an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from client.engine.charges import Charge
from client.engine.permit import Permit
from client.engine.policy import RegionPolicy
from client.engine.preparation import ConsentSnapshot
from client.engine.queries import Query, QueryPart
from client.engine.request import TrainRequest
from client.engine.spending import Spending
from common.canonical_json import JsonValue
from common.parameters import array_specs, arrays_digest
from common.plan import Mechanism, RunPlan
from common.privacy import NEIGHBORING_RELATION, PRIVACY_UNIT
from common.secure_aggregation import Roster
from common.timestamps import format_time

ACCOUNTANT = "dp-accounting PLD"


@dataclass(frozen=True)
class RoundContext:
    """All that a round's entries state; ``delta`` is the ledger's δ, which every ε is at."""

    request: TrainRequest
    permit: Permit
    mechanism: Mechanism
    charge: Charge
    spending: Spending
    delta: str
    snapshot: ConsentSnapshot
    origin: str
    region: str
    prev_round: str | None
    model_in: str
    update: Mapping[str, np.ndarray]
    start_ms: int
    end_ms: int


@dataclass(frozen=True)
class MaskedUpdate:
    """What leaves for a secure sum, and what of it is logged.

    Attributes:
        run: The run.
        server_round: The round.
        attempt: The attempt.
        region: The region.
        roster: Whose updates the sum is of.
        roster_digest: What stands for the roster.
        arrays: The sealed update under its masks, as int32.
        norm_bound: What the region has held the update's norm to, a decimal string; in a secure
            sum nobody else can see it.
    """

    run: str
    server_round: int
    attempt: int
    region: str
    roster: Roster
    roster_digest: str
    arrays: Mapping[str, np.ndarray]
    norm_bound: str


def format_epsilon(value: float) -> str:
    """ε as the log writes it: rounded up to six decimals, so that it never understates."""
    return f"{value + 0.5e-6:.6f}"


def charge_record(
    charge: Charge,
    spending: Spending,
    region: str,
    policy: RegionPolicy,
    *,
    honest_survivors_min: int,
) -> dict[str, JsonValue]:
    """A ``fedpref-charge/1`` record.

    Args:
        charge: The charge.
        spending: The odometer's reading after it.
        region: The region.
        policy: The policy in force.
        honest_survivors_min: With how many honest regions' shares of noise in a sum what is charged
            holds; 0 if the region's own noise is all of it.
    """
    request = charge.request
    return {
        "v": "fedpref-charge/1",
        "charge_id": request.charge_id,
        "run": request.run,
        "model": request.model,
        "purpose": request.purpose,
        "region": region,
        "round": request.server_round,
        "attempt": request.attempt,
        "mechanism": request.mechanism,
        "noise_multiplier": request.noise_multiplier,
        "clipping_norm": request.clipping_norm,
        "sampling_probability": request.sampling_probability,
        "steps": request.steps,
        "honest_survivors_min": honest_survivors_min,
        "neighboring_relation": NEIGHBORING_RELATION,
        "privacy_unit": PRIVACY_UNIT,
        "delta": policy.delta_max,
        "epsilon_run": format_epsilon(spending.run),
        "epsilon_total": format_epsilon(spending.year),
        "epsilon_cap": policy.epsilon_cap_per_year,
        "ledger_seq": charge.seq,
        "ledger_head": charge.head,
        "permit_id": request.permit_id,
        "time": request.time,
        **request.stated_key_delta,
    }


def round_record(context: RoundContext) -> dict[str, JsonValue]:
    """A ``fedpref-round/1`` record."""
    request, mechanism, code = context.request, context.mechanism, context.permit.code
    return {
        "v": "fedpref-round/1",
        "run": request.run,
        "round": request.server_round,
        "attempt": request.attempt,
        "region": context.region,
        "mechanism": mechanism.name,
        "prev_round": context.prev_round,
        "consent": {
            "origin": context.origin,
            "size": context.snapshot.consent_size,
            "root": context.snapshot.consent_root,
        },
        "train": {
            "root": context.snapshot.train_root,
            "nonce": context.snapshot.nonce,
            "n_bucket": context.snapshot.size_bucket,
            "at": format_time(context.snapshot.at_ms),
        },
        "model_in": context.model_in,
        "update": arrays_digest(context.update),
        "app": code.app,
        "engine": code.engine,
        "deps": code.deps,
        "plan": request.plan,
        "permit_id": context.permit.permit_id,
        "charge_id": context.charge.request.charge_id,
        "dp": {
            "noise_multiplier": mechanism.noise_multiplier,
            "clipping_norm": mechanism.clipping_norm,
            "sampling_probability": mechanism.sampling_probability,
            "steps": context.charge.request.steps,
            "accountant": ACCOUNTANT,
            "epsilon_total": format_epsilon(context.spending.year),
            "delta": context.delta,
            "mode": context.permit.plan.mode,
            "honest_survivors_min": context.permit.plan.aggregation.honest_survivors_min,
            "share_stddev": _share_stddev(context.permit.plan, mechanism),
            **mechanism.stated_key_delta,
        },
        "start": format_time(context.start_ms),
        "end": format_time(context.end_ms),
        "attestation": None,
    }


@dataclass(frozen=True)
class AnswerContext:
    """All that an answer's entry states; ``delta`` is the ledger's δ, which every ε is at."""

    query: Query
    part: QueryPart
    charge: Charge
    spending: Spending
    delta: str
    snapshot: ConsentSnapshot
    origin: str
    arrays: Mapping[str, np.ndarray]
    start_ms: int
    end_ms: int


def answer_record(context: AnswerContext) -> dict[str, JsonValue]:
    """A ``fedpref-answer/1`` record: one part of a query, answered."""
    query, part, charge = context.query, context.part, context.charge.request
    return {
        "v": "fedpref-answer/1",
        "run": query.run,
        "round": part.number,
        "attempt": charge.attempt,
        "region": query.region,
        "mechanism": part.name,
        "consent": {
            "origin": context.origin,
            "size": context.snapshot.consent_size,
            "root": context.snapshot.consent_root,
        },
        "included": {
            "root": context.snapshot.train_root,
            "nonce": context.snapshot.nonce,
            "n_bucket": context.snapshot.size_bucket,
            "at": format_time(context.snapshot.at_ms),
        },
        "catalogue": query.catalogue,
        "engine": query.engine,
        "deps": query.deps,
        "permit_id": query.permit_id,
        "charge_id": charge.charge_id,
        "values": arrays_digest(context.arrays),
        "arrays": _array_records(context.arrays),
        "bytes": sum(array.nbytes for array in context.arrays.values()),
        "grid_exponent": part.grid_exponent,
        "dp": {
            "noise_multiplier": charge.noise_multiplier,
            "clipping_norm": charge.clipping_norm,
            "sampling_probability": charge.sampling_probability,
            "steps": charge.steps,
            "accountant": ACCOUNTANT,
            "epsilon_total": format_epsilon(context.spending.year),
            "delta": context.delta,
            "mode": "local",
            "honest_survivors_min": 0,
            "share_stddev": None,
        },
        "start": format_time(context.start_ms),
        "end": format_time(context.end_ms),
    }


def _share_stddev(plan: RunPlan, mechanism: Mechanism) -> str | None:
    """With distributed noise, what the region added to each value, in grid units; exact."""
    if plan.mode != "distributed":
        return None
    return plan.shared_noise(mechanism).share.text


def release_record(context: RoundContext) -> dict[str, JsonValue]:
    """A ``fedpref-release/1`` record: what leaves, to the byte."""
    return {
        "v": "fedpref-release/1",
        "run": context.request.run,
        "round": context.request.server_round,
        "attempt": context.request.attempt,
        "region": context.region,
        "charge_id": context.charge.request.charge_id,
        "update": arrays_digest(context.update),
        "arrays": _array_records(context.update),
        "bytes": sum(array.nbytes for array in context.update.values()),
        "grid_exponent": context.mechanism.grid_exponent,
        "time": format_time(context.end_ms),
    }


def _array_records(arrays: Mapping[str, np.ndarray]) -> list[JsonValue]:
    return [
        {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}
        for spec in array_specs(arrays)
    ]


def mask_record(masked: MaskedUpdate, time_ms: int) -> dict[str, JsonValue]:
    """A ``fedpref-mask/1`` record: under which roster a sealed update leaves masked."""
    return {
        "v": "fedpref-mask/1",
        "run": masked.run,
        "round": masked.server_round,
        "attempt": masked.attempt,
        "region": masked.region,
        "roster": masked.roster_digest,
        "members": [*masked.roster.members()],
        "masked": arrays_digest(masked.arrays),
        "bytes": sum(array.nbytes for array in masked.arrays.values()),
        "norm_bound": masked.norm_bound,
        "time": format_time(time_ms),
    }
