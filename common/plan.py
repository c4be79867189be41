"""The run plan: every public constant of a run, fixed and agreed before it starts.

A region signs its permit for a plan's digest. Nothing in a plan is derived from customers' data:
the planning size is a public estimate, and noise is calibrated from ε and δ alone.
"""

from __future__ import annotations

import hashlib
import math
from decimal import Decimal
from functools import cached_property
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from common import canonical_json
from common.aggregation_rules import Aggregation, NoiseMode
from common.canonical_json import JsonValue
from common.discrete_gaussian import SharedNoise, calibrate_share, sensitivity_of
from common.errors import FormatError, InputError
from common.item_pairs import n_pairs
from common.parameters import ArraySpec
from common.plan_parts import (
    MAX_PLAN_BYTES,
    DecimalText,
    EarlyStop,
    LocalTraining,
    Mechanism,
    Name,
    PositiveText,
    Sha256,
    TimeText,
)
from common.planned_questions import (
    QUESTIONS_PURPOSE,
    PlannedQuestion,
    problem_of,
    sums_before,
)
from common.privacy import (
    GaussianEvent,
    delta_left,
    epsilon,
    epsilon_gaussian,
    total_noise_multiplier,
)
from common.release_bounds import release_noise_stddev, release_value_bound
from common.secure_aggregation.quantiser import MAX_SUMMED, Quantiser
from common.strategies import (
    FACTORS,
    GRAM,
    QUESTIONS,
    SUMS,
    PlannedStrategy,
    change_of,
    parameter_specs,
    require_options,
)
from common.timestamps import parse_time

__all__ = [
    "EPSILON_SLACK",
    "MAX_GRAM_ITEMS",
    "EarlyStop",
    "LocalTraining",
    "Mechanism",
    "RunPlan",
    "epsilon_bound",
]

# A plan's mechanisms may miss its ε by the rounding of decimal strings, not by more.
EPSILON_SLACK = 1e-9
# Rounding to a grid of γ = σ/4 after noise adds γ²/12 to a variance of σ²: half a percent.
_COARSEST_GRID = 1 / 4
#: The largest vocabulary of ``gram``: its eigenvectors take a minute or so, its pairs 34 MB.
MAX_GRAM_ITEMS = 4096


# What only a plan of training has, and all of it.
_OF_TRAINING = frozenset(
    {
        "vocabulary_size",
        "rank",
        "training_rounds",
        "popularity_share",
        "local_training",
        "early_stop",
        "row_exponent",
        "init_seed",
    }
)


class RunPlan(BaseModel):
    """The public constants of one run: of training, or of questions.

    A plan of training has all fields but `questions`; a plan of questions has that, and none of
    those from `vocabulary_size` on which only training needs. A record states what its kind of plan
    has, and no default in the place of what it has not.

    Attributes:
        v: The record's version: ``fedpref-plan/1`` of training, ``fedpref-questions/1``.
        run_id: The run's name, unique.
        federation: The federation's name.
        scenario: The scenario's name.
        model: The model's name, which a region's policy may give a budget of its own.
        strategy: How the model is trained, see `common.strategies`; or ``questions``.
        mode: Whose noise protects. ``local``: each region's release is (ε, δ)-DP by itself;
            ``distributed``: the sum is, by the shares of noise of all its honest regions.
        aggregation: By which rule the regions' updates become one.
        regions: The regions' names, distinct.
        quorum: The fewest regions an aggregate may be made of.
        purpose: The consent purpose that the run needs.
        catalogue: Digest of the public catalogue.
        n_items: Its number of items.
        train_from: Begin of the window of what is learnt from or asked about, inclusive.
        train_until: Its end, exclusive.
        epsilon: ε of the whole run for any one customer, at `delta`.
        delta: δ, a public constant.
        neighboring_relation: Which data sets count as neighbours.
        privacy_unit: Whose records the guarantee covers together.
        vocabulary_size: m, how many items the factor model is over.
        rank: d, the number of factors.
        training_rounds: T, the rounds after the popularity round.
        popularity_share: The share of the run's 1/σ² that the popularity round spends.
        mechanisms: ``popularity`` in round 1, then one or more of the strategy's name, each with
            its own rounds: so σ, C and the steps may follow a schedule. Of questions one each, with
            as many rounds as the question has steps.
        local_training: How a region trains between two rounds; None for ``factors`` and ``gram``.
        early_stop: When the run may end before its last round; None for never, as for ``factors``
            and ``gram``, which split their noise over a few rounds that they need.
        row_exponent: An item's weight is its released popularity to this power.
        init_seed: Seed of the public initial factors.
        round_timeout_s: How long a round waits for regions, in seconds.
        planned_customers: Public planning size: about how many customers all regions have.
        questions: What is asked, in the order of the rounds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    v: Literal["fedpref-plan/1", "fedpref-questions/1"]
    run_id: Name
    federation: Name
    scenario: Name
    model: Name
    strategy: PlannedStrategy
    mode: NoiseMode
    aggregation: Aggregation
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
    vocabulary_size: int = Field(default=0, ge=1, le=10**6)
    rank: int = Field(default=0, ge=1, le=4096)
    training_rounds: int = Field(default=0, ge=1, le=999)
    popularity_share: PositiveText = ""
    mechanisms: tuple[Mechanism, ...] = Field(min_length=1, max_length=1001)
    local_training: LocalTraining | None = None
    early_stop: EarlyStop | None = None
    row_exponent: DecimalText = ""
    init_seed: int = Field(default=0, ge=0, le=2**53 - 1)
    round_timeout_s: int = Field(ge=1, le=604_800)
    planned_customers: int = Field(ge=1, le=10**10)
    questions: tuple[PlannedQuestion, ...] = Field(default=(), min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _consistent(self) -> RunPlan:
        _require(len(set(self.regions)) == len(self.regions), "regions are named twice")
        _require(self.quorum <= len(self.regions), "the quorum is above the number of regions")
        problem = self.aggregation.problem(self.mode, self.quorum)
        _require(problem is None, str(problem))
        _require(
            parse_time(self.train_from) < parse_time(self.train_until),
            "the training window is empty",
        )
        self._require_fields()
        if self.asks:
            problem = problem_of(self)
            _require(problem is None, str(problem))
            self._require_epsilon()
        else:
            self._require_training()
        if self.aggregation.rule == "secure-sum":
            self._require_ring()
        if self.mode == "distributed":
            self._require_shares()
        else:
            self._require_fine_grids()
        return self

    @property
    def asks(self) -> bool:
        """Whether it is a plan of questions, and trains nothing."""
        return self.strategy == QUESTIONS

    def _require_fields(self) -> None:
        """A plan has what its kind has, and nothing of the other."""
        version = "fedpref-questions/1" if self.asks else "fedpref-plan/1"
        _require(self.v == version, f"the v of a plan of {self.strategy} is {version}")
        stated = self.model_fields_set
        wanted, other = ({"questions"}, _OF_TRAINING)
        if not self.asks:
            wanted, other = set(other), frozenset(wanted)
        missing, surplus = sorted(wanted - stated), sorted(other & stated)
        _require(not missing, f"{', '.join(missing)} is missing")
        _require(not surplus, f"a plan of {self.strategy} has no {', '.join(surplus)}")

    def _require_training(self) -> None:
        _require(
            self.purpose != QUESTIONS_PURPOSE, f"training is not on consent to {QUESTIONS_PURPOSE}"
        )
        _require(self.vocabulary_size <= self.n_items, "the vocabulary exceeds the catalogue")
        _require(self.rank <= self.vocabulary_size, "the rank exceeds the vocabulary")
        _require(Decimal(self.popularity_share) < 1, "popularity_share is not below 1")
        _require(abs(Decimal(self.row_exponent)) <= 4, "row_exponent is not within 4 of 0")
        _require(
            (self.local_training is None) == (self.strategy in SUMS),
            "local_training is for every strategy but factors and gram",
        )
        _require(
            self.early_stop is None or self.local_training is not None,
            f"a run of {self.strategy} does not end before its last round",
        )
        if self.strategy == GRAM:
            self._require_one_gram()
        if self.local_training is not None:
            require_options(self.strategy, self.rank, self.local_training.options)
        self._require_mechanisms()

    def _require_mechanisms(self) -> None:
        popularity, *training = self.mechanisms
        _require(
            (popularity.name, popularity.rounds) == ("popularity", (1,)),
            "the first mechanism is not popularity in round 1",
        )
        _require(
            all(each.name == self.strategy for each in training),
            f"a mechanism after the first is not {self.strategy}, the strategy",
        )
        _require(
            tuple(number for each in training for number in each.rounds)
            == tuple(range(2, self.total_rounds + 1)),
            f"the mechanisms {self.strategy} do not cover the training_rounds after round 1",
        )
        _require(
            not any(each.stated_key_delta for each in self.mechanisms),
            "training releases no keys, and has no δ for them",
        )
        full = [popularity] if self.local_training else self.mechanisms
        _require(
            all((each.sampling_probability, each.steps) == ("1", 1) for each in full),
            "popularity, factors and gram take every customer, once in a round",
        )
        self._require_epsilon()

    def _require_one_gram(self) -> None:
        _require(self.training_rounds == 1, "gram has one round after popularity's")
        _require(
            2 <= self.vocabulary_size <= MAX_GRAM_ITEMS,
            f"the vocabulary of gram is not within 2 and {MAX_GRAM_ITEMS} items",
        )

    def _require_ring(self) -> None:
        """A secure sum is exact in its ring."""
        most = len(self.regions)
        _require(most <= MAX_SUMMED, f"a secure sum is of at most {MAX_SUMMED} regions")
        for each in self.mechanisms:
            largest = Quantiser(each.grid_exponent, most).largest_value
            _require(
                release_value_bound(self, each) <= largest,
                f"the grid of {each.name} is too fine for a secure sum of {most} regions",
            )

    def _require_fine_grids(self) -> None:
        """Rounding after noise costs next to nothing."""
        for each in self.mechanisms:
            _require(
                2.0**each.grid_exponent <= _COARSEST_GRID * release_noise_stddev(self, each),
                f"the grid of {each.name} is too coarse beside its noise",
            )

    def _require_shares(self) -> None:
        """Distributed noise: what is accounted for is a sum of noisy sums of whole grid units."""
        _require(
            self.asks or self.strategy in SUMS,
            "distributed noise is for sums over all customers: factors and gram, not "
            f"{self.strategy}",
        )
        for each in self.mechanisms:
            try:
                self.shared_noise(each)
            except InputError as error:
                raise ValueError(f"{each.name}: {error.message}") from error

    def shared_noise(self, mechanism: Mechanism) -> SharedNoise:
        """What each region's share of the noise is, and the sum of the least of them protects as.

        Args:
            mechanism: One of a plan with distributed noise. Its noise multiplier is that of the
                Gaussian mechanism that the sum of `honest_survivors_min` regions is as good as.

        Raises:
            InputError: The grid is too coarse or too fine for such noise.
        """
        sizes = (spec.shape for spec in self.released_arrays(mechanism.name))
        return calibrate_share(
            float(mechanism.noise_multiplier),
            shares=self.aggregation.honest_survivors_min,
            sensitivity=sensitivity_of(float(mechanism.clipping_norm), mechanism.grid_exponent),
            coordinates=sum(math.prod(shape) for shape in sizes),
        )

    def _require_epsilon(self) -> None:
        try:
            spent = epsilon_bound(self.privacy_events(), float(self.delta))
        except InputError as error:
            raise ValueError(error.message) from error
        _require(
            spent <= float(self.epsilon) * (1 + EPSILON_SLACK),
            f"the mechanisms spend ε = {spent:.6f}, more than the plan states",
        )

    def to_record(self) -> dict[str, JsonValue]:
        """The plan as canonical JSON values: what its kind of plan has."""
        record: dict[str, JsonValue] = self.model_dump(mode="json", exclude_unset=True)
        return record

    def to_bytes(self) -> bytes:
        """``plan.json``: the record as canonical JSON.

        Raises:
            FormatError: It is too long.
        """
        return canonical_json.encode(self.to_record(), max_bytes=MAX_PLAN_BYTES)

    @classmethod
    def from_record(cls, record: JsonValue) -> RunPlan:
        """Reads a plan's record strictly.

        Raises:
            FormatError: Names the field that is missing, unknown or wrong.
        """
        try:
            # From JSON, because only there an array may stand for a tuple in strict mode.
            data = canonical_json.encode(record, max_bytes=MAX_PLAN_BYTES)
            return cls.model_validate_json(data)
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
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def total_rounds(self) -> int:
        """The number of server rounds."""
        if self.asks:
            return sum(each.steps for each in self.questions)
        return 1 + self.training_rounds

    def mechanism_of(self, server_round: int) -> Mechanism:
        """The mechanism of a round, from 1.

        Raises:
            InputError: The plan has no such round.
        """
        for mechanism in self.mechanisms:
            if server_round in mechanism.rounds:
                return mechanism
        raise InputError(f"The run plan has rounds 1 to {self.total_rounds}, not {server_round}.")

    def mechanism_named(self, name: str) -> Mechanism:
        """The mechanism of a question.

        Raises:
            InputError: The plan has none of this name.
        """
        for mechanism in self.mechanisms:
            if mechanism.name == name:
                return mechanism
        raise InputError(f"The run plan has no mechanism {name[:64]!r}.")

    def privacy_events(self) -> tuple[GaussianEvent, ...]:
        """The events of the whole run, for one region, so for one customer."""
        return tuple(mechanism.event for mechanism in self.mechanisms)

    def question(self, name: str) -> PlannedQuestion:
        """The question of a name.

        Raises:
            InputError: The plan does not ask it.
        """
        for each in self.questions:
            if each.name == name:
                return each
        raise InputError(f"The run plan does not ask {name[:64]!r}.")

    def released_arrays(self, mechanism_name: str) -> tuple[ArraySpec, ...]:
        """What leaves a region in one round of a mechanism, by name.

        With distributed noise these are whole grid units: what leaves is exactly what is accounted.

        Raises:
            InputError: The plan has no such mechanism.
        """
        dtype = "<i4" if self.mode == "distributed" else "<f4"
        if self.asks:
            return self.question(mechanism_name).releases(dtype)
        if mechanism_name == "popularity":
            return (ArraySpec("popularity", dtype, (self.n_items,)),)
        if mechanism_name == FACTORS == self.strategy:
            return (ArraySpec("factor_gradient", dtype, (self.vocabulary_size, self.rank)),)
        if mechanism_name == GRAM == self.strategy:
            return (ArraySpec("item_gram", dtype, (n_pairs(self.vocabulary_size),)),)
        if mechanism_name == self.strategy:
            return tuple(
                ArraySpec(change_of(spec.name), spec.dtype, spec.shape)
                for spec in self.parameter_arrays()
            )
        raise InputError(f"The run plan has no mechanism {mechanism_name[:64]!r}.")

    def parameter_arrays(self) -> tuple[ArraySpec, ...]:
        """What training changes of the model, by name; nothing where questions are asked."""
        if self.asks:
            return ()
        options = self.local_training.options if self.local_training else {}
        return parameter_specs(self.strategy, self.vocabulary_size, self.rank, options)

    def model_arrays(self, server_round: int) -> tuple[ArraySpec, ...]:
        """The model state that a round starts from; `total_rounds` + 1 means the final model.

        Of questions, the sums of those before.
        """
        if server_round <= 1:
            return ()
        if self.asks:
            return sums_before(self.questions, server_round)
        specs = (
            *self.parameter_arrays(),
            ArraySpec("item_weights", "<f4", (self.vocabulary_size,)),
            ArraySpec("popularity", "<f4", (self.n_items,)),
            ArraySpec("vocabulary", "<i8", (self.vocabulary_size,)),
        )
        return tuple(sorted(specs, key=lambda spec: spec.name))


def epsilon_bound(events: tuple[GaussianEvent, ...], delta: float) -> float:
    """ε of a plan's events: exact where every customer takes part, else by PLD.

    Keys' part of δ is taken off first; what leaves nothing of δ has an ε of infinity.

    Raises:
        InputError: A parameter is out of range.
    """
    if all(event.sampling_probability == 1.0 for event in events):
        left = delta_left(events, delta)
        return math.inf if left is None else epsilon_gaussian(total_noise_multiplier(events), left)
    return epsilon(events, delta)


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise ValueError(problem)
