"""The run report: one page that a person who was not there can understand.

The page is one file. It loads nothing: fonts and style are inside it, a content security policy
forbids everything else, and there is no script. Whatever comes from a record is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from client.engine.entries import ACCOUNTANT
from common.durable_file import write_durably
from common.timestamps import now
from simulations import report_numbers as numbers
from simulations.report_attacks import attacks_view
from simulations.report_consent import consent_view, data_quality_view, reasons_of
from simulations.report_privacy import privacy_view
from simulations.report_quality import quality_view
from simulations.report_rounds import rounds_view
from simulations.report_summary import summary_view

Record = Mapping[str, Any]

_TEMPLATES = Path(__file__).parent / "templates"
_GREEK = "U+0370-03FF"
_FONTS = (
    ("Source Sans 3", "source-sans-3-latin.woff2", "U+0000-036F,U+1E00-FFFF"),
    ("Source Sans 3", "source-sans-3-greek.woff2", _GREEK),
    ("Source Serif 4", "source-serif-4-latin.woff2", "U+0000-036F,U+1E00-FFFF"),
)
_CONTENTS = (
    ("verdict", "Verdict"),
    ("summary", "In short"),
    ("consent", "Consent"),
    ("releases", "What left"),
    ("budget", "Privacy budget"),
    ("quality", "Quality"),
    ("rounds", "Rounds"),
    ("data", "Data"),
    ("evidence", "Check it yourself"),
    ("figures", "All quality figures"),
    ("terms", "Terms"),
)
_RELATIONS = {"add-or-remove-one-customer": "add or remove one customer"}


@dataclass(frozen=True)
class PrivacyTerms:
    """What every ε of the page is meant by."""

    relation: str
    delta: str
    accountant: str


@dataclass(frozen=True)
class Page:
    """What belongs to the page rather than to the run.

    Attributes:
        style: The whole style sheet, fonts included.
        policy: The content security policy; it allows that style sheet and nothing else.
        contents: Anchor and title of each section.
        privacy: What every ε is meant by.
        command: The command that runs the same again.
        written: When the page was written.
    """

    style: Markup
    policy: str
    contents: tuple[tuple[str, str], ...]
    privacy: PrivacyTerms
    command: str
    written: str


def write_report(
    path: Path,
    *,
    settings: dict[str, Any],
    plan: dict[str, Any],
    history: dict[str, Any],
    metrics: dict[str, Any],
    verdict: dict[str, Any],
) -> None:
    """Writes a run's report, whole or not at all.

    Args:
        path: The HTML file to make or replace.
        settings: The run's settings with ``run_id`` and ``title``.
        plan: The run plan, as `RunPlan.to_record` gives it.
        history: What happened, as `run_history` gives it.
        metrics: Quality beside the baselines, as `run_quality_study` gives it.
        verdict: The verifier's verdict, as `Verdict.to_record` gives it.

    Raises:
        OSError: As the operating system says; ``path`` is as it was then.
    """
    page = render_report(
        settings=settings, plan=plan, history=history, metrics=metrics, verdict=verdict
    )
    write_durably(path, page.encode("utf-8"), mode=0o644)


def render_report(
    *, settings: Record, plan: Record, history: Record, metrics: Record, verdict: Record
) -> str:
    """The report as HTML; arguments as for `write_report`."""
    consent, privacy, rounds = (
        consent_view(history),
        privacy_view(history, plan),
        rounds_view(history),
    )
    quality = quality_view(metrics)
    quality_of_data = data_quality_view(history)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            page=_page(settings, plan),
            settings=settings,
            plan=plan,
            history=history,
            verdict=verdict,
            summary=summary_view(plan, consent, privacy, rounds, quality),
            consent=consent,
            privacy=privacy,
            rounds=rounds,
            quality=quality,
            attacks=attacks_view(metrics),
            data={"regions": quality_of_data, "reasons": reasons_of(quality_of_data)},
        )
    )


def _page(settings: Record, plan: Record) -> Page:
    style = _style()
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    relation = str(plan["neighboring_relation"])
    return Page(
        style=Markup(style),  # noqa: S704 - our own files, nothing of a record's
        policy=(
            f"default-src 'none'; style-src 'sha256-{digest}'; font-src data:; "
            "base-uri 'none'; form-action 'none'"
        ),
        contents=_CONTENTS,
        privacy=PrivacyTerms(_RELATIONS.get(relation, relation), plan["delta"], ACCOUNTANT),
        command=_command(settings),
        written=now(),
    )


@cache
def _style() -> str:
    fonts = "".join(
        f'@font-face{{font-family:"{family}";font-weight:200 900;font-display:block;'
        f"unicode-range:{characters};src:url(data:font/woff2;base64,{_base64(file)}) "
        'format("woff2")}\n'
        for family, file, characters in _FONTS
    )
    return fonts + (_TEMPLATES / "report.css").read_text(encoding="utf-8")


def _base64(file: str) -> str:
    return base64.b64encode((_TEMPLATES / file).read_bytes()).decode("ascii")


def _command(settings: Record) -> str:
    options = [
        ("--scenario", settings["scenario"]),
        ("--strategy", settings["strategy"]),
        ("--epsilon", settings["epsilon"]),
        ("--delta", settings["delta"]),
        ("--epsilon-cap", settings["epsilon_cap"]),
        ("--seed", settings["seed"]),
        ("--engine", settings["engine"]),
        ("--refusal-share", settings["refusal_share"]),
        ("--withdrawal-share", settings["withdrawal_share"]),
        ("--quality-seeds", settings["quality_seeds"]),
        ("--out", "runs/again"),
    ]
    lines = [shlex.join([name, str(value)]) for name, value in options]
    return " \\\n  ".join(["fedpref-sim run", *lines])


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        capitalize_first=_capitalize_first,
        clause=_clause,
        decimal=numbers.decimal,
        delta=numbers.delta,
        epsilon=numbers.epsilon,
        hash_lines=numbers.hash_lines,
        integer=numbers.integer,
        integer_or=_integer_or,
        moment=numbers.moment,
        place=_place,
        ranges=numbers.ranges,
        seconds=numbers.seconds,
        share=numbers.share,
        word=numbers.word,
    )
    return environment


def _integer_or(value: int | None, otherwise: str) -> str:
    return otherwise if value is None else numbers.integer(value)


def _capitalize_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def _clause(text: str) -> str:
    """A step's clause without its number, which the table has already."""
    return re.sub(r"^(?:\d+|Bundles): ", "", text)


def _place(failure: Record) -> str:
    """Where a failure is, as the verifier's terminal output says it."""
    if failure["party"] is not None and failure["index"] is not None:
        return f"log {failure['party']}, entry {failure['index']}"
    if failure["file"]:
        return str(failure["file"])
    return f"log {failure['party']}" if failure["party"] is not None else "the bundle"
