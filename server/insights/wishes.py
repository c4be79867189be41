"""What customers would miss and what would delight them, and what to do first."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from common.analytics.answers import GLOBAL, ReleasedAnswer
from common.analytics.kano import CLASSES, Kano
from common.analytics.outlook import COARSE
from common.audit.report.language import isolated
from common.report_charts import Scale, stacked
from server.insights.figures import (
    Body,
    Cell,
    Chart,
    Figure,
    Heat,
    Plane,
    Point,
    Row,
    Section,
    Stack,
    Stacks,
    Table,
    Told,
    mark,
    plain,
    ticks_of,
    told,
    upright,
)
from server.insights.ranking import Ranked, ranked_lists
from server.insights.settings import InsightsSettings
from server.insights.teller import Teller, percent

_HALF = 50.0


def wishes(teller: Teller) -> Section | None:
    """Features by their Kano class; None if no survey was asked about."""
    figures: list[Figure] = []
    headline = Markup("")
    for question in teller.findings.questions(Kano):
        answers = [*teller.answers(question.name)]
        for answer in answers:
            if answer.scope == GLOBAL:
                figures += [_plane(teller, question, answer), _classes(teller, question, answer)]
                headline = headline or _must_be(teller, question, answer)
        if len(answers) > 1:
            figures.append(_by_region(teller, question, answers))
    return Section("wishes", tuple(figures), headline) if figures else None


def _coefficients(question: Kano, answer: ReleasedAnswer) -> list[tuple[Told, Told]]:
    """Better and worse of each feature, in percent; nothing where intervals are of no use."""
    both = [
        [percent(each) for each in told(read(answer.released, answer.noise_stddev))]
        for read in (question.better, question.worse)
    ]
    pairs = []
    for better, worse in zip(*both, strict=True):
        wide = max(better.high - better.low, worse.high - worse.low) / 2
        told_of = wide <= COARSE * question.wanted
        silent = Told(float("nan"), 0.0, 100.0)
        pairs.append((better, worse) if told_of else (silent, silent))
    return pairs


def _plane(teller: Teller, question: Kano, answer: ReleasedAnswer) -> Figure:
    """Better upwards, worse to the right: each quarter is a class."""
    pairs, scale = _coefficients(question, answer), Scale(0.0, 100.0)
    found = question.classified(answer.released, answer.noise_stddev)
    points, lines = [], []
    for n, (better, worse) in enumerate(pairs):
        label = isolated(question.features[n])
        known = better.known and worse.known
        name = _class(teller, question, answer, n) if known else teller.say("silent")
        lines.append((label, teller.spoken(better, "%"), teller.spoken(worse, "%"), name))
        if known:
            x = mark(worse, scale, "sure" if found.sure[n] else "plain")
            points.append(Point(n + 1, label, x, mark(better, scale), name))
    corners = ("attractive", "performance", "indifferent", "must-be")
    ticks = ticks_of(scale)
    body: Body | None = None
    if points:
        body = Plane(
            tuple(points),
            teller.say("kano.worse"),
            teller.say("kano.better"),
            tuple(teller.say(f"kano.class.{each}") for each in corners),
            ticks,
            upright(ticks),
        )
    silent = len(question.features) - len(points)
    said = teller.say("kano.silent", n=silent) if silent else Markup("")
    head = ("kano.feature", "kano.better", "kano.worse", "kano.class")
    return Figure(
        teller.caption(question.name, answer.scope),
        teller.cost(answer),
        body,
        said,
        Table(tuple(teller.say(key) for key in head), tuple(lines)),
    )


def _class(teller: Teller, question: Kano, answer: ReleasedAnswer, feature: int) -> Markup:
    found = question.classified(answer.released, answer.noise_stddev)
    name = teller.say(f"kano.class.{CLASSES[found.likely[feature]]}")
    return teller.say("kano.sure" if found.sure[feature] else "kano.likely", name=name)


def _classes(teller: Teller, question: Kano, answer: ReleasedAnswer) -> Figure:
    """How many customers put each feature into each class: a bar of parts for each feature."""
    counts = told(question.read(answer.released, answer.noise_stddev))
    pairs = _coefficients(question, answer)
    names = [teller.say(f"kano.class.{each}") for each in CLASSES]
    rows, lines = [], []
    for n, feature in enumerate(question.features):
        part = counts[n * len(CLASSES) : (n + 1) * len(CLASSES)]
        label, whole = isolated(feature), sum(each.value for each in part)
        if not pairs[n][0].known:
            rows.append(Stack(label, (), teller.say("silent")))
            lines.append((label, *(teller.say("silent") for _ in part)))
            continue
        lines.append((label, *(teller.spoken(each) for each in part)))
        parts = [
            (each, f"{name.striptags()}: {plain(one.value, 0)}", one.value)
            for each, name, one in zip(CLASSES, names, part, strict=True)
        ]
        rows.append(Stack(label, stacked(parts, whole), Markup(plain(whole, 0))))  # noqa: S704 - a number
    return Figure(
        teller.say("kano.counts"),
        teller.cost(answer),
        Stacks(tuple(rows), tuple(zip(CLASSES, names, strict=True))),
        teller.say("kano.counts.reading"),
        Table((teller.say("kano.feature"), *names), tuple(lines)),
    )


def _by_region(teller: Teller, question: Kano, answers: list[ReleasedAnswer]) -> Figure:
    """Each feature's class by region, where it is told."""
    columns = tuple(teller.scope(each.scope) for each in answers)
    rows = []
    for n, feature in enumerate(question.features):
        cells = []
        for answer in answers:
            if not _coefficients(question, answer)[n][0].known:
                cells.append(Cell(teller.say("silent.short")))
                continue
            found = question.classified(answer.released, answer.noise_stddev)
            name = teller.say(f"kano.class.{CLASSES[found.likely[n]]}")
            sure = bool(found.sure[n])
            cells.append(Cell(name if sure else teller.say("kano.doubtful", name=name), 3 * sure))
        rows.append((isolated(feature), tuple(cells)))
    return Figure(
        teller.say("kano.regions"),
        teller.cost_of(answers),
        Heat(teller.say("kano.feature"), columns, tuple(rows), wordy=True),
        teller.say("kano.regions.reading"),
    )


def _must_be(teller: Teller, question: Kano, answer: ReleasedAnswer) -> Markup:
    """Which features are sure to be must-be ones; nothing if none is."""
    found = question.classified(answer.released, answer.noise_stddev)
    sure = np.flatnonzero(found.sure & (found.likely == CLASSES.index("must-be")))
    names = [question.features[n] for n in sure.tolist()]
    if not names:
        return Markup("")
    return teller.say("kano.headline", names=teller.language.listed(names))


def priorities(teller: Teller, settings: InsightsSettings) -> Section | None:
    """What to do first, by the settings' lists; None if no list's answers are there."""
    lists = ranked_lists(teller.findings, settings)
    figures = [_ranking(teller, each) for each in lists]
    if not figures:
        return None
    first = lists[0]
    best = int(first.found.order[0])
    headline = Markup("")
    if first.found.score.known[best] and first.found.last[best] == 1:
        headline = teller.say("priority.headline", name=isolated(first.labels[best]))
    return Section("priority", tuple(figures), headline)


def _ranking(teller: Teller, ranked: Ranked) -> Figure:
    found, scale = ranked.found, Scale(0.0, 100.0)
    scores, factors = told(found.score), (told(found.importance), told(found.urgency))
    rows, lines = [], []
    for place in found.order.tolist():
        label, score = isolated(ranked.labels[place]), scores[place]
        first, last = int(found.first[place]), int(found.last[place])
        rank = teller.say("priority.rank" if first == last else "priority.ranks", a=first, b=last)
        kind = "sure" if first == last else "plain"
        marks = (mark(score, scale, kind),) if score.known else ()
        rows.append(Row(label, marks, teller.spoken(score), rank))
        stated = Markup(plain(float(found.feasibility[place]), 2))  # noqa: S704 - a number
        lines.append(
            (
                label,
                teller.spoken(score),
                rank,
                *(teller.spoken(each[place]) for each in factors),
                stated,
            )
        )
    weights = ranked.weights
    head = ("item", "score", "place", "importance", "urgency", "feasibility")
    return Figure(
        teller.say("priority.caption", items=teller.question(ranked.items)),
        teller.say("priority.cost"),
        Chart(tuple(rows), ticks_of(scale), zero=0.0),
        teller.say(
            "priority.reading",
            importance=f"{weights.importance:g}",
            urgency=f"{weights.urgency:g}",
            feasibility=f"{weights.feasibility:g}",
        ),
        Table(tuple(teller.say(f"priority.{key}") for key in head), tuple(lines)),
    )
