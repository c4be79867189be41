"""When customers buy, and how they fall into segments."""

from __future__ import annotations

import math

import numpy as np
from markupsafe import Markup

from common.analytics.answers import GLOBAL, ReleasedAnswer
from common.analytics.clusters import Clusters
from common.analytics.cuts import Cuts
from common.analytics.estimates import LEVEL, Estimates, deviations_of
from common.analytics.shares import Shares
from server.insights.figures import (
    Cell,
    Chart,
    Figure,
    Heat,
    Row,
    Section,
    Table,
    Told,
    mark,
    plain,
    scale_for,
    shade,
    ticks_of,
    told,
)
from server.insights.groups_found import clusters, largest
from server.insights.teller import Teller, percent


def scenes(teller: Teller) -> Section | None:
    """Parts of the day by weekdays, and by whatever else scenes have; None if none was asked."""
    figures: list[Figure] = []
    headline = Markup("")
    for question in teller.findings.questions(Shares):
        for answer in teller.answers(question.name):
            standing = teller.standing(answer)
            if not standing.shown:
                figures.append(teller.too_small(answer, standing))
                continue
            figures += _scene_figures(teller, question, answer)
            if answer.scope == GLOBAL and not headline:
                headline = _busiest(teller, question, answer)
    figures.sort(key=lambda each: each.small)
    return Section("scenes", tuple(figures), headline) if figures else None


def _scene_figures(teller: Teller, question: Shares, answer: ReleasedAnswer) -> list[Figure]:
    """A heat table of the first two axes; of all regions together each axis by itself, too."""
    own = answer.scope != GLOBAL
    caption, cost = teller.caption(question.name, answer.scope), teller.cost(answer)
    figures = []
    if len(question.axes) > 1:
        values = [percent(each) for each in told(_first_two(question, answer))]
        said = teller.coarse(teller.standing(answer))
        body, table = _heat(teller, question, values)
        figures.append(Figure(caption, cost, body, said, table, small=own))
    if own:
        return figures
    for axis in range(len(question.axes)):
        along = question.along(axis, answer.released, answer.noise_stddev)
        figures.append(_along(teller, question, axis, along, cost))
    return figures


def _first_two(question: Shares, answer: ReleasedAnswer) -> Estimates:
    """The shares of the first two axes' cells, whatever the others; [cells], in C order."""
    rest = math.prod(question.shape[2:])
    sums = answer.released.reshape(*question.shape[:2], rest).sum(axis=2).ravel()
    inner = Shares(question.name, question.axes[:2], question.wanted)
    return inner.read(sums, answer.noise_stddev * math.sqrt(rest))


def _heat(teller: Teller, question: Shares, values: list[Told]) -> tuple[Heat, Table]:
    down, across = question.axes[:2]
    most = max((each.value for each in values if each.known), default=0.0)
    rows, lines = [], []
    for n, label in enumerate(down):
        part = values[n * len(across) : (n + 1) * len(across)]
        name = teller.label(label)
        cells = [
            Cell(Markup(plain(each.value, 1)), shade(each.value, most))  # noqa: S704 - a number
            if each.known
            else Cell(teller.say("none"))
            for each in part
        ]
        rows.append((name, tuple(cells)))
        lines.append((name, *(teller.spoken(each, "%") for each in part)))
    columns = tuple(teller.label(each) for each in across)
    corner = teller.say("scenes.corner")
    return Heat(corner, columns, tuple(rows)), Table((corner, *columns), tuple(lines))


def _along(teller: Teller, question: Shares, axis: int, along: Estimates, cost: Markup) -> Figure:
    values = [percent(each) for each in told(along)]
    scale = scale_for(values, from_zero=True)
    rows = tuple(
        Row(
            teller.label(label),
            (mark(each, scale),) if each.known else (),
            teller.spoken(each, "%"),
        )
        for label, each in zip(question.axes[axis], values, strict=True)
    )
    ends = question.axes[axis][0], question.axes[axis][-1]
    first, last = (teller.label(each) for each in ends)
    name = teller.question(question.name)
    caption = teller.say("scenes.axis", question=name, first=first, last=last)
    chart = Chart(rows, ticks_of(scale), zero=scale.at(0.0))
    return Figure(caption, cost, chart)


def _busiest(teller: Teller, question: Shares, answer: ReleasedAnswer) -> Markup:
    """The largest cell of all regions together; nothing if noise may have chosen it."""
    found = question.read(answer.released, answer.noise_stddev)
    second, largest = np.sort(answer.released)[-2:] if question.size > 1 else (0.0, 0.0)
    # All other cells at once (Bonferroni): none is larger in truth, at the level of an interval.
    level = 1 - (1 - LEVEL) / max(1, question.size - 1)
    lead = deviations_of(level) * math.sqrt(2) * answer.noise_stddev
    if not (found.known.all() and largest - second > lead):
        return Markup("")
    place = int(np.argmax(answer.released))
    labels = np.unravel_index(place, question.shape)
    names = [teller.label(axis[int(n)]) for axis, n in zip(question.axes, labels, strict=True)]
    share = percent(told(found)[place])
    return teller.say(
        "scenes.headline", scene=Markup(" × ").join(names), share=teller.spoken(share, "%")
    )


def segments(teller: Teller) -> Section | None:
    """Cuts of recency, frequency and the like by region, and clusters; None if none was asked."""
    figures = [_cuts(teller, question) for question in teller.findings.questions(Cuts)]
    headlines = []
    for question in teller.findings.questions(Clusters):
        for answer in teller.answers(question.name):
            # Each answer has the centres that its own steps came to.
            if isinstance(answer.question, Clusters):
                figures += clusters(teller, answer.question, answer)
                headlines.append(largest(teller, answer.question, answer))
    figures.sort(key=lambda each: each.small)
    if not figures:
        return None
    return Section("segments", tuple(figures), teller.sentences(headlines))


def _cuts(teller: Teller, question: Cuts) -> Figure:
    """One line for all regions together and for each: the cuts, with their intervals."""
    answers = [*teller.answers(question.name)]
    values = {
        answer.scope: told(question.read(answer.released, answer.noise_stddev))
        for answer in answers
        if teller.standing(answer).shown
    }
    scale = scale_for([each for part in values.values() for each in part], from_zero=True)
    unit = teller.language.term("unit", question.unit)
    rows, lines = [], []
    for answer in answers:
        name = teller.scope(answer.scope)
        part = [each for each in values.get(answer.scope, []) if each.known]
        if not part:
            standing = teller.standing(answer)
            needed = standing.needed or teller.findings.outlook(answer).customers_needed
            said = teller.say("too_small.short", n=needed)
            rows.append(Row(name, (), said))
            lines.append((name, *(teller.say("none") for _ in question.probabilities)))
            continue
        shown = Markup(" · ").join(plain(each.value, 0) for each in part)
        kinds = ("plain", "sure")
        marks = tuple(mark(each, scale, kinds[n % 2]) for n, each in enumerate(part))
        note = teller.coarse(teller.standing(answer))
        rows.append(Row(name, marks, Markup("<b>{}</b>").format(shown), note))
        lines.append((name, *(teller.spoken(each) for each in values[answer.scope])))
    shares = teller.language.listed([f"{100 * each:g}%" for each in question.probabilities])
    head = [teller.say("cuts.below", share=f"{100 * each:g}%") for each in question.probabilities]
    return Figure(
        teller.say("cuts.caption", question=teller.question(question.name), unit=unit),
        teller.cost_of(answers),
        Chart(tuple(rows), ticks_of(scale)),
        teller.say("cuts.reading", shares=shares, unit=unit),
        Table((teller.say("region"), *head), tuple(lines)),
    )
