"""A region's own policy: what may happen with its customers' data, whatever a coordinator asks.

The policy is the region's file. The coordinator's run plan can only ask for less than it allows.
"""

from __future__ import annotations

import hashlib
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from common import canonical_json
from common.canonical_json import JsonValue
from common.errors import FormatError, InputError, PolicyError
from common.plan import RunPlan
from common.validate import DECIMAL


def _positive_decimal(text: str) -> str:
    if DECIMAL.fullmatch(text) is None:
        raise ValueError("must be a decimal number in quotes")
    if not Decimal(text) > 0:
        raise ValueError("must be a number above 0")
    return text


PositiveDecimal = Annotated[str, AfterValidator(_positive_decimal)]


class RegionPolicy(BaseModel):
    """The bounds a region sets. Unknown fields are refused; decimals are strings.

    Attributes:
        region: The region the policy is of.
        purpose: The consent purpose that training needs.
        epsilon_cap_per_year: The hard total of ε that all mechanisms of one calendar year may spend
            on any one customer, at ``delta_max``.
        delta_max: The largest δ a run may state.
        noise_multiplier_min: The least σ/C of any one mechanism.
        clipping_norm_max: The largest clipping norm, in units of one customer's row.
        rounds_max: The most rounds of one run.
        quorum_min: The fewest regions that an aggregate may be made of.
        quality_threshold: The least share of a store's rows that must pass the quality gate.
        consent_age_max_s: The greatest age of a consent snapshot when a round starts, in seconds.
        withdrawal_in_round: What happens to a round under way when someone in it withdraws:
            ``finish`` sends its update, ``discard`` does not; the charge stays either way.
        notice_grace_s: For how long consents to a notice stay in force after a newer notice that
            supersedes it came into force, in seconds.
        modes: The noise modes the region takes part in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    region: str = Field(min_length=1, max_length=64)
    purpose: str
    epsilon_cap_per_year: PositiveDecimal
    delta_max: PositiveDecimal
    noise_multiplier_min: PositiveDecimal
    clipping_norm_max: PositiveDecimal
    rounds_max: int = Field(ge=1, le=1000)
    quorum_min: int = Field(ge=1, le=1000)
    quality_threshold: PositiveDecimal
    # The verifier admits no older snapshot than ten minutes, whatever a policy says.
    consent_age_max_s: int = Field(ge=1, le=600)
    withdrawal_in_round: Literal["finish", "discard"]
    notice_grace_s: int = Field(ge=0, le=366 * 86_400)
    modes: list[Literal["local"]]

    def to_record(self) -> dict[str, JsonValue]:
        """The policy as canonical JSON values."""
        record: dict[str, JsonValue] = self.model_dump(mode="json")
        return record

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical policy, in hex."""
        return hashlib.sha256(canonical_json.encode(self.to_record())).hexdigest()

    def check_plan(self, plan: RunPlan) -> None:
        """Checks a run plan against every bound but the ε cap, which the ledger enforces.

        Raises:
            PolicyError: Names the region, the field, what was asked and what is allowed.
        """
        self._require(self.region in plan.regions, "regions", "a run without it", "its own runs")
        self._require(plan.purpose == self.purpose, "purpose", plan.purpose, self.purpose)
        self._require(plan.mode in self.modes, "mode", plan.mode, ", ".join(self.modes))
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

    def _within(self, field: str, asked: str, *, least: str = "0", most: str = "Infinity") -> None:
        value = Decimal(asked)
        inside = value.is_finite() and Decimal(least) <= value <= Decimal(most)
        allowed = f"at least {least}" if most == "Infinity" else f"at most {most}"
        self._require(inside, field, asked, allowed)

    def _require(self, holds: bool, field: str, asked: object, allowed: str) -> None:
        if not holds:
            raise PolicyError(
                f"{self.region}: its policy does not allow {field} = {asked}; it allows {allowed}.",
                remedy="Change the run plan, or let the region's controller change the policy.",
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
