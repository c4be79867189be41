"""Questions as records: what a plan states and a file of answers repeats, whole, labels and all.

A question's record is its kind and its fields as canonical JSON values, numbers that are not whole
as strings. Reading is strict: a record is accepted only if the question that it gives has that very
record, so that two sides which agree on a record agree on the question.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from common.analytics.clusters import Clusters
from common.analytics.coordinates import Coordinate
from common.analytics.cuts import Cuts
from common.analytics.funnels import Funnel
from common.analytics.groups import Groups
from common.analytics.kano import Kano
from common.analytics.key_union import KeyUnion
from common.analytics.outlook import Outlook
from common.analytics.scores import Score
from common.analytics.shares import Shares
from common.analytics.trends import Trend
from common.analytics.uplift import Uplift
from common.canonical_json import JsonValue
from common.errors import FedprefError, FormatError

#: The most values that an answer may have: far more than any question here, and a bound on memory.
MAX_VALUES = 1 << 16


class Question(Protocol):
    """What every question of `common.analytics` has."""

    @property
    def name(self) -> str:
        """What is asked."""
        ...

    @property
    def size(self) -> int:
        """How many values the answer has."""
        ...

    @property
    def parameters(self) -> dict[str, JsonValue]:
        """The public constants that a row depends on."""
        ...

    def outlook(self, customers: int, noise_stddev: float) -> Outlook:
        """What noise would do to it with at least so many customers."""
        ...


@dataclass(frozen=True)
class _Form:
    """How a field is written and read."""

    write: Callable[[Any], JsonValue]
    read: Callable[[JsonValue], Any]


def _text_of(value: JsonValue) -> str:
    if not isinstance(value, str):
        raise TypeError("a text was expected")
    return value


def _whole_of(value: JsonValue) -> int:
    # A truth value is a whole number to Python, and none here.
    if type(value) is not int:
        raise TypeError("a whole number was expected")
    return value


def _number_of(value: JsonValue) -> float:
    number = float(_text_of(value))
    if not math.isfinite(number):
        raise ValueError("a finite number was expected")
    return number


def _list_of(value: JsonValue) -> list[JsonValue]:
    if not isinstance(value, list):
        raise TypeError("a list was expected")
    return value


def _several(one: _Form) -> _Form:
    return _Form(
        lambda values: [one.write(each) for each in values],
        lambda value: tuple(one.read(each) for each in _list_of(value)),
    )


_TEXT = _Form(str, _text_of)
_WHOLE = _Form(int, _whole_of)
_NUMBER = _Form(lambda number: repr(float(number)), _number_of)
_WHOLE_OR_NONE = _Form(
    lambda number: None if number is None else int(number),
    lambda value: None if value is None else _whole_of(value),
)
_TEXTS, _WHOLES, _NUMBERS = (_several(each) for each in (_TEXT, _WHOLE, _NUMBER))
_POINTS = _Form(
    lambda points: [[repr(each) for each in row] for row in points.tolist()],
    lambda value: np.array([_NUMBERS.read(row) for row in _list_of(value)], dtype=np.float64),
)
_COORDINATE = _Form(Coordinate.to_record, Coordinate.of_record)

# Of every kind each field, by its name in the class; a test holds the two together.
_KINDS: dict[str, tuple[type[Any], dict[str, _Form]]] = {
    "groups": (
        Groups,
        {
            "name": _TEXT,
            "labels": _TEXTS,
            "bound": _NUMBER,
            "most": _WHOLE_OR_NONE,
            "unit": _TEXT,
            "wanted": _NUMBER,
        },
    ),
    "shares": (Shares, {"name": _TEXT, "axes": _several(_TEXTS), "wanted": _NUMBER}),
    "cuts": (
        Cuts,
        {
            "name": _TEXT,
            "edges": _NUMBERS,
            "probabilities": _NUMBERS,
            "wanted": _NUMBER,
            "unit": _TEXT,
        },
    ),
    "funnel": (Funnel, {"name": _TEXT, "stages": _TEXTS, "wanted": _NUMBER}),
    "trend": (
        Trend,
        {
            "name": _TEXT,
            "labels": _TEXTS,
            "most": _WHOLE,
            "threshold": _NUMBER,
            "usual_share": _NUMBER,
            "wanted": _NUMBER,
        },
    ),
    "score": (
        Score,
        {
            "name": _TEXT,
            "most_of_class": _WHOLES,
            "points": _NUMBERS,
            "lowest": _WHOLE,
            "answering_share": _NUMBER,
            "wanted": _NUMBER,
        },
    ),
    "uplift": (
        Uplift,
        {
            "name": _TEXT,
            "treated_share": _NUMBER,
            "experiment_share": _NUMBER,
            "wanted": _NUMBER,
        },
    ),
    "kano": (
        Kano,
        {
            "name": _TEXT,
            "features": _TEXTS,
            "most": _WHOLE,
            "answering_share": _NUMBER,
            "wanted": _NUMBER,
        },
    ),
    "clusters": (
        Clusters,
        {
            "name": _TEXT,
            "coordinates": _several(_COORDINATE),
            "centres": _POINTS,
            "steps": _WHOLE,
            "wanted": _NUMBER,
        },
    ),
    "keys": (
        KeyUnion,
        {
            "name": _TEXT,
            "most": _WHOLE,
            "key_delta": _NUMBER,
            "wanted": _NUMBER,
            "keys": _WHOLE,
            "key_bytes": _WHOLE,
        },
    ),
}


def question_record(question: Question) -> dict[str, JsonValue]:
    """A question's record.

    Raises:
        FormatError: It is of no kind that can be asked of several regions at once.
    """
    for kind, (made, forms) in _KINDS.items():
        if type(question) is made:
            stated = {name: form.write(getattr(question, name)) for name, form in forms.items()}
            return {"kind": kind, **stated}
    raise FormatError(f"{type(question).__name__} is no question that a plan can ask.")


def steps_of(question: Question) -> int:
    """In how many rounds a question is asked, one after the other."""
    return question.steps if isinstance(question, Clusters) else 1


def question_of(record: Mapping[str, JsonValue]) -> Question:
    """The question of a record.

    Raises:
        FormatError: It is none, or not in the form that `question_record` gives.
    """
    made, forms = _KINDS.get(str(record.get("kind")), (None, {}))
    if made is None:
        raise FormatError(f"{str(record.get('kind'))[:32]!r} is no kind of question.")
    if set(record) != {"kind", *forms}:
        raise FormatError(f"A question of kind {record['kind']} has other fields.")
    try:
        question: Question = made(**{name: form.read(record[name]) for name, form in forms.items()})
        size = question.size
    except FedprefError as error:
        raise FormatError(f"A question does not hold: {error.message}") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise FormatError(f"A question of kind {record['kind']} is malformed: {error}.") from error
    if not 1 <= size <= MAX_VALUES:
        raise FormatError(f"An answer of {size} values is not within 1 and {MAX_VALUES}.")
    if question_record(question) != dict(record):
        raise FormatError(f"A question of kind {record['kind']} is not in its canonical form.")
    return question
