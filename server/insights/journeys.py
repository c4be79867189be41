"""How far customers come, how satisfied they are, and what treatments change."""

from __future__ import annotations

from itertools import pairwise

from markupsafe import Markup

from common.analytics.answers import GLOBAL, ReleasedAnswer
from common.analytics.estimates import Estimates
from common.analytics.funnels import Funnel
from common.analytics.outlook import COARSE
from common.analytics.scores import Score
from common.analytics.uplift import Uplift
from server.insights.figures import (
    Chart,
    Figure,
    Row,
    Section,
    Table,
    Told,
    mark,
    plain,
    scale_for,
    ticks_of,
    told,
)
from server.insights.teller import Teller, percent


def funnels(teller: Teller) -> Section | None:
    """How many customers reach each stage, and go on; None if none was asked."""
    figures: list[Figure] = []
    headline = Markup("")
    for question in teller.findings.questions(Funnel):
        for answer in teller.answers(question.name):
            standing = teller.standing(answer)
            if not standing.shown:
                figures.append(teller.too_small(answer, standing))
                continue
            figures.append(_funnel(teller, question, answer))
            if answer.scope == GLOBAL and not headline:
                headline = _weakest(teller, question, answer)
    figures.sort(key=lambda each: each.small)
    return Section("funnels", tuple(figures), headline) if figures else None


def _funnel(teller: Teller, question: Funnel, answer: ReleasedAnswer) -> Figure:
    reached = told(question.read(answer.released, answer.noise_stddev))
    going_on = _conversions(question, answer)
    scale = scale_for(reached, from_zero=True)
    rows = [
        Row(
            teller.label(stage),
            (mark(each, scale),),
            teller.spoken(each),
            Markup("") if n == 0 else _step(teller, going_on[n - 1]),
        )
        for n, (stage, each) in enumerate(zip(question.stages, reached, strict=True))
    ]
    lines = [
        (
            teller.label(stage),
            teller.spoken(each),
            teller.say("none") if n == 0 else teller.spoken(going_on[n - 1], "%"),
        )
        for n, (stage, each) in enumerate(zip(question.stages, reached, strict=True))
    ]
    head = (teller.say("funnels.stage"), teller.say("unit.customers"), teller.say("funnels.from"))
    return Figure(
        teller.caption(question.name, answer.scope),
        teller.cost(answer),
        Chart(tuple(rows), ticks_of(scale, small=answer.scope != GLOBAL), zero=scale.at(0.0)),
        teller.coarse(teller.standing(answer)),
        Table(head, tuple(lines)),
        small=answer.scope != GLOBAL,
    )


def _step(teller: Teller, share: Told) -> Markup:
    if not share.known:
        return teller.say("funnels.step.silent")
    return teller.say("funnels.step", share=teller.spoken(share, "%"))


def _conversions(question: Funnel, answer: ReleasedAnswer) -> list[Told]:
    found = question.conversions(answer.released, answer.noise_stddev)
    return [percent(each) for each in told(found)]


def _weakest(teller: Teller, question: Funnel, answer: ReleasedAnswer) -> Markup:
    """Where the largest share of the customers is lost; nothing if noise may have chosen it."""
    steps = _conversions(question, answer)
    if not all(each.known for each in steps):
        return Markup("")
    least = min(range(len(steps)), key=lambda n: steps[n].value)
    if any(each.low <= steps[least].high for n, each in enumerate(steps) if n != least):
        return Markup("")
    one, other = list(pairwise(question.stages))[least]
    return teller.say(
        "funnels.headline",
        one=teller.label(one),
        other=teller.label(other),
        share=teller.spoken(steps[least], "%"),
    )


def satisfaction(teller: Teller) -> Section | None:
    """Scores of all regions together and of each; None if none was asked."""
    questions = teller.findings.questions(Score)
    figures = [_score(teller, question) for question in questions]
    headlines = [_overall(teller, question) for question in questions]
    return Section("satisfaction", tuple(figures), teller.sentences(headlines)) if figures else None


def _score(teller: Teller, question: Score) -> Figure:
    answers = [*teller.answers(question.name)]
    scores = [
        _of_use(question.read(each.released, each.noise_stddev), question.wanted)
        for each in answers
    ]
    answered = [told(question.answered(each.released, each.noise_stddev))[0] for each in answers]
    span = Told(min(question.points), min(question.points), max(question.points))
    scale = scale_for([span], from_zero=False)
    rows, lines = [], []
    for answer, score, number in zip(answers, scores, answered, strict=True):
        name = teller.scope(answer.scope)
        marks = (mark(score, scale),) if score.known else ()
        note = teller.say("scores.answered", number=teller.spoken(number))
        rows.append(Row(name, marks, teller.spoken(score), note))
        lines.append((name, teller.spoken(score), teller.spoken(number)))
    head = (teller.say("region"), teller.say("scores.score"), teller.say("scores.answers"))
    return Figure(
        teller.question(question.name),
        teller.cost_of(answers),
        Chart(tuple(rows), ticks_of(scale), middle=_inside(scale.at(0.0))),
        teller.say("scores.reading", least=plain(span.low, 0), most=plain(span.high, 0)),
        Table(head, tuple(lines)),
    )


def _overall(teller: Teller, question: Score) -> Markup:
    answer = teller.findings.of(question.name)
    if answer is None:
        return Markup("")
    score = _of_use(question.read(answer.released, answer.noise_stddev), question.wanted)
    if not score.known:
        return Markup("")
    name = teller.question(question.name)
    return teller.say("scores.headline", question=name, score=teller.spoken(score))


def experiments(teller: Teller) -> Section | None:
    """What treatments change, by question and scope; None if none was asked."""
    figures = [_uplift(teller, question) for question in teller.findings.questions(Uplift)]
    return Section("experiments", tuple(figures)) if figures else None


def _uplift(teller: Teller, question: Uplift) -> Figure:
    answers = [*teller.answers(question.name)]
    rates = [
        [percent(each) for each in told(question.rates(one.released, one.noise_stddev))]
        for one in answers
    ]
    differences = [
        _of_use(question.read(one.released, one.noise_stddev).scaled(100), question.wanted)
        for one in answers
    ]
    shown = [pair for pair, uplift in zip(rates, differences, strict=True) if uplift.known]
    scale = scale_for([each for pair in shown for each in pair], from_zero=True)
    rows, lines = [], []
    for answer, pair, uplift in zip(answers, rates, differences, strict=True):
        name = teller.scope(answer.scope)
        marks = (mark(pair[0], scale, "second"), mark(pair[1], scale)) if uplift.known else ()
        rows.append(Row(name, marks, teller.spoken(uplift), _direction(teller, uplift)))
        parts = (*pair, uplift) if uplift.known else (uplift,) * 3
        lines.append((name, *(teller.spoken(each) for each in parts)))
    head = ("region", "uplift.control", "uplift.treated", "uplift.points")
    return Figure(
        teller.question(question.name),
        teller.cost_of(answers),
        Chart(tuple(rows), ticks_of(scale)),
        teller.say("uplift.reading"),
        Table(tuple(teller.say(key) for key in head), tuple(lines)),
    )


def _direction(teller: Teller, uplift: Told) -> Markup:
    """What an uplift comes to: up, down, or neither told."""
    if not uplift.known:
        return Markup("")
    if uplift.low > 0:
        return teller.say("uplift.up")
    return teller.say("uplift.down" if uplift.high < 0 else "uplift.open")


def _of_use(found: Estimates, wanted: float) -> Told:
    """The first value; nothing if its interval is so wide that it says next to nothing."""
    one = told(found)[0]
    if (one.high - one.low) / 2 <= COARSE * wanted:
        return one
    return Told(float("nan"), one.low, one.high)


def _inside(place: float) -> float | None:
    """A place that is within the plot and not at its edge."""
    return place if 0 < place < 100 else None
