"""Charges as data: what a mechanism asks for, and the row of the ledger that it becomes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from common import canonical_json
from common.canonical_json import JsonValue
from common.privacy import GaussianEvent

GENESIS_HEAD = "0" * 64
#: The δ for keys of what releases none: older rows and records do not state it.
NO_KEYS = "0"


@dataclass(frozen=True)
class ChargeRequest:
    """What a mechanism is about to spend.

    Attributes:
        charge_id: A ULID, unique in the ledger.
        run: The run's id.
        model: The model's name in the run plan.
        purpose: The purpose that those in the round consented to.
        server_round: The round, from 1.
        attempt: The attempt that asked first.
        mechanism: The mechanism's name in the run plan.
        noise_multiplier: σ / C as a decimal string.
        clipping_norm: C as a decimal string.
        sampling_probability: The inclusion probability of a customer, as a decimal string.
        steps: How often the mechanism runs under this charge.
        permit_id: The permit that allows it.
        time: When, as a UTC timestamp; its year is the budget year.
        key_delta: With what probability each run of the mechanism may release a key of one
            customer alone, as a decimal string; ``0`` for all that releases no keys.
    """

    charge_id: str
    run: str
    model: str
    purpose: str
    server_round: int
    attempt: int
    mechanism: str
    noise_multiplier: str
    clipping_norm: str
    sampling_probability: str
    steps: int
    permit_id: str
    time: str
    key_delta: str = NO_KEYS

    @property
    def stated_key_delta(self) -> dict[str, str]:
        """Its δ for keys as a field of records; no field where it has none."""
        return {} if self.key_delta == NO_KEYS else {"key_delta": self.key_delta}

    @property
    def year(self) -> int:
        """The budget year."""
        return int(self.time[:4])

    @property
    def event(self) -> GaussianEvent:
        """The privacy event this charge pays for."""
        return GaussianEvent(
            noise_multiplier=float(self.noise_multiplier),
            sampling_probability=float(self.sampling_probability),
            count=self.steps,
            key_delta=float(self.key_delta),
        )

    def to_record(self, seq: int, previous_head: str) -> dict[str, JsonValue]:
        """What the row's head is computed over."""
        return {
            "attempt": self.attempt,
            "charge_id": self.charge_id,
            "clipping_norm": self.clipping_norm,
            "mechanism": self.mechanism,
            "model": self.model,
            "noise_multiplier": self.noise_multiplier,
            "permit_id": self.permit_id,
            "previous_head": previous_head,
            "purpose": self.purpose,
            "round": self.server_round,
            "run": self.run,
            "sampling_probability": self.sampling_probability,
            "seq": seq,
            "steps": self.steps,
            "time": self.time,
            **self.stated_key_delta,
        }


@dataclass(frozen=True)
class Charge:
    """One row of the ledger: the request, its number and the ledger's head after it."""

    request: ChargeRequest
    seq: int
    head: str

    @classmethod
    def after(cls, previous_head: str, request: ChargeRequest, seq: int) -> Charge:
        """The row that follows from the last head."""
        record = canonical_json.encode(request.to_record(seq, previous_head))
        return cls(request, seq, hashlib.sha256(record).hexdigest())
