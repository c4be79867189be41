"""The report as one HTML page.

The page is one file. It loads nothing and runs nothing: its only style sheet is inside it, a
content security policy forbids everything else. Whatever comes from the bundle is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from common.audit.report import language as words
from common.audit.report.budget import Spent, odds_factor
from common.audit.report.charts import budget_bars, consent_chart
from common.audit.report.facts import ReportFacts
from common.audit.report.language import TEMPLATES, Language
from common.audit.report.looks import content_policy, style_sheet
from common.audit.verify import LIMITS, Failure
from common.timestamps import format_time

#: What every report begins with, by which a file is known to be one.
GENERATOR = "fedpref compliance report"

#: Rows of one table on the page; ``--json`` prints all of them.
MAX_ROWS = 120

_SECTIONS = (
    "verdict",
    "federation",
    "consents",
    "rounds",
    "released",
    "budget",
    "incidents",
    "withdrawals",
    "keys",
    "witnesses",
    "policies",
    "limits",
    "appendix",
)

# Notes of the verifier that have a translation, and those that a section says with its figures.
_NOTES = tuple(
    (re.compile(pattern), key)
    for pattern, key in (
        (r"The root keys were taken from the bundle itself: .*", "note.roots"),
        (r"Only the bundle folder was named: .*", "note.bundle_only"),
        (
            r"(?P<file>.*) has (?P<count>[0-9]+) signatures by keys not in the registry\.",
            "note.unknown_signatures",
        ),
        (r"(?P<region>.*) discarded (?P<count>[0-9]+) rounds because .*", "note.discarded"),
        (r"(?P<region>.*) charged (?P<count>[0-9]+) rounds that it .*", "note.unexplained"),
        (r"(?P<region>.*) answered (?P<count>[0-9]+) parts of queries .*", "note.answers"),
        (
            r"(?P<region>.*) logged (?P<requests>[0-9]+) requests to read sensitive columns: "
            r"(?P<approved>[0-9]+) approved, (?P<ended>[0-9]+) ended, (?P<uses>[0-9]+) uses\. .*",
            "note.access",
        ),
        (
            r"Of the log of (?P<party>.*), (?P<held>[0-9]+) of (?P<size>[0-9]+) entries are in .*",
            "note.partial",
        ),
        (
            r"This bundle holds the consents of (?P<whole>.*) only\. That the rounds of "
            r"(?P<others>.*) used only consenting customers is shown by .*",
            "note.one_region",
        ),
        (r"This bundle holds no consents: .*", "note.no_consents"),
        (r"The run is confidential: .*", "note.confidential"),
        (
            r"In round (?P<number>[0-9]+) all regions answered in attempts of different rosters: "
            r"the coordinator may know the update of (?P<regions>.*) alone or together, .*",
            "note.differences",
        ),
        (r"The run ended after round (?P<last>[0-9]+) of (?P<planned>[0-9]+), .*", "note.ended"),
    )
)
_SAID_ELSEWHERE = tuple(
    re.compile(pattern)
    for pattern in (
        r"The registry asks for no other party's cosignature",
        r"A checkpoint counts once [0-9]+ other parties",
        r".* stands outside, without a log of its own",
        r"None of them stands outside the federation",
        r"Of the log of .*, entries [0-9]+ to [0-9]+ are behind",
    )
)


def render_report(facts: ReportFacts, *, lang: str = "en", made_at: str | None = None) -> str:
    """The report as HTML: the same facts, language and time give the same bytes.

    Args:
        facts: What it says.
        lang: ``en`` or ``zh``.
        made_at: When it was made, as a UTC timestamp, if it is to say so.
    """
    language = Language(lang)
    style = style_sheet()
    template = _environment(lang).get_template("report.html.j2")
    return template.render(
        facts=facts,
        verdict=facts.verdict,
        sections=_SECTIONS,
        language=language,
        generator=GENERATOR,
        made_at=made_at,
        style=Markup(style),  # noqa: S704 - our own file, nothing of a record's
        policy=content_policy(style),
        charts={each.region: consent_chart(each) for each in facts.consents},
        bars=budget_bars(facts.budgets),
        highest=_highest(facts),
        odds=odds_factor,
        limits=_limits(language),
        notes=_notes(facts, language),
        max_rows=MAX_ROWS,
    )


def _highest(facts: ReportFacts) -> Spent | None:
    """Where most was spent of what the run may spend."""
    of_run = [each for each in facts.budgets if each.span == "run" and each.recomputed]
    return max(of_run, key=lambda each: float(each.recomputed or 0), default=None)


def _limits(language: Language) -> list[Markup]:
    """What no bundle can show, in the report's language."""
    return [
        language.verbatim(text, f"limit.{number}") for number, text in enumerate(LIMITS, start=1)
    ]


def _notes(facts: ReportFacts, language: Language) -> list[Markup]:
    """What the verifier adds, where the report does not say it in a section of its own."""
    return [
        _note(note, language)
        for note in facts.verdict.notes
        if not any(pattern.match(note) for pattern in _SAID_ELSEWHERE)
    ]


def _note(note: str, language: Language) -> Markup:
    for pattern, key in _NOTES:
        found = pattern.fullmatch(note)
        if found:
            return language.say(key, **found.groupdict())
    return language.verbatim(note)


@cache
def _environment(lang: str) -> Environment:
    language = Language(lang)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.globals.update(
        t=language.say,
        term=language.term,
        counted=language.counted,
        sentence_gap=language.sentence_gap,
    )
    environment.filters.update(
        day=words.day,
        duration=language.duration,
        epsilon=words.epsilon,
        first_located=_first_located,
        hash_lines=words.hash_lines,
        integer=words.integer,
        isolated=words.isolated,
        listed=language.listed,
        moment=words.moment,
        prose=words.prose,
        ranges=words.ranges,
        size=language.size,
        time_of=format_time,
    )
    return environment


def _first_located(failures: Sequence[Failure]) -> Failure:
    """The first failure whose entry is known, else the first."""
    return next((each for each in failures if each.index is not None), failures[0])


def _shown(value: object) -> object:
    """Every string that is no markup of ours shows its invisible characters."""
    return words.visible(value) if type(value) is str else value
