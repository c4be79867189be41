"""The parts of a run plan: forms of its numbers, one mechanism, local training, an early end."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from common.errors import FedprefError
from common.privacy import DELTA_RANGE, GaussianEvent
from common.timestamps import parse_time
from common.validate import DECIMAL

#: The most bytes of a plan: questions name their groups, one by one.
MAX_PLAN_BYTES: Final = 1 << 20


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


def _share(text: str) -> str:
    if not 0 <= Decimal(text) < 1:
        raise ValueError("must be at least 0 and below 1")
    return text


def _probability(text: str) -> str:
    if not 0 < Decimal(text) <= 1:
        raise ValueError("must be above 0 and at most 1")
    return text


def _key_delta(text: str) -> str:
    least, most = DELTA_RANGE
    if not least <= float(text) <= most:
        raise ValueError(f"must be within {least:g} and {most:g}")
    return text


def _time(text: str) -> str:
    try:
        parse_time(text)
    except FedprefError as error:
        raise ValueError(error.message) from error
    return text


DecimalText = Annotated[str, AfterValidator(_decimal)]
PositiveText = Annotated[DecimalText, AfterValidator(_positive)]
ShareText = Annotated[DecimalText, AfterValidator(_share)]
ProbabilityText = Annotated[DecimalText, AfterValidator(_probability)]
KeyDeltaText = Annotated[DecimalText, AfterValidator(_key_delta)]
TimeText = Annotated[str, AfterValidator(_time)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Mechanism(BaseModel):
    """One kind of noisy release, and the rounds in which it runs, once each.

    Attributes:
        name: ``popularity``, or the plan's strategy; in a plan of questions a question's name.
        rounds: The server rounds, ascending.
        steps: How often it runs in one round: a region's local steps.
        noise_multiplier: σ / C, as a decimal string.
        clipping_norm: C, the most one customer contributes to the sum of one step (L2).
        sampling_probability: With what probability a customer takes part in a step; ``1`` for every
            eligible customer.
        grid_exponent: Released values are multiples of 2 to this power.
        key_delta: Of a question of keys that nobody can list: with what probability each of its
            runs may release a key of one customer alone, as a decimal string. It is part of the
            plan's δ. Only such a question states it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Name
    rounds: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = Field(min_length=1)
    steps: int = Field(ge=1, le=100_000)
    noise_multiplier: PositiveText
    clipping_norm: PositiveText
    sampling_probability: ProbabilityText
    grid_exponent: int = Field(ge=-24, le=16)
    key_delta: KeyDeltaText = "0"

    @property
    def noise_stddev(self) -> float:
        """Standard deviation of the noise on each coordinate that one region releases.

        With distributed noise, of the sum's if only the least honest survivors' shares are in it.
        """
        return float(self.noise_multiplier) * float(self.clipping_norm)

    @property
    def event(self) -> GaussianEvent:
        """The privacy event of all its rounds."""
        return GaussianEvent(
            noise_multiplier=float(self.noise_multiplier),
            sampling_probability=float(self.sampling_probability),
            count=len(self.rounds) * self.steps,
            key_delta=float(self.key_delta),
        )

    @property
    def stated_key_delta(self) -> dict[str, str]:
        """Its δ for keys as a field of records; no field where it has none."""
        return {"key_delta": self.key_delta} if "key_delta" in self.model_fields_set else {}


class LocalTraining(BaseModel):
    """How a region trains between two rounds, and what the coordinator makes of the changes.

    Attributes:
        expected_batch_size: What a step's noisy sum is divided by, in customers: public, and no
            number of anybody's customers.
        optimizer: Of the region's steps; its state begins anew in every round.
        learning_rate: Of the region's steps.
        learning_rate_decay: What the learning rate is multiplied by from round to round.
        weight_decay: Share of the parameters that a step takes off, times the learning rate.
        server_optimizer: What the coordinator does with the mean of the regions' changes: adds it
            (``mean``), or takes it for a gradient (``fedavgm``: Hsu, Qi and Brown, 2019;
            ``fedadam``: Reddi et al., 2021).
        server_learning_rate: Its learning rate in the first round of training.
        server_learning_rate_decay: What that is multiplied by from round to round.
        server_momentum: Share of the earlier changes that ``fedavgm`` and ``fedadam`` keep.
        options: The strategy's own constants; see `common.strategies`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    expected_batch_size: PositiveText
    optimizer: Literal["sgd", "momentum", "adam"]
    learning_rate: PositiveText
    learning_rate_decay: ProbabilityText
    weight_decay: ShareText
    server_optimizer: Literal["mean", "fedavgm", "fedadam"]
    server_learning_rate: PositiveText
    server_learning_rate_decay: ProbabilityText
    server_momentum: ShareText
    options: dict[str, DecimalText] = Field(max_length=16)

    def learning_rate_of(self, server_round: int) -> float:
        """The learning rate of a region's steps in a round, from 2."""
        return float(self.learning_rate) * float(self.learning_rate_decay) ** (server_round - 2)

    def server_learning_rate_of(self, server_round: int) -> float:
        """The learning rate of the coordinator's step in a round, from 2."""
        decayed = float(self.server_learning_rate_decay) ** (server_round - 2)
        return float(self.server_learning_rate) * decayed


class EarlyStop(BaseModel):
    """When a run ends before its last round, because its rounds have stopped to tell anything.

    A round's *signal* is the cosine between the change that it makes of the regions' updates and
    the change of the round before, 0 if negative. Noise is drawn anew in every round, so between
    two rounds of noise alone it is near 0, within about 1/√(number of parameters). It is made of
    released values only.

    Attributes:
        patience_rounds: How many rounds in a row must be below `least_signal`.
        least_signal: The least signal of a round that tells something.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    patience_rounds: int = Field(ge=1, le=1000)
    least_signal: ProbabilityText
