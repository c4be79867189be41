"""A region's own policy: what may happen with its customers' data, whatever a coordinator asks.

The policy is the region's file. The coordinator's run plan can only ask for less than it allows.
"""

from __future__ import annotations

import hashlib
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from client.engine.spending import EpsilonCaps
from common import canonical_json
from common.aggregation_rules import AGGREGATIONS, AggregationName, NoiseMode
from common.canonical_json import JsonValue
from common.errors import FormatError, InputError, PolicyError
from common.plan import RunPlan
from common.strategies import FACTORS
from common.validate import DECIMAL


def _positive_decimal(text: str) -> str:
    if DECIMAL.fullmatch(text) is None:
        raise ValueError("must be a decimal number in quotes")
    if not Decimal(text) > 0:
        raise ValueError("must be a number above 0")
    return text


def _probability(text: str) -> str:
    if not Decimal(text) <= 1:
        raise ValueError("must be at most 1")
    return text


PositiveDecimal = Annotated[str, AfterValidator(_positive_decimal)]
Probability = Annotated[PositiveDecimal, AfterValidator(_probability)]
# A table with nothing in it would close every budget without saying so.
CapTable = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=128)], PositiveDecimal],
    Field(min_length=1, max_length=256),
]
# They take every customer, once in a round: bounds on sampling say nothing about them.
_FULL_BATCH = ("popularity", FACTORS)


class RegionPolicy(BaseModel):
    """The bounds a region sets. Unknown fields are refused; decimals are strings.

    Attributes:
        region: The region the policy is of.
        purpose: The consent purpose that training needs.
        epsilon_cap_per_year: The hard total of ε that all mechanisms of one calendar year may spend
            on any one customer, at ``delta_max``.
        epsilon_caps_per_model: Of that total, the most that each model may spend in a year, by the
            model's name; a model that is not in the table may spend nothing. Without it, every
            model may spend the total.
        epsilon_caps_per_purpose: The same by purpose.
        delta_max: The largest δ a run may state.
        noise_multiplier_min: The least σ/C of any one mechanism.
        clipping_norm_max: The largest clipping norm, in units of one customer's row.
        sampling_probability_min: The least probability with which a mechanism may sample each
            customer. Below it, ε would rest on the secrecy of the samples more than on noise.
        sampling_probability_max: The greatest one.
        rounds_max: The most rounds of one run.
        steps_max: The most steps of one mechanism in one round.
        quorum_min: The fewest regions that an aggregate may be made of.
        quality_threshold: The least share of a store's rows that must pass the quality gate.
        consent_age_max_s: The greatest age of a consent snapshot when a round starts, in seconds.
        withdrawal_in_round: What happens to a round under way when someone in it withdraws:
            ``finish`` sends its update, ``discard`` does not; the charge stays either way.
        notice_grace_s: For how long consents to a notice stay in force after a newer notice that
            supersedes it came into force, in seconds.
        modes: Whose noise may protect the region's customers: ``local`` its own, ``distributed``
            its share of the noise of all.
        aggregations: What may be made of the region's updates: ``open`` and ``robust`` let the
            coordinator see them, noised; ``confidential`` does not. Without it, all three.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    region: str = Field(min_length=1, max_length=64)
    purpose: str
    epsilon_cap_per_year: PositiveDecimal
    epsilon_caps_per_model: CapTable = Field(default_factory=dict)
    epsilon_caps_per_purpose: CapTable = Field(default_factory=dict)
    delta_max: PositiveDecimal
    noise_multiplier_min: PositiveDecimal
    clipping_norm_max: PositiveDecimal
    sampling_probability_min: Probability = "1e-9"
    sampling_probability_max: Probability = "1"
    rounds_max: int = Field(ge=1, le=1000)
    steps_max: int = Field(default=100_000, ge=1, le=100_000)
    quorum_min: int = Field(ge=1, le=1000)
    quality_threshold: PositiveDecimal
    # The verifier admits no older snapshot than ten minutes, whatever a policy says.
    consent_age_max_s: int = Field(ge=1, le=600)
    withdrawal_in_round: Literal["finish", "discard"]
    notice_grace_s: int = Field(ge=0, le=366 * 86_400)
    modes: list[NoiseMode] = Field(min_length=1)
    aggregations: list[AggregationName] = Field(
        default_factory=lambda: list(AGGREGATIONS), min_length=1
    )

    def to_record(self) -> dict[str, JsonValue]:
        """The policy as canonical JSON values: what was stated, and no default in its place."""
        record: dict[str, JsonValue] = self.model_dump(mode="json", exclude_unset=True)
        return record

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical policy, in hex."""
        return hashlib.sha256(canonical_json.encode(self.to_record())).hexdigest()

    @property
    def epsilon_caps(self) -> EpsilonCaps:
        """The caps that the ledger enforces."""
        tables = (self.epsilon_caps_per_model, self.epsilon_caps_per_purpose)
        models, purposes = (
            {name: float(cap) for name, cap in table.items()} if table else None for table in tables
        )
        return EpsilonCaps(float(self.epsilon_cap_per_year), models, purposes)

    def check_plan(self, plan: RunPlan) -> None:
        """Checks a run plan against every bound but the caps of ε, which the ledger enforces.

        Raises:
            PolicyError: Names the region, the field, what was asked and what is allowed.
        """
        self._require(self.region in plan.regions, "regions", "a run without it", "its own runs")
        self._require(plan.purpose == self.purpose, "purpose", plan.purpose, self.purpose)
        self._require(plan.mode in self.modes, "mode", plan.mode, ", ".join(self.modes))
        self._require(
            plan.aggregation.name in self.aggregations,
            "aggregation",
            plan.aggregation.name,
            ", ".join(self.aggregations),
        )
        self._require(
            plan.quorum >= self.quorum_min, "quorum", plan.quorum, f"at least {self.quorum_min}"
        )
        rounds = sum(len(mechanism.rounds) for mechanism in plan.mechanisms)
        self._require(rounds <= self.rounds_max, "rounds", rounds, f"at most {self.rounds_max}")
        self._within("delta", plan.delta, most=self.delta_max)
        for mechanism in plan.mechanisms:
            self._within(
                f"{mechanism.name}.noise_multiplier",
                mechanism.noise_multiplier,
                least=self.noise_multiplier_min,
            )
            self._within(
                f"{mechanism.name}.clipping_norm",
                mechanism.clipping_norm,
                most=self.clipping_norm_max,
            )
            self._require(
                mechanism.steps <= self.steps_max,
                f"{mechanism.name}.steps",
                mechanism.steps,
                f"at most {self.steps_max}",
            )
            if mechanism.name not in _FULL_BATCH:
                self._within(
                    f"{mechanism.name}.sampling_probability",
                    mechanism.sampling_probability,
                    least=self.sampling_probability_min,
                    most=self.sampling_probability_max,
                )

    def _within(self, field: str, asked: str, *, least: str = "0", most: str = "Infinity") -> None:
        value = Decimal(asked)
        inside = value.is_finite() and Decimal(least) <= value <= Decimal(most)
        bounds = [f"at least {least}"] * (least != "0") + [f"at most {most}"] * (most != "Infinity")
        allowed = " and ".join(bounds)
        self._require(inside, field, asked, allowed)

    def _require(self, holds: bool, field: str, asked: object, allowed: str) -> None:
        if not holds:
            raise PolicyError(
                f"{self.region}: its policy does not allow {field} = {asked}; it allows {allowed}.",
                remedy="Change the run plan, or let the region's controller change the policy.",
            )


def require_logged(policy: RegionPolicy, logged_sha256: str | None, path: Path) -> None:
    """Checks that a policy file is the policy that the log has last.

    Raises:
        PolicyError: The region's controller signed and logged another, or none.
    """
    if logged_sha256 != policy.digest:
        raise PolicyError(
            f"The policy {path} is not the one that the region's controller signed and logged.",
            remedy="Restore the signed policy, or let the controller sign and log this one.",
        )


def read_policy(path: Path) -> RegionPolicy:
    """Reads a policy file (canonical JSON).

    Raises:
        InputError: The file is missing, not canonical JSON, or a field is wrong: names file and
            field.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"The region's policy {path} cannot be read: {error.strerror}.",
            remedy="The region works only under a policy: restore the file.",
        ) from error
    try:
        return RegionPolicy.model_validate(canonical_json.decode(data))
    except FormatError as error:
        raise InputError(
            f"The region's policy {path} is not canonical JSON: {error.message}",
            remedy="Restore the file that the region's controller signed.",
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "(whole file)"
        raise InputError(
            f"The region's policy {path}: field {field}: {first['msg']}.",
            remedy="Correct the field; unknown fields are refused.",
        ) from error
