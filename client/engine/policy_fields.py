"""The forms of a policy's fields: decimals, caps, bounds on arrays, retention, people's access."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from common.parameters import ArraySpec
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
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Days = Annotated[int, Field(ge=1, le=36_600)]


class ArrayBound(BaseModel):
    """An array that may leave the region, and how large it may be.

    Attributes:
        name: Its name, exactly.
        dtype: The type of its elements, exactly.
        shape_max: The greatest length of each axis; it must have as many axes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(min_length=1, max_length=128)
    dtype: Literal["<f4", "<f8", "<i4", "<i8"]
    shape_max: list[Annotated[int, Field(ge=1, le=2**31 - 1)]] = Field(min_length=1, max_length=8)

    def allows(self, spec: ArraySpec) -> bool:
        """Whether an array is within the bound."""
        return (
            (spec.name, spec.dtype) == (self.name, self.dtype)
            and len(spec.shape) == len(self.shape_max)
            and all(length <= most for length, most in zip(spec.shape, self.shape_max, strict=True))
        )

    @property
    def words(self) -> str:
        """The bound, to name it in a sentence."""
        return f"{self.name} {self.dtype}{self.shape_max}"


def any_allows(bounds: Sequence[ArrayBound], spec: ArraySpec) -> bool:
    """Whether one of some bounds allows an array."""
    return any(bound.allows(spec) for bound in bounds)


class Retention(BaseModel):
    """For how many days the region keeps what is over; what is not stated is kept for good.

    `fedpref-region tidy` removes what is older. The log is append-only and keeps its entries.

    Attributes:
        seals: Sealed updates, after the end of their run's permit.
        permits: Permits and the plans they are for, after the permit's end.
        evidence: The evidence of customers' choices, after the choice was replaced or ended.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    seals: Days | None = None
    permits: Days | None = None
    evidence: Days | None = None

    @model_validator(mode="after")
    def _states_something(self) -> Self:
        if self.seals is None and self.permits is None and self.evidence is None:
            raise ValueError("state seals, permits or evidence, or leave the table out")
        # A seal is judged by its run's permit.
        if self.permits is not None and (self.seals is None or self.permits < self.seals):
            raise ValueError("permits cannot be kept for less time than seals")
        return self


class AccessRules(BaseModel):
    """Who may read sensitive columns under a grant, and for how long at most.

    Attributes:
        grant_s_max: The longest that a grant may hold, in seconds.
        people: Each person's keys, by a name that the region knows them by: it is in the log, so
            best a number of staff. Nobody approves what they asked for themselves, whichever of
            their keys they use.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    grant_s_max: int = Field(ge=60, le=31 * 86_400)
    people: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")],
        Annotated[list[Sha256], Field(min_length=1, max_length=16)],
    ] = Field(min_length=2, max_length=256)

    @model_validator(mode="after")
    def _one_person_a_key(self) -> Self:
        owners = Counter(key for keys in self.people.values() for key in keys)
        if owners.total() != len(owners):
            raise ValueError("a key is two people's, or is named twice")
        return self

    def person_of(self, key_id: str) -> str | None:
        """Whose key this is; None if nobody's."""
        return next((name for name, keys in self.people.items() if key_id in keys), None)
