"""Ranks a question's groups or features by what answers say of them and planners state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from common.analytics.answers import ReleasedAnswer
from common.analytics.estimates import Estimates
from common.analytics.groups import Groups
from common.analytics.kano import Kano
from common.analytics.priority import Priorities, Weights, on_scale, prioritised
from common.analytics.trends import Trend
from common.errors import InputError
from server.insights.findings import Findings
from server.insights.settings import FactorTable, InsightsSettings, ListTable

# Labels and, at a level, one estimate for each.
_Read = tuple[tuple[str, ...], Callable[[float], Estimates]]


@dataclass(frozen=True, eq=False)
class Ranked:
    """One ranked list.

    Attributes:
        items: The question whose items are ranked.
        labels: The items.
        found: Their scores and ranks.
        weights: How much each factor counted.
    """

    items: str
    labels: tuple[str, ...] = field(repr=False)
    found: Priorities = field(repr=False)
    weights: Weights


def ranked_lists(findings: Findings, settings: InsightsSettings) -> list[Ranked]:
    """The lists of which all answers are there, of all regions together.

    Raises:
        InputError: A list reads off a question what that has not.
    """
    found = []
    for each in settings.priority:
        names = (each.items, each.importance.question, each.urgency.question)
        answers = [answer for name in names if (answer := findings.of(name)) is not None]
        if len(answers) == len(names):
            ranked = _ranked(findings, each, answers, settings.of_factors())
            found += [] if ranked is None else [ranked]
    return found


def _ranked(
    findings: Findings, table: ListTable, answers: Sequence[ReleasedAnswer], weights: Weights
) -> Ranked | None:
    labels, chosen_from = _items(answers[0], table.most)
    factors = [
        _factor(findings, factor, answer)
        for factor, answer in zip((table.importance, table.urgency), answers[1:], strict=True)
    ]
    if any(each is None for each in factors):
        return None
    reads = [_of_items(each, labels, table) for each in factors if each is not None]
    scales = [(each.nothing, each.everything) for each in (table.importance, table.urgency)]

    def read(level: float) -> tuple[Estimates, Estimates]:
        one, other = (
            on_scale(each(level), *scale) for each, scale in zip(reads, scales, strict=True)
        )
        return one, other

    feasibility = np.array([table.feasibility_of(label) for label in labels])
    found = prioritised(read, feasibility, weights, chosen_from=chosen_from)
    return Ranked(table.items, labels, found, weights)


def _items(answer: ReleasedAnswer, most: int) -> tuple[tuple[str, ...], int | None]:
    """What is ranked, and of how many the answer itself chose it; None if it did not."""
    question = answer.question
    if isinstance(question, Kano):
        return question.features, None
    if not isinstance(question, Groups):
        raise InputError(
            f"{question.name}: its answer has no items that could be ranked.",
            remedy="Rank the groups of a count, or the features of a Kano survey.",
        )
    if len(question.labels) <= most:
        return question.labels, None
    order = np.argsort(-answer.released, kind="stable")[:most]
    return tuple(question.labels[place] for place in order.tolist()), len(question.labels)


def _factor(findings: Findings, table: FactorTable, answer: ReleasedAnswer) -> _Read | None:
    """What a factor is read off; None if the customers that shares are of cannot be told."""
    question, values, stddev = answer.question, answer.released, answer.noise_stddev
    if isinstance(question, Kano) and table.reading in ("better", "worse", "matters"):
        of_kano = {
            "better": question.better,
            "worse": question.worse,
            "matters": question.matters,
        }[table.reading]
        return question.features, lambda level: of_kano(values, stddev, level=level)
    if isinstance(question, Trend) and table.reading == "change":
        return question.labels, lambda level: question.read(values, stddev, level=level)
    of_buyers = isinstance(question, Groups) and findings.are_of_buyers(question)
    if isinstance(question, Groups) and of_buyers and table.reading == "share":
        return _shares(findings, question, answer)
    raise InputError(
        f"{question.name}: {table.reading} cannot be read off its answer.",
        remedy="Read share off counts of who bought, change off a trend, better, worse or "
        "matters off a Kano survey.",
    )


def _shares(findings: Findings, question: Groups, answer: ReleasedAnswer) -> _Read | None:
    if findings.customers(answer.scope) is None:
        return None

    def read(level: float) -> Estimates:
        found = findings.group_shares(question, answer, level=level)
        if found is None:
            raise InputError(f"{question.name}: it is not told how many customers there are.")
        return found

    return question.labels, read


def _of_items(
    read: _Read, labels: tuple[str, ...], table: ListTable
) -> Callable[[float], Estimates]:
    """A factor's estimates of some items, by their names."""
    known, estimates = read
    missing = [label for label in labels if label not in known]
    if missing:
        raise InputError(
            f"The answers that rank {table.items} do not all have {missing[0][:64]!r}.",
            remedy="Read importance and urgency off questions with the same groups or features.",
        )
    places = [known.index(label) for label in labels]

    def of_items(level: float) -> Estimates:
        found = estimates(level)
        ends = (found.value[places], found.low[places], found.high[places])
        return Estimates(*ends, found.level)

    return of_items
