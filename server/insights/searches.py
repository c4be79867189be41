"""What customers search for: keys that nobody could list, where enough customers have them."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from common.analytics.answers import GLOBAL, ReleasedAnswer
from common.analytics.key_tables import KeyTable
from common.analytics.key_union import KeyUnion
from common.audit.report.language import isolated
from server.insights.figures import (
    Chart,
    Figure,
    Row,
    Section,
    Table,
    Told,
    mark,
    scale_for,
    spoken,
    ticks_of,
    told,
)
from server.insights.teller import Teller

#: How many keys are named of all regions together, and of each.
MOST, MOST_OF_REGION = 20, 10
_FIRST = 3


def searches(teller: Teller) -> Section | None:
    """The keys that most customers have, of all regions and of each; None if none was asked."""
    figures: list[Figure] = []
    headline = Markup("")
    for question in teller.findings.questions(KeyUnion):
        for answer in teller.answers(question.name):
            standing = teller.standing(answer)
            if answer.keys is None or not standing.shown:
                figures.append(teller.too_small(answer, standing))
                continue
            figures.append(_largest(teller, question, answer, answer.keys))
            if answer.scope == GLOBAL and not headline:
                headline = _headline(teller, question, answer, answer.keys)
    figures.sort(key=lambda each: each.small)
    return Section("searches", tuple(figures), headline) if figures else None


def _largest(teller: Teller, question: KeyUnion, answer: ReleasedAnswer, table: KeyTable) -> Figure:
    own = answer.scope != GLOBAL
    values = told(table.read(question, answer.noise_stddev))
    chosen = _order(values)[: MOST_OF_REGION if own else MOST]
    scale = scale_for([values[place] for place in chosen], from_zero=True)
    rows, lines = [], []
    for place in chosen:
        each, label = values[place], isolated(table.keys[place])
        everywhere = table.releasing[place] == len(answer.regions)
        said = spoken(each) if everywhere else _at_least(teller, each)
        where = teller.say("searches.in", n=table.releasing[place], of=len(answer.regions))
        note = Markup("") if own else where
        rows.append(Row(label, (mark(each, scale),), said, note))
        lines.append((label, said, where))
    body = Chart(tuple(rows), ticks_of(scale, small=own), zero=scale.at(0.0)) if rows else None
    head = (
        teller.say("searches.key"),
        teller.say("unit.customers"),
        teller.say("searches.regions"),
    )
    return Figure(
        teller.caption(question.name, answer.scope),
        teller.cost(answer),
        body,
        teller.sentences(_remarks(teller, question, answer, table)),
        Table(head, tuple(lines)) if lines else None,
        small=own,
    )


def _remarks(
    teller: Teller, question: KeyUnion, answer: ReleasedAnswer, table: KeyTable
) -> list[Markup]:
    """What is to be said of a figure: how large a key must be, and what is not in it."""
    if not table.keys:
        return [teller.say("searches.nothing")]
    needed = question.threshold(answer.noise_stddev) * question.most**0.5
    said = [teller.say("searches.reading", n=f"{needed:.0f}")]
    if answer.scope == GLOBAL and len(answer.regions) > 1:
        said.append(teller.say("searches.lower"))
    if table.is_full(question):
        said.append(teller.say("searches.full", n=question.keys))
    return said


def _headline(
    teller: Teller, question: KeyUnion, answer: ReleasedAnswer, table: KeyTable
) -> Markup:
    """The keys that most customers have, if noise has not chosen which."""
    values = told(table.read(question, answer.noise_stddev))
    order = _order(values)
    first, rest = order[:_FIRST], order[_FIRST:]
    least = max((values[place].high for place in rest), default=0.0)
    names = [table.keys[place] for place in first if values[place].low > least]
    return (
        teller.say("searches.headline", names=teller.language.listed(names))
        if names
        else Markup("")
    )


def _order(values: list[Told]) -> list[int]:
    """The places of the largest values first."""
    return [int(each) for each in np.argsort([-each.value for each in values], kind="stable")]


def _at_least(teller: Teller, each: Told) -> Markup:
    """A count that is known from below: other regions may have the key, too."""
    return teller.say("searches.at_least", value=spoken(Told(each.value, each.low, float("inf"))))
