"""What a page of insights ranks, and by which weights: ``insights.toml``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from common.analytics.priority import Weights
from common.errors import InputError
from common.toml_file import read_toml

#: The settings that are used unless others are named.
DEFAULT = Path(__file__).parent / "insights.toml"
_MAX_BYTES = 1 << 20

#: What can be read off an answer, one value for each of a question's items.
Reading = Literal["share", "change", "better", "worse", "matters"]
_Share = Annotated[float, Field(ge=0, le=1)]
_Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Number = Annotated[float, Field(allow_inf_nan=False)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class FactorTable(_Table):
    """Where a factor is read, and its scale.

    Attributes:
        question: The question's name.
        reading: What is read: of groups ``share``, of a trend ``change``, of a Kano survey
            ``better``, ``worse`` or ``matters``.
        nothing: The value that counts as 0; shares are from 0 to 1, a change of 2.0 is +200%.
        everything: The value that counts in full.
    """

    question: str
    reading: Reading
    nothing: _Number = 0.0
    everything: _Number = 1.0

    @model_validator(mode="after")
    def _has_a_scale(self) -> FactorTable:
        if self.nothing == self.everything:
            raise ValueError("nothing and everything are the same")
        return self


class ListTable(_Table):
    """One list that is ranked.

    Attributes:
        items: The question whose groups or features are ranked.
        most: Of groups, so many: the largest.
        importance: How much each matters.
        urgency: How soon.
        feasibility: How well each can be done, by its name; ``default`` for those not named.
    """

    items: str
    most: Annotated[int, Field(ge=1, le=100)] = 12
    importance: FactorTable
    urgency: FactorTable
    feasibility: dict[str, _Share] = Field(default_factory=dict)

    def feasibility_of(self, item: str) -> float:
        """How well an item can be done; in the middle if nothing is stated."""
        return self.feasibility.get(item, self.feasibility.get("default", 0.5))


class WeightsTable(_Table):
    """How much each factor counts, beside the others."""

    importance: _Weight = 1.0
    urgency: _Weight = 1.0
    feasibility: _Weight = 1.0

    @model_validator(mode="after")
    def _ranks(self) -> WeightsTable:
        if not self.importance + self.urgency + self.feasibility > 0:
            raise ValueError("one weight must be above 0")
        return self


class InsightsSettings(_Table):
    """All settings of a page.

    Attributes:
        weights: Of every list.
        priority: The lists.
    """

    weights: WeightsTable = Field(default_factory=WeightsTable)
    priority: tuple[ListTable, ...] = ()

    def of_factors(self) -> Weights:
        """The weights."""
        return Weights(self.weights.importance, self.weights.urgency, self.weights.feasibility)


def read_settings(path: Path = DEFAULT) -> InsightsSettings:
    """Reads settings.

    Raises:
        InputError: The file is missing, too long, no TOML, or a field is wrong: names file and
            field.
    """
    values = read_toml(
        path,
        "The settings of insights",
        max_bytes=_MAX_BYTES,
        remedy="Name a TOML file with [weights] and [[priority]], or leave the option out.",
    )
    try:
        return InsightsSettings.model_validate(_tuples(values))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "(whole file)"
        problem = first["msg"].removeprefix("Value error, ")
        raise InputError(
            f"The settings of insights {path}: {field}: {problem}.",
            remedy="Correct the field; unknown fields are refused.",
        ) from error


def _tuples(values: dict[str, object]) -> dict[str, object]:
    """TOML has lists where the settings have tuples, which strict reading tells apart."""
    lists = values.get("priority")
    return {**values, "priority": tuple(lists)} if isinstance(lists, list) else values
