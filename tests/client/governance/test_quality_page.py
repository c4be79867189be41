"""The quality report's page: all there, nothing loaded, nothing run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from client.data.standards import load_standards
from client.engine.home import RegionHome
from client.governance.quality_charts import score_chart
from client.governance.quality_files import QualityFiles
from client.governance.quality_page import down, quality_page, treatment_words
from client.governance.quality_run import make_report
from tests.support.governed_home import make_governed_home
from tests.support.html_page import parse_page

EVENT = ("customer", "time", "kind", "value")
ROWS = [("c1", f"2024-03-{1 + n:02d}", "view", "") for n in range(28)]


@pytest.fixture
def home(tmp_path: Path) -> RegionHome:
    rows = [*ROWS, ("c1", "2024-03-01", "<b>", ""), ("c1", "2024-03-02", "dwell", "5000")]
    return make_governed_home(tmp_path / "home", events=(EVENT, rows))


def page_of(home: RegionHome, reports: int = 1) -> str:
    for _ in range(reports):
        report = make_report(home)
    return quality_page(report, QualityFiles(home).history(), load_standards())


def test_it_says_what_the_report_says(home: RegionHome) -> None:
    page = parse_page(page_of(home, 3))
    text = page.text
    assert "Not all tables may be used" in text
    assert "1 of 2 tables keep the standards" in text
    assert "kind-unknown-code" in text
    assert "put to the stated fence" in text
    assert "A customer with at least 3 visits a month" in text
    rows = [row for table in page.all("table") for row in table.rows()]
    assert ["kind-unknown-code", "1", ""] in rows
    assert ["active", load_standards().definitions["active"].meaning, "10"] in rows


def test_it_draws_the_trend(home: RegionHome) -> None:
    page = parse_page(page_of(home, 3))
    charts = [each for each in page.all("svg") if "role" in each.attributes]
    assert len(charts) == 2
    for chart in charts:
        assert len([each for each in chart.all("line") if "at" in each.classes]) == 3


def test_nothing_is_loaded_or_run_and_names_are_text(home: RegionHome) -> None:
    report = make_report(home)
    evil = replace(
        report,
        region="<script>alert(1)</script>",
        tables=tuple(replace(each, refused=('"><img src=x>',)) for each in report.tables),
    )
    page = quality_page(evil, [evil], load_standards())
    assert "<script" not in page
    assert "<img" not in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert "http" not in page.replace("http-equiv", "").split("<style>")[0]
    parsed = parse_page(page)
    assert not parsed.all("script")
    assert not parsed.all("link")


def test_a_score_that_misses_never_reads_as_if_it_reached() -> None:
    assert down(0.979999) == "97.99 %"
    assert down(1.0) == "100.00 %"


def test_charts_stay_within_their_box(home: RegionHome) -> None:
    reports = [make_report(home) for _ in range(2)]
    low = replace(reports[0], tables=(replace(reports[0].tables[1], accepted=3),))
    chart = score_chart("events", [*reports, low])
    assert chart is not None
    assert chart.floor == 0.0
    for x, y, _ in chart.points:
        assert 0.0 <= x <= 1000.0
        assert 0.0 <= y <= 100.0
    assert score_chart("members", reports) is None


def test_every_treatment_has_words() -> None:
    assert treatment_words("clipped value") == ("value", "put to the stated fence")
    assert treatment_words("repeated")[0] == "whole rows"
