"""What customers prefer, together and by region, and what moves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from common.analytics.answers import GLOBAL, ReleasedAnswer
from common.analytics.estimates import LEVEL
from common.analytics.groups import Groups
from common.analytics.trends import Trend
from common.audit.report.language import isolated
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
    scale_for,
    shade,
    ticks_of,
    told,
)
from server.insights.teller import Teller, percent, rounded_percent

#: How many groups are named of all regions together, in a region's own chart, and beside regions.
MOST, MOST_OF_REGION, MOST_BESIDE = 20, 10, 12
_FIRST = 3


def preferences(teller: Teller) -> Section | None:
    """The largest groups, of all regions together and of each; None if none was asked."""
    questions = teller.findings.questions(Groups)
    figures: list[Figure] = []
    headline = Markup("")
    for question in questions:
        for answer in teller.answers(question.name):
            standing = teller.standing(answer)
            if not standing.shown:
                figures.append(teller.too_small(answer, standing))
                continue
            figures.append(_largest(teller, question, answer))
            if answer.scope == GLOBAL and not headline:
                headline = _headline(teller, question, answer)
        beside = _beside_each_other(teller, question)
        figures += [] if beside is None else [beside]
    # Charts of all regions first, then what stands beside each other, then each region's own.
    figures.sort(key=lambda each: each.small)
    return Section("preferences", tuple(figures), headline) if figures else None


def _places(question: Groups, answer: ReleasedAnswer, most: int) -> list[tuple[int, bool]]:
    """The largest groups' places, and whether each is sure to be among them."""
    if len(question.labels) <= most:
        order = np.argsort(-answer.released, kind="stable").tolist()
        return [(place, False) for place in order]
    ranking = question.top(answer.released, answer.noise_stddev, most)
    return list(zip(ranking.places.tolist(), ranking.sure.tolist(), strict=True))


def _largest(teller: Teller, question: Groups, answer: ReleasedAnswer) -> Figure:
    own = answer.scope != GLOBAL
    most = MOST_OF_REGION if own else MOST
    values = told(question.read(answer.released, answer.noise_stddev))
    shares = teller.findings.group_shares(question, answer)
    of_customers = None if shares is None else [percent(each) for each in told(shares)]
    chosen = _places(question, answer, most)
    scale = scale_for([values[place] for place, _ in chosen], from_zero=True)
    rows, lines = [], []
    for place, sure in chosen:
        each, label = values[place], isolated(question.labels[place])
        none = each.low <= 0
        note = Markup("")
        if sure or none:
            note = teller.say("groups.sure" if sure else "groups.none")
        kind = "sure" if sure else "plain"
        shown = Markup("") if sure else note
        rows.append(Row(label, (mark(each, scale, kind),), teller.spoken(each), shown, sure))
        share = (
            teller.say("none") if of_customers is None else teller.spoken(of_customers[place], "%")
        )
        lines.append((label, teller.spoken(each), share, note))
    said = [teller.coarse(teller.standing(answer))]
    if len(question.labels) > most:
        right = question.top(answer.released, answer.noise_stddev, most).precision * most
        said.insert(0, teller.say("groups.ticks", k=most))
        said.insert(1, teller.say("groups.precision", k=most, right=f"{right:.0f}"))
    unit = teller.language.term("unit", question.unit)
    head = (teller.say("groups.group"), unit, teller.say("groups.share"), teller.say("note"))
    return Figure(
        teller.caption(question.name, answer.scope),
        teller.cost(answer),
        Chart(tuple(rows), ticks_of(scale, small=own), zero=scale.at(0.0)),
        teller.sentences(said),
        Table(head, tuple(lines)),
        small=own,
    )


def _headline(teller: Teller, question: Groups, answer: ReleasedAnswer) -> Markup:
    """Those of the three largest that are sure to be; nothing if none is."""
    if len(question.labels) <= _FIRST:
        return Markup("")
    ranking = question.top(answer.released, answer.noise_stddev, _FIRST)
    names = [question.labels[place] for place in ranking.places[ranking.sure].tolist()]
    if not names:
        return Markup("")
    return teller.say("preferences.headline", names=teller.language.listed(names))


def _beside_each_other(teller: Teller, question: Groups) -> Figure | None:
    """Which share of each region's customers the largest groups of all have."""
    answers = [*teller.answers(question.name)]
    if len(answers) < 2 or answers[0].scope != GLOBAL or not teller.standing(answers[0]).shown:
        return None
    columns: list[tuple[ReleasedAnswer, list[Told]]] = []
    for answer in answers:
        shares = teller.findings.group_shares(question, answer)
        if shares is not None and teller.standing(answer).shown:
            columns.append((answer, [percent(each) for each in told(shares)]))
    if len(columns) < 2 or columns[0][0].scope != GLOBAL:
        return None
    chosen = [place for place, _ in _places(question, answers[0], MOST_BESIDE)[:MOST_BESIDE]]
    most = max(shares[place].value for _, shares in columns for place in chosen)
    of_all = columns[0][1]
    rows, lines = [], []
    for place in chosen:
        label = isolated(question.labels[place])
        cells = [
            Cell(
                rounded_percent(shares[place].value),
                shade(shares[place].value, most),
                "" if answer.scope == GLOBAL else _sign(shares[place], of_all[place]),
            )
            for answer, shares in columns
        ]
        rows.append((label, tuple(cells)))
        lines.append((label, *(teller.spoken(shares[place], "%") for _, shares in columns)))
    names = tuple(teller.scope(answer.scope) for answer, _ in columns)
    corner = teller.say("groups.group")
    left_out = [each.scope for each in answers if all(each is not one for one, _ in columns)]
    said = [teller.say("groups.beside.signs")]
    if left_out:
        said.append(teller.say("groups.left_out", regions=teller.language.listed(left_out)))
    return Figure(
        teller.say("groups.beside", question=teller.question(question.name)),
        teller.cost_of([answer for answer, _ in columns]),
        Heat(corner, names, tuple(rows)),
        teller.sentences(said),
        Table((corner, *names), tuple(lines)),
    )


def _sign(share: Told, of_all: Told) -> str:
    """Whether two intervals lie apart: then the values do, at least as often as either covers."""
    if share.low > of_all.high:
        return "up"
    return "down" if share.high < of_all.low else ""


def changes(teller: Teller) -> Section | None:
    """How groups move from one period to the next; None if nothing of that was asked."""
    figures: list[Figure] = []
    alerts: list[Markup] = []
    for question in teller.findings.questions(Trend):
        for answer in teller.answers(question.name):
            figure, crossed = _movement(teller, question, answer)
            figures.append(figure)
            alerts += [
                teller.say("changes.alert", group=group, scope=teller.scope(answer.scope), by=by)
                for group, by in crossed
            ]
    if not figures:
        return None
    figures.sort(key=lambda each: each.small)
    headline = teller.say("changes.headline", n=len(alerts)) if alerts else Markup("")
    return Section("changes", tuple(figures), headline, tuple(alerts))


def _movement(
    teller: Teller, question: Trend, answer: ReleasedAnswer
) -> tuple[Figure, Sequence[tuple[Markup, Markup]]]:
    """A figure of changes, and the groups that crossed the threshold, each with its change."""
    own = answer.scope != GLOBAL
    change = question.read(answer.released, answer.noise_stddev)
    # An alert is a claim about one of many groups: it has to hold for all of them at once.
    together = 1 - (1 - LEVEL) / len(question.labels)
    says = question.alerts(question.read(answer.released, answer.noise_stddev, level=together))
    values = [percent(each) for each in told(question.of_use(change))]
    rising = question.threshold > 0
    known = [place for place, each in enumerate(values) if each.known]
    known.sort(key=lambda place: -values[place].value if rising else values[place].value)
    caption, cost = teller.caption(question.name, answer.scope), teller.cost(answer)
    limit = 100 * question.threshold
    # Beyond the threshold as a whole, and by how much would be noise.
    beyond = [
        (isolated(question.labels[place]), teller.say("changes.beyond", limit=_signed(limit)))
        for place, each in enumerate(values)
        if not each.known and says[place] == "crossed"
    ]
    if not known:
        said = teller.say("changes.silent", scope=teller.scope(answer.scope))
        return Figure(caption, cost, None, said, small=own), beyond
    chosen = known[: MOST_OF_REGION if own else MOST]
    scale = scale_for([*(values[place] for place in chosen), Told(0.0, 0.0, 0.0)], from_zero=False)
    rows, crossed = [], []
    for place in chosen:
        label = isolated(question.labels[place])
        value = teller.spoken(values[place], "%")
        alert = says[place] == "crossed"
        open_too = values[place].low < limit < values[place].high
        note = "changes.crossed" if alert else "changes.open" if open_too else ""
        kind = "alert" if alert else "plain"
        said = teller.say(note, limit=_signed(limit)) if note else Markup("")
        rows.append(Row(label, (mark(values[place], scale, kind),), value, said))
        crossed += [(label, value)] if alert else []
    rows += [
        Row(label, (), said, teller.say("changes.crossed", limit=_signed(limit)))
        for label, said in beyond
    ]
    within = scale.low <= limit <= scale.high
    chart = Chart(
        tuple(rows),
        ticks_of(scale, small=own),
        threshold=scale.at(limit) if within else None,
    )
    said = teller.say("changes.known", n=len(known), all=len(values), limit=_signed(limit))
    head = tuple(teller.say(key) for key in ("groups.group", "changes.change", "note"))
    lines = tuple((row.label, row.value, row.note) for row in rows)
    return Figure(caption, cost, chart, said, Table(head, lines), small=own), [*crossed, *beyond]


def _signed(limit: float) -> str:
    return f"{limit:+g}%".replace("-", "−")
