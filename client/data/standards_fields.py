"""What a data standard says of a column, of a row, of a table, and of a term.

Everything here is declared by the region's operator (`client.data.standards`), and nothing is
learnt from data. So what treatment makes of a row depends on that row, on the same customer's other
rows, and on public constants: a fence or a median of everyone's values would let one customer move
another's row, and the noise of a release hides one customer's own row alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

#: What a column holds: a party's or thing's reference; one of a list of codes; words; a whole
#: number; a number; a moment; yes or no.
ColumnType = Literal["reference", "code", "text", "integer", "number", "time", "flag"]
#: How sensitive a column is: who may read it, and how it lies on the disk, depend on it.
Grade = Literal["high", "medium", "low"]

#: The end of a range of times that moves with the clock.
NOW = "now"
#: Beyond 2^53 a float no longer holds each whole number.
_MOST_EXACT = float(1 << 53)

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
ReasonName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,63}$")]
Code = Annotated[str, Field(min_length=1, max_length=128)]
Words = Annotated[str, Field(min_length=1, max_length=500)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
#: A table's column: ``catalogue.item``.
_PLACE = r"^[a-z][a-z0-9_]{0,63}\.[a-z][a-z0-9_]{0,63}$"


def _aware(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a time needs its UTC offset, such as 1990-01-01T00:00:00Z")
    return moment


def _bound(value: object) -> object:
    """An end of a range; ``inf`` and ``-inf`` say that there is none."""
    if isinstance(value, bool):
        raise ValueError('an end of a range is a number, a time or "now"')
    if isinstance(value, int | float):
        if value != value:
            raise ValueError("an end of a range is not a number")
        return None if math.isinf(value) else float(value)
    if isinstance(value, datetime):
        return _aware(value)
    if value == NOW:
        return value
    raise ValueError('an end of a range is a number, a time or "now"')


Bound = Annotated[float | datetime | Literal["now"] | None, BeforeValidator(_bound)]


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from error
    return text


class _Section(BaseModel):
    # Not strict: TOML writes 1 for 1.0.
    model_config = ConfigDict(frozen=True, extra="forbid")


class Completion(_Section):
    """How a missing value is filled in; a value that cannot be read never is.

    Attributes:
        value: By this value.
        lookup: By what a public table says of the row's item: ``catalogue.category``.
    """

    value: str | bool | int | float | None = None
    lookup: Annotated[str, Field(pattern=_PLACE)] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.value is None) == (self.lookup is None):
            raise ValueError("say exactly one of value and lookup")
        return self


class Outliers(_Section):
    """What becomes of values that are possible, and yet say something else than they are meant to.

    Attributes:
        below: Lesser values are outliers; None: none are.
        above: Greater ones are.
        treat: ``clip`` to the fence, or ``set-aside``: the row is left out.
    """

    below: Finite | None = None
    above: Finite | None = None
    treat: Literal["clip", "set-aside"] = "clip"

    @model_validator(mode="after")
    def _has_fences(self) -> Self:
        if self.below is None and self.above is None:
            raise ValueError("say below, above or both")
        if self.below is not None and self.above is not None and not self.below <= self.above:
            raise ValueError("below is above above")
        return self


class ColumnStandard(_Section):
    """What a column is, and what its values may be.

    Attributes:
        type: What it holds.
        meaning: What it means, in words.
        grade: How sensitive it is.
        required: Whether a store must have the column. Every row must then have a value.
        filled: Whether every row must have a value, if the store has the column.
        range: The least and greatest value, each within; None for no bound. A time's greatest value
            may be ``now``.
        codes: The values that there are, for a code.
        pattern: A regular expression that a whole text or reference matches.
        unit: What its numbers are in, such as ``s``.
        known_in: The table and column in which each value must be found, such as
            ``catalogue.item``; checked where that table is at hand.
        complete: How a missing value is filled in; without it, it stays missing.
        outliers: What becomes of extreme values; without it, nothing.
    """

    type: ColumnType
    meaning: Words
    grade: Grade
    required: bool = False
    filled: bool = False
    range: tuple[Bound, Bound] | None = None
    codes: tuple[Code, ...] | None = None
    pattern: Annotated[str, AfterValidator(_pattern)] | None = None
    unit: Annotated[str, Field(min_length=1, max_length=32)] | None = None
    known_in: Annotated[str, Field(pattern=_PLACE)] | None = None
    complete: Completion | None = None
    outliers: Outliers | None = None

    @property
    def needed(self) -> bool:
        """Whether every row of a store with the column must have a value."""
        return self.required or self.filled

    @property
    def numeric(self) -> bool:
        """Whether its values are numbers."""
        return self.type in ("integer", "number")

    @model_validator(mode="after")
    def _fits_type(self) -> Self:
        if self.range is not None:
            self._check_range(*self.range)
        if (self.codes is not None) != (self.type == "code"):
            raise ValueError("a code needs its list of codes, and nothing else has one")
        if self.codes is not None and len(set(self.codes)) != len(self.codes):
            raise ValueError("a code is listed twice")
        if self.pattern is not None and self.type not in ("reference", "text"):
            raise ValueError("a pattern is for references and text")
        if self.outliers is not None and not self.numeric:
            raise ValueError("outliers are of numbers")
        if self.complete is not None:
            self._check_completion(self.complete)
        return self

    def _check_range(self, low: object, high: object) -> None:
        if not (self.numeric or self.type == "time"):
            raise ValueError("a range is for numbers and times")
        kind: type = datetime if self.type == "time" else float
        if low == NOW:
            raise ValueError("a range cannot begin now")
        for end in (low, high):
            if not (end is None or isinstance(end, kind) or (kind is datetime and end == NOW)):
                raise ValueError("the range is not of the column's type")
        if isinstance(low, float) and isinstance(high, float) and not low <= high:
            raise ValueError("the range ends before it begins")
        if isinstance(low, datetime) and isinstance(high, datetime) and not low <= high:
            raise ValueError("the range ends before it begins")

    def _check_completion(self, complete: Completion) -> None:
        if complete.lookup is not None and self.type not in ("reference", "text", "code"):
            raise ValueError("what is looked up is a reference, text or a code")
        if complete.value is not None and not self._allows(complete.value):
            raise ValueError(f"the completion {complete.value!r} is no value of the column")

    def _allows(self, value: str | bool | float) -> bool:
        if self.type == "flag":
            return isinstance(value, bool)
        if self.numeric:
            if isinstance(value, bool | str) or not abs(value) <= _MOST_EXACT:
                return False
            low, high = self.range or (None, None)
            whole = self.type == "number" or float(value).is_integer()
            above = not isinstance(low, float) or value >= low
            return whole and above and (not isinstance(high, float) or value <= high)
        if self.codes is not None:
            return value in self.codes
        fits = isinstance(value, str) and bool(value.strip()) and self.type != "time"
        return fits and (self.pattern is None or re.fullmatch(self.pattern, str(value)) is not None)


class RowRule(_Section):
    """A check of a row across its columns.

    Attributes:
        name: What a row that fails is counted under.
        when: Column → values; the rule is for rows that have one of them in each.
        column: The column that is checked, by `filled` and `range`.
        filled: Whether it must have a value.
        range: Its least and greatest number.
        ascending: Columns whose values never become less, from the first on.
    """

    name: ReasonName
    when: Mapping[Name, tuple[str, ...]] = {}
    column: Name | None = None
    filled: bool = False
    range: tuple[Bound, Bound] | None = None
    ascending: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _checks_something(self) -> Self:
        by_column = self.filled or self.range is not None
        if by_column != (self.column is not None) or by_column == bool(self.ascending):
            raise ValueError("say column with filled or range, or ascending")
        if self.ascending and len(self.ascending) < 2:
            raise ValueError("ascending takes two columns at least")
        return self

    @property
    def named(self) -> set[str]:
        """The columns that it is about."""
        return {*self.when, *self.ascending, *([] if self.column is None else [self.column])}


class TableStandard(_Section):
    """What a table is, and what its rows may be.

    Attributes:
        meaning: What a row says, in words.
        columns: The columns there may be, by their canonical names.
        key: The columns that tell rows apart; rows alike in those that a store has are one row.
        newest_by: Of rows with one key that differ otherwise, the greatest value here stays.
        rules: Checks across columns.
        most_per_customer: So many rows of one customer count, the newest; more are set aside.
        threshold: The least share of rows that must be right; None: the one of all tables.
        changed_most: The greatest share of rows that treatment may change. Beyond it a broken feed
            would pass for a good one.
    """

    meaning: Words
    columns: Mapping[Name, ColumnStandard] = Field(min_length=1, max_length=64)
    key: tuple[Name, ...] = Field(min_length=1)
    newest_by: Name | None = None
    rules: tuple[RowRule, ...] = ()
    most_per_customer: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    threshold: Share | None = None
    changed_most: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05

    @property
    def required(self) -> list[str]:
        """The columns that a store must have."""
        return [name for name, column in self.columns.items() if column.required]

    @model_validator(mode="after")
    def _names_columns(self) -> Self:
        named = {*self.key, *([] if self.newest_by is None else [self.newest_by])}
        for rule in self.rules:
            named |= rule.named
        if any(each.complete and each.complete.lookup for each in self.columns.values()):
            named.add("item")
        unknown = named - self.columns.keys()
        if unknown:
            raise ValueError(f"there is no column {min(unknown)!r} in the table")
        if "customer" in self.columns and "customer" not in self.key:
            # One customer's row would else go because of another's.
            raise ValueError("the key of a table about customers has the column customer")
        if self.most_per_customer is not None and not {"customer", "time"} <= self.columns.keys():
            raise ValueError("most_per_customer needs the columns customer and time")
        names = [rule.name for rule in self.rules]
        if len(set(names)) != len(names):
            raise ValueError("two rules have one name")
        return self


class Definition(_Section):
    """A term that means one thing everywhere: who counts as what.

    Attributes:
        meaning: The term in words.
        table: Whose rows are counted.
        where: Column → values; the rows that have one of them in each are counted.
        count: ``rows``, ``days`` (on which there is one), or a column, whose distinct values count.
        at_least: A customer with so many of them is meant.
        within_days: How far back from the day asked for.
    """

    meaning: Words
    table: Name
    where: Mapping[Name, tuple[str, ...]] = {}
    count: Name = "rows"
    at_least: Annotated[int, Field(ge=1, le=1_000_000)]
    within_days: Annotated[int, Field(ge=1, le=36_600)]


class CodeList(_Section):
    """A list of codes that several columns share.

    Attributes:
        meaning: What it lists.
        values: The codes.
    """

    meaning: Words
    values: tuple[Code, ...] = Field(min_length=1, max_length=10_000)

    @field_validator("values")
    @classmethod
    def _distinct(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(values)) != len(values):
            raise ValueError("a code is listed twice")
        return values


def with_codes(column: Any, lists: Mapping[str, CodeList]) -> Any:
    """A column's table with the list that it names in the place of the name.

    Raises:
        ValueError: There is no such list.
    """
    named = column.get("codes") if isinstance(column, dict) else None
    if not isinstance(named, str):
        return column
    if named not in lists:
        raise ValueError(f"there is no list of codes {named!r}")
    return {**column, "codes": lists[named].values}
