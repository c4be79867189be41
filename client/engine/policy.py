"""A region's own policy: what may happen with its customers' data, whatever a coordinator asks.

The policy is the region's file. The coordinator's run plan can only ask for less than it allows.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from client.engine.policy_fields import (
    AccessRules,
    ArrayBound,
    CapTable,
    PositiveDecimal,
    Probability,
    Retention,
    Sha256,
    any_allows,
)
from client.engine.spending import EpsilonCaps
from common import canonical_json
from common.aggregation_rules import AGGREGATIONS, AggregationName, NoiseMode
from common.canonical_json import JsonValue
from common.errors import FormatError, InputError, PolicyError
from common.parameters import ArraySpec
from common.plan import Mechanism, RunPlan
from common.planned_questions import QUESTIONS_PURPOSE
from common.privacy import GaussianEvent, delta_left, epsilon_gaussian
from common.strategies import SUMS

# They take every customer, once in a round: bounds on sampling say nothing about them.
_FULL_BATCH = ("popularity", *SUMS)


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
        epsilon_max_per_run: The largest ε that one run may state; without it, the caps alone bound
            it.
        delta_max: The largest δ a run may state.
        key_delta_max: The largest part of it that one question of keys may take. What keys take is
            spent for the year: without a bound one question could leave next to nothing.
        noise_multiplier_min: The least σ/C of any one mechanism.
        clipping_norm_min: The least clipping norm. With `noise_multiplier_min` it keeps the noise
            itself, σ = multiplier × norm, above what the grid and float32 can tell apart: below
            it, budget would be spent on nothing. Without it, any.
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
        app_bundles: The app bundles (relays) that may run in the region, by SHA-256. Without it,
            whichever a permit names.
        catalogues: The public catalogues that a run may be over, by digest: which items there are,
            and what is said of them. Without it, whichever lies in the region's home.
        arrays: The arrays that may leave the region, by name and type, and the largest shape of
            each. Without it, whichever the plan of a permit has.
        retention_days: For how long what is over is kept. Without it, for good.
        queries: What may be computed of the region's customers besides training, by name, and the
            most ε of each by itself. Unlike the other tables, this one permits: what it does not
            name is not computed, and without it nothing is.
        server_queries: Likewise, the questions that the federation may ask, whose answers leave the
            region noised. Its customers' consent to statistics is needed, not `purpose`.
        access: Which people may be granted sensitive columns, and for how long. It permits, too:
            without it nobody may.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    region: str = Field(min_length=1, max_length=64)
    purpose: str
    epsilon_cap_per_year: PositiveDecimal
    epsilon_caps_per_model: CapTable = Field(default_factory=dict)
    epsilon_caps_per_purpose: CapTable = Field(default_factory=dict)
    epsilon_max_per_run: PositiveDecimal | None = None
    delta_max: PositiveDecimal
    key_delta_max: PositiveDecimal | None = None
    noise_multiplier_min: PositiveDecimal
    clipping_norm_min: PositiveDecimal | None = None
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
    app_bundles: list[Sha256] | None = Field(default=None, min_length=1, max_length=64)
    catalogues: list[Sha256] | None = Field(default=None, min_length=1, max_length=64)
    arrays: list[ArrayBound] | None = Field(default=None, min_length=1, max_length=256)
    retention_days: Retention | None = None
    queries: CapTable = Field(default_factory=dict)
    server_queries: CapTable = Field(default_factory=dict)
    access: AccessRules | None = None

    @field_validator(
        "epsilon_max_per_run",
        "key_delta_max",
        "clipping_norm_min",
        "app_bundles",
        "catalogues",
        "arrays",
        "retention_days",
        "access",
        mode="before",
    )
    @classmethod
    def _stated(cls, value: object) -> object:
        """A bound that is stated as null would read as one and be none."""
        if value is None:
            raise ValueError("state it, or leave it out")
        return value

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
        # A plan of questions names the purpose of statistics, or it is none.
        purpose = QUESTIONS_PURPOSE if plan.asks else self.purpose
        self._require(plan.purpose == purpose, "purpose", plan.purpose, purpose)
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
        if self.catalogues is not None:
            self._require_named("catalogue", plan.catalogue, self.catalogues)
        rounds = sum(len(mechanism.rounds) for mechanism in plan.mechanisms)
        self._require(rounds <= self.rounds_max, "rounds", rounds, f"at most {self.rounds_max}")
        self._within("delta", plan.delta, most=self.delta_max)
        self._within("epsilon", plan.epsilon, most=self.epsilon_max_per_run)
        for mechanism in plan.mechanisms:
            if plan.asks:
                self._check_question(mechanism, plan.delta)
            self._check_mechanism(mechanism, samples=not plan.asks)
            for spec in plan.released_arrays(mechanism.name):
                self._check_array(mechanism.name, spec)

    def check_query(
        self, mechanisms: Mapping[str, tuple[str, str]], *, epsilon: str, delta: str
    ) -> None:
        """Checks a query against every bound but the caps of ε, which the ledger enforces.

        Args:
            mechanisms: By what is asked its noise multiplier and its clipping norm; everyone takes
                part, once.
            epsilon: ε of all together.
            delta: δ.

        Raises:
            PolicyError: Names the region, the field, what was asked and what is allowed.
        """
        self._within("delta", delta, most=self.delta_max)
        self._within("epsilon", epsilon, most=self.epsilon_max_per_run)
        for name, (noise_multiplier, clipping_norm) in mechanisms.items():
            self._require_asked("queries", self.queries, name, (noise_multiplier, delta))
            self._check_noise(name, noise_multiplier, clipping_norm)

    def check_app(self, app: str) -> None:
        """Checks that an app bundle is one that may run here.

        Args:
            app: Its SHA-256, in hex.

        Raises:
            PolicyError: It is not.
        """
        if self.app_bundles is not None:
            self._require_named("app", app, self.app_bundles)

    def _check_question(self, mechanism: Mechanism, delta: str) -> None:
        """A question whose answer leaves the region is allowed by its name, up to an ε."""
        self._within(f"{mechanism.name}.key_delta", mechanism.key_delta, most=self.key_delta_max)
        asked = (mechanism.noise_multiplier, delta)
        table = self.server_queries
        # All its steps together: the policy allows the question, however it is computed.
        self._require_asked(
            "server_queries",
            table,
            mechanism.name,
            asked,
            times=len(mechanism.rounds),
            key_delta=float(mechanism.key_delta),
        )

    def _require_asked(
        self,
        table: str,
        allowed: Mapping[str, str],
        name: str,
        asked: tuple[str, str],
        *,
        times: int = 1,
        key_delta: float = 0.0,
    ) -> None:
        """Requires that a table allows what is asked so often, by its noise multiplier and δ.

        What keys take of δ each time is taken off it first.
        """
        self._require(name in allowed, table, name, ", ".join(sorted(allowed)) or "none")
        noise_multiplier, delta = map(float, asked)
        left = delta_left([GaussianEvent(noise_multiplier, 1.0, times, key_delta)], delta)
        spent = (
            math.inf
            if left is None
            else epsilon_gaussian(noise_multiplier / math.sqrt(times), left)
        )
        self._require(
            # Written so that a NaN is refused too.
            spent <= float(allowed[name]),
            f"{table}.{name}",
            f"{spent:.6f}",
            f"ε of at most {allowed[name]}",
        )

    def _check_mechanism(self, mechanism: Mechanism, *, samples: bool) -> None:
        name = mechanism.name
        self._check_noise(name, mechanism.noise_multiplier, mechanism.clipping_norm)
        self._require(
            mechanism.steps <= self.steps_max,
            f"{name}.steps",
            mechanism.steps,
            f"at most {self.steps_max}",
        )
        if samples and name not in _FULL_BATCH:
            self._within(
                f"{name}.sampling_probability",
                mechanism.sampling_probability,
                least=self.sampling_probability_min,
                most=self.sampling_probability_max,
            )

    def _check_noise(self, name: str, noise_multiplier: str, clipping_norm: str) -> None:
        self._within(f"{name}.noise_multiplier", noise_multiplier, least=self.noise_multiplier_min)
        self._within(
            f"{name}.clipping_norm",
            clipping_norm,
            least=self.clipping_norm_min,
            most=self.clipping_norm_max,
        )

    def _check_array(self, mechanism: str, spec: ArraySpec) -> None:
        if self.arrays is not None:
            self._require(
                any_allows(self.arrays, spec),
                f"{mechanism}.arrays",
                f"{spec.name} {spec.dtype}{list(spec.shape)}",
                ", ".join(bound.words for bound in self.arrays),
            )

    def _within(
        self, field: str, asked: str, *, least: str | None = None, most: str | None = None
    ) -> None:
        value = Decimal(asked)
        inside = value.is_finite() and Decimal(least or 0) <= value <= Decimal(most or "Infinity")
        bounds = [f"at least {least}"] if least is not None else []
        bounds += [f"at most {most}"] if most is not None else []
        self._require(inside, field, asked, " and ".join(bounds))

    def _require_named(self, field: str, digest: str, named: list[str]) -> None:
        allowed = ", ".join(f"{each[:12]}…" for each in named)
        self._require(digest in named, field, f"{digest[:12]}…", allowed)

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
