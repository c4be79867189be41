"""The run plan: every public constant of a run, fixed and agreed before it starts.

A region signs its permit for a plan's digest. Nothing in a plan is derived from customers' data:
the planning size is a public estimate, and noise is calibrated from ε and δ alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from decimal import ROUND_CEILING, Context, Decimal
from functools import cached_property
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from common import canonical_json
from common.canonical_json import JsonValue
from common.consent import FEDERATED_TRAINING
from common.errors import FedprefError, FormatError, InputError
from common.parameters import ArraySpec
from common.privacy import (
    NEIGHBORING_RELATION,
    PRIVACY_UNIT,
    GaussianEvent,
    calibrate_sigma,
    epsilon_gaussian,
    total_noise_multiplier,
)
from common.timestamps import parse_time
from common.validate import DECIMAL

GRID_EXPONENT = -12
POPULARITY_CLIPPING_NORM = "1"
FACTOR_CLIPPING_NORM = "0.2"
ROW_EXPONENT = "-0.25"
# A plan's mechanisms may miss its ε by the rounding of decimal strings, not by more.
_EPSILON_SLACK = 1e-9
# Noise is calibrated to a hair less than ε, because a ledger reports ε by privacy loss
# distributions, whose discretisation errs upwards, and its cap may be the plan's ε.
_CALIBRATION_MARGIN = 2e-5


def _decimal(text: str) -> str:
    if DECIMAL.fullmatch(text) is None:
        raise ValueError("must be a decimal number in quotes")
    if not (abs(Decimal(text)) <= 10**9 and len(text) <= 32):
        raise ValueError("must be a finite decimal number of moderate size")
    return text


def _positive(text: str) -> str:
    if not Decimal(text) > 0:
        raise ValueError("must be above 0")
    return text


def _time(text: str) -> str:
    try:
        parse_time(text)
    except FedprefError as error:
        raise ValueError(error.message) from error
    return text


DecimalText = Annotated[str, AfterValidator(_decimal)]
PositiveText = Annotated[DecimalText, AfterValidator(_positive)]
TimeText = Annotated[str, AfterValidator(_time)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Mechanism(BaseModel):
    """One kind of noisy release, and the rounds in which it runs, once each.

    Attributes:
        name: ``popularity`` or ``factors``.
        rounds: The server rounds, ascending.
        noise_multiplier: σ / C, as a decimal string.
        clipping_norm: C, the most one customer contributes to the released sum (L2).
        sampling_probability: ``1``: every eligible customer takes part.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Literal["popularity", "factors"]
    rounds: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = Field(min_length=1)
    noise_multiplier: PositiveText
    clipping_norm: PositiveText
    sampling_probability: Literal["1"]

    @property
    def noise_stddev(self) -> float:
        """Standard deviation of the noise on each released coordinate of one region."""
        return float(self.noise_multiplier) * float(self.clipping_norm)

    @property
    def event(self) -> GaussianEvent:
        """The privacy event of all its rounds."""
        return GaussianEvent(
            noise_multiplier=float(self.noise_multiplier),
            sampling_probability=float(self.sampling_probability),
            count=len(self.rounds),
        )


class RunPlan(BaseModel):
    """The public constants of one run.

    Attributes:
        v: The record's version.
        run_id: The run's name, unique.
        federation: The federation's name.
        scenario: The scenario's name.
        mode: ``local``: each region's release is (ε, δ)-DP by itself.
        regions: The regions' names, distinct.
        quorum: The fewest regions an aggregate may be made of.
        purpose: The consent purpose that training needs.
        catalogue: Digest of the public catalogue.
        n_items: Its number of items.
        train_from: Begin of the training window, inclusive.
        train_until: Its end, exclusive.
        epsilon: ε of the whole run for any one customer, at `delta`.
        delta: δ, a public constant.
        neighboring_relation: Which data sets count as neighbours.
        privacy_unit: Whose records the guarantee covers together.
        vocabulary_size: m, how many items the factor model is over.
        rank: d, the number of factors.
        power_rounds: T, the rounds of the mechanism ``factors``.
        popularity_share: The share of the run's 1/σ² that the popularity round spends.
        mechanisms: ``popularity`` in round 1, then ``factors``.
        row_exponent: An item's weight is its released popularity to this power.
        grid_exponent: Released values are multiples of 2 to this power.
        init_seed: Seed of the public initial factors.
        round_timeout_s: How long a round waits for regions, in seconds.
        planned_customers: Public planning size: about how many customers all regions have.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    v: Literal["fedpref-plan/1"]
    run_id: Name
    federation: Name
    scenario: Name
    mode: Literal["local"]
    regions: tuple[Name, ...] = Field(min_length=1, max_length=10_000)
    quorum: int = Field(ge=1)
    purpose: Name
    catalogue: Sha256
    n_items: int = Field(ge=1, le=2**31 - 1)
    train_from: TimeText
    train_until: TimeText
    epsilon: PositiveText
    delta: PositiveText
    neighboring_relation: Literal["add-or-remove-one-customer"]
    privacy_unit: Literal["customer"]
    vocabulary_size: int = Field(ge=1, le=10**6)
    rank: int = Field(ge=1, le=4096)
    power_rounds: int = Field(ge=1, le=999)
    popularity_share: PositiveText
    mechanisms: tuple[Mechanism, Mechanism]
    row_exponent: DecimalText
    grid_exponent: int = Field(ge=-24, le=0)
    init_seed: int = Field(ge=0, le=2**53 - 1)
    round_timeout_s: int = Field(ge=1, le=604_800)
    planned_customers: int = Field(ge=1, le=10**10)

    @model_validator(mode="after")
    def _consistent(self) -> RunPlan:
        _require(len(set(self.regions)) == len(self.regions), "regions are named twice")
        _require(self.quorum <= len(self.regions), "the quorum is above the number of regions")
        _require(
            parse_time(self.train_from) < parse_time(self.train_until),
            "the training window is empty",
        )
        _require(self.vocabulary_size <= self.n_items, "the vocabulary exceeds the catalogue")
        _require(self.rank <= self.vocabulary_size, "the rank exceeds the vocabulary")
        _require(Decimal(self.popularity_share) < 1, "popularity_share is not below 1")
        _require(abs(Decimal(self.row_exponent)) <= 4, "row_exponent is not within 4 of 0")
        self._require_mechanisms()
        return self

    def _require_mechanisms(self) -> None:
        popularity, factors = self.mechanisms
        _require(
            (popularity.name, popularity.rounds) == ("popularity", (1,)),
            "the first mechanism is not popularity in round 1",
        )
        _require(
            (factors.name, factors.rounds) == ("factors", tuple(range(2, self.power_rounds + 2))),
            "the second mechanism is not factors in the power_rounds after round 1",
        )
        try:
            sigma = total_noise_multiplier(self.privacy_events())
            spent = epsilon_gaussian(sigma, float(self.delta))
        except InputError as error:
            raise ValueError(error.message) from error
        _require(
            spent <= float(self.epsilon) * (1 + _EPSILON_SLACK),
            f"the mechanisms spend ε = {spent:.6f}, more than the plan states",
        )

    def to_record(self) -> dict[str, JsonValue]:
        """The plan as canonical JSON values."""
        record: dict[str, JsonValue] = self.model_dump(mode="json")
        return record

    @classmethod
    def from_record(cls, record: JsonValue) -> RunPlan:
        """Reads a plan's record strictly.

        Raises:
            FormatError: Names the field that is missing, unknown or wrong.
        """
        try:
            # From JSON, because only there an array may stand for a tuple in strict mode.
            return cls.model_validate_json(canonical_json.encode(record))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "(whole plan)"
            raise FormatError(
                f"The run plan's {field} is not accepted: {first['msg']}.",
                remedy="Take the plan.json that the coordinator's operator sent.",
            ) from error

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical plan, in hex."""
        return hashlib.sha256(canonical_json.encode(self.to_record())).hexdigest()

    @property
    def total_rounds(self) -> int:
        """The number of server rounds."""
        return 1 + self.power_rounds

    def mechanism_of(self, server_round: int) -> Mechanism:
        """The mechanism of a round, from 1.

        Raises:
            InputError: The plan has no such round.
        """
        for mechanism in self.mechanisms:
            if server_round in mechanism.rounds:
                return mechanism
        raise InputError(f"The run plan has rounds 1 to {self.total_rounds}, not {server_round}.")

    def privacy_events(self) -> tuple[GaussianEvent, ...]:
        """The events of the whole run, for one region, so for one customer."""
        return tuple(mechanism.event for mechanism in self.mechanisms)

    def released_arrays(self, mechanism_name: str) -> tuple[ArraySpec, ...]:
        """What leaves a region in one round of a mechanism: exactly one array.

        Raises:
            InputError: The plan has no such mechanism.
        """
        if mechanism_name == "popularity":
            return (ArraySpec("popularity", "<f4", (self.n_items,)),)
        if mechanism_name == "factors":
            return (ArraySpec("factor_gradient", "<f4", (self.vocabulary_size, self.rank)),)
        raise InputError(f"The run plan has no mechanism {mechanism_name[:64]!r}.")

    def model_arrays(self, server_round: int) -> tuple[ArraySpec, ...]:
        """The model state that a round starts from; `total_rounds` + 1 means the final model."""
        if server_round <= 1:
            return ()
        size, rank = self.vocabulary_size, self.rank
        return (
            ArraySpec("item_factors", "<f4", (size, rank)),
            ArraySpec("item_weights", "<f4", (size,)),
            ArraySpec("popularity", "<f4", (self.n_items,)),
            ArraySpec("vocabulary", "<i8", (size,)),
        )


class _Sizes(NamedTuple):
    """Sizes for a signal of at least `signal_from`; see `default_plan`."""

    signal_from: float
    vocabulary_size: int
    rank: int
    power_rounds: int
    popularity_share: str


# The first three rows were measured on the tuning cuts of Complete Journey (docs/decisions); the
# last two extrapolate to larger federations.
_SIZES = (
    _Sizes(0.0, 100, 4, 2, "0.70"),
    _Sizes(500.0, 100, 8, 4, "0.30"),
    _Sizes(1200.0, 150, 12, 4, "0.15"),
    _Sizes(8000.0, 500, 16, 4, "0.10"),
    _Sizes(30000.0, 1000, 16, 4, "0.08"),
)


def default_plan(
    *,
    run_id: str,
    federation: str,
    scenario: str,
    regions: Sequence[str],
    quorum: int,
    catalogue: str,
    n_items: int,
    train_from: str,
    train_until: str,
    epsilon: str,
    planned_customers: int,
    delta: str = "0.000001",
    purpose: str = FEDERATED_TRAINING,
    init_seed: int = 0,
    round_timeout_s: int = 600,
) -> RunPlan:
    """A plan whose sizes follow from ε, δ, the number of regions and the public planning size.

    The rule: with local noise, customers' contributions add up like n and the regions' noise like
    σ·√regions, so *signal* = planned_customers / (σ·√regions), σ being the run's total noise
    multiplier. The more signal, the larger the vocabulary and the rank it can fill, and the smaller
    the share that the popularity round needs. Five regions of 2,500 customers in all have a signal
    of 1,712 at ε = 8, of 724 at ε = 3 and of 265 at ε = 1 (δ = 1e-6).

    Noise is calibrated exactly: 1/σ² = 1/σ_popularity² + T/σ_round², both rounded up.

    Args:
        run_id: The run's name, unique.
        federation: The federation's name.
        scenario: The scenario's name.
        regions: The regions' names.
        quorum: The fewest regions an aggregate may be made of.
        catalogue: Digest of the public catalogue.
        n_items: Its number of items.
        train_from: Begin of the training window.
        train_until: Its end, exclusive.
        epsilon: ε of the run, a decimal string.
        planned_customers: Public planning size, over all regions.
        delta: δ, a decimal string.
        purpose: The consent purpose.
        init_seed: Seed of the public initial factors.
        round_timeout_s: How long a round waits, in seconds.

    Raises:
        InputError: A value is out of range; names it.
    """
    try:
        sigma = calibrate_sigma(float(epsilon) * (1 - _CALIBRATION_MARGIN), float(delta))
    except ValueError as error:
        raise InputError(f"ε = {epsilon!r} or δ = {delta!r} is not a decimal number.") from error
    signal = planned_customers / (sigma * math.sqrt(max(1, len(regions))))
    sizes = next(row for row in reversed(_SIZES) if signal >= row.signal_from)
    vocabulary_size = min(sizes.vocabulary_size, n_items)
    share = float(sizes.popularity_share)
    record: dict[str, JsonValue] = {
        "v": "fedpref-plan/1",
        "run_id": run_id,
        "federation": federation,
        "scenario": scenario,
        "mode": "local",
        "regions": list(regions),
        "quorum": quorum,
        "purpose": purpose,
        "catalogue": catalogue,
        "n_items": n_items,
        "train_from": train_from,
        "train_until": train_until,
        "epsilon": epsilon,
        "delta": delta,
        "neighboring_relation": NEIGHBORING_RELATION,
        "privacy_unit": PRIVACY_UNIT,
        "vocabulary_size": vocabulary_size,
        "rank": min(sizes.rank, vocabulary_size),
        "power_rounds": sizes.power_rounds,
        "popularity_share": sizes.popularity_share,
        "mechanisms": [
            _mechanism("popularity", [1], sigma / math.sqrt(share), POPULARITY_CLIPPING_NORM),
            _mechanism(
                "factors",
                list(range(2, sizes.power_rounds + 2)),
                sigma * math.sqrt(sizes.power_rounds / (1 - share)),
                FACTOR_CLIPPING_NORM,
            ),
        ],
        "row_exponent": ROW_EXPONENT,
        "grid_exponent": GRID_EXPONENT,
        "init_seed": init_seed,
        "round_timeout_s": round_timeout_s,
        "planned_customers": planned_customers,
    }
    try:
        return RunPlan.from_record(record)
    except FormatError as error:
        raise InputError(error.message, remedy="Correct the value of that field.") from error


def _mechanism(name: str, rounds: list[JsonValue], sigma: float, clipping_norm: str) -> JsonValue:
    # Rounded up to seven digits: never less noise than calibrated.
    noise = Context(prec=7, rounding=ROUND_CEILING).create_decimal(repr(sigma))
    return {
        "name": name,
        "rounds": rounds,
        "noise_multiplier": format(noise.normalize(), "f"),
        "clipping_norm": clipping_norm,
        "sampling_probability": "1",
    }


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise ValueError(problem)
