"""The page of insights as one HTML file, in either language.

It loads nothing and runs nothing: its style sheet and fonts are inside it, a content security
policy forbids everything else. Whatever comes from answers or a catalogue is escaped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from common.analytics.answers import GLOBAL, ReleasedAnswer
from common.audit.report import language as words
from common.audit.report.language import Language
from common.audit.report.looks import content_policy, style_sheet
from server.insights.figures import Section, bar_width
from server.insights.findings import Findings
from server.insights.habits import scenes, segments
from server.insights.journeys import experiments, funnels, satisfaction
from server.insights.preferences import changes, preferences
from server.insights.searches import searches
from server.insights.settings import InsightsSettings
from server.insights.teller import Teller
from server.insights.wishes import priorities, wishes

#: What every page begins with, by which a file is known to be one.
GENERATOR = "fedpref insights"
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Glance:
    """What the page says first.

    Attributes:
        headlines: Each section's sentence, in order.
        alerts: What crossed a threshold.
        customers: How many customers bought, in words; empty if that is not told.
        questions: How many questions were answered.
        silent: How many answers are not shown, because they would be noise.
    """

    headlines: tuple[Markup, ...]
    alerts: tuple[Markup, ...]
    customers: Markup
    questions: int
    silent: int


def render_insights(
    findings: Findings,
    settings: InsightsSettings,
    *,
    lang: str = "en",
    made_at: str | None = None,
) -> str:
    """The page: the same answers, settings, language and time give the same bytes.

    Args:
        findings: What regions released.
        settings: What is ranked, and how.
        lang: ``en`` or ``zh``.
        made_at: When it was made, as a UTC timestamp, if it is to say so.

    Raises:
        InputError: The settings rank what the answers do not have.
    """
    teller = Teller(findings, Language(lang, TEMPLATES))
    sections = _sections(teller, settings)
    style = style_sheet(TEMPLATES / "insights.css")
    return (
        _environment(lang)
        .get_template("insights.html.j2")
        .render(
            findings=findings,
            sections=sections,
            glance=_glance(teller, sections),
            asked=[(answer, _said(teller, answer)) for answer in findings.all_answers()],
            teller=teller,
            language=teller.language,
            generator=GENERATOR,
            made_at=made_at,
            style=Markup(style),  # noqa: S704 - our own files, nothing of a record's
            policy=content_policy(style),
        )
    )


def _sections(teller: Teller, settings: InsightsSettings) -> tuple[Section, ...]:
    """All that answers are there for, in the order of the page."""
    found = (
        preferences(teller),
        changes(teller),
        scenes(teller),
        segments(teller),
        searches(teller),
        funnels(teller),
        satisfaction(teller),
        experiments(teller),
        wishes(teller),
        priorities(teller, settings),
    )
    return tuple(each for each in found if each is not None)


def _glance(teller: Teller, sections: tuple[Section, ...]) -> Glance:
    findings = teller.findings
    customers = findings.customers(GLOBAL)
    number = Markup("")
    if customers is not None:
        # Two digits that mean something: its own interval is in the section of segments.
        digits = max(0, math.floor(math.log10(max(customers.stddev, 1.0))))
        number = Markup(words.integer(round(customers.value, -digits).__trunc__()))  # noqa: S704 - a number
    return Glance(
        headlines=tuple(each.headline for each in sections if each.headline),
        alerts=tuple(alert for each in sections for alert in each.alerts),
        customers=number,
        questions=len({answer.question.name for answer in findings.all_answers()}),
        silent=sum(figure.body is None for each in sections for figure in each.figures),
    )


def _said(teller: Teller, answer: ReleasedAnswer) -> Markup:
    """How an answer's noise compares with what is of use."""
    outlook = teller.findings.outlook(answer)
    return teller.say(
        "asked.outlook",
        reach=f"{outlook.half_width:.2g}",
        wanted=f"{outlook.wanted:g}",
        unit=teller.language.term("unit", outlook.unit),
    )


@cache
def _environment(lang: str) -> Environment:
    language = Language(lang, TEMPLATES)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.globals.update(
        t=language.say, term=language.term, bar_width=bar_width, sentence_gap=language.sentence_gap
    )
    environment.filters.update(
        day=words.day,
        epsilon=words.epsilon,
        hash_lines=words.hash_lines,
        integer=words.integer,
        isolated=words.isolated,
        listed=language.listed,
        moment=words.moment,
    )
    return environment


def _shown(value: object) -> object:
    """Every string that is no markup of ours shows its invisible characters."""
    return words.visible(value) if type(value) is str else value
