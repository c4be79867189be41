from __future__ import annotations

import pytest

from common.analytics.answers import ReleasedAnswers
from server.insights.findings import gather
from server.insights.page import render_insights
from server.insights.settings import read_settings
from tests.support.made_answers import made_answers


@pytest.fixture(scope="session")
def made_run() -> ReleasedAnswers:
    """Answers of every kind, of three regions that are large enough and a small one."""
    return made_answers()


@pytest.fixture(scope="session")
def insight_pages(made_run: ReleasedAnswers) -> dict[str, str]:
    """The page of it in each language."""
    findings, settings = gather([made_run]), read_settings()
    return {lang: render_insights(findings, settings, lang=lang) for lang in ("en", "zh")}
