"""A region's signed permission for one run: what code, which mechanisms, how much ε, until when.

Without a permit the engine does nothing. A permit is made by the region from the run plan and its
own policy, signed with its ``permit`` key, and logged; the coordinator has no part in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from client.engine.policy import RegionPolicy
from common.canonical_json import JsonValue
from common.consent import new_ulid
from common.envelope import Envelope, verify_envelope
from common.errors import FedprefError, PolicyError
from common.keys import Registry
from common.plan import Mechanism, RunPlan
from common.timestamps import format_time, parse_time


@dataclass(frozen=True)
class CodeIdentity:
    """The code a permit is for, by digest.

    Attributes:
        app: SHA-256 of the Flower app bundle (the relay), in hex.
        engine: SHA-256 of the installed engine, in hex.
        deps: SHA-256 of the installed distributions and their versions, in hex.
    """

    app: str
    engine: str
    deps: str


def make_permit(
    plan: RunPlan,
    policy: RegionPolicy,
    code: CodeIdentity,
    *,
    issued_at_ms: int,
    valid_for_s: int,
) -> dict[str, JsonValue]:
    """Makes the record of a permit for one run.

    Args:
        plan: The run's public constants.
        policy: The region's policy; the plan must be within it.
        code: The code that may run.
        issued_at_ms: Now, in milliseconds since the epoch.
        valid_for_s: For how long the permit holds, in seconds.

    Raises:
        PolicyError: The policy does not allow the plan or the app bundle; names the field.
    """
    policy.check_plan(plan)
    policy.check_app(code.app)
    return {
        "v": "fedpref-permit/1",
        "permit_id": new_ulid(),
        "run": plan.run_id,
        "region": policy.region,
        # The policy's, or that of statistics where questions are asked: the policy has seen to it.
        "purpose": plan.purpose,
        "model": plan.model,
        "app": code.app,
        "engine": code.engine,
        "deps": code.deps,
        "plan": plan.digest,
        "mechanisms": [
            {
                "name": mechanism.name,
                "rounds": list(mechanism.rounds),
                "noise_multiplier": mechanism.noise_multiplier,
                "steps": mechanism.steps,
                "clipping_norm": mechanism.clipping_norm,
                "sampling_probability": mechanism.sampling_probability,
                "grid_exponent": mechanism.grid_exponent,
                **mechanism.stated_key_delta,
            }
            for mechanism in plan.mechanisms
        ],
        "epsilon_cap": plan.epsilon,
        "delta": plan.delta,
        "arrays": permitted_arrays(plan),
        "issued_at": format_time(issued_at_ms),
        "expires": format_time(issued_at_ms + valid_for_s * 1000),
    }


def permitted_arrays(plan: RunPlan) -> list[JsonValue]:
    """The exact arrays that may leave a region under a plan, mechanism by mechanism."""
    return [
        {
            "mechanism": mechanism.name,
            "name": spec.name,
            "dtype": spec.dtype,
            "shape": list(spec.shape),
        }
        for mechanism in plan.mechanisms
        for spec in plan.released_arrays(mechanism.name)
    ]


@dataclass(frozen=True)
class Permit:
    """A verified permit together with the plan it names."""

    permit_id: str
    plan: RunPlan
    code: CodeIdentity
    expires_ms: int

    def mechanism_of(self, server_round: int, name: str) -> Mechanism:
        """The mechanism permitted for a round.

        Raises:
            PolicyError: The permit does not cover this mechanism in this round.
        """
        for mechanism in self.plan.mechanisms:
            if mechanism.name == name and server_round in mechanism.rounds:
                return mechanism
        raise PolicyError(f"The permit does not cover mechanism {name!r} in round {server_round}.")


def open_permit(
    data: bytes,
    plan: RunPlan,
    policy: RegionPolicy,
    code: CodeIdentity,
    registry: Registry,
    *,
    now_ms: int,
) -> Permit:
    """Verifies a permit for use now.

    Args:
        data: The signed permit.
        plan: The run plan it should be for.
        policy: The region's policy in force now: a permit never outlives it.
        code: The code that is running; its app hash is replaced by the permit's own, for only the
            relay sees which bundle it runs. The policy must allow that one.
        registry: The verified key registry.
        now_ms: Now, in milliseconds since the epoch.

    Raises:
        PolicyError: Names what does not match.
    """
    try:
        envelope = Envelope.decode(data)
        record = envelope.record()
        keys = {key.key_id: key.public_key for key in registry.keys_of(policy.region, "permit")}
        for key_id in verify_envelope(envelope, keys):
            registry.find(key_id, party=policy.region, role="permit", at_ms=now_ms)
    except FedprefError as error:
        raise PolicyError(f"{policy.region}: the permit does not verify: {error}") from error
    if envelope.kind != "permit":
        raise PolicyError(f"{policy.region}: the file is a {envelope.kind}, not a permit.")
    issued = parse_time(str(record["issued_at"]))
    expires = parse_time(str(record["expires"]))
    code = replace(code, app=str(record.get("app")))
    expected = make_permit(
        plan, policy, code, issued_at_ms=issued, valid_for_s=(expires - issued) // 1000
    )
    for field, value in expected.items():
        # Each permit has its own id.
        if field != "permit_id" and record.get(field) != value:
            raise PolicyError(
                f"{policy.region}: the permit's {field} is not that of the run, the policy and the "
                "engine in force.",
                remedy="Sign a new permit for this run.",
            )
    if set(record) != set(expected):
        raise PolicyError(f"{policy.region}: the permit has unknown fields.")
    if not issued <= now_ms <= expires:
        raise PolicyError(
            f"{policy.region}: the permit is valid from {record['issued_at']} to "
            f"{record['expires']}, not now.",
            remedy="Sign a new permit for this run, or correct the clock.",
        )
    return Permit(
        permit_id=str(record["permit_id"]),
        plan=plan,
        code=code,
        expires_ms=expires,
    )
