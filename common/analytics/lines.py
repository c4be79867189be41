"""Answers as lines for people: a label, a value, its interval, and what is to be said of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import singledispatch
from itertools import pairwise, product

import numpy as np

from common.analytics.clusters import Clusters
from common.analytics.cuts import Cuts
from common.analytics.estimates import LEVEL, Estimates, FloatArray
from common.analytics.funnels import Funnel
from common.analytics.groups import Groups
from common.analytics.kano import CLASSES, Kano
from common.analytics.scores import Score
from common.analytics.shares import Shares
from common.analytics.trends import Trend
from common.analytics.uplift import Uplift
from common.canonical_json import JsonValue
from common.errors import InputError

#: Of groups, so many are named: the largest, or those that changed the most.
MOST_GROUPS = 20
#: What is said where noise leaves nothing to say: not a number that is made of noise.
TOO_SMALL = "too small to say"


@dataclass(frozen=True)
class Line:
    """One line of an answer.

    Attributes:
        label: What it is about.
        value: The value; None where noise leaves nothing to say.
        low: The interval's lower end; None if nothing is said.
        high: Its upper end; None if nothing is said, or if the value is known from below only.
        unit: The unit of the three.
        note: What else is to be said.
    """

    label: str
    value: float | None
    low: float | None
    high: float | None
    unit: str
    note: str = ""

    @property
    def interval(self) -> str:
        """Its interval in words."""
        if self.low is None:
            return "–"
        return f"{self.low:.4g} …" + ("" if self.high is None else f" {self.high:.4g}")

    def to_record(self) -> dict[str, JsonValue]:
        """As canonical JSON values: decimals are strings."""
        ends = {"value": self.value, "low": self.low, "high": self.high}
        return {
            "label": self.label,
            **{name: None if each is None else f"{each:.6g}" for name, each in ends.items()},
            "unit": self.unit,
            "note": self.note,
        }


@singledispatch
def lines_of(
    question: object, released: FloatArray, noise_stddev: float, *, level: float = LEVEL
) -> list[Line]:
    """An answer's lines.

    Args:
        question: One of `common.analytics`.
        released: float64[size], the answer.
        noise_stddev: Standard deviation of the noise in each value.
        level: How often an interval shall cover the truth.

    Raises:
        InputError: It is no answer to this, or this is no question.
    """
    del released, noise_stddev, level
    raise InputError(f"{type(question).__name__} is no question whose answer can be shown.")


@lines_of.register
def _(
    question: Groups, released: FloatArray, noise_stddev: float, *, level: float = LEVEL
) -> list[Line]:
    found = question.read(released, noise_stddev, level=level)
    if len(question.labels) == 1:
        return _lines(question.labels, found, question.unit)
    ranking = question.top(
        released, noise_stddev, min(MOST_GROUPS, len(question.labels) - 1), level=level
    )
    lines = []
    for place, sure in zip(ranking.places.tolist(), ranking.sure.tolist(), strict=True):
        (line,) = _lines([question.labels[place]], found.at(slice(place, place + 1)), question.unit)
        told = line.low is not None and line.low > 0
        note = "sure to be among these" if sure else "" if told else "not told from none"
        lines.append(_noted(line, note))
    return lines


@lines_of.register
def _(
    question: Shares, released: FloatArray, noise_stddev: float, *, level: float = LEVEL
) -> list[Line]:
    found = question.read(released, noise_stddev, level=level).scaled(100)
    labels = [" × ".join(each) for each in product(*question.axes)]
    return _lines(labels, found, "%")


@lines_of.register
def _(
    question: Cuts, released: FloatArray, noise_stddev: float, *, level: float = LEVEL
) -> list[Line]:
    found = question.read(released, noise_stddev, level=level)
    labels = [f"{100 * share:g}% of customers are below" for share in question.probabilities]
    return _lines(labels, found, question.unit)


@lines_of.register
def _(
    question: Funnel, released: FloatArray, noise_stddev: float, *, level: float = LEVEL
) -> list[Line]:
    reached = question.read(released, noise_stddev, level=level)
    going_on = question.conversions(released, noise_stddev, level=level).scaled(100)
    steps = [" → ".join(each) for each in pairwise(question.stages)]
    return [
        *_lines(question.stages, reached, "customers"),
        *_lines(steps, going_on, "% go on"),
    ]


@lines_of.register
def _(
    question: Trend, released: FloatArray, noise_stddev: float, *, level: float = LEVEL
) -> list[Line]:
    change = question.read(released, noise_stddev, level=level)
    alerts, stated = question.alerts(change), question.of_use(change)
    lines = _lines(question.labels, stated.scaled(100), "% change")
    sign = 1.0 if question.threshold > 0 else -1.0
    # Of what is known the furthest beyond or towards the threshold first; then what has crossed it
    # by nobody can say how much.
    crossed = np.array([each == "crossed" for each in alerts])
    least = np.where(crossed, -np.finfo(np.float64).max, -np.inf)
    towards = np.where(stated.known, sign * stated.value, least)
    order = np.argsort(-towards, kind="stable")[:MOST_GROUPS]
    limit = f"{100 * question.threshold:+g}%"
    notes = {"crossed": f"{limit} crossed", "not crossed": "", "not told": f"{limit} not told"}
    unknown = {"crossed": f"{limit} crossed; by how much is {TOO_SMALL}"}
    return [
        _noted(lines[place], notes[alerts[place]])
        if stated.known[place]
        else _noted(lines[place], unknown.get(alerts[place], TOO_SMALL))
        for place in order.tolist()
    ]


@lines_of.register
def _(
    question: Score, released: FloatArray, noise_stddev: float, *, level: float = LEVEL
) -> list[Line]:
    return [
        *_lines(["score"], question.read(released, noise_stddev, level=level), "points"),
        *_lines(["answered"], question.answered(released, noise_stddev, level=level), "customers"),
    ]


@lines_of.register
def _(
    question: Kano, released: FloatArray, noise_stddev: float, *, level: float = LEVEL
) -> list[Line]:
    better = question.better(released, noise_stddev, level=level).scaled(100)
    worse = question.worse(released, noise_stddev, level=level).scaled(100)
    found = question.classified(released, noise_stddev, level=level)
    lines = []
    for n, feature in enumerate(question.features):
        name, sure = CLASSES[found.likely[n]], bool(found.sure[n])
        with_it, without = (
            _lines([f"{feature}: {end}"], of.at(slice(n, n + 1)), "%")[0]
            for end, of in (("pleased with it", better), ("displeased without", worse))
        )
        told = f"{name}: sure to be the largest class" if sure else f"{name}: likely"
        lines += [with_it if with_it.value is None else _noted(with_it, told), without]
    answered = question.answered(released, noise_stddev, level=level)
    return lines + _lines(
        [f"{each}: answered" for each in question.features], answered, "customers"
    )


@lines_of.register
def _(
    question: Uplift, released: FloatArray, noise_stddev: float, *, level: float = LEVEL
) -> list[Line]:
    rates = question.rates(released, noise_stddev, level=level).scaled(100)
    uplift = question.read(released, noise_stddev, level=level).scaled(100)
    return [*_lines(["control", "treated"], rates, "%"), *_lines(["uplift"], uplift, "points")]


@lines_of.register
def _(
    question: Clusters, released: FloatArray, noise_stddev: float, *, level: float = LEVEL
) -> list[Line]:
    counts = question.counts(released, noise_stddev, level=level)
    shares = question.shares(released, noise_stddev, level=level).scaled(100)
    numbers = question.numbers(released, noise_stddev, level=level)
    traits = question.traits(released, noise_stddev, level=level)
    lines = []
    for n in range(len(question.centres)):
        name, one = f"cluster {n + 1}", slice(n, n + 1)
        lines += _lines([name], counts.at(one), "customers")
        lines += _lines([f"{name}: share"], shares.at(one), "%")
        for coordinate, found, trait in zip(
            question.coordinates, numbers, traits[n].tolist(), strict=True
        ):
            (line,) = _lines([f"{name}: {coordinate.label}"], found.at(one), coordinate.unit)
            lines.append(line if line.value is None else _noted(line, _TRAITS[trait]))
    return lines


# What is told of a cluster beside all customers.
_TRAITS = {1: "sure to be above the mean", 0: "", -1: "sure to be below the mean"}


def _lines(labels: list[str] | tuple[str, ...], found: Estimates, unit: str) -> list[Line]:
    ends = (found.value, found.low, found.high)
    lines = []
    for label, value, low, high in zip(labels, *(each.tolist() for each in ends), strict=True):
        if math.isnan(value):
            lines.append(Line(label, None, None, None, unit, TOO_SMALL))
        else:
            lines.append(Line(label, value, low, high, unit))
    return lines


def _noted(line: Line, note: str) -> Line:
    return Line(line.label, line.value, line.low, line.high, line.unit, note)
