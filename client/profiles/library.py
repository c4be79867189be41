"""The tag library: what profiles may say of customers, declared as data (TOML).

The default is ``library.toml`` beside this; a region's own lies in its home. Everything in it is
the operator's choice and the same for all customers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from client.data.standards import load_standards
from client.data.standards_fields import Definition
from client.profiles.columns import (
    CATEGORY_FACTS,
    CUSTOMER_FACTS,
    RELATIVE_FACTS,
    SHARE_OF,
    Columns,
)
from client.profiles.terms import with_terms
from common.errors import InputError
from common.toml_file import parse_toml, read_toml

FILE_NAME = "library.toml"
MAX_LIBRARY_BYTES = 1 << 20
_MOST_RULES, _MOST_TAGS = 16, 512

Id = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,63}$")]
Number = Annotated[float, Field(allow_inf_nan=False)]
Words = Annotated[str, Field(min_length=1, max_length=400)]
Level: TypeAlias = Literal["basic", "behaviour", "preference", "value"]
BoolArray: TypeAlias = npt.NDArray[np.bool_]


class _Declared(BaseModel):
    # Not strict: TOML writes 1 for 1.0.
    model_config = ConfigDict(frozen=True, extra="forbid")


class Text(_Declared):
    """Words in both languages of the customers' pages."""

    en: Words
    zh: Words

    def of(self, lang: str) -> str:
        """The words in one language."""
        return self.zh if lang == "zh" else self.en


class Rule(_Declared):
    """Bounds that a fact has to be within; all that are given.

    Attributes:
        fact: Which, of `CUSTOMER_FACTS`, `CATEGORY_FACTS` or a share of a part of the day.
        at_least: The least it may be.
        at_most: The most it may be.
        above: What it has to be more than.
        below: What it has to be less than.
    """

    fact: str
    at_least: Number | None = None
    at_most: Number | None = None
    above: Number | None = None
    below: Number | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if not self.bounds:
            raise ValueError(f"the rule over {self.fact} gives no bound")
        known = self.fact in CUSTOMER_FACTS or self.fact in CATEGORY_FACTS
        if not known and not self.fact.startswith(SHARE_OF):
            raise ValueError(f"there is no fact {self.fact[:64]!r}")
        return self

    @property
    def bounds(self) -> dict[str, float]:
        """The bounds that are given, by name."""
        every = {
            "at_least": self.at_least,
            "at_most": self.at_most,
            "above": self.above,
            "below": self.below,
        }
        return {name: bound for name, bound in every.items() if bound is not None}

    def holds(self, values: npt.NDArray[np.float64]) -> BoolArray:
        """bool[n]: where it holds; nowhere where the fact is not known."""
        # NaN is not within anything: each comparison with it is false.
        held = np.ones(len(values), dtype=bool)
        for name, bound in self.bounds.items():
            held &= {
                "at_least": values >= bound,
                "at_most": values <= bound,
                "above": values > bound,
                "below": values < bound,
            }[name]
        return held


class Ruled(_Declared):
    """Something that is said of a customer if all of its rules hold.

    Attributes:
        id: Its name in the library.
        title: What it says.
        when: The rules.
        each: ``category``: it is said for each category that the rules hold for.
    """

    id: Id
    title: Text
    when: tuple[Rule, ...] = Field(max_length=_MOST_RULES)
    each: Literal["category"] | None = None

    @model_validator(mode="after")
    def _over_known_facts(self) -> Self:
        of_category = [rule for rule in self.when if rule.fact in CATEGORY_FACTS]
        if of_category and self.each is None:
            raise ValueError(f'{self.id}: {of_category[0].fact} needs each = "category"')
        if self.each is not None and not of_category:
            raise ValueError(f"{self.id}: no rule says of which categories it is said")
        return self

    @property
    def relative(self) -> bool:
        """Whether it rests on other customers' data, too."""
        return any(rule.fact in RELATIVE_FACTS for rule in self.when)

    def customers(self, columns: Columns, n: int) -> BoolArray:
        """bool[n]: the customers for whom the rules about customers hold."""
        held = np.ones(n, dtype=bool)
        for rule in self.when:
            if rule.fact not in CATEGORY_FACTS:
                unknown = np.full(n, np.nan)
                held &= rule.holds(columns.values.get(rule.fact, unknown))
        return held

    def categories(self, columns: Columns) -> BoolArray:
        """bool[pairs]: the pairs of customer and category for which the other rules hold."""
        held = np.ones(len(columns.owner), dtype=bool)
        for rule in self.when:
            if rule.fact in CATEGORY_FACTS:
                held &= rule.holds(columns.pairs[rule.fact])
        return held


class Tag(Ruled):
    """A tag.

    Attributes:
        level: Which of the four levels it is of.
    """

    level: Level


class Trigger(Ruled):
    """A pattern that is told as soon as it is complete.

    Attributes:
        advice: What to do then; advisory.
    """

    advice: Text


class Segment(Ruled):
    """A segment.

    Attributes:
        strategy: What to do next for its customers; advisory.
    """

    strategy: Text


class TagLibrary(_Declared):
    """All that profiles may say.

    Attributes:
        version: The library's own name of its state; stated in every profile.
        tag: The tags.
        trigger: The triggers.
        segment: The segments: a customer is in the first whose rules hold. The last has no rule.
    """

    version: Annotated[str, Field(min_length=1, max_length=64)]
    tag: tuple[Tag, ...] = Field(min_length=1, max_length=_MOST_TAGS)
    trigger: tuple[Trigger, ...] = Field(default=(), max_length=_MOST_TAGS)
    segment: tuple[Segment, ...] = Field(min_length=1, max_length=64)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        ids = [each.id for each in (*self.tag, *self.trigger)]
        for those in (ids, [each.id for each in self.segment]):
            twice = {each for each in those if those.count(each) > 1}
            if twice:
                raise ValueError(f"{min(twice)} is there twice")
        if self.segment[-1].when:
            raise ValueError("the last segment has rules, so that a customer may be in none")
        if any(each.each for each in self.segment):
            raise ValueError("a segment is of customers, not of categories")
        return self

    @property
    def digest(self) -> str:
        """Names this very state: of another one everybody is judged anew."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def said(self) -> tuple[Tag | Trigger, ...]:
        """Tags and triggers, in the library's order: profiles keep them by their number here."""
        return (*self.tag, *self.trigger)


def load_library(
    path: Path | None = None, *, terms: Mapping[str, Definition] | None = None
) -> TagLibrary:
    """Reads a tag library.

    Args:
        path: Its file; the default one if it is not there, or not given.
        terms: What terms of the region's data standards mean; those of the default standards if
            they are not given.

    Raises:
        InputError: It cannot be read, or a field is wrong: names file, field and what is wrong.
    """
    if path is not None and path.exists():
        remedy = "Correct the file, or remove it for the default one."
        values = read_toml(path, "The tag library", max_bytes=MAX_LIBRARY_BYTES, remedy=remedy)
    else:
        data = resources.files("client.profiles").joinpath(FILE_NAME).read_bytes()
        values = parse_toml(data, None, "The default tag library", max_bytes=MAX_LIBRARY_BYTES)
    known = load_standards().definitions if terms is None else terms
    try:
        return TagLibrary.model_validate(with_terms(values, known))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "(whole file)"
        raise InputError(
            f"The tag library {path}: {where}: {first['msg']}.",
            remedy="Correct the field; unknown fields and facts are refused.",
        ) from error
