"""The quality report as one HTML page, with its trend. It loads nothing and runs nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from client.data.standards import Standards
from client.governance.quality_charts import score_chart, share_of
from client.governance.quality_files import QualityReport
from common.audit.report.looks import content_policy, style_sheet

#: What every page begins with, by which a file is known to be one.
GENERATOR = "fedpref data quality report"
_TEMPLATES = Path(__file__).with_name("templates")
#: What treatments are called on the page.
_TREATMENTS = {
    "completed": "filled in with a stated value",
    "looked-up": "filled in from the catalogue",
    "clipped": "put to the stated fence",
    "set-aside": "left out for a value beyond the fence",
    "repeated": "left out: it repeats another row",
    "replaced": "left out for a newer or fuller row with the same key",
    "beyond-bound": "left out: its customer has more rows than may count",
}


def quality_page(
    report: QualityReport, history: Sequence[QualityReport], standards: Standards
) -> str:
    """The page.

    Args:
        report: The report.
        history: All reports, oldest first, this one among them.
        standards: The region's standards.
    """
    style = style_sheet(_TEMPLATES / "quality.css")
    terms = {
        name: (each.meaning, report.meant[name])
        for name, each in standards.definitions.items()
        if name in report.meant
    }
    return (
        _environment()
        .get_template("quality.html.j2")
        .render(
            generator=GENERATOR,
            policy=content_policy(style),
            style=style,
            report=report,
            charts={each.table: score_chart(each.table, history) for each in report.tables},
            n_reports=len(history),
            terms=terms,
        )
    )


def down(share: float) -> str:
    """A share in percent, rounded down: what misses a threshold never reads as if it reached it."""
    return f"{math.floor(share * 10_000) / 100:.2f} %"


def treatment_words(name: str) -> tuple[str, str]:
    """A treatment as the report counts it: the column, and what was done in words."""
    treatment, _, column = name.partition(" ")
    return column or "whole rows", _TREATMENTS.get(treatment, treatment)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        down=down,
        day=lambda at: at[:10] if at else "–",
        number=lambda value: f"{value:,}",
        treatment=treatment_words,
    )
    made.globals.update(share_of=share_of)
    return made
